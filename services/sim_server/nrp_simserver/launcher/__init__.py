"""The launcher: takes launches, has a simulation server run each, and sees every one to its end."""
