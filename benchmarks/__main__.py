"""One command, one table: `python -m benchmarks [--broker mosquitto|embedded] [--quick]`."""

from __future__ import annotations

import argparse

from benchmarks.broker_access import measure_broker_access
from benchmarks.commands import measure_commands, measure_reads
from benchmarks.core_steps import measure_core
from benchmarks.data_transfer import measure_recording, measure_streaming
from benchmarks.engine_processes import measure_engine_processes
from benchmarks.environment_steps import measure_environment
from benchmarks.figures import Figure, table
from benchmarks.fleet import measure_fleet
from benchmarks.launch_phases import measure_phases
from benchmarks.nest_steps import measure_nest
from benchmarks.nrpcoresim_steps import measure_nrpcoresim
from benchmarks.observation import measure_observation
from benchmarks.robot import measure_robot
from benchmarks.simulator_steps import measure_simulators
from benchmarks.stack_under_test import stack_under_test
from benchmarks.wrapper_overhead import measure_wrapper
from nrp_cli.local_broker import find_mosquitto

FLEETS = (1, 10, 50)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--broker", choices=["mosquitto", "embedded"], help="only this one; both when not given")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and no fleet of 50")
    arguments = parser.parse_args()
    brokers = [arguments.broker] if arguments.broker else [*(["mosquitto"] if find_mosquitto() else []), "embedded"]
    repeats = 10 if arguments.quick else 50
    figures: list[Figure] = [
        *measure_core(),
        *measure_engine_processes(),
        *measure_simulators(),
        *measure_nest(),
        *measure_environment(),
        *measure_wrapper(),
        *measure_nrpcoresim(),
        *measure_robot(),
        *measure_recording(),
        *measure_observation(),
        *measure_broker_access(repeats),
    ]
    for broker in brokers:
        with stack_under_test(broker, capacity=max(FLEETS)) as (client, witness, stack):
            figures += measure_commands(client, witness, broker, repeats)
            figures += measure_streaming(client, stack.mqtt, broker)
            if broker == brokers[0]:
                figures += measure_phases(client, stack.mqtt, broker, repeats)
                figures += measure_reads(client)
                for size in FLEETS[:-1] if arguments.quick else FLEETS:
                    figures += measure_fleet(client, witness, size)
    print(table(figures))


if __name__ == "__main__":
    main()
