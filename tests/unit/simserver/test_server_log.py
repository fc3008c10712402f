"""What a simulation server itself writes to the simulation's log."""

from __future__ import annotations

import json
import logging
import sys

from nrp_common import tracing
from nrp_common.tracing import Context
from nrp_simserver.server.server_log import JsonFormatter, TextFormatter

LAUNCHED = Context("launch-1", "00-launch", 7, "ann")


def record(message: str = "Lost %s", *values: object) -> logging.LogRecord:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        failure = sys.exc_info()
    return logging.LogRecord("nrp_simserver.server.gate", logging.WARNING, "gate.py", 1, message, values, failure)


def test_text_says_on_whose_behalf_the_server_works() -> None:
    first, *more = TextFormatter(LAUNCHED).format(record("Lost %s", "it")).splitlines()
    assert first.endswith(
        "WARNING nrp_simserver.server.gate: Lost it [simulation=7 owner=ann request_id=launch-1 traceparent=00-launch]"
    )
    assert "ZeroDivisionError" in more[-1]


def test_json_has_the_fields_of_the_services_logs() -> None:
    fields = json.loads(JsonFormatter(LAUNCHED).format(record("Lost %s", "it")))
    assert fields.items() >= {
        "event": "Lost it", "level": "warning", "logger": "nrp_simserver.server.gate", "service": "simulation_server",
        "simulation": 7, "owner": "ann", "request_id": "launch-1", "traceparent": "00-launch",
    }.items()  # fmt: skip
    assert fields["timestamp"].endswith("+00:00")
    assert "ZeroDivisionError" in fields["exception"]


def test_a_command_is_named_by_its_own_request_and_not_by_the_trace_of_the_launch() -> None:
    with tracing.within(Context("start-1")):
        fields = json.loads(JsonFormatter(LAUNCHED).format(record()))
    assert (fields["request_id"], fields["simulation"], fields["owner"]) == ("start-1", 7, "ann")
    assert "traceparent" not in fields
