"""A simulation that does not end, or takes too much, is ended by its launcher."""

from __future__ import annotations

from tests.launchers import Launchers, RunningLauncher

IGNORING = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
while True:
    time.sleep(60)
"""


def test_script_that_ignores_a_stop_is_killed(launcher: RunningLauncher) -> None:
    simulation = launcher.started(IGNORING)
    simulation.command("stopped")
    final = simulation.await_final()
    assert (final["event"], bool(final["logs"])) == ("stopped", True)
    simulation.assert_nothing_is_left()


def test_simulation_that_floods_its_log_is_failed(launchers: Launchers) -> None:
    launcher = launchers.running(log_limit_mb=1)
    simulation = launcher.started("import time\nwhile True:\n    print('x' * 10_000)\n    time.sleep(0.001)")
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "NRP_LOG_LIMIT_MB" in final["reason"]
    assert [error["error_type"] for error in simulation.errors] == ["Runtime"]
    assert final["logs"]
    simulation.assert_nothing_is_left()


def test_simulation_that_does_not_get_ready_is_failed(launchers: Launchers) -> None:
    launcher = launchers.running(initialise_timeout_s=1)
    simulation = launcher.launch(files={"engine.py": "import time\ntime.sleep(600)"})
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "was not ready after 1 s" in final["reason"]
    simulation.assert_nothing_is_left()
