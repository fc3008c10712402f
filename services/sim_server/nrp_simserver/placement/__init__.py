"""Where simulation servers run: on the launcher's own machine, or as jobs of a cluster."""
