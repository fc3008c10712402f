"""Whatever dies under load: what clients were told and the bus said can be true at once, and nothing is left."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.chaos import FAULTS, Fault, Load
from tests.lab import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), launchers=2)
    lab.start()
    yield lab
    lab.close()


def nothing(_lab: Lab, _rng: random.Random) -> None:
    """No fault at all."""


@pytest.mark.parametrize("fault", [nothing, *FAULTS], ids=lambda fault: fault.__name__)
def test_what_was_said_is_consistent_and_nothing_is_left(fault: Fault, lab: Lab) -> None:
    rng = random.Random(fault.__name__)
    running = lab.started(3)
    with Load(lab, clients=3, most=8, rng=rng):
        lab.await_steps(running[:1], timeout=60)
        fault(lab, rng)
    lab.settle()
    assert lab.violations() == []
