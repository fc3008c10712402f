"""What happens to simulations in a cluster when its API, a node, or the launcher is away."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from nrp_common.bus import BrokerAddress
from nrp_common.errors import SettingsError
from nrp_simserver.placement.choice import placement_of
from nrp_simserver.settings import LauncherSettings
from tests.kubernetes.api import KubernetesApi
from tests.kubernetes.cluster import Node
from tests.kubernetes.installation import SAID, ClusterLauncher
from tests.kubernetes.manifests import MANIFESTS
from tests.storage_server import StorageServer
from tests.waiting import wait_until

LARGE = {"cores": 128}
"""No node of the cluster has so much."""

LARGE_NODE = Node("large", {"cpu": 256, "memory": 512 * 2**30})


# -- the API is away ---------------------------------------------------------------------------------------------------


def test_simulations_run_obey_and_end_while_the_api_is_away(launcher: ClusterLauncher) -> None:
    stopped, ended = launcher.speaking(), launcher.paused("nrp.run_loop()\nraise ValueError('on purpose')\n")
    launcher.api.stop()
    stopped.await_steps()
    assert stopped.command("paused").error is None
    assert ended.command("started").error is None
    final = ended.await_final()
    assert (final["event"], "on purpose" in final["reason"]) == ("failed", True)
    assert stopped.command("stopped").error is None
    final = stopped.await_final()
    assert final["event"] == "stopped"
    assert SAID in stopped.log_in(final["logs"])
    launcher.api.start()
    launcher.assert_cluster_is_empty()
    for each in (stopped, ended):
        each.assert_nothing_is_left(30)


def test_launch_while_the_api_is_away_waits_for_it(launcher: ClusterLauncher) -> None:
    launcher.api.stop()
    simulation = launcher.launch()
    launcher.await_reason(simulation, "The Kubernetes API cannot be reached")
    launcher.api.start()
    simulation.await_transition("initialized")
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"
    launcher.assert_cluster_is_empty()


def test_end_that_came_while_the_api_was_away_is_told_when_it_is_back(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    pod = launcher.pod_of(simulation)
    launcher.api.stop()
    launcher.cluster.evict(pod, "The node was low on resource: memory.")
    assert not simulation.finals
    launcher.api.start()
    final = simulation.await_final()
    assert (final["event"], "low on resource: memory" in final["reason"]) == ("failed", True)


def test_launcher_that_is_told_that_it_missed_something_looks_anew(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    watches = launcher.api.watches
    launcher.api.forget()  # open watches are told: 410 Gone
    wait_until(lambda: launcher.api.watches >= watches + 2)
    launcher.cluster.kill(launcher.pod_of(simulation), signal.SIGKILL, "OOMKilled")
    assert "OOMKilled" in simulation.await_final()["reason"]


def test_changes_that_the_api_forgot_while_it_was_away_are_made_up_for(launcher: ClusterLauncher) -> None:
    launcher.cluster.images.clear()
    waiting, running = launcher.launch(), launcher.launch()
    launcher.await_reason(waiting, "ImagePull")
    launcher.await_reason(running, "ImagePull")
    launcher.api.stop()
    launcher.cluster.images.add("nrp-launcher:test")
    wait_until(lambda: launcher.pod_runs(waiting) and launcher.pod_runs(running))
    launcher.cluster.evict(launcher.pod_of(waiting), "The node was low on resource: memory.")
    launcher.api.forget()
    launcher.api.start()
    assert "low on resource" in waiting.await_final()["reason"]
    running.await_transition("initialized")
    running.command("stopped")
    assert running.await_final()["event"] == "stopped"
    launcher.assert_cluster_is_empty()


def test_watches_that_end_are_begun_again(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    watches = launcher.api.watches
    launcher.api.end_watches()
    wait_until(lambda: launcher.api.watches >= watches + 2)
    launcher.api.cut_connections()
    launcher.cluster.kill(launcher.pod_of(simulation), signal.SIGKILL, "OOMKilled")
    assert "OOMKilled" in simulation.await_final()["reason"]


def test_job_whose_making_was_not_answered_is_made_once(launcher: ClusterLauncher) -> None:
    launcher.api.swallow("POST", "/jobs")
    simulation = launcher.launch()
    simulation.await_transition("initialized")
    assert len(launcher.cluster.jobs) == len(launcher.cluster.pods) == 1
    simulation.command("stopped")
    simulation.await_final()
    launcher.assert_cluster_is_empty()


@pytest.mark.parametrize("code", [401, 429, 500, 503])
def test_api_that_has_no_time_is_asked_again(launcher: ClusterLauncher, code: int) -> None:
    launcher.api.answer(code, times=4)
    simulation = launcher.launch()
    simulation.await_transition("initialized")
    launcher.api.answer(code, "DELETE", times=3)
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"
    launcher.assert_cluster_is_empty()


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_simulation_on_a_lost_node_fails_and_what_runs_there_ends_itself(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    launcher.cluster.lose(launcher.cluster.nodes[0])
    assert launcher.cluster.orphans()
    final = simulation.await_final(60)
    assert final["event"] == "failed"
    assert "lost its node node-1" in final["reason"]
    wait_until(lambda: not launcher.cluster.orphans(), 30)
    assert len(simulation.finals) == 1


def test_second_run_of_a_job_never_counts(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    launcher.cluster.start_again(launcher.job_name_of(simulation))
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "ran its job" in final["reason"]
    launcher.assert_cluster_is_empty()
    assert [each["event"] for each in simulation.lifecycle].count("initialized") == 1
    assert len(simulation.finals) == 1


# -- the launcher ------------------------------------------------------------------------------------------------------


def test_launcher_that_was_killed_finds_its_jobs_again(launcher: ClusterLauncher) -> None:
    running, waiting = launcher.speaking(), launcher.launch(resources=LARGE)
    launcher.await_reason(waiting, "Unschedulable")
    launcher.kill()
    running.await_steps()
    launcher.restart()
    assert running.command("paused").error is None
    launcher.cluster.nodes.append(LARGE_NODE)
    waiting.await_transition("initialized")
    for each in (running, waiting):
        assert each.command("stopped").error is None
        assert each.await_final()["event"] == "stopped"
    assert launcher.api.count("POST", "/jobs") == 2
    launcher.assert_cluster_is_empty()


def test_end_that_came_while_there_was_no_launcher_is_told_by_the_next_one(launcher: ClusterLauncher) -> None:
    by_itself, evicted, deleted = (launcher.speaking() for _ in range(3))
    pods = [launcher.pod_of(each) for each in (by_itself, evicted)]
    launcher.kill()
    launcher.cluster.kill(pods[0], signal.SIGTERM)
    launcher.cluster.evict(pods[1], "The node was low on resource: memory.")
    launcher.cluster.delete_job(launcher.job_name_of(deleted), "Background")
    wait_until(lambda: len(launcher.cluster.jobs) == 2)
    wait_until(lambda: not any(map(launcher.pod_runs, (by_itself, evicted, deleted))))
    launcher.restart()
    assert "low on resource: memory" in evicted.await_final()["reason"]
    assert by_itself.await_final()["event"] in ("stopped", "failed")
    assert "Job of the simulation was deleted" in deleted.await_final()["reason"]
    launcher.assert_cluster_is_empty()


def test_job_that_was_not_made_yet_is_made_by_the_next_launcher(launcher: ClusterLauncher) -> None:
    launcher.api.stop()
    simulation = launcher.launch()
    launcher.await_reason(simulation, "cannot be reached")
    launcher.kill()
    launcher.restart()
    launcher.api.start()
    simulation.await_transition("initialized")
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"
    launcher.assert_cluster_is_empty()


def test_launcher_that_starts_while_the_api_is_away_fails_nobody(launcher: ClusterLauncher) -> None:
    running, waiting = launcher.speaking(), launcher.launch(resources=LARGE)
    launcher.await_reason(waiting, "Unschedulable")
    launcher.kill()
    launcher.api.stop()
    launcher.restart()
    running.await_steps()
    assert running.command("paused").error is None
    launcher.api.start()
    launcher.cluster.nodes.append(LARGE_NODE)
    waiting.await_transition("initialized")
    assert not running.finals
    for each in (running, waiting):
        each.command("stopped")
        assert each.await_final()["event"] == "stopped"


def test_simulation_that_was_being_stopped_when_its_launcher_died_is_stopped(launcher: ClusterLauncher) -> None:
    simulation = launcher.launch(resources=LARGE)
    launcher.await_reason(simulation, "Unschedulable")
    launcher.api.answer(503, "DELETE", times=10_000)
    simulation.command("stopped")
    wait_until(lambda: launcher.api.count("DELETE", "/jobs"))
    launcher.kill()
    launcher.api.heal()
    launcher.restart()
    assert simulation.await_final()["event"] == "stopped"
    launcher.assert_cluster_is_empty()


def test_jobs_of_no_simulation_are_deleted(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    launcher.kill()
    simulation.folder.rename(simulation.folder.parents[2] / "elsewhere")
    launcher.restart()
    launcher.assert_cluster_is_empty()


def test_launcher_that_is_told_to_end_leaves_nothing_in_the_cluster(launcher: ClusterLauncher) -> None:
    running, waiting = launcher.speaking(), launcher.launch(resources=LARGE)
    launcher.await_reason(waiting, "Unschedulable")
    assert launcher.end() == 0
    for each in (running, waiting):
        assert each.await_final()["event"] == "stopped"
        each.assert_nothing_is_left()
    launcher.assert_cluster_is_empty()


def test_launcher_that_leaves_its_simulations_is_followed_by_another_one(cluster_launcher: ClusterLauncher) -> None:
    cluster_launcher.start(NRP_ON_SHUTDOWN="leave")
    cluster_launcher.await_ready()
    running, waiting = cluster_launcher.speaking(), cluster_launcher.launch(resources=LARGE)
    cluster_launcher.await_reason(waiting, "Unschedulable")
    assert cluster_launcher.end() == 0
    assert len(cluster_launcher.cluster.jobs) == 2
    running.await_steps()
    cluster_launcher.restart()
    for each in (running, waiting):
        assert each.command("stopped").error is None
        assert each.await_final()["event"] == "stopped"
    cluster_launcher.assert_cluster_is_empty()


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("NRP_KUBERNETES_JOB", "", "needs NRP_KUBERNETES_JOB"),
        ("NRP_KUBERNETES_JOB", "/nowhere.yaml", "NRP_KUBERNETES_JOB=/nowhere.yaml cannot be read"),
        ("NRP_KUBERNETES_VOLUME", "/elsewhere", "is not on the volume"),
        ("NRP_KUBERNETES_CONFIG", "/nowhere", "finds no cluster"),
        ("NRP_KUBERNETES_CONTEXT", "another", "finds no cluster"),
        ("NRP_KUBERNETES_NODE_SELECTORS", "gpu", "NRP_KUBERNETES_NODE_SELECTORS"),
    ],
)
def test_settings_that_cannot_work_say_why(
    api: KubernetesApi,
    template: Path,
    volume: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    complaint: str,
) -> None:
    environment = {
        "NRP_PLACEMENT": "kubernetes",
        "NRP_DATA_DIRECTORY": str(volume / "launcher"),
        "NRP_KUBERNETES_CONFIG": str(api.kubeconfig),
        "NRP_KUBERNETES_JOB": str(template),
        variable: value,
    }
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError, match=re.escape(complaint)):
        placement_of(LauncherSettings.load(), *[cast(Any, None)] * 5)


def test_launcher_without_the_extra_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['kubernetes'] = None\n"
        "from nrp_simserver.placement.choice import placement_of\n"
        "from nrp_simserver.settings import LauncherSettings\n"
        "placement_of(LauncherSettings(placement='kubernetes'), *[None] * 5)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "SettingsError" in done.stderr
    assert "pip install 'nrp-backend[kubernetes]'" in done.stderr


def test_launcher_that_cannot_work_ends_and_says_why(cluster_launcher: ClusterLauncher) -> None:
    cluster_launcher.start(NRP_KUBERNETES_JOB=str(MANIFESTS / "base" / "simulation-job.yaml"))
    assert cluster_launcher.process.wait(20) == 2
    assert "names no image" in cluster_launcher.log


def test_two_launchers_share_a_cluster_and_touch_only_their_own(
    launcher: ClusterLauncher, broker: BrokerAddress, storage: StorageServer, template: Path
) -> None:
    data = launcher.data.parent / "another"
    another = ClusterLauncher(broker, storage, data, launcher.cluster, launcher.api, template)
    another.name = data.name
    try:
        another.start()
        another.await_ready()
        simulations = [each.speaking() for each in (another, launcher)]
        another.kill()
        another.restart()
        assert simulations[0].command("stopped").error is None
        assert simulations[0].await_final()["event"] == "stopped"
        wait_until(lambda: len(launcher.cluster.jobs) == 1, 20)
        simulations[1].await_steps()
    finally:
        another.close()
