"""Free TCP ports: the one asked for, or the next free one."""

from __future__ import annotations

import errno
import socket
from collections.abc import Container

from nrp_common.errors import SettingsError

TRIED_PORTS = 200


def choose_port(host: str, wanted: int, *, strict: bool, taken: Container[int] = ()) -> int:
    """The port to listen on.

    Args:
        host: the address to listen at.
        wanted: the port to try first; 0 for any.
        strict: whether only `wanted` will do, since somebody asked for it.
        taken: ports promised to others that do not listen yet.

    Raises:
        SettingsError: `wanted` is taken and nothing else will do, or `host` is no address of this machine.
    """
    if wanted == 0:
        return _any_port(host)
    if strict:
        if wanted in taken or not is_free(host, wanted):
            raise SettingsError(f"Port {wanted} at {host} is in use")
        return wanted
    for port in range(wanted, min(wanted + TRIED_PORTS, 65536)):
        if port not in taken and is_free(host, port):
            return port
    return _any_port(host)


def is_free(host: str, port: int) -> bool:
    """Whether one can listen there.

    Raises:
        SettingsError: `host` is no address of this machine.
    """
    with _socket_for(host) as listener:
        # As servers do: a port whose last connections are still closing counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise SettingsError(f"Cannot listen at {host}: {error.strerror}") from error
        return True


def _any_port(host: str) -> int:
    with _socket_for(host) as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
        return port


def _socket_for(host: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror as error:
        raise SettingsError(f"'{host}' is no address to listen at: {error.strerror}") from error
    return socket.socket(family, socket.SOCK_STREAM)
