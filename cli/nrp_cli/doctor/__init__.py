"""`nrp doctor`: examines the machine and what runs of the backend, and says what to do. One module an area."""
