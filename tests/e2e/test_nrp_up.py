"""What `nrp up` promises: ready when it says so, everything ended when it ends."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import EXAMPLES, RunningStack, end_stack, start_stack
from tests.waiting import wait_until


def family_of(stack: RunningStack) -> list[psutil.Process]:
    return psutil.Process(stack.process.pid).children(recursive=True)


def still_running(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; what is dead may wait to be reaped by whoever adopted it."""
    running = []
    for each in family:
        with suppress(psutil.NoSuchProcess):
            if each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                running.append(each)
    return running


def with_a_running_simulation(stack: RunningStack) -> int:
    assert stack.nrp("experiments", "import", str(EXAMPLES / "spiking_pendulum")).returncode == 0
    number: int = stack.post("/simulation", {"experimentID": "spiking_pendulum"}).json()["simulationID"]
    assert stack.put_state(number, "started").status_code == 200
    return number


def of_service(family: list[psutil.Process], name: str) -> psutil.Process:
    return next(process for process in family if name in process.cmdline())


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_order_with_logs_stored(tmp_path: Path, signal_number: int) -> None:
    stack = start_stack(tmp_path, "mosquitto")
    with_a_running_simulation(stack)
    family = family_of(stack)
    assert len(family) >= 4
    stack.process.send_signal(signal_number)
    assert stack.process.wait(timeout=30) == 0
    end_stack(stack)
    assert still_running(family) == []
    assert list((tmp_path / "experiments" / "spiking_pendulum").glob("*.log.zip"))
    assert not [path for path in tmp_path.rglob("simulation_config.json") if "experiments" not in path.parts[-3:]]


def test_nothing_outlives_a_killed_nrp_up(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, "embedded")
    with_a_running_simulation(stack)
    family = family_of(stack)
    stack.process.kill()
    stack.process.wait()
    wait_until(lambda: not still_running(family), timeout=30)
    end_stack(stack)


def test_the_next_free_port_is_used_when_the_usual_ones_are_taken(tmp_path: Path) -> None:
    first = start_stack(tmp_path / "first", "mosquitto")
    second = start_stack(tmp_path / "second", "mosquitto")
    try:
        assert first.url != second.url
        assert first.mqtt != second.mqtt
    finally:
        end_stack(first)
        end_stack(second)


def test_a_port_asked_for_and_taken_is_bad_usage(tmp_path: Path, stack: RunningStack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = stack.nrp("up", "--data", str(tmp_path), "--port", port)
    assert refused.returncode == 2
    assert port in refused.stderr


def test_a_service_that_dies_ends_the_stack_with_its_last_words(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, "mosquitto")
    family = family_of(stack)
    of_service(family, "gateway").kill()
    assert stack.process.wait(timeout=90) == 1
    end_stack(stack)
    assert still_running(family) == []


def test_nothing_outlives_a_launcher_that_dies(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, "mosquitto")
    with_a_running_simulation(stack)
    family = family_of(stack)
    of_service(family, "launcher").kill()
    assert stack.process.wait(timeout=90) == 1
    wait_until(lambda: not still_running(family), timeout=30)
    end_stack(stack)


def test_facing_a_network_without_authentication_is_refused(tmp_path: Path, stack: RunningStack) -> None:
    refused = stack.nrp("up", "--data", str(tmp_path), "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode != 0
    assert "NRP_ALLOW_UNAUTHENTICATED" in refused.stderr
