"""What the backend costs: `python -m benchmarks` prints one table."""
