"""The last of these tests: what is taken down is gone."""

from __future__ import annotations

import pytest
import requests

from tests.deploy.containers.installation import Installation
from tests.e2e.experiments import experiment, started


def test_nothing_is_left_of_what_is_taken_down_with_its_volumes(scaled: Installation) -> None:
    started(scaled, experiment(scaled))
    scaled.down("--volumes")
    assert scaled.left() == []
    with pytest.raises(requests.ConnectionError):
        scaled.get("/health")
