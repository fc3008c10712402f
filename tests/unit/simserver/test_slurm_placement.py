"""What becomes of a simulation's job, whatever Slurm's programs say of it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from nrp_common.bus import Bus
from nrp_common.errors import SettingsError
from nrp_common.messages import ServerPresence, Wishes
from nrp_simserver.placement import batch
from nrp_simserver.placement.job import Claim
from nrp_simserver.placement.placement import QueuePlace, ServerOrder
from nrp_simserver.placement.slurm import placement as slurm_placement
from nrp_simserver.placement.slurm import site
from nrp_simserver.placement.slurm.commands import Slurm
from nrp_simserver.placement.slurm.job_request import JobNote, job_of
from nrp_simserver.placement.slurm.placement import SlurmPlacement
from nrp_simserver.resources.limits import Limit, Limited
from nrp_simserver.server_end import ServerEnd
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder
from tests.fake_slurm import FakeSlurm
from tests.fakes import FakeBus
from tests.unit.simserver.placements import Told, order
from tests.waiting import wait_until

INCARNATION = "0123456789abcdef0123456789abcdef"
NAME = f"nrp-1-{INCARNATION}"
AWAY = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n"


class Cluster:
    """A placement on stand-ins for Slurm's programs, with one simulation."""

    def __init__(self, folder: Path, fake: FakeSlurm) -> None:
        self.fake = fake
        self.bus = FakeBus()
        self.told = Told()
        self.settings = LauncherSettings(data_directory=folder / "data", placement="slurm", stop_grace_s=1.0)
        self.folder = SimulationFolder(self.settings.simulations_directory / "1", 1)
        self.folder.path.mkdir(parents=True)
        self._placements: list[SlurmPlacement] = []
        self.new_placement()

    def new_placement(self) -> None:
        """As if the launcher was started again."""
        told = self.told
        self.placement = SlurmPlacement(self.settings, cast(Bus, self.bus), told, told.all_told.set)
        self._placements.append(self.placement)

    def order(self, **wishes: object) -> ServerOrder:
        return order(self.folder, INCARNATION, **wishes)

    def placed(self) -> None:
        """A simulation that was ordered."""
        self.placement.start({})
        self.placement.place(self.order())

    def queue(self, *jobs: tuple[int, str], reason: str = "None", others: str = "") -> None:
        """Have these be the jobs of the simulation: numbers and states."""
        lines = (f"{number}|{state}|main|100|n2|{reason}|{NAME}\n" for number, state in jobs)
        self.fake.answers("squeue", "".join(lines) + others)

    def look_again(self, times: int = 1) -> None:
        """Wait until the queue was looked at so often."""
        now = len(self.fake.calls("squeue"))
        wait_until(lambda: len(self.fake.calls("squeue")) > now + times)

    def appear(self, *, online: bool = True) -> None:
        """The server is on the bus, or is lost."""
        topic = self.settings.topics.server_presence(INCARNATION)
        self.bus.hear(topic, ServerPresence(online=online, simulation_id=1))

    def close(self) -> None:
        for placement in self._placements:
            placement.leave()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", f"{fake.programs}:{os.environ['PATH']}")
    monkeypatch.setattr(batch, "LOOK_S", 0.05)
    monkeypatch.setattr(batch, "FREED_WITHIN_S", 1.0)
    fake.answers("sbatch", "17\n")
    cluster = Cluster(tmp_path, fake)
    yield cluster
    cluster.close()


# -- submitted once ----------------------------------------------------------------------------------------------------


def test_what_slurm_cannot_take_now_is_submitted_when_it_can(cluster: Cluster) -> None:
    cluster.fake.answers("sbatch", "", stderr=AWAY, status=1)
    cluster.placed()
    wait_until(lambda: "Unable to contact slurm controller" in cluster.told.reason)
    cluster.fake.answers("sbatch", "17\n")
    wait_until(lambda: (note := JobNote.read(cluster.folder)) is not None and note.id == 17)
    cluster.queue((17, "PENDING"), reason="(Resources)")
    wait_until(lambda: cluster.told.places[-1] == QueuePlace("Resources, job 17", 1, 1))
    assert not cluster.told.ends


