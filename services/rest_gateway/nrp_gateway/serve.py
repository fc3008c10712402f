"""Serves the gateway over HTTP, until SIGTERM or SIGINT."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from granian import Granian
from granian.constants import Interfaces

from nrp_common import logs
from nrp_common.errors import NRPError, SettingsError
from nrp_gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

BLOCKING_THREADS: Final = 64
"""Requests that are answered at once; at most half of them wait for launches."""

KILL_AFTER_S: Final = 30
"""What is being answered at the end takes no longer: a launch is answered after 25 s at the latest."""

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread may keep the interpreter from others: an answer that arrives for one request does not wait until
another one is carried out. Commands take a third less."""

FAILED: Final = 1
"""The exit status of a gateway that cannot begin its work."""

ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_PR_SET_PDEATHSIG: Final = 1


def serve(settings: GatewaySettings) -> None:
    """Serve until told to end; what is being answered is finished first.

    Raises:
        SettingsError: the address cannot be bound.
    """
    logs.configure("gateway", settings.log_format)
    _check_address(settings.host, settings.port)
    server = Granian(
        "nrp_gateway",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=BLOCKING_THREADS,
        websockets=False,
        workers_kill_timeout=KILL_AFTER_S,
        log_enabled=False,
    )
    _end_when_told()
    server.serve(target_loader=partial(_load, settings, os.getpid()), wrap_loader=False)


def _end_when_told() -> None:
    """Have a thread take the signals that end this process, and do what granian has handlers for.

    A handler interrupts the main thread, which may hold the lock that granian's handlers take: the process would hang,
    above all when it is told twice. Before there are any handlers it ends at once. Those that are forked inherit that
    the signals are blocked, but have no such thread: what they are told before they have one waits for it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # a forked process has those that mean its parent
    threading.Thread(target=_await_ending_signal, name="ending", daemon=True).start()


def _await_ending_signal() -> None:
    number = signal.sigwait(ENDING_SIGNALS)
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, None)
    else:
        os._exit(0)


def _load(settings: GatewaySettings, parent: int) -> Callable[..., Any]:
    """The application, made in granian's worker process: threads and connections do not survive a fork."""
    _end_when_told()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # A worker whose parent was killed would keep the port and go on answering.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before the kernel knew
        sys.exit(FAILED)
    from nrp_gateway.app import create_app

    try:
        return create_app(settings)
    except NRPError as error:  # granian would write down how it came to call this
        log.critical(str(error))
        sys.exit(FAILED)


def _check_address(host: str, port: int) -> None:
    # granian shares its port with whoever else is willing to: two gateways would take turns, unnoticed.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(f"NRP_HOST, NRP_PORT: cannot listen at {host}:{port}: {error.strerror}") from error
