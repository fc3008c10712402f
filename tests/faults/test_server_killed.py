"""A simulation server that dies fails its simulation at once, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.launchers import RunningLauncher
from tests.waiting import wait_until

LEAVING_SOMETHING_BEHIND = """
import subprocess, time
subprocess.Popen(["sleep", "600"], start_new_session=True)
for n in range(30):
    print("line", n)
while True:
    nrp.run_loop()
    time.sleep(0.01)
"""


@pytest.mark.alone
def test_killed_server_is_failed_at_once_with_signal_and_last_words(launcher: RunningLauncher) -> None:
    simulation = launcher.started(LEAVING_SOMETHING_BEHIND)
    wait_until(lambda: "line 29" in (simulation.folder / f"simulation_{simulation.id}.log").read_text())
    simulation.await_steps()
    killed_at = time.monotonic()
    os.kill(simulation.server, signal.SIGKILL)
    final = simulation.await_final()
    assert time.monotonic() - killed_at < 1.5
    assert (final["event"], final["source_state"]) == ("failed", "started")
    assert "SIGKILL" in final["reason"]
    assert "line 29" in final["reason"]
    assert "line 1\n" not in final["reason"]
    assert [error["error_type"] for error in simulation.errors] == ["Runtime"]
    assert simulation.await_final_status()["simulationTime"] > 0
    assert "line 1\n" in simulation.log_in(final["logs"])
    simulation.assert_nothing_is_left()


def test_script_that_leaves_without_the_server_is_failed(launcher: RunningLauncher) -> None:
    simulation = launcher.paused("import os; os._exit(7)")
    simulation.command("started")
    final = simulation.await_final()
    assert (final["event"], "exit code 7" in final["reason"]) == ("failed", True)
    simulation.assert_nothing_is_left()


def test_command_to_a_server_that_dies_over_it_is_answered(launcher: RunningLauncher) -> None:
    simulation = launcher.paused()
    server = simulation.server
    os.kill(server, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as asking:
        answer = asking.submit(simulation.command, "started")
        wait_until(lambda: launcher.wire.on(simulation.topics.command(simulation.id)))
        os.kill(server, signal.SIGKILL)
    assert answer.result().error == "The simulation ended before it carried that out"
    assert simulation.await_final()["event"] == "failed"


def test_frozen_server_is_stopped_all_the_same(launcher: RunningLauncher) -> None:
    simulation = launcher.started()
    os.kill(simulation.server, signal.SIGSTOP)
    assert simulation.command("stopped").error is None
    final = simulation.await_final()
    assert (final["event"], bool(final["logs"])) == ("stopped", True)
    simulation.assert_nothing_is_left()
