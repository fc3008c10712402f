"""Simulations run as Jobs of a cluster, and a launcher sees each to its end."""

from __future__ import annotations

import signal

import pytest

from tests.kubernetes.cluster import GPU, Node
from tests.kubernetes.installation import SAID, SPEAKING, ClusterLauncher
from tests.waiting import wait_until

LARGE = {"cores": 128}
"""No node of the cluster has so much."""


# -- from the launch to the logs ---------------------------------------------------------------------------------------


def test_simulation_runs_as_a_job_from_its_launch_to_its_logs(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    assert launcher.pod_runs(simulation)
    simulation.await_steps()
    assert simulation.command("paused").error is None
    assert simulation.command("stopped").error is None
    final = simulation.await_final()
    assert (final["event"], final["reason"]) == ("stopped", None)
    assert SAID in simulation.log_in(final["logs"])
    simulation.assert_nothing_is_left(20)
    launcher.assert_cluster_is_empty()


def test_script_that_fails_fails_its_simulation_with_its_place(launcher: ClusterLauncher) -> None:
    simulation = launcher.started("nrp.run_loop()\nraise ValueError('on purpose')\n")
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "on purpose" in final["reason"]
    assert "Line 2" in final["reason"]
    launcher.assert_cluster_is_empty()


def test_thirty_simulations_run_at_once(launcher: ClusterLauncher) -> None:
    launcher.cluster.nodes.append(Node("node-2", {"cpu": 64, "memory": 256 * 2**30}))
    experiment = launcher.experiment()
    simulations = [launcher.launch_experiment(experiment) for _ in range(30)]
    for each in simulations:
        each.await_transition("initialized", 100)
    assert len(launcher.cluster.jobs) == 30
    for each in simulations:
        assert each.command("stopped").error is None
    assert {each.await_final(60)["event"] for each in simulations} == {"stopped"}
    launcher.assert_cluster_is_empty()


def test_secrets_are_in_no_job_and_not_in_the_simulation_s_folder(cluster_launcher: ClusterLauncher) -> None:
    cluster_launcher.start(NRP_MQTT_USERNAME="launcher", NRP_MQTT_PASSWORD="broker-password")
    cluster_launcher.await_ready()
    simulation = cluster_launcher.paused()
    assert "broker-password" not in str(cluster_launcher.cluster.jobs)
    inside = [each for each in simulation.folder.rglob("*") if each.is_file()]
    assert inside
    assert not [each for each in inside if b"broker-password" in each.read_bytes()]
    simulation.command("stopped")
    simulation.await_final()


def test_limits_of_memory_and_processes_are_kept_in_the_container(launcher: ClusterLauncher) -> None:
    script = "import subprocess\nfor _ in range(10):\n    subprocess.Popen(['sleep', '60'])\n" + SPEAKING
    simulation = launcher.started(script, limits={"processes": 5, "memory_mb": 900})
    (container,) = launcher.cluster.jobs[0]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "964Mi"
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "processes" in final["reason"]
    launcher.assert_cluster_is_empty()


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_simulation_that_no_node_has_room_for_waits_with_the_reason_on_the_bus(launcher: ClusterLauncher) -> None:
    simulation = launcher.launch(resources=LARGE)
    launcher.await_reason(simulation, "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu")
    launcher.cluster.nodes.append(Node("large", {"cpu": 256, "memory": 512 * 2**30}))
    simulation.await_transition("initialized")
    done = {"progress": {"task": "Waiting for a node", "done": True}}
    wait_until(lambda: done in [seen.json for seen in launcher.wire.on(launcher.topics.status(simulation.id))])
    simulation.command("stopped")
    simulation.await_final()


def test_simulation_goes_to_the_nodes_that_its_labels_stand_for(cluster_launcher: ClusterLauncher) -> None:
    cluster_launcher.start(NRP_KUBERNETES_NODE_SELECTORS='{"gpu": {"accelerator": "nvidia-l4"}}')
    cluster_launcher.await_ready()
    assert cluster_launcher.presences[-1].json["labels"] == ["gpu"]
    simulation = cluster_launcher.launch(resources={"labels": ["gpu"], "gpus": 2})
    cluster_launcher.await_reason(simulation, "didn't match Pod's node affinity/selector")
    resources = {"cpu": 8, "memory": 2**34, GPU: 1}
    cluster_launcher.cluster.nodes.append(Node("small-gpu", resources, {"accelerator": "nvidia-l4"}))
    cluster_launcher.await_reason(simulation, f"Insufficient {GPU}")
    cluster_launcher.cluster.nodes.append(Node("gpu", resources | {GPU: 4}, {"accelerator": "nvidia-l4"}))
    simulation.await_transition("initialized")
    assert cluster_launcher.cluster.pods[0]["spec"]["nodeName"] == "gpu"
    simulation.command("stopped")
    simulation.await_final()


def test_image_that_cannot_be_pulled_is_told_as_the_reason(launcher: ClusterLauncher) -> None:
    launcher.cluster.images.clear()
    simulation = launcher.launch()
    launcher.await_reason(simulation, "ImagePullBackOff: Back-off pulling image")
    launcher.cluster.images.add("nrp-launcher:test")
    simulation.await_transition("initialized")
    simulation.command("stopped")
    simulation.await_final()


def test_quota_that_is_used_up_is_waited_for(launcher: ClusterLauncher) -> None:
    message = 'jobs.batch "nrp-1" is forbidden: exceeded quota: nrp, requested: count/jobs.batch=1, used: 5, limited: 5'
    launcher.api.answer(403, "POST", "/jobs", message=message, times=3)
    simulation = launcher.launch()
    launcher.await_reason(simulation, "exceeded quota: nrp")
    simulation.await_transition("initialized")
    simulation.command("stopped")
    simulation.await_final()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (422, 'Job.batch "nrp-1" is invalid: spec.template.spec.tolerations[0].operator: Unsupported value'),
        (403, 'jobs.batch is forbidden: User "nobody" cannot create resource "jobs"'),
    ],
)
def test_job_that_kubernetes_refuses_fails_its_simulation_in_its_words(
    launcher: ClusterLauncher, code: int, message: str
) -> None:
    launcher.api.answer(code, "POST", "/jobs", message=message, times=1)
    simulation = launcher.launch()
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert message in final["reason"]
    simulation.assert_nothing_is_left(20)
    launcher.assert_cluster_is_empty()


