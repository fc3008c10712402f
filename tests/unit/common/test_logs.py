"""What a service logs, seen from outside: configuring the log changes a whole process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nrp_common.logs import strike_out_secrets

PROGRAM = """
import logging, sys, structlog
from nrp_common import logs
logs.configure("gateway", sys.argv[1])
structlog.get_logger("ours").info("launched", simulation=7)
logging.getLogger("theirs").warning("lost %s", "the broker")
logging.getLogger("alembic").info("chatter")
logging.getLogger("theirs").debug("detail")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("theirs").exception("failed")
"""

ON_BEHALF = """
import logging, sys, structlog
from nrp_common import logs, tracing
logs.configure("launcher", sys.argv[1])
with tracing.within(tracing.Context("r-1", "00-trace", 7, "ann")):
    structlog.get_logger("ours").info("inside", owner="bob")
    logging.getLogger("theirs").info("inside, too")
structlog.get_logger("ours").info("outside")
"""

SECRETS = """
import logging, sys, structlog
from nrp_common import logs
logs.configure("gateway", sys.argv[1])
def failing(token):
    password = "hidden-in-a-variable"
    headers = {"Authorization": f"Bearer {token}"}
    structlog.get_logger("ours").info("asked", headers=headers, url=f"postgresql://nrp:{token}@db/nrp")
    raise RuntimeError(f"no answer to {headers}")
try:
    failing("a-secret-of-the-user")
except RuntimeError:
    logging.getLogger("theirs").exception("failed")
    structlog.get_logger("ours").exception("failed")
"""

FORGERY = r"""
import sys, structlog
from nrp_common import logs
logs.configure("gateway", sys.argv[1])
structlog.get_logger("ours").info("last words:\nforged \x1b[2J", reason="a\nforged")
"""


def log(log_format: str, program: str = PROGRAM) -> list[str]:
    process = subprocess.run([sys.executable, "-c", program, log_format], capture_output=True, text=True, check=True)
    assert process.stdout == ""
    return process.stderr.splitlines()


def test_json_is_one_object_an_event_whichever_library_logs() -> None:
    launched, lost, failed = (json.loads(line) for line in log("json"))
    assert launched.items() >= {
        "event": "launched", "simulation": 7, "level": "info", "logger": "ours", "service": "gateway",
    }.items()  # fmt: skip
    assert lost.items() >= {"event": "lost the broker", "level": "warning", "service": "gateway"}.items()
    assert failed["event"] == "failed"
    assert "ZeroDivisionError" in failed["exception"]


def test_text_says_the_same_without_colours_where_nobody_sees_them() -> None:
    text = "\n".join(log("console"))
    for expected in ("launched", "simulation=7", "lost the broker", "ZeroDivisionError"):
        assert expected in text
    assert "\x1b" not in text
    assert "chatter" not in text
    assert "detail" not in text


def test_every_record_says_on_whose_behalf_whichever_library_logs() -> None:
    ours, theirs, outside = (json.loads(line) for line in log("json", ON_BEHALF))
    on_behalf = {"request_id": "r-1", "traceparent": "00-trace", "simulation": 7}
    assert ours.items() >= {**on_behalf, "owner": "bob"}.items()  # what a record says itself counts
    assert theirs.items() >= {**on_behalf, "owner": "ann"}.items()
    assert outside.keys().isdisjoint({*on_behalf, "owner"})


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_logged_neither_as_a_value_nor_from_a_traceback(log_format: str) -> None:
    text = "\n".join(log(log_format, SECRETS))
    assert "RuntimeError" in text
    assert "no answer to" in text
    assert "a-secret-of-the-user" not in text.replace('failing("a-secret-of-the-user")', "")  # the program's own source
    assert 'hidden-in-a-variable"' not in text.replace('password = "hidden-in-a-variable"', "")
    assert "Bearer ***" in text
    assert "postgresql://***@db/nrp" in text


def test_text_of_somebody_else_does_not_pass_for_a_record() -> None:
    head, *more = log("console", FORGERY)
    assert "last words:" in head
    assert more
    assert all(line.startswith("    ") for line in more)
    assert "\x1b" not in "\n".join(more)


@pytest.mark.parametrize(
    "text",
    [
        "The bearer token holds characters that no token can have",
        "Give yours as bearer token",
        "GET http://127.0.0.1:8090/simulation@home",
        "mqtt://127.0.0.1:1883",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert strike_out_secrets(text) == text
