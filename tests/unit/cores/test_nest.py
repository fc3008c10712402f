"""What engines have in common that are a network in NEST: nest_json, in this process, and nest_server, in its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nrp_common.errors import EngineFailed, EngineUnavailable
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.cores.embedded.nest import NestEngine
from tests.unit.cores.experiment import Experiment, seen

NETWORK = """
import nest
from nrp_core.engines.nest_json import CreateDataPack, RegisterDataPack

neurons = CreateDataPack("neurons", "iaf_psc_alpha", 2, {"I_e": 0.0})
recorder = nest.Create("spike_recorder")
nest.Connect(neurons, recorder)
RegisterDataPack("recorder", recorder)
"""

WATCH = """
@EngineDataPack(keyword="neurons", id=DataPackIdentifier("neurons", "brain"))
@EngineDataPack(keyword="recorder", id=DataPackIdentifier("recorder", "brain"))
@TransceiverFunction("brain")
def watch(neurons, recorder):
    seen.append([recorder.data[0]["n_events"], *(neurons.data[index]["V_m"] for index in range(2))])
    return []
"""


@pytest.fixture
def brain(experiment: Experiment, engine_type: str) -> Experiment:
    experiment.file("network.py", NETWORK)
    entry = {"EngineName": "brain", "EngineType": engine_type, "NestInitFileName": "network.py", "EngineTimestep": 0.02}
    experiment.configuration["EngineConfigs"] = [entry]
    return experiment


@pytest.fixture(params=["nest_json", "nest_server"])
def engine_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


in_process = pytest.mark.parametrize("engine_type", ["nest_json"])


def started(experiment: Experiment, cores: list[EmbeddedCore], **fields: Any) -> EmbeddedCore:
    cores.append(experiment.core(**fields))
    cores[-1].initialize()
    return cores[-1]


def test_its_nodes_status_is_read_as_a_list_of_dicts(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    started(brain.function("watch", WATCH), cores).run_loop(2)
    assert seen == [[0, -70.0, -70.0]] * 2


def test_a_dict_sets_all_nodes(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    core = started(brain.function("watch", WATCH), cores)
    core.set_json_datapack("neurons", "brain", {"I_e": 1000.0})
    core.run_loop(20)
    assert seen[-1][0] > 10
    assert seen[-1][1] == seen[-1][2]


def test_a_list_of_dicts_sets_each_node(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    core = started(brain.function("watch", WATCH), cores)
    core.set_json_datapack("neurons", "brain", [{"V_m": -60.0}, {"V_m": -65.0}])
    core.run_loop(2)
    assert -70 < seen[-1][2] < seen[-1][1] < -60


def test_a_function_stimulates_it(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.function(
        "drive",
        """
        @TransceiverFunction("brain")
        def drive():
            out = JsonDataPack("neurons", "brain")
            out.data["I_e"] = 800.0
            return [out]
        """,
    )
    started(brain.function("watch", WATCH), cores).run_loop(10)
    assert seen[-1][0] > 0


def test_reset_begins_with_a_new_network(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    core = started(brain.function("watch", WATCH), cores)
    core.set_json_datapack("neurons", "brain", {"I_e": 1000.0})
    core.run_loop(10)
    assert seen[-1][0] > 0
    core.reset()
    core.run_loop(1)
    assert seen[-1] == [0, -70.0, -70.0]


def test_the_same_seed_gives_the_same_spikes(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.file(
        "network.py", NETWORK, 'nest.Connect(nest.Create("poisson_generator", params={"rate": 80000.0}), neurons)\n'
    )
    brain.function("watch", WATCH)
    for seed in (7, 7, 8):
        brain.configuration["EngineConfigs"][0]["NestRNGSeed"] = seed
        core = started(brain, cores)
        core.run_loop(10)
        core.shutdown()
    first, second, third = seen[9], seen[19], seen[29]
    assert first == second != third


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("text", "a dict, or a list"),
        ([{"I_e": 1.0}], "2 nodes and is sent 1"),
        ({"x": 1}, "'neurons' cannot be set: .*x"),
    ],
)
def test_what_the_nodes_cannot_be_set_to_is_refused(
    brain: Experiment, cores: list[EmbeddedCore], payload: Any, words: str
) -> None:
    core = started(brain, cores)
    core.set_json_datapack("neurons", "brain", payload)
    with pytest.raises(EngineFailed, match=words):
        core.run_loop(1)


def test_connections_are_set_as_nodes_are(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.file("network.py", NETWORK, 'RegisterDataPack("synapses", nest.GetConnections())\n')
    brain.function(
        "watch",
        """
        @EngineDataPack(keyword="synapses", id=DataPackIdentifier("synapses", "brain"))
        @TransceiverFunction("brain")
        def watch(synapses):
            seen.append([synapse["weight"] for synapse in synapses.data])
            return []
        """,
    )
    core = started(brain, cores)
    core.set_json_datapack("synapses", "brain", [{"weight": 2.0}, {"weight": 3.0}])
    core.run_loop(2)
    assert seen == [[1.0, 1.0], [2.0, 3.0]]


def test_a_datapack_that_is_not_registered_is_named(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    core = started(brain, cores)
    core.set_json_datapack("muscles", "brain", {"I_e": 1.0})
    with pytest.raises(EngineFailed, match=r"muscles.*neurons, recorder"):
        core.run_loop(1)


def test_a_datapack_registered_twice_is_an_error_with_its_place(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.file("network.py", NETWORK, 'CreateDataPack("neurons", "iaf_psc_alpha")\n')
    with pytest.raises(EngineFailed, match=r"network\.py \(Line 9\).*'neurons' is registered already"):
        started(brain, cores)


@in_process
def test_a_second_nest_in_one_process_is_refused(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    first = brain.configuration["EngineConfigs"][0]
    here = {"EngineExtraConfigs": {"OwnProcess": False}}
    brain.configuration["EngineConfigs"] = [first, {**first, "EngineName": "cerebellum", **here}]
    with pytest.raises(EngineFailed, match=r"'cerebellum': NEST can run once a process, and 'brain' has it"):
        started(brain, cores)


@in_process
def test_another_experiment_finds_an_empty_kernel(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    started(brain, cores).shutdown()
    import nest

    assert nest.network_size == 0


@in_process
def test_without_nest_the_extra_is_named(brain: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(NestEngine, "missing", classmethod(lambda *_: "the package nest-simulator"))
    with pytest.raises(EngineUnavailable, match=r"'brain' is of type nest_json: it needs the package nest-simulator"):
        brain.core()
