"""What a service writes to its log: one line an event, JSON for machines or coloured text for people.

Every record tells on whose behalf it was written, as far as that is known: `simulation`, `owner`, `request_id`,
`traceparent` (see `nrp_common.tracing`). Tokens and passwords are struck out, wherever they come from.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from nrp_common import tracing

CHATTY_LIBRARIES: Final = ("alembic", "urllib3")
"""They report at level INFO what only matters to somebody who searches for a fault in them."""

STRUCK_OUT: Final = "***"

_SECRETS: Final = (
    re.compile(r"(authorization\W+bearer\s+)[^\s'\",]+", re.IGNORECASE),
    re.compile(r"(\bbearer\s+)[\w.~+/=-]{16,}", re.IGNORECASE),  # shorter ones may be words
    re.compile(r"(://)[^/\s:@]*:[^/\s@]+(?=@)"),
)
"""Bearer tokens, and user and password in a URL; each after what is to stay."""

_UNPRINTABLE: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)} | {
    ord("\n"): "\n    "
}
"""In text what follows a line break is indented: it must not pass for another record, nor command the terminal."""


def configure(service: str, log_format: str) -> None:
    """Send what this process logs, through `structlog` or `logging`, to stderr.

    Args:
        service: named in every line, such as `gateway`.
        log_format: `json`, one object a line; anything else is text, coloured on a terminal.
    """
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _naming(service),
    ]
    rendering: list[Processor]
    if log_format == "json":
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # The formatter of exceptions that it takes by itself shows local variables, and tokens are among them.
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        rendering = [_in_printable_text, console]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering, _without_secrets],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in CHATTY_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)


def strike_out_secrets(text: str) -> str:
    """`text` without the tokens and passwords in it."""
    for secret in _SECRETS:
        text = secret.sub(rf"\1{STRUCK_OUT}", text)
    return text


def _naming(service: str) -> Processor:
    def name(_logger: object, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        for field, value in tracing.current().known.items():
            event.setdefault(field, value)
        return event

    return name


def _in_printable_text(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {name: value.translate(_UNPRINTABLE) if isinstance(value, str) else value for name, value in event.items()}


def _without_secrets(_logger: object, _method: str, line: Any) -> str | Mapping[str, Any]:
    return strike_out_secrets(line) if isinstance(line, str) else line
