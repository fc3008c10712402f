"""The command line: the whole stack on one machine, the main job in one go, the REST API for hands."""
