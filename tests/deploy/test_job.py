"""What a node of a cluster runs for one simulation: the only run that counts, to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nrp_simserver import processes
from nrp_simserver.placement import job
from nrp_simserver.placement.job import Claim, JobOrder
from nrp_simserver.placement.local.spawner_folder import spawner_environment
from nrp_simserver.resources.limits import Limit, Limited
from nrp_simserver.server_end import ServerEnd
from nrp_simserver.simulation_folder import remove_folder
from tests.faults.test_launcher_killed import DEAF
from tests.simulation_servers import ENDLESS, RunningSimulation, SimulationServers, server_process
from tests.waiting import wait_until

DAEMON = (
    """
import subprocess
subprocess.Popen(["sleep", "600"], start_new_session=True)
"""
    + ENDLESS
)


class Jobs:
    """Starts jobs as a cluster does, and ends them with the test."""

    def __init__(self, servers: SimulationServers, folder: Path) -> None:
        self._servers = servers
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def heartbeat(self) -> Path:
        return self._folder / "heartbeat"

    def order(self, script: str = ENDLESS, **fields: Any) -> tuple[RunningSimulation, Path]:
        """A simulation that is ready to be run, and the order for its job."""
        simulation = self._servers.prepare(script)
        order = JobOrder(
            **{
                "setup": simulation.setup,
                "limits": {},
                "stop_grace_s": 20.0,
                "orphaned_s": 600.0,
                "heartbeat": self.heartbeat,
                **fields,
            }
        )
        return simulation, order.write(simulation.folder)

    def start(self, order: Path, name: str = "17") -> subprocess.Popen[bytes]:
        with (order.parent / "output").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", job.__name__, str(order), name],
                env=spawner_environment(os.environ),
                stdout=output,
                stderr=output,
                cwd="/",
            )
        self._running.append(process)
        return process

    def started(self, script: str = ENDLESS, **fields: Any) -> tuple[RunningSimulation, Path, subprocess.Popen[bytes]]:
        """A simulation whose script executes."""
        simulation, order = self.order(script, **fields)
        process = self.start(order)
        simulation.await_transition("initialized", 30)
        simulation.pid = server_process(simulation.setup.incarnation)
        assert simulation.command("started").error is None
        return simulation, order, process

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def jobs(servers: SimulationServers, tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(servers, tmp_path)
    yield jobs
    jobs.close()


def end_of(simulation: RunningSimulation) -> ServerEnd:
    end = ServerEnd.read(simulation.folder)
    assert end is not None, simulation.log
    return end


def test_it_runs_its_simulation_and_leaves_only_how_it_ended(jobs: Jobs) -> None:
    simulation, order, process = jobs.started(DAEMON)
    assert not order.exists()
    wait_until(lambda: len(processes.marked({simulation.setup.incarnation})) == 2)
    assert simulation.command("stopped").error is None
    assert process.wait(20) == 0
    end = end_of(simulation)
    assert (end.exit_code, end.reason, end.is_told, end.pid) == (0, None, False, simulation.pid)
    assert not processes.marked({simulation.setup.incarnation})


def test_an_order_is_for_its_owners_eyes_only(jobs: Jobs) -> None:
    _, order = jobs.order()
    assert order.stat().st_mode & 0o777 == 0o600


def test_a_job_that_was_submitted_twice_runs_once(jobs: Jobs) -> None:
    simulation, order, _ = jobs.started()
    assert jobs.start(order, "18").wait(20) == job.NOT_COUNTED
    before = simulation.journal.simulation_time
    wait_until(lambda: simulation.journal.simulation_time > before)
    assert simulation.transitions.count("initialized") == 1
    assert ServerEnd.read(simulation.folder) is None


def test_a_job_that_is_run_again_ends_its_earlier_run_and_says_what_is_lost(jobs: Jobs) -> None:
    simulation, order, first = jobs.started()
    assert jobs.start(order, "17").wait(20) == job.NOT_COUNTED
    assert first.wait(20) == job.NOT_COUNTED
    assert not simulation.is_running
    end = end_of(simulation)
    assert end.pid == 0
    assert end.reason is not None
    assert "ran its job 17 again" in end.reason
    assert simulation.transitions.count("initialized") == 1


def test_it_ends_when_the_simulations_folder_is_gone(jobs: Jobs) -> None:
    simulation, _, process = jobs.started()
    remove_folder(simulation.setup.folder)
    assert process.wait(20) == job.NOT_COUNTED
    assert not simulation.is_running


def test_it_ends_its_server_when_no_launcher_gives_a_sign_of_life(jobs: Jobs) -> None:
    simulation, _, process = jobs.started(orphaned_s=3.0)
    jobs.heartbeat.write_text("the last one")
    assert process.wait(30) == 0
    end = end_of(simulation)
    assert end.reason is not None
    assert end.reason.startswith("No launcher came for ")
    assert simulation.journal.stopping


def test_told_to_end_it_has_its_server_end_in_order(jobs: Jobs) -> None:
    simulation, _, process = jobs.started()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    end = end_of(simulation)
    assert (end.exit_code, end.is_told) == (0, True)
    assert simulation.journal.stopping


def test_a_server_that_does_not_end_is_killed(jobs: Jobs) -> None:
    script = DEAF.replace("while True:", "open('is_deaf', 'w').close()\nwhile True:")
    simulation, _, process = jobs.started(script, stop_grace_s=0.5)
    wait_until((simulation.folder.experiment / "is_deaf").exists)  # the answer to a start does not wait for the script
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGKILL
    end = end_of(simulation)
    assert (end.exit_code, end.is_told) == (-signal.SIGKILL, True)


def test_its_server_does_not_outlive_it(jobs: Jobs) -> None:
    simulation, _, process = jobs.started()
    process.kill()
    simulation.await_end()


@pytest.mark.parametrize(
    ("script", "limit"),
    [
        ("keep = bytearray(300 * 2**20)\n" + ENDLESS, (Limited.MEMORY, 200)),
        ("import subprocess\nmany = [subprocess.Popen(['sleep', '600']) for _ in range(9)]\n" + ENDLESS,
         (Limited.PROCESSES, 5)),
        ("while True:\n    nrp.run_loop()\n", (Limited.CPU_TIME, 0.5)),
    ],
)  # fmt: skip
def test_it_keeps_limits_of_processes(jobs: Jobs, script: str, limit: tuple[Limited, float]) -> None:
    what, most = limit
    simulation, _, process = jobs.started(script, limits={what: Limit(most, "THE_LIMIT")})
    process.wait(30)
    end = end_of(simulation)
    assert end.reason is not None
    assert f"{most:g}" in end.reason
    assert end.reason.endswith("are allowed (limit THE_LIMIT)")
    assert not processes.marked({simulation.setup.incarnation})


def test_a_claim_is_taken_by_one_only(jobs: Jobs) -> None:
    simulation, _ = jobs.order()
    claims = [Claim(run=str(number), job="17", node="n1") for number in range(3)]
    assert [each.take_first(simulation.folder) for each in claims] == [True, False, False]
    assert Claim.read(simulation.folder) == claims[0]
    claims[2].take_over(simulation.folder)
    assert Claim.read(simulation.folder) == claims[2]


def test_where_the_folder_is_not_it_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert job.main(tmp_path / "nowhere" / job.ORDER, "17") == job.NOT_COUNTED
    assert "cannot use the simulation's folder" in capfd.readouterr().err
