"""Gateways that share a catalogue: one that is killed, or a catalogue that goes away, costs nobody a simulation."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.chaos import Load, kill_a_gateway
from tests.lab import Lab
from tests.postgresql import PostgreSQL
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def lab(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), gateways=2, launchers=2, catalogue_url=postgresql.database())
    lab.start()
    yield lab
    lab.close()


@pytest.mark.alone
def test_the_other_one_is_right_within_two_seconds_and_the_restarted_one_too(lab: Lab) -> None:
    ids = lab.started(4)
    first, second = lab.clients
    lab.gateways[0].kill()
    assert second.ask(ids[0], "paused").state == "paused"
    assert second.ask(ids[1], "stopped").state == "stopped"
    lab.await_steps(ids[2:])
    lab.start()
    answering = time.monotonic()
    wait_until(lambda: lab.states(first) == lab.states(second), 10)
    assert time.monotonic() - answering < 2
    assert [lab.states(first)[each] for each in ids] == ["paused", "stopped", "started", "started"]
    lab.settle()
    assert lab.violations() == []


def test_what_was_said_is_consistent_when_one_dies_under_load(lab: Lab) -> None:
    rng = random.Random(7)
    with Load(lab, clients=4, most=8, rng=rng):
        for _ in range(3):
            kill_a_gateway(lab, rng)
    lab.settle()
    assert lab.violations() == []


def test_simulations_run_on_while_the_catalogue_is_away_and_it_is_right_afterwards(
    lab: Lab, postgresql: PostgreSQL
) -> None:
    ids = lab.started(2)
    postgresql.stop()
    try:
        refused = lab.client.launch(lab.experiment())
        assert refused.status == 503, refused
        assert "catalogue" in refused.body["message"]
        lab.await_steps(ids)
    finally:
        postgresql.start()
    wait_until(lambda: lab.client.ask(ids[0], "paused").state == "paused", 10)
    lab.settle()
    assert lab.violations() == []
