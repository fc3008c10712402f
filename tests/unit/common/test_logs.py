"""What a service logs, seen from outside: configuring the log changes a whole process."""

from __future__ import annotations

import json
import subprocess
import sys

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


def log(log_format: str) -> list[str]:
    process = subprocess.run([sys.executable, "-c", PROGRAM, log_format], capture_output=True, text=True, check=True)
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
