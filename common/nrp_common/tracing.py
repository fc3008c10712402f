"""On whose behalf something is done: the request it goes back to, and the simulation it is about.

A request's id and its place in a trace come with the HTTP call or are made there, go with every request over the bus
(`Bus.request` puts them in, `Bus.serve` takes them out), and are in every log record on the way. Neither is secret:
they cross a public bus.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=@~-]{0,127}")
"""What those that make such ids use. No blanks, quotes or control characters: it goes into logs as it is."""

_TRACEPARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
"""W3C Trace Context, 3.2.2; versions after 00 may say more."""

_INVALID_VERSION: Final = "ff"
_SAMPLED: Final = 1


class Context(NamedTuple):
    """What a log record says of the occasion.

    Attributes:
        request_id: of the HTTP request that this goes back to, "" when it goes back to none.
        traceparent: the trace that the request belongs to, as W3C Trace Context writes it; "" for none.
        simulation: the id of the simulation that this is about, None for none.
        owner: of that simulation.
    """

    request_id: str = ""
    traceparent: str = ""
    simulation: int | None = None
    owner: str = ""

    @property
    def known(self) -> dict[str, str | int]:
        """What is known, by name."""
        fields = {
            "simulation": self.simulation,
            "owner": self.owner,
            "request_id": self.request_id,
            "traceparent": self.traceparent,
        }
        return {name: value for name, value in fields.items() if value not in ("", None)}


_ids: Final = random.Random()  # noqa: S311  ids are no secrets, and the system's generator lets go of the interpreter
_NOTHING: Final = Context()
_current: Final[ContextVar[Context]] = ContextVar("nrp_context", default=_NOTHING)


def current() -> Context:
    """What this thread is at."""
    return _current.get()


def enter(context: Context = _NOTHING) -> None:
    """Have this thread be at something else from now on; at nothing in particular when not given."""
    _current.set(context)


@contextmanager
def within(context: Context) -> Iterator[None]:
    """Have this thread be at something else for as long as the block lasts."""
    before = _current.set(context)
    try:
        yield
    finally:
        _current.reset(before)


def new_request_id() -> str:
    """An id for a request that came without one."""
    return f"{_ids.getrandbits(128):032x}"


def request_id_in(value: object) -> str:
    """`value` when it can be a request's id, else ""."""
    return value if isinstance(value, str) and _REQUEST_ID.fullmatch(value) else ""


def traceparent_in(value: object) -> str:
    """The place in a trace that `value` tells, as version 00 writes it; "" when it tells none."""
    told = _TRACEPARENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if told is None or told["version"] == _INVALID_VERSION or (told["version"] == "00" and told["more"]):
        return ""
    if not int(told["trace"], 16) or not int(told["parent"], 16):
        return ""
    flags = told["flags"] if told["version"] == "00" else f"{int(told['flags'], 16) & _SAMPLED:02x}"
    return f"00-{told['trace']}-{told['parent']}-{flags}"
