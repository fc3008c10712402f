"""Getting user code out of wherever it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from nrp_simserver.server.gate import Gate, SimulationEnding, SimulationReset, SimulationStopped
from nrp_simserver.server.interruption import Interruption
from tests.waiting import wait_until


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def interruption(gate: Gate) -> Iterator[Interruption]:
    usual = signal.getsignal(signal.SIGUSR1)
    yield Interruption(gate, _no_last_resort)
    signal.signal(signal.SIGUSR1, usual)
    wait_until(lambda: not insisting())


def test_code_that_does_not_come_to_the_gate_is_interrupted(gate: Gate, interruption: Interruption) -> None:
    with interruption.of_user_code():
        gate.end(SimulationStopped)
        interruption.insist()
        assert_interrupted(SimulationStopped)


def test_of_several_who_ask_for_a_stop_one_insists(gate: Gate, interruption: Interruption) -> None:
    with interruption.of_user_code():
        gate.end(SimulationStopped)
        for _ in range(3):
            interruption.insist()
        assert len(insisting()) == 1
        assert_interrupted(SimulationStopped)


def test_a_stop_is_insisted_on_although_a_reset_is_already(gate: Gate, interruption: Interruption) -> None:
    with interruption.of_user_code():
        for ending in (SimulationReset, SimulationStopped):
            gate.end(ending)
            interruption.insist()
        assert len(insisting()) == 2
        assert_interrupted(SimulationStopped)


def test_code_is_interrupted_each_time_it_runs(gate: Gate, interruption: Interruption) -> None:
    for _ in range(2):
        with interruption.of_user_code():
            gate.end(SimulationReset)
            interruption.insist()
            assert_interrupted(SimulationReset)
        gate.renew()


def test_nothing_is_interrupted_when_nothing_is_to_end(interruption: Interruption) -> None:
    with interruption.of_user_code():
        interruption.insist()
        assert insisting() == []


def assert_interrupted(ending: type[SimulationEnding]) -> None:
    with pytest.raises(ending):
        threading.Event().wait(30)


def insisting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "interruption"]


def _no_last_resort() -> NoReturn:
    raise AssertionError("the code ended when it was told to")
