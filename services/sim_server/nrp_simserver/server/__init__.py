"""The process that runs one simulation: its main script, and what the bus asks and hears of it."""