def test_a_job_that_was_taken_without_a_word_is_not_submitted_again(cluster: Cluster) -> None:
    cluster.queue((17, "PENDING"))
    cluster.fake.answers("sbatch", "", stderr="sbatch: error: Socket timed out on send/recv operation\n", status=1)
    cluster.placed()
    wait_until(lambda: (note := JobNote.read(cluster.folder)) is not None and note.id == 17)
    cluster.look_again(3)
    assert len(cluster.fake.calls("sbatch")) == 1


def test_a_job_is_known_by_its_number_where_a_site_renames_it(cluster: Cluster) -> None:
    cluster.fake.answers("squeue", "17|RUNNING|main|1|n1|None|renamed\n")
    cluster.placed()
    wait_until(lambda: cluster.told.spawned)
    cluster.look_again(4)
    assert not cluster.told.ends


def test_nothing_is_submitted_again_while_the_queue_is_not_known(cluster: Cluster) -> None:
    cluster.fake.answers("sbatch", "", stderr=AWAY, status=1)
    cluster.fake.answers("squeue", "", stderr="slurm_load_jobs error: Unable to contact slurm controller", status=1)
    cluster.placed()
    wait_until(lambda: cluster.told.reason.startswith("Slurm does not answer: slurm_load_jobs error"))
    cluster.look_again(3)
    assert len(cluster.fake.calls("sbatch")) == 1
    assert not cluster.told.ends


def test_of_two_jobs_the_second_is_cancelled(cluster: Cluster) -> None:
    cluster.queue((17, "PENDING"), (18, "PENDING"))
    cluster.placed()
    wait_until(lambda: cluster.fake.calls("scancel"))
    assert set(cluster.fake.calls("scancel")) == {"18"}


def test_of_two_jobs_the_one_that_runs_the_simulation_counts(cluster: Cluster) -> None:
    Claim(run="r", job="18", node="n2").take_first(cluster.folder)
    cluster.queue((17, "PENDING"), (18, "RUNNING"))
    cluster.placed()
    wait_until(lambda: cluster.told.spawned and cluster.fake.calls("scancel"))
    assert set(cluster.fake.calls("scancel")) == {"17"}
    cluster.queue((17, "CANCELLED"), (18, "RUNNING"))
    cluster.look_again(2)
    assert not cluster.told.ends


def test_the_next_launcher_finds_jobs_by_name_and_submits_what_was_not(cluster: Cluster) -> None:
    note = JobNote(name=NAME, options=["--mem=1M"], script="#!/bin/sh\n")
    note.write(cluster.folder)
    cluster.queue((17, "RUNNING"))
    cluster.placement.start({INCARNATION: cluster.folder})
    assert cluster.told.found == [INCARNATION]
    assert cluster.told.all_told.wait(10)
    wait_until(lambda: cluster.told.spawned)
    assert not cluster.fake.calls("sbatch")
    cluster.placement.leave()
    note.write(cluster.folder)
    cluster.queue()
    cluster.new_placement()
    cluster.placement.start({INCARNATION: cluster.folder})
    wait_until(lambda: cluster.fake.calls("sbatch") == ["--parsable --mem=1M"])


def test_earlier_launchers_servers_are_unknown_until_slurm_answers(cluster: Cluster) -> None:
    JobNote(name=NAME, options=[], script="", id=17).write(cluster.folder)
    cluster.fake.answers("squeue", "", status=1)
    cluster.placement.start({INCARNATION: cluster.folder})
    cluster.look_again(3)
    assert not cluster.told.all_told.is_set()
    assert not cluster.told.ends
    cluster.queue((17, "RUNNING"))
    assert cluster.told.all_told.wait(10)
    wait_until(lambda: cluster.told.spawned == 1)


def test_a_simulation_that_was_never_to_be_submitted_is_not_slurms(cluster: Cluster) -> None:
    cluster.placement.start({INCARNATION: cluster.folder})
    assert cluster.told.all_told.wait(10)
    assert not cluster.told.found


