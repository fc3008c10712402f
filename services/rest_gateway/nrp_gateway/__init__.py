"""The REST gateway: turns REST calls into commands on the bus and mirrors what the bus reports."""
