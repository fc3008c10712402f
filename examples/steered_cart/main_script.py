# A computational graph in real time, between an engine and MQTT. With `nrp up`, watch the cart and send it somewhere:
#     mosquitto_sub -v -t steered_cart/motion
#     mosquitto_pub -t steered_cart/target -m '{"position": 3}'

try:
    while True:
        nrp.run_loop(50)
        file_logger.info("another second has passed")
except NRPSimulationTimeout:
    file_logger.info("the time is over")
