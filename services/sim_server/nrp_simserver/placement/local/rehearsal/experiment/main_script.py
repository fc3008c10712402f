nrp.run_loop()
