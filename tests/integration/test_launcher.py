"""A launcher takes launches, sees simulations to their end, and stores what they leave."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from nrp_common.bus import BrokerAddress
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Refusal
from tests.launchers import Launched, RunningLauncher
from tests.storage_server import StorageServer
from tests.waiting import wait_until

WRITING = """
import sys
from pathlib import Path
print("the script says this")
print("the script complains", file=sys.stderr)
file_logger.info("the script notes this")
Path("new.csv").write_text("1,2,3")
Path("changed.txt").write_text("other")
Path("made").mkdir()
Path("made/deep.bin").write_bytes(bytes(range(256)))
Path("own.log").write_text("a log of its own")
Path(".hidden.log").write_text("a hidden log")
"""

WRITTEN = {"files": {"changed.txt": "first", "untouched.txt": "as it was"}}

STAMP = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"


@pytest.fixture(scope="module")
def small_launcher(
    broker: BrokerAddress, storage: StorageServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningLauncher]:
    """A launcher that takes one simulation at once, and runs it in an interpreter of its own."""
    folder = tmp_path_factory.mktemp("launcher")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nINTERPRETER=another exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    launcher = RunningLauncher(broker, storage, folder, capacity=1, python=python)
    launcher.start()
    launcher.await_ready()
    yield launcher
    launcher.close()


@pytest.fixture
def completed(launcher: RunningLauncher) -> Launched:
    """A simulation whose script wrote something, and has ended."""
    simulation = launcher.started(WRITING, **WRITTEN)
    simulation.await_transition("completed")
    return simulation


# -- taking launches -------------------------------------------------------------------------------------------------


def test_launch_is_answered_at_once_with_the_incarnation_that_will_report(launcher: RunningLauncher) -> None:
    launcher.storage.hang("/storage/")
    simulation = launcher.launch()
    assert simulation.reply.state is SimulationState.CREATED
    launcher.storage.heal()
    simulation.await_transition("initialized")
    assert {each["incarnation"] for each in simulation.lifecycle} == {simulation.incarnation}
    simulation.command("stopped")


def test_launch_asked_twice_happens_once(launcher: RunningLauncher) -> None:
    simulation = launcher.paused()
    again = launcher.ask_launch(simulation.id, simulation.experiment)
    assert again.incarnation == simulation.incarnation
    simulation.command("stopped")
    simulation.await_final()
    assert [each["event"] for each in simulation.lifecycle] == ["initialized", "stopped"]


def test_launch_beyond_the_capacity_is_refused_as_full_until_a_place_is_free(small_launcher: RunningLauncher) -> None:
    first = small_launcher.paused()
    refused = small_launcher.ask_launch(1_000_001, first.experiment)
    assert (refused.refusal, refused.state) == (Refusal.FULL, None)
    assert "it takes 1" in str(refused.error)
    wait_until(lambda: small_launcher.presences[-1].json["running"] == 1)
    first.command("stopped")
    first.await_final()
    second = small_launcher.paused()
    assert second.incarnation != first.incarnation
    second.command("stopped")
    second.await_final()


# -- the final word, logs and results ----------------------------------------------------------------------------------


def test_stopped_simulation_has_its_archives_in_the_experiment(completed: Launched) -> None:
    completed.command("stopped")
    final = completed.await_final()
    assert (final["event"], final["source_state"], final["reason"]) == ("stopped", "completed", None)
    assert final["source_node"] == "nrp_launcher_test"
    assert re.fullmatch(rf"{STAMP}_simulation_{completed.id}\.log\.zip", final["logs"])
    assert final["results"] == final["logs"].replace(".log.zip", ".data.zip")
    assert completed.stored(final["logs"])
    assert completed.stored(final["results"])


def test_status_of_the_final_state_comes_after_the_final_word(completed: Launched) -> None:
    completed.command("stopped")
    completed.await_final()
    completed.await_final_status()
    topics = [seen.topic for seen in completed.launcher.wire.seen if f"/{completed.id}/" in seen.topic and seen.payload]
    last_word = len(topics) - 1 - topics[::-1].index(completed.topics.lifecycle(completed.id))
    assert completed.topics.status(completed.id) in topics[last_word:]


def test_logs_are_all_that_was_written_to_stdout_and_stderr_and_all_log_files(completed: Launched) -> None:
    completed.command("stopped")
    logs = completed.stored(completed.await_final()["logs"])
    own = logs.pop(f"simulation_{completed.id}.log").decode()
    assert "the script says this" in own
    assert "the script complains" in own
    assert "the engine is shut down" in own
    assert set(logs) == {"own.log", ".hidden.log", f"main_script_{completed.id}.log"}
    assert logs[".hidden.log"] == b"a hidden log"
    assert b"the script notes this" in logs[f"main_script_{completed.id}.log"]


def test_results_are_the_new_and_changed_files_only(completed: Launched) -> None:
    completed.command("stopped")
    results = completed.stored(completed.await_final()["results"])
    assert results == {"new.csv": b"1,2,3", "changed.txt": b"other", "made/deep.bin": bytes(range(256))}


def test_simulation_without_results_names_none(launcher: RunningLauncher) -> None:
    simulation = launcher.paused()
    simulation.command("stopped")
    final = simulation.await_final()
    assert final["logs"]
    assert final["results"] is None


def test_ended_simulation_leaves_nothing(completed: Launched) -> None:
    completed.command("stopped")
    completed.await_final()
    completed.assert_nothing_is_left()


def test_next_run_is_without_the_archives_of_this_one(completed: Launched) -> None:
    completed.command("stopped")
    completed.await_final()
    script = "import os; print('clone:', sorted(os.listdir()))"
    completed.launcher.storage.put(completed.experiment, {"main_script.py": script})
    following = completed.launcher.launch_experiment(completed.experiment)
    following.await_transition("initialized")
    following.command("started")
    following.await_transition("completed")
    following.command("stopped")
    log = following.log_in(following.await_final()["logs"])
    assert "untouched.txt" in log
    assert ".zip" not in log


def test_what_a_script_started_ends_with_it(launcher: RunningLauncher) -> None:
    script = """
