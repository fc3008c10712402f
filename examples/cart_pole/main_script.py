# A cart on a track, with a pole hinged on it (cart.py). The policy in policy.json pushes it so that the pole stays up
# (steer.py); fallen.py ends the run when it does not. train.py finds such a policy: the experiment is the environment
# that it trains on, which takes Gymnasium.

try:
    while True:
        done, trajectory = nrp.run_loop()
        if done:
            file_logger.info("the pole fell after %.2f s", trajectory[-1]["time"])
            break
except NRPSimulationTimeout:
    file_logger.info("the pole is still up")
