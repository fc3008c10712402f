"""A process that was forked by the spawner, until it has a simulation to run.

It is connected to the bus already, and waits on a socket for what to run: most of a launch is done before it is asked
for. When the socket is closed instead it leaves the bus and ends. Where each simulation has credentials of its own it
is connected only when it has them, as to change the rights of a client that is connected would disconnect it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from nrp_common.topics import Topics
from nrp_simserver import processes
from nrp_simserver.placement.local.rehearsal import rehearse
from nrp_simserver.placement.local.spawner_protocol import Lines
from nrp_simserver.resources import cgroups
from nrp_simserver.server import simulation_server, surroundings
from nrp_simserver.simulation_folder import BusAccess, ServerSetup

HANDOVER: Final = 3
"""The descriptor of the socket; every further one is the spawner's, and closed."""

LINGER_S: Final = 0.5
"""How long the goodbye to the broker may take."""


def run(
    incarnation: str,
    access: BusAccess,
    spawner: int,
    handover: socket.socket,
    cgroup: Path | None = None,
    *,
    credentials_follow: bool = False,
) -> NoReturn:
    """Be a simulation server: wait for a simulation, run it, and leave this process.

    Args:
        incarnation: of this start of a server.
        access: how to get onto the bus.
        spawner: the process id of the parent.
        handover: over which the setup comes, a line of JSON.
        cgroup: of the simulation, to be made; None where there are none.
        credentials_follow: whether it is told only with what to run as whom to get onto the bus.
    """
    code = 1
    try:
        _be_a_process_of_its_own(incarnation, spawner)
        handover = _keep_only(handover)
        if cgroup is not None and not _is_there_already(handover):
            cgroups.enter_early(cgroup)
        bus = simulation_server.new_bus(access, incarnation)
        if not credentials_follow:
            bus.start()
        if not _is_there_already(handover):
            rehearse()
        setup = _await_setup(handover)
        if setup is not None:
            handover.close()
            simulation_server.run(setup, bus, is_on_bus=not credentials_follow)
        if not credentials_follow:
            bus.forget(Topics(access.mqtt_prefix).server_presence(incarnation))
            bus.close(linger_s=LINGER_S)
        code = 0
    except BaseException:  # noqa: BLE001  whatever it is, this process must never go on as a spawner
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _be_a_process_of_its_own(incarnation: str, spawner: int) -> None:
    os.setsid()
    processes.die_with_parent(spawner)
    processes.mark(incarnation)
    surroundings.be_nice()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules["numpy"].random.seed()  # `random` does it by itself; without it all simulations draw the same


def _keep_only(handover: socket.socket) -> socket.socket:
    # The Python objects of the others live on in frames that this process never returns to.
    os.dup2(handover.detach(), HANDOVER, inheritable=False)
    os.closerange(HANDOVER + 1, os.sysconf("SC_OPEN_MAX"))
    return socket.socket(fileno=HANDOVER)


def _is_there_already(handover: socket.socket) -> bool:
    return bool(select.select([handover], [], [], 0)[0])


def _await_setup(handover: socket.socket) -> ServerSetup | None:
    lines = Lines()
    while received := handover.recv(65536):
        for line in lines.add(received):
            return ServerSetup.model_validate_json(line)
    return None
