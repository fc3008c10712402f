"""What a simulation server itself writes to the simulation's log, among what the experiment writes there.

As the services do it (`nrp_common.logs`), but without their library: a server shares its process with the experiment.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from nrp_common import tracing

SERVICE = "simulation_server"

OUR_LOGGERS = ("nrp_common", "nrp_simserver")


class TextFormatter(logging.Formatter):
    """A line for people, with the occasion in brackets.

    Args:
        context: what every record belongs to; a command that is being carried out says more.
    """

    def __init__(self, context: tracing.Context) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s [%(occasion)s]")
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        record.occasion = " ".join(f"{name}={value}" for name, value in _occasion(self._context).items())
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """An object a line, with the fields of the services' logs."""

    def __init__(self, context: tracing.Context) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields: dict[str, Any] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "service": SERVICE,
            **_occasion(self._context),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def log_ourselves_only(context: tracing.Context, log_format: str) -> None:
    """Send our own log records to stderr, and leave the root logger for the script to configure.

    Args:
        context: on whose behalf this process works.
        log_format: `json`, or anything else for text.
    """
    for handler in logging.root.handlers[:]:
        logging.root.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(context) if log_format == "json" else TextFormatter(context))
    for name in OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _occasion(context: tracing.Context) -> dict[str, str | int]:
    command = tracing.current()  # the trace of another request is none of its
    return (context._replace(request_id="", traceparent="") if command.request_id else context).known | command.known
