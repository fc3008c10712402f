from __future__ import annotations

import pytest

from nrp_common.topics import Topics


@pytest.mark.parametrize(
    ("prefix", "expected"), [("", "nrp_simulation/7/status"), ("lab/a", "lab/a/nrp_simulation/7/status")]
)
def test_a_prefix_comes_first_and_none_leaves_no_slash(prefix: str, expected: str) -> None:
    assert Topics(prefix).status(7) == expected


def test_frontends_find_their_topics() -> None:
    topics = Topics()
    assert topics.runtime_error(7) == "nrp_simulation/7/runtime_error"
    assert topics.lifecycle(7) == "nrp_simulation/7/lifecycle"
    assert topics.simulation(7, "data/camera") == "nrp_simulation/7/data/camera"


@pytest.mark.parametrize("prefix", ["", "lab"])
def test_names_are_taken_apart_as_they_were_built(prefix: str) -> None:
    topics = Topics(prefix)
    assert topics.simulation_id_of(topics.simulation(7, "data/camera")) == 7
    assert topics.launcher_of(topics.launcher_presence("machine_1")) == "machine_1"
    assert topics.incarnation_of(topics.server_presence("abc")) == "abc"


@pytest.mark.parametrize(
    "topic",
    [
        "nrp_simulation/x/status",
        "nrp_simulation/-1/status",
        "nrp_simulation/²/status",
        "nrp_simulation//status",
        pytest.param(f"nrp_simulation/{'9' * 5000}/status", id="5000 digits"),
        "nrp_simulation",
        "other/7/status",
        "lab/nrp_simulation/7/status",
        "",
    ],
)
def test_a_foreign_topic_has_no_simulation_id(topic: str) -> None:
    assert Topics().simulation_id_of(topic) is None


def test_topics_of_another_prefix_are_foreign() -> None:
    assert Topics("lab").simulation_id_of("nrp_simulation/7/status") is None
    assert Topics("lab").launcher_of("laboratory/nrp_launcher/a/presence") is None
