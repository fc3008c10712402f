"""Where nrp-core has the messages of ROS."""

raise ImportError(
    "messages of ROS need ROS, which the embedded core does not have: only the original nrp-core, built with it, can"
    " run this experiment (NRP_CORE=nrpcoresim)"
)