# -- its place in the queue --------------------------------------------------------------------------------------------


def test_its_place_is_that_among_all_who_wait_for_the_partition(cluster: Cluster) -> None:
    others = (
        "3|PENDING|main|200||Priority|somebody's\n"
        "4|PENDING|main|100||Priority|as important, and came first\n"
        "5|PENDING|main|50||Priority|less important\n"
        "6|PENDING|other|900||Priority|elsewhere\n"
        "7|RUNNING|main|900|n1|None|runs\n"
    )
    cluster.queue((17, "PENDING"), reason="(Priority)", others=others)
    cluster.placed()
    wait_until(lambda: cluster.told.places[-1] == QueuePlace("Priority, job 17", 3, 4))


# -- its end -----------------------------------------------------------------------------------------------------------


def test_a_job_that_is_missing_once_has_not_ended(cluster: Cluster) -> None:
    cluster.queue((17, "RUNNING"))
    cluster.placed()
    wait_until(lambda: cluster.told.spawned)
    missing_once = f"[ -e {cluster.folder.path}/seen ] && echo '17|RUNNING|main|1|n1|None|{NAME}'"
    cluster.fake.does("squeue", f"{missing_once}; touch {cluster.folder.path}/seen; exit 0")
    cluster.look_again(5)
    assert not cluster.told.ends


def test_a_job_that_slurm_has_forgotten_ended_as_its_server_noted(cluster: Cluster) -> None:
    cluster.queue((17, "RUNNING"))
    cluster.placed()
    wait_until(lambda: cluster.told.spawned)
    end = ServerEnd(pid=1, spawner=1, exit_code=-11, ended_at=1.0)
    end.write(cluster.folder)
    cluster.look_again(2)
    assert not cluster.told.ends  # what killed it Slurm may know
    cluster.queue()
    wait_until(lambda: cluster.told.ends)
    assert cluster.told.ends == [("The simulation server was killed by SIGSEGV", False)]


def test_a_job_that_is_gone_without_a_trace_says_so(cluster: Cluster) -> None:
    cluster.queue((17, "RUNNING"))
    cluster.placed()
    wait_until(lambda: cluster.told.spawned)
    cluster.queue()
    wait_until(lambda: cluster.told.ends)
    ((how, by_placement),) = cluster.told.ends
    assert how.startswith("Slurm does not know job 17 of the simulation any more")
    assert by_placement


def test_a_server_that_ended_by_itself_is_told_before_slurm_knows(cluster: Cluster) -> None:
    cluster.queue((17, "RUNNING"))
    cluster.placed()
    cluster.appear()
    wait_until(lambda: cluster.told.spawned)
    cluster.fake.answers("squeue", "", status=1)
    ServerEnd(pid=1, spawner=1, exit_code=1, ended_at=1.0).write(cluster.folder)
    cluster.appear(online=False)
    wait_until(lambda: cluster.told.ends)
    assert cluster.told.ends == [("The simulation server ended with exit code 1", False)]


def test_a_queue_that_hangs_holds_up_no_end(cluster: Cluster) -> None:
    cluster.fake.does("squeue", f"while [ ! -e {cluster.folder.path}/thawed ]; do sleep 0.05; done")
    cluster.placed()
    cluster.appear()
    wait_until(lambda: cluster.told.spawned)
    ServerEnd(pid=1, spawner=1, exit_code=1, ended_at=1.0).write(cluster.folder)
    cluster.appear(online=False)
    wait_until(lambda: cluster.told.ends)
    assert cluster.settings.heartbeat_file.exists()
    (cluster.folder.path / "thawed").touch()


@pytest.mark.parametrize("state", ["TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED", "PREEMPTED", "DEADLINE"])
def test_what_slurm_ended_is_told_in_its_words_with_the_last_ones_of_the_log(cluster: Cluster, state: str) -> None:
    cluster.queue((17, "RUNNING"))
    cluster.placed()
    wait_until(lambda: cluster.told.spawned)
    cluster.folder.log.write_text("the script says this\n")
    ServerEnd(pid=1, spawner=1, exit_code=0, ended_at=1.0, is_told=True).write(cluster.folder)
    cluster.queue((17, state))
    wait_until(lambda: cluster.told.ends)
    ((how, by_placement),) = cluster.told.ends
    assert f"({state}, job 17 on n2); its last words:\nthe script says this" in how
    assert by_placement


