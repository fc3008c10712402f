"""Simulation servers as jobs of a Slurm cluster."""
