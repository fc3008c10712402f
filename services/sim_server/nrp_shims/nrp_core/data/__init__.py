"""Types of datapacks."""
