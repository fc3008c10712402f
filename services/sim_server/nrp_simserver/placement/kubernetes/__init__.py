"""Simulation servers as Jobs of a Kubernetes cluster."""