def test_a_job_that_ran_and_waits_again_is_lost(cluster: Cluster) -> None:
    cluster.queue((17, "RUNNING"))
    cluster.placed()
    wait_until(lambda: cluster.told.spawned)
    cluster.queue((17, "PENDING"))
    wait_until(lambda: cluster.told.ends)
    assert cluster.told.ends[0][0] == "Slurm put job 17 of the simulation, which ran, into the queue again"
    wait_until(lambda: "--state=PENDING 17" in cluster.fake.calls("scancel"))


# -- ended -------------------------------------------------------------------------------------------------------------


def test_a_stop_cancels_a_job_that_waits_and_no_other(cluster: Cluster) -> None:
    cluster.queue((17, "PENDING"))
    cluster.placed()
    wait_until(lambda: cluster.told.reason == "PENDING, job 17")
    cluster.placement.stop(INCARNATION)
    wait_until(lambda: cluster.fake.calls("scancel"))
    cluster.queue((17, "CANCELLED"))
    wait_until(lambda: cluster.told.ends)
    assert set(cluster.fake.calls("scancel")) == {"--state=PENDING 17"}


def test_a_stop_before_slurm_took_the_job_is_the_end_of_it(cluster: Cluster) -> None:
    cluster.fake.answers("sbatch", "", stderr=AWAY, status=1)
    cluster.placed()
    wait_until(lambda: "Unable to contact" in cluster.told.reason)
    cluster.placement.stop(INCARNATION)
    wait_until(lambda: cluster.told.ends)
    assert cluster.told.ends == [("The simulation was ended before its job was submitted", False)]


def test_a_stop_of_what_slurm_cannot_have_needs_no_slurm(cluster: Cluster) -> None:
    cluster.fake.answers("sbatch", "", stderr=AWAY, status=1)
    cluster.fake.answers("squeue", "", stderr="slurm_load_jobs error: Unable to contact slurm controller", status=1)
    cluster.placed()
    wait_until(lambda: cluster.told.reason.startswith("Slurm does not answer"))
    cluster.placement.stop(INCARNATION)
    wait_until(lambda: cluster.told.ends)
    cluster.placement.forget(INCARNATION)


def test_a_stop_of_what_slurm_may_have_waits_for_slurm(cluster: Cluster) -> None:
    cluster.fake.answers("sbatch", "", stderr="sbatch: error: Socket timed out on send/recv operation\n", status=1)
    cluster.fake.answers("squeue", "", status=1)
    cluster.placed()
    wait_until(lambda: cluster.told.reason.startswith("Slurm does not answer"))
    cluster.placement.stop(INCARNATION)
    cluster.look_again(3)
    assert not cluster.told.ends
    cluster.queue((17, "PENDING"))
    wait_until(lambda: "--state=PENDING 17" in cluster.fake.calls("scancel"))


def test_one_that_runs_is_asked_then_cancelled_then_killed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_placement, "STOP_AGAIN_S", 0.0)
    monkeypatch.setattr(slurm_placement, "CANCELLED_WITHIN_S", 0.3)
    monkeypatch.setattr(slurm_placement, "GIVEN_UP_AFTER_S", 0.5)
    cluster.queue((17, "RUNNING"))
    cluster.placed()
    wait_until(lambda: cluster.told.spawned)  # one that is not submitted yet would never be
    cluster.appear()
    cluster.placement.stop(INCARNATION)
    wait_until(lambda: cluster.bus.said.get(cluster.settings.topics.command(1)))
    cluster.look_again(3)
    assert not cluster.fake.calls("scancel")
    assert len(cluster.bus.said[cluster.settings.topics.command(1)]) == 1
    cluster.placement.kill(INCARNATION)
    wait_until(lambda: cluster.told.ends)
    wait_until(lambda: cluster.fake.calls("scancel") == ["17", "--signal=KILL --full 17"])
    assert cluster.told.ends[0][0] == "Job 17 of the simulation does not end: its node is lost"


