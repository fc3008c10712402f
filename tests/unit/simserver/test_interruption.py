"""Getting user code out of wherever it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from nrp_simserver.server import interruption as interruption_module
from nrp_simserver.server.gate import Gate, SimulationReset, SimulationStopped
from nrp_simserver.server.interruption import Interruption
from tests.waiting import wait_until


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def interruption(gate: Gate) -> Iterator[Interruption]:
    usual = signal.getsignal(signal.SIGUSR1)
    yield Interruption(gate, _no_last_resort)
    wait_until(lambda: not insisting())  # the last signal of whom would end this process
    signal.signal(signal.SIGUSR1, usual)


def test_code_that_does_not_come_to_the_gate_is_interrupted(gate: Gate, interruption: Interruption) -> None:
    with pytest.raises(SimulationStopped):
        hang(gate, interruption, SimulationStopped)


def test_of_several_who_ask_for_a_stop_one_insists(
    gate: Gate, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption_module, "GRACE_S", 3.0)  # longer than it takes to count
    insistent: list[int] = []
    with pytest.raises(SimulationStopped):
        hang(gate, interruption, *[SimulationStopped] * 3, insistent=insistent)
    assert insistent[-1] == 1


def test_a_stop_is_insisted_on_although_a_reset_is_already(
    gate: Gate, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption_module, "GRACE_S", 3.0)
    insistent: list[int] = []
    with pytest.raises(SimulationStopped):
        hang(gate, interruption, SimulationReset, SimulationStopped, insistent=insistent)
    assert insistent == [1, 2]


def test_code_is_interrupted_each_time_it_runs(gate: Gate, interruption: Interruption) -> None:
    for _ in range(2):
        with pytest.raises(SimulationReset):
            hang(gate, interruption, SimulationReset)
        gate.renew()


def test_nothing_is_interrupted_when_nothing_is_to_end(interruption: Interruption) -> None:
    with interruption.of_user_code():
        interruption.insist()
        assert insisting() == []


def hang(
    gate: Gate,
    interruption: Interruption,
    *endings: type[SimulationStopped | SimulationReset],
    insistent: list[int] | None = None,
) -> None:
    """Run user code that does not come to the gate, and is told to end; note how many insist on it each time."""
    with interruption.of_user_code():
        for ending in endings:
            gate.end(ending)
            interruption.insist()
            if insistent is not None:
                insistent.append(len(insisting()))
        threading.Event().wait(30)


def insisting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "interruption"]


def _no_last_resort() -> NoReturn:
    raise AssertionError("the code ended when it was told to")
