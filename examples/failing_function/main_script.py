# An experiment with a fault: a ball falls, and when it lies on the ground the function in look.py divides by zero.
# The simulation fails then; file, line and text of the fault are in its field `error`, in the topic `runtime_error` and
# in what `nrp run examples/failing_function` prints; the whole traceback is in simulation_<id>.log.

try:
    while True:
        nrp.run_loop()
except NRPSimulationTimeout:
    file_logger.info("this is never reached")
