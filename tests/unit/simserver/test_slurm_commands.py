"""What Slurm's programs print, also when it is odd, and what is made of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from nrp_common.errors import SettingsError
from nrp_simserver.placement.slurm import commands, words
from nrp_simserver.placement.slurm.commands import Slurm, SlurmJob, SlurmUnavailable, SubmissionRefused
from tests.fake_slurm import FakeSlurm
from tests.waiting import wait_until


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


@pytest.fixture
def slurm(fake: FakeSlurm) -> Slurm:
    return Slurm(environment(fake))


def environment(fake: FakeSlurm, **more: str) -> dict[str, str]:
    return {"PATH": f"{fake.programs}:{os.environ['PATH']}", **more}


def job(state: str, reason: str = "None", nodes: str = "n2") -> SlurmJob:
    return SlurmJob(17, "nrp-1-abc", state, reason, "main", 1, nodes)


# -- sbatch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("printed", ["17\n", "17;cluster\n", "Welcome to the cluster!\n\n17\n", "  17\n\n"])
def test_the_number_of_a_job_is_found_in_what_sbatch_prints(fake: FakeSlurm, slurm: Slurm, printed: str) -> None:
    fake.answers("sbatch", printed)
    assert slurm.submit(["--mem=5M"], "#!/bin/sh\ntrue\n") == 17
    assert fake.calls("sbatch") == ["--parsable --mem=5M"]
    assert fake.script == "#!/bin/sh\ntrue\n"


@pytest.mark.parametrize(
    "said",
    [
        "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Bad name\n",
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)\n",
        "sbatch: error: Invalid --time specification\n",
        "sbatch: unrecognized option '--nonsense'\n",
        "sbatch: error: lua: no more than two\nsbatch: error: Batch job submission failed: Unspecified error\n",
    ],
)
def test_a_refusal_says_what_slurm_said(fake: FakeSlurm, slurm: Slurm, said: str) -> None:
    fake.answers("sbatch", "", stderr=said, status=1)
    with pytest.raises(SubmissionRefused) as refusal:
        slurm.submit([], "")
    for line in said.splitlines():
        assert line in str(refusal.value)


@pytest.mark.parametrize(
    ("stdout", "stderr", "status"),
    [
        ("", "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n", 1),
        ("", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n", 1),
        ("", "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received\n", 1),
        ("", "sbatch: error: Batch job submission failed: Resource temporarily unavailable\n", 1),
        ("", "sbatch: error: If munged is up, restart with --num-threads=10\nsbatch: error: Munge encode failed\n", 1),
        ("", "sbatch: error: Batch job submission failed: Protocol authentication error\n", 1),
        ("", "sbatch: fatal: Could not establish a configuration source\n", 1),
        ("", "", 1),
        ("", "", 139),
        ("submitted, perhaps\n", "", 0),
    ],
)
def test_what_passes_is_no_refusal(fake: FakeSlurm, slurm: Slurm, stdout: str, stderr: str, status: int) -> None:
    fake.answers("sbatch", stdout, stderr=stderr, status=status)
    with pytest.raises(SlurmUnavailable):
        slurm.submit([], "")


def test_a_program_that_hangs_is_ended_with_all_that_it_started(
    fake: FakeSlurm, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(commands, "ANSWERED_WITHIN_S", 0.3)
    fake.does("sbatch", f"sleep 600 & echo $! > {tmp_path}/child; wait")
    began = time.monotonic()
    with pytest.raises(SlurmUnavailable, match=r"sbatch did not answer in 0\.3 s"):
        slurm.submit([], "")
    assert time.monotonic() - began < 60
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_missing_programs_are_named(fake: FakeSlurm) -> None:
    (fake.programs / "squeue").unlink()
    with pytest.raises(SettingsError, match=r"NRP_PLACEMENT=slurm needs .*: no squeue there"):
        Slurm({"PATH": str(fake.programs)})


def test_a_launcher_that_is_a_job_itself_does_not_pass_that_on(fake: FakeSlurm) -> None:
    fake.does("sbatch", 'echo "${SLURM_JOB_ID-none} ${SQUEUE_FORMAT-none} $SLURM_CONF" >&2; exit 1')
    own = environment(fake, SLURM_JOB_ID="3", SQUEUE_FORMAT="%A", SLURM_CONF="/slurm.conf")
    with pytest.raises(SlurmUnavailable, match=r"^none none /slurm\.conf$"):
        Slurm(own).submit([], "")


# -- squeue ------------------------------------------------------------------------------------------------------------


def test_jobs_are_read_whatever_others_call_theirs(fake: FakeSlurm, slurm: Slurm) -> None:
    fake.answers(
        "squeue",
        "17|RUNNING|main|4294901757|n2|None|nrp-1-abc\n"
        "18_[1-5%2]|PENDING|main,long|100||(Resources)|a|b|\n"
        "next line of a name|\n"
        "\n"
        "19|PENDING|main|nonsense||ReqNodeNotAvail, UnavailableNodes:n[1-2]|\n"
        "20+1|SOMETHING_NEW|main|1|n1|None|x\n",
    )
    assert slurm.jobs() == [
        SlurmJob(17, "nrp-1-abc", "RUNNING", "None", "main", 4294901757, "n2"),
        SlurmJob(18, "a|b|", "PENDING", "(Resources)", "main,long", 100, ""),
        SlurmJob(19, "", "PENDING", "ReqNodeNotAvail, UnavailableNodes:n[1-2]", "main", 0, ""),
        SlurmJob(20, "x", "SOMETHING_NEW", "None", "main", 1, "n1"),
    ]


def test_a_queue_that_is_printed_in_part_is_not_believed(fake: FakeSlurm, slurm: Slurm) -> None:
    fake.answers("squeue", "17|RUNNING|main|1|n2|None|nrp-1-abc\n", stderr="slurm_load_jobs error: ...", status=1)
    with pytest.raises(SlurmUnavailable, match="slurm_load_jobs error"):
        slurm.jobs()


# -- scancel, scontrol -------------------------------------------------------------------------------------------------


def test_a_job_that_is_gone_need_not_be_cancelled(fake: FakeSlurm, slurm: Slurm) -> None:
    fake.answers(
        "scancel", "", stderr="scancel: error: Kill job error on job id 17: Invalid job id specified", status=1
    )
    slurm.cancel(17)
    fake.answers("scancel", "", stderr="scancel: error: Unable to contact slurm controller", status=1)
    with pytest.raises(SlurmUnavailable):
        slurm.cancel(17, "--signal=KILL", "--full")
    assert fake.calls("scancel") == ["17", "--signal=KILL --full 17"]


def test_hosts_are_those_of_the_nodes(fake: FakeSlurm, slurm: Slurm) -> None:
    fake.answers(
        "scontrol", "NodeName=n1 Arch=x86_64 NodeHostName=big NodeAddr=b\nNodeName=n2 NodeHostName=small X=1\n"
    )
    assert slurm.hosts(5) == {"big", "small"}


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (job("TIMEOUT"), "took longer than its time limit (TIMEOUT, job 17 on n2)"),
        (job("OUT_OF_MEMORY"), "used more memory than it may (OUT_OF_MEMORY, job 17 on n2)"),
        (job("NODE_FAIL"), "Slurm lost the node that ran the simulation (NODE_FAIL, job 17 on n2)"),
        (job("CANCELLED", nodes=""), "was cancelled, and not by its launcher (CANCELLED, job 17)"),
        (job("PREEMPTED"), "needed for another job (PREEMPTED, job 17 on n2)"),
        (
            job("FAILED", "RaisedSignal:53(Real-time_signal_19)"),
            "NRP_DATA_DIRECTORY has to be on a file system that all",
        ),
        (job("FAILED", "NonZeroExitCode"), "Slurm's job 17 on n2 is FAILED (NonZeroExitCode)"),
        (job("COMPLETED"), "Slurm's job 17 on n2 is COMPLETED"),
    ],
)
def test_each_end_of_a_job_has_words(ended: SlurmJob, said: str) -> None:
    assert said in words.end_of(ended, "/shared/simulation_1.log")


@pytest.mark.parametrize(
    ("reason", "said"),
    [("(Resources)", "Resources, job 17"), ("Priority", "Priority, job 17"), ("None", "PENDING, job 17")],
)
def test_each_reason_to_wait_has_words(reason: str, said: str) -> None:
    assert words.why_waiting(job("PENDING", reason)) == said