def test_a_job_that_cannot_be_cancelled_now_is_cancelled_later(cluster: Cluster) -> None:
    cluster.queue((17, "PENDING"))
    cluster.fake.answers("scancel", "", stderr="scancel: error: Unable to contact slurm controller", status=1)
    cluster.placed()
    wait_until(lambda: cluster.told.reason == "PENDING, job 17")
    cluster.placement.stop(INCARNATION)
    wait_until(lambda: len(cluster.fake.calls("scancel")) > 2)
    assert not cluster.told.ends


def test_its_folder_is_left_to_it_until_its_job_is_over(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "FREED_WITHIN_S", 30.0)
    Claim(run="r", job="17", node="n2").take_first(cluster.folder)
    cluster.queue((17, "RUNNING"))
    cluster.placed()
    wait_until(lambda: cluster.told.spawned)
    ServerEnd(pid=1, spawner=1, exit_code=0, ended_at=1.0).write(cluster.folder)
    wait_until(lambda: cluster.told.ends)
    forgetting = threading.Thread(target=cluster.placement.forget, args=(INCARNATION,))
    forgetting.start()
    cluster.look_again(2)
    assert forgetting.is_alive()
    cluster.queue((17, "COMPLETED"))
    forgetting.join(10)
    assert not forgetting.is_alive()


def test_who_leaves_cancels_nothing_and_who_closes_all(cluster: Cluster) -> None:
    cluster.queue((17, "RUNNING"))
    cluster.placed()
    wait_until(lambda: cluster.told.spawned)
    cluster.placement.leave()
    assert not cluster.fake.calls("scancel")
    cluster.new_placement()
    cluster.placement.start({INCARNATION: cluster.folder})
    assert cluster.told.all_told.wait(10)
    cluster.placement.close()
    assert cluster.fake.calls("scancel") == ["17"]


def test_the_queue_is_looked_at_once_a_second_for_all_and_not_at_all_for_none(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LOOK_S", 1.0)
    cluster.placement.start({})
    assert cluster.told.all_told.wait(10)
    assert not cluster.fake.calls("squeue")
    cluster.queue((17, "RUNNING"))
    began = time.monotonic()
    cluster.placement.place(cluster.order())
    for _ in range(100):
        cluster.appear()  # whatever happens meanwhile
    wait_until(lambda: len(cluster.fake.calls("squeue")) >= 3)
    assert len(cluster.fake.calls("squeue")) <= 2 + (time.monotonic() - began)


# -- what is asked for -------------------------------------------------------------------------------------------------


def options(cluster: Cluster, wishes: Wishes, limits: dict[Limited, Limit], **settings: object) -> list[str]:
    order = cluster.order(**wishes.model_dump())
    asked = ServerOrder(order.setup, order.launch, limits)
    own = LauncherSettings(placement="slurm", **settings)
    return job_of(asked, cluster.folder.path / "order.json", "/opt/python 3", own).options


@pytest.mark.parametrize(
    ("wishes", "limits", "settings", "expected"),
    [
        (Wishes(), {}, {}, set()),
        (Wishes(cores=2.5), {}, {}, {"--cpus-per-task=3"}),
        (Wishes(gpus=2), {}, {}, {"--gres=gpu:2"}),
        (Wishes(memory_mb=900), {Limited.MEMORY: Limit(2000, "")}, {}, {"--mem=900M"}),
        (Wishes(), {Limited.MEMORY: Limit(1000.5, "")}, {"slurm_memory_mb": 700}, {"--mem=1001M"}),
        (Wishes(), {}, {"slurm_memory_mb": 700}, {"--mem=700M"}),
        (Wishes(time_limit=90.5), {}, {"slurm_time_limit_s": 60}, {"--time=1:31"}),
        (Wishes(), {}, {"slurm_time_limit_s": 7200}, {"--time=120:00"}),
        (Wishes(partition="gpu"), {}, {"slurm_partition": "main", "slurm_account": "lab"}, {"--partition=gpu",
         "--account=lab"}),
        (Wishes(account="mine"), {}, {"slurm_account": "lab"}, {"--account=mine"}),
        (Wishes(), {}, {"slurm_options": "--qos=high --constraint='a&b'"}, {"--qos=high", "--constraint=a&b"}),
    ],
)  # fmt: skip
def test_what_a_launch_and_the_site_ask_for(
    cluster: Cluster, wishes: Wishes, limits: dict[Limited, Limit], settings: dict[str, object], expected: set[str]
) -> None:
    usual = set(options(cluster, Wishes(), {}))
    assert {f"--job-name={NAME}", "--no-requeue", "--nodes=1"} <= usual
    assert set(options(cluster, wishes, limits, **settings)) - usual == expected


@pytest.mark.parametrize("wrong", ["--array=1-5", "-a1-5", "--wait", "--wrap=true", "'--qos"])
def test_options_that_make_no_single_job_are_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="NRP_SLURM_OPTIONS"):
        LauncherSettings.load(slurm_options=wrong)


