"""Ids of requests and places in traces: what counts as one, and where it is known."""

from __future__ import annotations

import threading
import time

import pytest

from nrp_common import tracing
from nrp_common.messages import Command, CommandEvent, Launch
from nrp_common.tracing import Context

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "value", ["a", "7b3c-11", "0af7651916cd43dd8448eb211c80319c", "Root=1-67891233:abc/d+e@f~g_h.i", "x" * 128]
)
def test_a_request_id_is_kept_as_it_is(value: str) -> None:
    assert tracing.request_id_in(value) == value


@pytest.mark.parametrize(
    "value", ["", "-a", "a b", "a\nlevel=error", "a\x1b[31m", "x" * 129, 'a"b', "ä", "a,b", "{}", None, 7, ["a"]]
)
def test_what_could_forge_a_log_line_is_no_request_id(value: object) -> None:
    assert tracing.request_id_in(value) == ""


def test_a_new_request_id_is_one_and_is_new() -> None:
    ids = {tracing.new_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(tracing.request_id_in(each) == each for each in ids)


@pytest.mark.parametrize("value", [TRACE, TRACE[:-2] + "00", TRACE[:-2] + "ff", f" {TRACE} "])
def test_a_traceparent_is_kept_as_it_is(value: str) -> None:
    assert tracing.traceparent_in(value) == value.strip()


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("01" + TRACE[2:], TRACE),
        ("cc" + TRACE[2:] + "-what-comes-later", TRACE),
        ("01" + TRACE[2:-2] + "03", TRACE),  # of its flags only the one that is known
        ("01" + TRACE[2:-2] + "02", TRACE[:-2] + "00"),
    ],
)
def test_a_later_version_of_traceparent_is_read_as_the_one_that_is_known(value: str, read: str) -> None:
    assert tracing.traceparent_in(value) == read


@pytest.mark.parametrize(
    "value",
    [
        "",
        "ff" + TRACE[2:],
        TRACE.upper(),
        TRACE[:-1],
        TRACE + "-more",
        TRACE.replace("-", "_"),
        f"{TRACE},{TRACE}",  # sent twice
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "01" + TRACE[2:] + "more",
        None,
        7,
    ],
)
def test_what_the_standard_forbids_is_no_traceparent(value: object) -> None:
    assert tracing.traceparent_in(value) == ""


def test_a_context_ends_with_its_block_also_when_that_fails() -> None:
    before = tracing.current()

    def fail() -> None:
        with tracing.within(Context("outer")):
            with tracing.within(Context("inner", TRACE, 7, "ann")):
                assert tracing.current() == Context("inner", TRACE, 7, "ann")
            assert tracing.current() == Context("outer")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert tracing.current() == before


def test_another_thread_is_at_nothing() -> None:
    seen = []
    with tracing.within(Context("mine")):
        thread = threading.Thread(target=lambda: seen.append(tracing.current()))
        thread.start()
        thread.join()
    assert seen == [Context()]


def test_only_what_is_known_is_told() -> None:
    assert Context().known == {}
    assert Context("r", simulation=0).known == {"request_id": "r", "simulation": 0}


# -- on the bus ------------------------------------------------------------------------------------------------------


def test_a_launch_tells_on_whose_behalf() -> None:
    launch = Launch(
        deadline=0,
        simulation_id=7,
        experiment_id="e",
        configuration="c",
        main_script="m",
        owner="ann",
        request_id="r",
        traceparent=TRACE,
    )
    assert launch.context == Context("r", TRACE, 7, "ann")


@pytest.mark.parametrize("value", ['"a b"', "7", "null", '{"a": 1}'])
def test_a_command_counts_although_its_request_id_does_not(value: str) -> None:
    payload = f'{{"deadline": {time.time() + 9}, "event": "started", "request_id": {value}, "traceparent": {value}}}'
    command = Command.from_json(payload.encode())
    assert command is not None
    assert (command.event, command.request_id, command.traceparent) == (CommandEvent.STARTED, "", "")
