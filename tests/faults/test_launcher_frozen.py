"""A launcher that is stopped for a while, as by a suspended machine or a debugger, goes on afterwards."""

from __future__ import annotations

import signal

from nrp_simserver.launcher.launcher import ROUND_S
from tests.launchers import Launchers
from tests.waiting import wait_until


def test_it_goes_on_with_its_simulations(launchers: Launchers) -> None:
    launcher = launchers.running()
    simulation = launcher.started()
    simulation.await_steps()

    def real_time() -> float:
        return float(simulation.statuses[-1]["realTime"])

    launcher.process.send_signal(signal.SIGSTOP)
    thawed_at = real_time() + 2 * ROUND_S  # beyond the wait that the stop interrupts
    wait_until(lambda: real_time() > thawed_at)
    launcher.process.send_signal(signal.SIGCONT)
    assert launcher.paused().lifecycle  # it takes launches
    simulation.await_steps()
    assert simulation.finals == []
    assert launcher.process.poll() is None
