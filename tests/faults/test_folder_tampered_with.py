"""Whatever an experiment does to its own folder, its simulation ends, and nobody else notices."""

from __future__ import annotations

import signal

import pytest

from nrp_simserver import processes
from tests.launchers import RunningLauncher
from tests.waiting import wait_until

GOING_ON = "\nimport time\nwhile True:\n    nrp.run_loop()\n    time.sleep(0.01)\n"

DELETES_THE_EXPERIMENT = "import os, shutil\nprint('farewell', flush=True)\nshutil.rmtree(os.getcwd())" + GOING_ON

DELETES_EVERYTHING = "import os, shutil\nshutil.rmtree(os.path.dirname(os.getcwd()))" + GOING_ON

DELETES_EVERYTHING_AND_WAITS = "import os, shutil, time\nshutil.rmtree(os.path.dirname(os.getcwd()))\ntime.sleep(1e6)"

JOURNAL_TAMPERED_WITH = {
    "longer garbage": "open('../journal.json', 'wb').write(b'x' * 9000)",
    "a folder": "import os; os.remove('../journal.json'); os.mkdir('../journal.json')",
    "a pipe": "import os; os.remove('../journal.json'); os.mkfifo('../journal.json')",
    "nothing": "import os; os.remove('../journal.json')",
}


def test_experiment_that_deletes_its_own_folder_has_its_log_stored(launcher: RunningLauncher) -> None:
    simulation = launcher.paused(DELETES_THE_EXPERIMENT)
    simulation.command("started")
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "farewell" in simulation.log_in(final["logs"])
    simulation.assert_nothing_is_left()


@pytest.mark.parametrize("script", [DELETES_EVERYTHING, DELETES_EVERYTHING_AND_WAITS])
def test_simulation_whose_whole_folder_is_deleted_fails_for_that(launcher: RunningLauncher, script: str) -> None:
    simulation = launcher.paused(script)
    simulation.command("started")
    final = simulation.await_final()
    assert (final["event"], final["source_state"], final["seq"]) == ("failed", "started", 3)
    assert "folder was deleted" in final["reason"]
    simulation.assert_nothing_is_left()


def test_stop_that_the_launcher_hears_of_after_the_end_is_a_stop_also_without_a_journal(
    launcher: RunningLauncher,
) -> None:
    simulation = launcher.started(JOURNAL_TAMPERED_WITH["a folder"] + GOING_ON)
    simulation.await_steps()
    server = simulation.server
    launcher.process.send_signal(signal.SIGSTOP)
    try:
        assert simulation.command("stopped").error is None
        wait_until(lambda: processes.has_ended(server))
    finally:
        launcher.process.send_signal(signal.SIGCONT)
    final = simulation.await_final()
    assert (final["event"], final["source_state"], final["reason"]) == ("stopped", "started", None)
    simulation.assert_nothing_is_left()


@pytest.mark.parametrize("tampering", JOURNAL_TAMPERED_WITH.values(), ids=JOURNAL_TAMPERED_WITH)
def test_simulation_that_tampers_with_its_journal_is_stopped_like_any_other(
    launcher: RunningLauncher, tampering: str
) -> None:
    simulation, other = launcher.paused(tampering + GOING_ON), launcher.paused()
    simulation.command("started")
    simulation.await_steps()
    assert simulation.command("paused").state == "paused"
    assert simulation.command("stopped").error is None
    final = simulation.await_final()
    assert (final["event"], final["source_state"], final["seq"]) == ("stopped", "paused", 4)
    assert simulation.log_in(final["logs"])
    simulation.assert_nothing_is_left()
    assert other.command("started").state == "started"
