"""Simulations as jobs of a Slurm cluster: from launch to logs, in its queue, and when parts of it are lost."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nrp_common.bus import BrokerAddress
from nrp_common.topics import Topics
from tests.launchers import Launched, Launchers, RunningLauncher
from tests.secured_broker import Client, SecuredBroker, lab_broker
from tests.secured_product import SecuredProduct
from tests.simulation_servers import ENDLESS
from tests.slurm_cluster import SlurmCluster, why_not
from tests.storage_server import StorageServer
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"no Slurm cluster can be had: {why_not()}")

TALKATIVE = (
    """
print("the script says this")
open("result.txt", "w").write("42")
"""
    + ENDLESS
)

MANY_PROCESSES = (
    """
import subprocess
children = [subprocess.Popen(["sleep", "600"]) for _ in range(20)]
"""
    + ENDLESS
)

CRASHING = """
import os, signal
print("the script says this")
nrp.run_loop()
os.kill(os.getpid(), signal.SIGSEGV)
"""

PACED = "import time\nwhile True:\n    nrp.run_loop()\n    time.sleep(0.05)\n"


IMPATIENT = {
    "nrp_simserver.launcher.launcher.ADOPTED_WITHIN_S": 1.0,
    "nrp_simserver.placement.slurm.site.LOOKED_AT_WITHIN_S": 1.0,
}
"""How long it is that launchers wait at their start for a controller that is away."""


@pytest.fixture(scope="module")
def running_cluster() -> Iterator[SlurmCluster]:
    # Of a socket's path only 107 bytes count.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = SlurmCluster(Path(folder))
        with pytest.MonkeyPatch.context() as environment:
            for name, value in cluster.variables.items():
                environment.setenv(name, value)
            try:
                cluster.start()
                yield cluster
            finally:
                cluster.close()


@pytest.fixture(scope="module")
def doomed(
    running_cluster: SlurmCluster,
    broker: BrokerAddress,
    storage: StorageServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Launched]:
    """A simulation with a time limit, which Slurm counts in minutes: launched first, looked at last."""
    launcher = RunningLauncher(broker, storage, tmp_path_factory.mktemp("doomed"), placement="slurm")
    try:
        launcher.start()
        launcher.await_ready()
        yield launcher.started(TALKATIVE, resources={"time_limit": 60.0, "partition": "apart"})
    finally:
        launcher.close()


@pytest.fixture
def cluster(running_cluster: SlurmCluster, doomed: Launched) -> Iterator[SlurmCluster]:
    """A cluster that all tests share, whole and idle at the end of each."""
    yield running_cluster
    running_cluster.heal()
    running_cluster.clear()
    own = set(running_cluster.jobs_of(doomed.incarnation))
    wait_until(lambda: set(running_cluster.unfinished()) <= own, 30)


@pytest.fixture(scope="module")
def shared_launcher(
    running_cluster: SlurmCluster,
    broker: BrokerAddress,
    storage: StorageServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningLauncher]:
    data = tmp_path_factory.mktemp("launcher")
    launcher = RunningLauncher(broker, storage, data, constants=IMPATIENT, placement="slurm")
    launcher.start()
    launcher.await_ready()
    yield launcher
    launcher.close()


@pytest.fixture
def launcher(cluster: SlurmCluster, shared_launcher: RunningLauncher) -> Iterator[RunningLauncher]:
    """A launcher that takes launches, which most tests share; it has no simulation at the end of each."""
    yield shared_launcher
    cluster.heal()
    if shared_launcher.process.poll() is not None:
        shared_launcher.restart()
    shared_launcher.end_simulations()


def job_of(cluster: SlurmCluster, simulation: Launched) -> int:
    """The only job that a simulation ever had."""
    (job,) = cluster.jobs_of(simulation.incarnation)
    return job


def waits(simulation: Launched) -> list[dict[str, Any]]:
    """What was said of its place in the queue."""
    said = [seen.json for seen in simulation.launcher.wire.on(simulation.topics.status(simulation.id)) if seen.payload]
    return [each["progress"] for each in said if each.get("progress", {}).get("task") == "Waiting for a node"]


def assert_nothing_is_left(cluster: SlurmCluster, *simulations: Launched) -> None:
    for simulation in simulations:
        wait_until(lambda simulation=simulation: not simulation.processes(), 30)  # type: ignore[misc]
        simulation.assert_nothing_is_left(timeout=30)
        for job in cluster.jobs_of(simulation.incarnation):
            wait_until(lambda job=job: job not in cluster.unfinished(), 20)  # type: ignore[misc]


# -- from launch to logs -----------------------------------------------------------------------------------------------


def test_a_simulation_is_a_job_from_launch_to_logs(cluster: SlurmCluster, launcher: RunningLauncher) -> None:
    simulation = launcher.started(TALKATIVE)
    simulation.await_steps()
    assert cluster.states()[job_of(cluster, simulation)] == "RUNNING"
    assert simulation.command("stopped").error is None
    final = simulation.await_final()
    assert (final["event"], final["reason"]) == ("stopped", None)
    assert "the script says this" in simulation.log_in(final["logs"])
    assert simulation.stored(final["results"]) == {"result.txt": b"42"}
    assert waits(simulation)[-1]["done"]
    assert_nothing_is_left(cluster, simulation)
    wait_until(lambda: cluster.states()[job_of(cluster, simulation)] == "COMPLETED")


def test_what_a_launch_asks_for_is_asked_of_slurm(cluster: SlurmCluster, launchers: Launchers) -> None:
    launcher = launchers.running(placement="slurm", slurm_options="--nice=7", slurm_time_limit_s=3600)
    simulation = launcher.paused(
        resources={"cores": 1.5, "memory_mb": 300, "partition": "apart", "time_limit": 600.0}, limits={"disk_mb": 100}
    )
    job = cluster.control("--oneliner", "show", "job", str(job_of(cluster, simulation)))
    for asked in ("Partition=apart", "NumCPUs=2", "mem=300M", "TimeLimit=00:10:00", "Requeue=0", "Nice=7"):
        assert asked in job
    other = launcher.paused()
    assert "TimeLimit=01:00:00" in cluster.control("--oneliner", "show", "job", str(job_of(cluster, other)))
    launcher.end()
    assert [each.await_final()["event"] for each in (simulation, other)] == ["stopped"] * 2
    assert_nothing_is_left(cluster, simulation, other)


def test_a_server_that_crashes_is_told_with_its_signal_and_last_words(
    cluster: SlurmCluster, launcher: RunningLauncher
) -> None:
    simulation = launcher.paused(CRASHING)
    simulation.command("started")  # whose answer the crash may have taken away
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "was killed by SIGSEGV" in final["reason"]
    assert "the script says this" in final["reason"]
    assert_nothing_is_left(cluster, simulation)


def test_limits_of_processes_are_kept_on_the_node(cluster: SlurmCluster, launchers: Launchers) -> None:
    simulation = launchers.running(placement="slurm", limit_processes=10).started(MANY_PROCESSES)
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "processes at once, 10 are allowed (limit NRP_LIMIT_PROCESSES)" in final["reason"]
    assert_nothing_is_left(cluster, simulation)


@pytest.mark.parametrize(
    ("resources", "said"),
    [({"partition": "nowhere"}, "invalid partition"), ({"gpus": 1}, "gres"), ({"memory_mb": 2**30}, "memory")],
)
def test_a_job_that_slurm_refuses_fails_with_what_slurm_said(
    cluster: SlurmCluster, launcher: RunningLauncher, resources: dict[str, Any], said: str
) -> None:
    simulation = launcher.launch(resources=resources)
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert final["reason"].startswith("Slurm does not take the job of the simulation")
    assert said in final["reason"].lower()
    assert_nothing_is_left(cluster, simulation)


# -- the queue ---------------------------------------------------------------------------------------------------------


def test_place_and_reason_are_told_while_it_waits(cluster: SlurmCluster, launcher: RunningLauncher) -> None:
    cluster.fill()
    first = launcher.launch()
    wait_until(lambda: waits(first) and waits(first)[-1].get("queuePosition") == 1)
    second = launcher.launch()
    wait_until(lambda: waits(second) and waits(second)[-1].get("queuePosition") == 2)
    # Slurm has no reason before it has looked at the job.
    wait_until(lambda: any(reason in waits(second)[-1]["queueReason"] for reason in ("Resources", "Priority")))
    assert "initialized" not in [each["event"] for each in first.lifecycle]
    cluster.clear()
    for simulation in (first, second):
        simulation.await_transition("initialized")
        wait_until(lambda simulation=simulation: waits(simulation)[-1].get("done"))  # type: ignore[misc]
        simulation.command("stopped")
        assert simulation.await_final()["event"] == "stopped"
    assert_nothing_is_left(cluster, first, second)


def test_a_stop_before_it_ran_cancels_the_job(cluster: SlurmCluster, launcher: RunningLauncher) -> None:
    cluster.fill()
    simulation = launcher.launch()
    wait_until(lambda: cluster.jobs_of(simulation.incarnation))
    assert simulation.command("stopped").error is None
    final = simulation.await_final()
    assert (final["event"], final["reason"], final["logs"]) == ("stopped", None, None)
    assert_nothing_is_left(cluster, simulation)
    assert cluster.states()[job_of(cluster, simulation)] == "CANCELLED"


def test_a_job_that_somebody_else_cancels_fails_its_simulation(
    cluster: SlurmCluster, launcher: RunningLauncher
) -> None:
    simulation = launcher.started(TALKATIVE)
    cluster.cancel(job_of(cluster, simulation))
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert "was cancelled, and not by its launcher (CANCELLED, job " in final["reason"]
    assert "the script says this" in simulation.log_in(final["logs"])
    assert_nothing_is_left(cluster, simulation)


@pytest.mark.timeout(300)
def test_thirty_at_once(cluster: SlurmCluster, launcher: RunningLauncher) -> None:
    simulations = [launcher.launch(PACED) for _ in range(30)]
    for simulation in simulations:
        simulation.await_transition("initialized", 90)
        assert simulation.command("started").error is None
    for simulation in simulations:
        simulation.await_steps()
    for simulation in simulations:
        assert simulation.command("stopped").error is None
    assert [each.await_final(60)["event"] for each in simulations] == ["stopped"] * 30
    assert_nothing_is_left(cluster, *simulations)
    assert all(len(cluster.jobs_of(each.incarnation)) == 1 for each in simulations)


# -- a broker that keeps to who may do what ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured_product(
    running_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecuredProduct]:
    """Gateway and launcher, each with rights of its own, and simulations with credentials of theirs."""
    folder = tmp_path_factory.mktemp("secured")
    settings = {"placement": "slurm", "simulation_credentials": "required", "stop_grace_s": 600}  # nobody is cancelled
    with lab_broker(folder) as broker, SecuredProduct(broker, folder / "product", **settings) as product:
        product.experiment("talking", TALKATIVE)
        yield product


@pytest.fixture
def secured(cluster: SlurmCluster, secured_product: SecuredProduct) -> SecuredProduct:
    secured_product.launchers["one"].start()  # which a test may have ended
    secured_product.await_ready()
    return secured_product


def test_a_simulation_with_credentials_of_its_own_is_a_job_from_launch_to_logs(
    cluster: SlurmCluster, secured: SecuredProduct, tmp_path: Path
) -> None:
    broker, client = secured.broker, secured.client
    assert isinstance(broker, SecuredBroker)
    simulation_id = secured.started("talking")
    wait_until(lambda: client.simulation(simulation_id)["simulationTime"] > 0)
    (own,) = broker.simulations
    assert f":{simulation_id}:" in own
    assert client.set_state(simulation_id, "stopped") == "stopped"
    wait_until(lambda: client.simulation(simulation_id)["logs"])
    logs = client.download(simulation_id, "logs", tmp_path)
    assert logs is not None
    with zipfile.ZipFile(logs) as archive:
        assert b"the script says this" in archive.read(f"simulation_{simulation_id}.log")
    wait_until(lambda: not broker.simulations | broker.roles)
    folder = secured.data() / "simulations" / str(simulation_id)
    wait_until(lambda: not folder.exists(), 20)
    with Client(broker.address("frontend")) as frontend:  # what is retained comes first
        assert frontend.may_subscribe("nrp_server/#")
        assert frontend.may_subscribe(Topics().status(simulation_id))
        wait_until(lambda: Topics().status(simulation_id) in [topic for topic, _ in frontend.heard])
        assert not [payload for topic, payload in frontend.heard if topic.startswith("nrp_server/") and payload]
    assert "does not let user" not in secured.log("one")


def test_a_launcher_that_is_told_to_end_has_its_jobs_end_in_order_by_the_bus(
    cluster: SlurmCluster, secured: SecuredProduct
) -> None:
    simulation_id = secured.started("talking")
    (job,) = cluster.running_of(secured.data())
    assert secured.launchers["one"].end() == 0  # long before it would be cancelled
    wait_until(lambda: secured.client.simulation(simulation_id)["state"] == "stopped")
    wait_until(lambda: cluster.states()[job] == "COMPLETED", 20)
    assert isinstance(secured.broker, SecuredBroker)
    assert not secured.broker.simulations | secured.broker.roles
    assert "does not let user" not in secured.log("one")


# -- what is lost ------------------------------------------------------------------------------------------------------


def test_a_lost_node_fails_its_simulation_and_what_still_runs_there_ends_itself(
    cluster: SlurmCluster, launcher: RunningLauncher
) -> None:
    simulation = launcher.started(TALKATIVE)
    server, job = psutil.Process(simulation.server), job_of(cluster, simulation)
    node = cluster.node_of(job)
    cluster.lose_node(node)
    final = simulation.await_final()
    assert final["event"] == "failed"
    assert f"Slurm lost the node that ran the simulation (NODE_FAIL, job {job} on {node})" in final["reason"]
    assert "the script says this" in final["reason"]
    wait_until(lambda: not server.is_running())
    assert_nothing_is_left(cluster, simulation)
    assert len(simulation.finals) == 1


def test_a_job_that_slurm_runs_again_is_no_second_copy(cluster: SlurmCluster, launcher: RunningLauncher) -> None:
    simulation = launcher.started(TALKATIVE)
    server, job = psutil.Process(simulation.server), job_of(cluster, simulation)
    cluster.control("update", f"JobId={job}", "Requeue=1")  # as a site's plugin may do
    node = cluster.node_of(job)
    cluster.lose_node(node)
    final = simulation.await_final(60)
    assert final["event"] == "failed"
    assert f"job {job}" in final["reason"]
    wait_until(lambda: not server.is_running())
    assert_nothing_is_left(cluster, simulation)
    assert [each["event"] for each in simulation.lifecycle].count("initialized") == 1


def test_the_next_launcher_adopts_jobs_and_submits_none_twice(cluster: SlurmCluster, launcher: RunningLauncher) -> None:
    running, ending = launcher.started(TALKATIVE), launcher.started(TALKATIVE)
    cluster.fill()
    waiting, unwanted = launcher.launch(), launcher.launch()
    wait_until(lambda: cluster.jobs_of(waiting.incarnation) and cluster.jobs_of(unwanted.incarnation))
    launcher.kill()
    ending.command("stopped")  # its server is there to hear it
    wait_until(lambda: not ending.processes())
    launcher.restart()
    assert unwanted.command("stopped").error is None
    assert unwanted.await_final()["event"] == "stopped"
    final = ending.await_final()
    assert final["event"] == "stopped"
    assert "the script says this" in ending.log_in(final["logs"])
    running.await_steps()
    cluster.clear()
    waiting.await_transition("initialized")
    for simulation in (running, waiting):
        assert simulation.command("stopped").error is None
        assert simulation.await_final()["event"] == "stopped"
    for simulation in (running, ending, waiting, unwanted):
        job_of(cluster, simulation)
    assert_nothing_is_left(cluster, running, ending, waiting, unwanted)


def test_a_launcher_that_leaves_is_followed_by_another(cluster: SlurmCluster, launchers: Launchers) -> None:
    launcher = launchers.running(placement="slurm", on_shutdown="leave")
    simulation = launcher.started()
    assert launcher.end() == 0
    simulation.await_steps()
    launcher.restart()
    assert simulation.command("stopped").error is None
    assert simulation.await_final()["event"] == "stopped"
    assert_nothing_is_left(cluster, simulation)


@pytest.mark.timeout(300)
def test_nothing_is_lost_while_the_controller_is_away(cluster: SlurmCluster, launcher: RunningLauncher) -> None:
    running, ending = launcher.started(), launcher.started(TALKATIVE)
    cluster.stop_controller()
    launched, unwanted = launcher.launch(), launcher.launch()
    wait_until(lambda: any("Slurm does not" in each.get("queueReason", "") for each in waits(launched)), 60)
    assert unwanted.command("stopped").error is None
    assert unwanted.await_final()["event"] == "stopped"
    assert ending.command("stopped").error is None
    assert ending.await_final()["event"] == "stopped"
    launcher.kill()
    launcher.restart()
    running.await_steps()
    assert not launched.finals
    cluster.heal()
    launched.await_transition("initialized", 60)
    for simulation in (running, launched):
        assert simulation.command("stopped").error is None
        assert simulation.await_final()["event"] == "stopped"
    assert_nothing_is_left(cluster, running, ending, launched, unwanted)
    assert len(cluster.jobs_of(launched.incarnation)) == 1


@pytest.mark.timeout(300)
def test_a_simulation_that_exceeds_its_time_limit_is_failed_with_that(cluster: SlurmCluster, doomed: Launched) -> None:
    job = job_of(cluster, doomed)
    final = doomed.await_final(150)
    assert final["event"] == "failed"
    assert f"its job took longer than its time limit (TIMEOUT, job {job} on n" in final["reason"]
    assert "the script says this" in doomed.log_in(final["logs"])
    assert_nothing_is_left(cluster, doomed)
