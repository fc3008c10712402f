# The smallest experiment: a room, a thermostat, and one function that carries data between them. Simulates 200 s and
# takes about a second for it: `nrp run examples/two_engines`. What file_logger is told is in main_script_<id>.log.

try:
    while True:
        nrp.run_loop(1000)
        file_logger.info("another 10 s are simulated")
except NRPSimulationTimeout:
    file_logger.info("reached the timeout")
