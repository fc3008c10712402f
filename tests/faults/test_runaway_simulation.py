"""A simulation that does not end, or takes too much, is ended by its launcher."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nrp_common.bus import BrokerAddress
from tests.launchers import RunningLauncher
from tests.storage_server import StorageServer

pytestmark = pytest.mark.alone

IGNORING = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
while True:
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def strict_launcher(
    broker: BrokerAddress, storage: StorageServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningLauncher]:
    """A launcher with little patience."""
    data = tmp_path_factory.mktemp("launcher")
    launcher = RunningLauncher(broker, storage, data, stop_grace_s=1, initialise_timeout_s=3, log_limit_mb=1)
    launcher.start()
    launcher.await_ready()
    yield launcher
    launcher.close()


def test_script_that_ignores_a_stop_is_killed(strict_launcher: RunningLauncher) -> None:
    simulation = strict_launcher.started(IGNORING)
    simulation.command("stopped")
    final = simulation.await_final()
    assert (final["event"], bool(final["logs"])) == ("stopped", True)
    simulation.assert_nothing_is_left()


def test_simulation_that_floods_its_log_is_failed(strict_launcher: RunningLauncher) -> None:
    simulation = strict_launcher.started("import time\nwhile True:\n    print('x' * 10_000)\n    time.sleep(0.001)")
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "NRP_LOG_LIMIT_MB" in final["reason"]
    assert [error["error_type"] for error in simulation.errors] == ["Runtime"]
    assert final["logs"]
    simulation.assert_nothing_is_left()


def test_simulation_that_does_not_get_ready_is_failed(strict_launcher: RunningLauncher) -> None:
    simulation = strict_launcher.launch(files={"engine.py": "import time\ntime.sleep(600)"})
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "was not ready after 3 s" in final["reason"]
    simulation.assert_nothing_is_left()