import os, subprocess
subprocess.Popen(["sleep", "600"])
subprocess.Popen(["sleep", "600"], start_new_session=True)
subprocess.Popen(["sleep", "600"], start_new_session=True, env={}, cwd="/")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)
"""
    simulation = launcher.started(script)
    simulation.await_transition("completed")
    wait_until(lambda: len(simulation.processes()) >= 4)
    simulation.command("stopped")
    simulation.await_final()
    simulation.assert_nothing_is_left()


def test_failed_script_is_failed_with_its_place_and_its_logs(launcher: RunningLauncher) -> None:
    simulation = launcher.started("print('before')\nraise RuntimeError('on purpose')")
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "on purpose" in final["reason"]
    assert "Line 2" in final["reason"]
    assert simulation.await_final_status()["error"] == final["reason"]
    assert [error["error_type"] for error in simulation.errors] == ["Runtime"]
    assert "before" in simulation.log_in(final["logs"])
    simulation.assert_nothing_is_left()


# -- while it runs -----------------------------------------------------------------------------------------------------


def test_collected_so_far_lie_in_the_experiment_until_the_final_ones_do(completed: Launched) -> None:
    logs, results = completed.collect("logs"), completed.collect("results")
    assert logs.archive == f"simulation_{completed.id}.log.zip"
    assert results.archive == f"simulation_{completed.id}.data.zip"
    assert "the script says this" in completed.log_in(logs.archive)
    assert "new.csv" in completed.stored(results.archive)
    completed.command("stopped")
    completed.await_final()
    completed.assert_nothing_is_left()
    names = [name for name in completed.launcher.storage.names(completed.experiment) if name.endswith(".zip")]
    assert [re.sub(STAMP, "STAMP", name) for name in names] == [
        f"STAMP_simulation_{completed.id}.data.zip",
        f"STAMP_simulation_{completed.id}.log.zip",
    ]


def test_nothing_to_collect_is_said(launcher: RunningLauncher) -> None:
    simulation = launcher.paused()
    assert simulation.collect("results").refusal is Refusal.UNKNOWN
    unknown = Launched(9_999_999, "", launcher)
    assert unknown.collect("logs").refusal is Refusal.UNKNOWN
    simulation.command("stopped")


def test_collecting_into_a_storage_that_refuses_is_said(completed: Launched) -> None:
    completed.launcher.storage.answer(500, "simulation_")
    assert completed.collect("logs").refusal is Refusal.STORAGE
    completed.launcher.storage.heal()
    completed.command("stopped")
    assert completed.await_final()["event"] == "stopped"


# -- what never gets a server ------------------------------------------------------------------------------------------


def assert_never_loaded(simulation: Launched, *reasons: str) -> None:
    final = simulation.await_final()
    assert (final["event"], final["source_state"], final["logs"]) == ("failed", "created", None)
    for reason in reasons:
        assert reason in final["reason"]
    assert [(error["msg"], error["error_type"]) for error in simulation.errors] == [(final["reason"], "Loading")]
    assert simulation.await_final_status() == {
        "realTime": 0.0,
        "simulationTime": 0.0,
        "state": "failed",
        "simulationTimeLeft": 0.0,
        "error": final["reason"],
    }
    simulation.assert_nothing_is_left()


def test_missing_experiment_fails_the_launch(launcher: RunningLauncher) -> None:
    assert_never_loaded(launcher.launch_experiment("no_such_experiment"), "no_such_experiment")


def test_experiment_of_somebody_else_fails_the_launch(launcher: RunningLauncher) -> None:
    stranger = launcher.storage.add_user("stranger")
    assert_never_loaded(launcher.launch(token=stranger), "experiment_")


def test_storage_that_answers_500_fails_the_launch(launcher: RunningLauncher) -> None:
    launcher.storage.answer(500)
    assert_never_loaded(launcher.launch(), "500")


def test_token_that_was_sealed_with_another_key_fails_the_launch(launcher: RunningLauncher) -> None:
    assert_never_loaded(launcher.launch(secret="another one"), "NRP_SECRET_KEY")


def test_stop_ends_a_launch_whose_clone_hangs(launcher: RunningLauncher) -> None:
    launcher.storage.hang("/storage/")
    simulation = launcher.launch()
    wait_until(lambda: launcher.storage.count(path=simulation.experiment))
    assert simulation.command("started").refusal is Refusal.INVALID
    assert simulation.command("stopped").error is None
    final = simulation.await_final(3)
    assert (final["event"], final["logs"]) == ("stopped", None)
    launcher.storage.heal()
    simulation.assert_nothing_is_left()


def test_final_simulation_takes_no_commands(launcher: RunningLauncher) -> None:
    launcher.storage.hang(".zip")
    simulation = launcher.started()
    simulation.command("stopped")
    wait_until(lambda: launcher.presences[-1].json["running"] == 0)
    refused = simulation.command("paused")
    assert (refused.refusal, "finalized" in str(refused.error)) == (Refusal.INVALID, True)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_simulations_run_in_the_interpreter_that_was_configured(small_launcher: RunningLauncher) -> None:
    simulation = small_launcher.started("import os; print('interpreter:', os.environ.get('INTERPRETER'))")
    simulation.await_transition("completed")
    simulation.command("stopped")
    assert "interpreter: another" in simulation.log_in(simulation.await_final()["logs"])


def test_simulation_finds_no_secret_in_its_environment(launcher: RunningLauncher) -> None:
    simulation = launcher.started("import os; print('environment:', dict(os.environ))")
    simulation.await_transition("completed")
    simulation.command("stopped")
    log = simulation.log_in(simulation.await_final()["logs"])
    assert "environment:" in log
    assert "secret" not in log.lower()
