"""A launcher's machine that the broker is cut off from, longer than gateways wait: their verdict stands."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from nrp_gateway.caretaker import ABSENCE_GRACE_S
from nrp_simserver import processes
from tests.lab import Lab
from tests.waiting import wait_until


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), launchers=2)
    lab.start()
    yield lab
    lab.close()


@pytest.mark.alone
def test_runs_that_were_given_up_end_with_their_logs_stored_and_others_notice_nothing(lab: Lab) -> None:
    ids = lab.started(4)
    lost = [each for each in ids if each in lab.simulations_at(lab.launchers[0])]
    others = [each for each in ids if each not in lost]
    assert lost
    assert others
    servers = [lab.server_of(each) for each in lost]
    cut_off = time.monotonic()
    lab.proxies["launcher 0", "broker"].cut()

    time.sleep(ABSENCE_GRACE_S / 2)
    assert set(lab.states().values()) == {"started"}
    wait_until(lambda: all(lab.states()[each] == "failed" for each in lost), ABSENCE_GRACE_S)
    assert time.monotonic() - cut_off > ABSENCE_GRACE_S
    lab.await_steps(others)

    lab.proxies["launcher 0", "broker"].heal()
    wait_until(lambda: all(processes.has_ended(each) for each in servers))
    lab.settle()
    assert lab.violations() == []
    states = lab.states()
    assert {states[each] for each in lost} == {"failed"}
    assert {states[each] for each in others} == {"stopped"}