def test_partition_is_refused_as_there_is_none_in_kubernetes(launcher: ClusterLauncher) -> None:
    final = launcher.launch(resources={"partition": "interactive"}).await_final()
    assert final["event"] == "failed"
    assert "no partitions, the launch asks for 'interactive'" in final["reason"]
    assert not launcher.cluster.jobs


def test_simulation_that_is_stopped_before_it_ran_never_runs(launcher: ClusterLauncher) -> None:
    simulation = launcher.launch(resources=LARGE)
    launcher.await_reason(simulation, "Unschedulable")
    assert simulation.command("stopped").error is None
    final = simulation.await_final()
    assert (final["event"], final["reason"], final["source_state"]) == ("stopped", None, "created")
    launcher.assert_cluster_is_empty()
    simulation.assert_nothing_is_left(20)


def test_stop_of_a_simulation_that_waits_needs_no_cluster(launcher: ClusterLauncher) -> None:
    simulation = launcher.launch(resources=LARGE)
    launcher.await_reason(simulation, "Unschedulable")
    launcher.api.stop()
    assert simulation.command("stopped").error is None
    assert simulation.await_final()["event"] == "stopped"
    # Room for it comes before the cluster hears of the stop: it must not run all the same.
    launcher.cluster.nodes.append(Node("large", {"cpu": 256, "memory": 512 * 2**30}))
    wait_until(lambda: all(each["status"]["phase"] in ("Succeeded", "Failed") for each in launcher.cluster.pods), 20)
    launcher.api.start()
    launcher.assert_cluster_is_empty()
    simulation.assert_nothing_is_left(30)
    assert [each["event"] for each in simulation.lifecycle] == ["stopped"]


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_server_that_ends_itself_is_told_with_its_exit_code(launcher: ClusterLauncher) -> None:
    simulation = launcher.paused("import os\nnrp.run_loop()\nos._exit(7)\n")
    simulation.command("started")  # which it may not live to answer
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "ended with exit code 7" in final["reason"]


def test_container_that_is_killed_is_told_with_its_signal(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    launcher.cluster.kill(launcher.pod_of(simulation), signal.SIGKILL)
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "was killed by SIGKILL" in final["reason"]
    assert SAID in final["reason"]
    launcher.assert_cluster_is_empty()


def test_container_without_memory_is_told_as_such(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    launcher.cluster.kill(launcher.pod_of(simulation), signal.SIGKILL, "OOMKilled")
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "used more memory than it may (4Gi): OOMKilled" in final["reason"]


def test_pod_that_is_evicted_is_told_with_the_node_s_reason(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    launcher.cluster.evict(launcher.pod_of(simulation), "The node was low on resource: ephemeral-storage.")
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "evicted from its node: The node was low on resource: ephemeral-storage." in final["reason"]
    launcher.assert_cluster_is_empty()


def test_simulation_that_exceeds_its_time_limit_is_told_so_with_its_logs(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking(resources={"time_limit": 600})
    launcher.cluster.let_time_pass(launcher.pod_of(simulation), 600)
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "longer than the 600 s" in final["reason"]
    assert SAID in simulation.log_in(final["logs"])
    launcher.assert_cluster_is_empty()


def test_job_that_somebody_deletes_fails_its_simulation(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    launcher.cluster.delete_job(launcher.job_name_of(simulation), "Background")
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "Job of the simulation was deleted" in final["reason"]
    assert SAID in simulation.log_in(final["logs"])


def test_pod_that_somebody_deletes_fails_its_simulation(launcher: ClusterLauncher) -> None:
    simulation = launcher.speaking()
    launcher.cluster.delete_pod(launcher.pod_of(simulation))
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "Pod of the simulation was deleted" in final["reason"]
    launcher.assert_cluster_is_empty()