def test_no_secret_reaches_slurm_and_the_order_is_for_its_owner_only(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NRP_SECRET_KEY", "hush-hush")
    monkeypatch.setenv("NRP_MQTT_PASSWORD", "hush-hush")
    cluster.new_placement()
    cluster.fake.does("sbatch", f"env > {cluster.folder.path}/environment; echo 17")
    cluster.placed()
    wait_until((cluster.folder.path / "environment").exists)
    assert "hush-hush" not in (cluster.folder.path / "environment").read_text()
    assert "hush-hush" not in cluster.fake.script + str(cluster.fake.calls("sbatch"))
    order = cluster.folder.path / "job_order.json"
    assert "hush-hush" in order.read_text()
    assert order.stat().st_mode & 0o777 == 0o600


# -- the site ----------------------------------------------------------------------------------------------------------


def check(cluster: Cluster, hosts: str, **settings: object) -> None:
    cluster.fake.answers("scontrol", "".join(f"NodeName=n NodeHostName={host} X=1\n" for host in hosts.split()))
    site.check_site(Slurm(os.environ), LauncherSettings.load(placement="slurm", **settings))


def test_nodes_elsewhere_need_a_file_system_that_they_see(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {"mqtt_broker_address": "broker:1883", "data_directory": tmp_path}
    monkeypatch.setattr(site, "file_system_of", lambda _: "ext4")
    check(cluster, socket.gethostname(), **elsewhere)
    with pytest.raises(
        SettingsError, match=r"NRP_DATA_DIRECTORY=.*this machine only \(ext4\), and big1 and 1 more are"
    ):
        check(cluster, f"{socket.gethostname()} big1 big2", **elsewhere)
    check(cluster, "big1", slurm_shared=True, **elsewhere)
    monkeypatch.setattr(site, "file_system_of", lambda _: "nfs4")
    check(cluster, "big1", **elsewhere)


@pytest.mark.parametrize("broker", ["localhost:1883", "127.0.0.1", "[::1]:1883"])
def test_nodes_elsewhere_need_a_broker_that_they_reach(
    cluster: Cluster, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "file_system_of", lambda _: "nfs4")
    check(cluster, socket.gethostname(), mqtt_broker_address=broker)
    with pytest.raises(SettingsError, match=r"NRP_MQTT_BROKER_ADDRESS=.* give the name"):
        check(cluster, "big1", mqtt_broker_address=broker)


def test_a_cluster_that_does_not_answer_keeps_no_launcher_from_starting(cluster: Cluster) -> None:
    cluster.fake.answers("scontrol", "", stderr="Unable to contact slurm controller", status=1)
    site.check_site(Slurm(os.environ), cluster.settings)


def test_the_file_system_of_a_folder_is_known() -> None:
    assert site.file_system_of(Path("/proc")) == "proc"
    assert site.file_system_of(Path("/proc/self/task")) == "proc"
