while True:
    nrp.run_loop()
