"""`nrp broker-access`: what a broker needs to let in whom it should, and nobody else."""
