"""An idle server rehearses a launch, and nobody can tell afterwards."""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

import numpy as np

from nrp_simserver.placement.local.rehearsal import rehearse


def test_nothing_is_left_of_it() -> None:
    rehearse()  # whatever it imports it has imported now
    random.seed(1)
    np.random.seed(1)
    before = (Path.cwd(), sys.path.copy(), set(sys.modules), threading.active_count(), random.getstate())
    rehearse()
    assert (Path.cwd(), sys.path, set(sys.modules), threading.active_count(), random.getstate()) == before
    assert np.random.rand() == np.random.RandomState(1).rand()
