"""simulation_config.json: what is understood, and how what is wrong in it is told."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from nrp_common.errors import ConfigurationError
from nrp_simserver.cores.configuration import (
    DataTransferConfiguration,
    SimulationConfiguration,
    experiment_file,
    load_configuration,
    real_time_factor_override,
)

ENGINE = {"EngineName": "a", "EngineType": "python_json", "PythonFileName": "a.py"}
TRANSFER = {"EngineName": "t", "EngineType": "datatransfer_grpc_engine"}


def load(folder: Path, configuration: object, **overrides: Any) -> SimulationConfiguration:
    """Write and read a configuration of an experiment that has the files a.py and f.py."""
    for name in ("a.py", "f.py"):
        (folder / name).touch()
    text = configuration if isinstance(configuration, str) else json.dumps(configuration)
    (folder / "simulation_config.json").write_text(text)
    return load_configuration(folder, overrides=overrides)


def engine(**fields: Any) -> dict[str, Any]:
    return {"EngineConfigs": [{**ENGINE, **fields}]}


def simulation(**fields: Any) -> dict[str, Any]:
    return {"EngineConfigs": [ENGINE], **fields}


def function(**fields: Any) -> dict[str, Any]:
    return simulation(DataPackProcessingFunctions=[fields])


def graph(**fields: Any) -> dict[str, Any]:
    return simulation(**{"DataPackProcessor": "cg", "ComputationalGraph": ["f.py"], **fields})


def event_loop(**fields: Any) -> dict[str, Any]:
    return {"SimulationLoop": "EventLoop", "ComputationalGraph": ["f.py"], "EventLoop": fields}


def test_defaults_are_those_of_nrp_core(tmp_path: Path) -> None:
    configuration = load(tmp_path, simulation(DataPackProcessingFunctions=[{"Name": "f", "FileName": "f.py"}]))
    assert configuration.timeout_ns == 0
    assert configuration.timestep_ns == 10_000_000
    assert configuration.argument_passing == "value"
    assert configuration.functions[0].active
    assert configuration.status_function is None


def test_defaults_of_the_data_transfer_engine_are_those_of_nrp_core(tmp_path: Path) -> None:
    (transfer,) = load(tmp_path, {"EngineConfigs": [TRANSFER]}).engines
    assert isinstance(transfer, DataTransferConfiguration)
    assert (transfer.broker, transfer.directory, transfer.dumps) == ("localhost:1883", "data", [])
    assert transfer.stream_datapack_message
    assert transfer.protobuf_packages == ["Dump"]


@pytest.mark.parametrize("field", ["ProcEnvParams", "EnvParams"])
def test_an_external_process_has_environment_variables(field: str, tmp_path: Path) -> None:
    (process,) = load(
        tmp_path, simulation(ExternalProcesses=[{"ProcCmd": "roscore", field: ["A=1=2"]}])
    ).external_processes
    assert process.environment_variables() == {"A": "1=2"}


def test_the_loops_step_is_the_smallest_timestep(tmp_path: Path) -> None:
    second = {**ENGINE, "EngineName": "b", "EngineTimestep": 0.003}
    assert load(tmp_path, {"EngineConfigs": [ENGINE, second], "SimulationTimestep": 1}).timestep_ns == 3_000_000


@pytest.mark.parametrize(
    ("written", "nanoseconds"),
    [
        ("0.1", 100_000_000),
        ("1e-3", 1_000_000),
        ("2", 2_000_000_000),
        ("0.000000001", 1),
        ("123456.7", 123456700000000),
    ],
)
def test_times_are_exactly_what_is_written(written: str, nanoseconds: int, tmp_path: Path) -> None:
    text = json.dumps(engine(EngineTimestep="@")).replace('"@"', written)
    assert load(tmp_path, text).timestep_ns == nanoseconds


def test_fractions_of_a_second_count_in_the_timeout(tmp_path: Path) -> None:
    assert load(tmp_path, simulation(SimulationTimeout=2.5)).timeout_ns == 2_500_000_000


@pytest.mark.parametrize(("fields", "factor"), [({}, 0), ({"RealTimeFactor": 1}, 1), ({"RealTimeFactor": 0.25}, 0.25)])
def test_the_real_time_factor_is_a_limit_that_is_off_by_default(
    fields: dict[str, float], factor: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert load(tmp_path, simulation(**fields)).real_time_factor == factor
    assert not caplog.messages


def test_a_real_time_factor_asked_for_replaces_that_of_the_file(tmp_path: Path) -> None:
    written = simulation(RealTimeFactor=2)
    assert load(tmp_path, written, **real_time_factor_override(None)).real_time_factor == 2
    assert load(tmp_path, written, **real_time_factor_override(0.0)).real_time_factor == 0


def test_unknown_fields_are_accepted_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    load(tmp_path, {**engine(Colour="red"), "Author": "me"})
    assert "simulation_config.json: field Author is unknown" in caplog.text
    assert "field EngineConfigs.0.Colour is unknown" in caplog.text


def test_an_engines_fields_are_found_again_as_written(tmp_path: Path) -> None:
    written = {"EngineExtraConfigs": {"EngineTimestep": 0.25, "deep": [{"x": 1.5}]}, "EngineTimestep": 0.02, "Own": 1}
    found = load(tmp_path, engine(**written)).engines[0].as_json()
    assert {key: found[key] for key in written} == written


def test_a_file_of_a_function_that_is_not_active_may_be_missing(tmp_path: Path) -> None:
    load(tmp_path, function(Name="f", FileName="none.py", IsActive=False))


def test_an_engine_of_a_type_that_nrpcoresim_may_know_has_the_fields_that_all_have(tmp_path: Path) -> None:
    (robot,) = load(tmp_path, engine(EngineType="my_engine_grpc", EngineTimestep=0.02, Own={"x": 1})).engines
    assert (robot.name, robot.type, robot.timestep_ns) == ("a", "my_engine_grpc", 20_000_000)
    assert robot.as_json()["Own"] == {"x": 1}


def test_a_loop_in_real_time_needs_no_engines(tmp_path: Path) -> None:
    text = json.dumps(event_loop(Timestep="@", Timeout=2.5)).replace('"@"', "0.1")
    configuration = load(tmp_path, text)
    assert configuration.timestep_ns == 100_000_000
    assert configuration.timeout_ns == 2_500_000_000


def test_times_of_the_event_loop_mean_nothing_to_the_fti_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    configuration = load(tmp_path, simulation(EventLoop={"Timestep": 1, "Timeout": 1}))
    assert (configuration.timestep_ns, configuration.timeout_ns) == (10_000_000, 0)
    assert 'EventLoop has no effect: it needs SimulationLoop "EventLoop"' in caplog.text


def test_what_a_graph_leaves_no_room_for_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    functions = [{"Name": "f", "FileName": "none.py"}]
    load(tmp_path, graph(DataPackProcessingFunctions=functions))
    assert "DataPackProcessingFunctions has no effect: the ComputationalGraph takes its place" in caplog.text
    load(tmp_path, simulation(ComputationalGraph=["none.py"]))
    assert (
        'ComputationalGraph has no effect: it needs DataPackProcessor "cg" or SimulationLoop "EventLoop"' in caplog.text
    )


@pytest.mark.parametrize(
    ("broker", "address"),
    [
        ("host:1884", ("host", 1884)),
        ("tcp://host:1884", ("host", 1884)),
        ("host", ("host", 1883)),
        ("[::1]:1884", ("::1", 1884)),
    ],
)
def test_the_broker_of_mqtt_nodes_is_an_address(broker: str, address: tuple[str, int], tmp_path: Path) -> None:
    assert load(tmp_path, graph(MQTTNode={"MQTTBroker": broker})).mqtt_node.address == address


NESTED = 100_000


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ('{\n"a": 1,\n}', "simulation_config.json is not JSON (Line 3, column 1): "),
        ("", "is not JSON (Line 1, column 1)"),
        ("[]", "has to contain a JSON object, it contains a list"),
        ("null", "has to contain a JSON object, it contains null"),
        ("[" * NESTED, "is nested too deeply"),
        ('{"Comment": ' + "[" * 5000 + "]" * 5000 + "}", "is nested too deeply"),
        ('{"SimulationTimeout": ' + "9" * 5000 + "}", "a number has more digits than can be read"),
        ('{"SimulationTimeout": 1e' + "9" * 30 + "}", "a number has more digits than can be read"),
        ('{"SimulationTimeout": NaN}', "NaN is not allowed"),
        ({}, "EngineConfigs: at least one engine"),
        ({"EngineConfigs": {}}, "EngineConfigs: has to be a list (it is an object)"),
        ({"EngineConfigs": ["a"]}, "EngineConfigs.0: has to be an object that describes one engine"),
        ({"EngineConfigs": [{}]}, "EngineConfigs.0.EngineName: is missing; EngineConfigs.0.EngineType: is missing"),
        ({"EngineConfigs": [ENGINE, ENGINE]}, "EngineName 'a' is given twice"),
        (engine(EngineType=["python_json"]), "EngineConfigs.0.EngineType: has to be text (it is a list)"),
        (engine(EngineType=""), "EngineConfigs.0.EngineType: may not be empty"),
        (engine(EngineName=""), "EngineConfigs.0.EngineName: may not be empty"),
        (engine(EngineName=3), "EngineConfigs.0.EngineName: has to be text (it is 3)"),
        (engine(EngineTimestep="0.1"), 'EngineTimestep: has to be a number of seconds (it is "0.1")'),
        (engine(EngineTimestep=True), "EngineTimestep: has to be a number of seconds (it is true)"),
        (engine(EngineTimestep=0), "EngineTimestep: has to be at least a nanosecond (it is 0)"),
        (
            engine(EngineTimestep=-0.5),
            "EngineTimestep: has to be a number of seconds from 0 to 9000000000 (it is -0.5)",
        ),
        (simulation(RealTimeFactor=-1), "RealTimeFactor: has to be a number from 0 (no limit), the most simulated"),
        (simulation(RealTimeFactor="1"), 'seconds in a second of real time (it is "1")'),
        (simulation(RealTimeFactor=True), "RealTimeFactor: has to be a number from 0"),
        (simulation(RealTimeFactor=10**400), "RealTimeFactor: has to be a number from 0"),
        ('{"RealTimeFactor": 1e400}', "RealTimeFactor: has to be a number from 0"),
        (engine(EngineEnvParams="A=1"), 'EngineEnvParams: has to be a list of texts "NAME=value"'),
        (engine(EngineEnvParams=["A"]), 'EngineEnvParams: has to be a list of texts "NAME=value"'),
        (engine(EngineEnvParams=["=1"]), "EngineEnvParams: the names of environment variables are not empty"),
        (engine(EngineEnvParams={"A=": "1"}), "EngineEnvParams: the names of environment variables are not empty"),
        (engine(EngineEnvParams=["A=\0"]), "nothing contains a NUL"),
        (engine(PythonFileName="none.py"), "EngineConfigs.0.PythonFileName: the experiment has no file 'none.py'"),
        (engine(PythonFileName="../x.py"), "PythonFileName: '../x.py' is outside of the experiment's folder"),
        (engine(PythonFileName="/etc/passwd"), "PythonFileName: '/etc/passwd' is outside"),
        (engine(PythonFileName="x" * 10_000), "cannot be read: File name too long"),
        (engine(PythonFileName="a.py\0"), "is not a file name"),
        (engine(PythonFileName="."), "the experiment has no file '.'"),
        (engine(PythonFileName="\ud800"), "EngineConfigs.0.PythonFileName: "),
        ({"EngineConfigs": [{**ENGINE, "EngineType": "py_sim", "Simulator": "Doom"}]}, "'Mujoco', 'OpenAI', 'Bullet'"),
        ({"EngineConfigs": [{**TRANSFER, "dumps": [{}]}]}, "EngineConfigs.0.dumps.0.name: is missing"),
        ({"EngineConfigs": [{**TRANSFER, "dumps": [{"name": "../x"}]}]}, "dumps.0.name: is part of a topic"),
        (
            {"EngineConfigs": [{**TRANSFER, "dataDirectory": "../x"}]},
            "EngineConfigs.0.dataDirectory: '../x' is outside",
        ),
        (
            simulation(SimulationLoop="Forever"),
            "SimulationLoop: has to be 'FTILoop' or 'EventLoop' (it is \"Forever\")",
        ),
        (
            simulation(SimulationLoop="EventLoop"),
            'ComputationalGraph: at least one file has to be given, for SimulationLoop "EventLoop"',
        ),
        (
            simulation(DataPackProcessor="cg"),
            'ComputationalGraph: at least one file has to be given, for DataPackProcessor "cg"',
        ),
        ({"DataPackProcessor": "cg", "ComputationalGraph": ["f.py"]}, "EngineConfigs: at least one engine"),
        (graph(ComputationalGraph="f.py"), "ComputationalGraph: has to be a list"),
        (graph(ComputationalGraph=[""]), "ComputationalGraph.0: may not be empty"),
        (graph(ComputationalGraph=["f.py", "g.py"]), "ComputationalGraph.1: the experiment has no file 'g.py'"),
        (event_loop(Timestep=0), "EventLoop.Timestep: has to be at least a nanosecond (it is 0)"),
        (event_loop(Timeout="1"), 'EventLoop.Timeout: has to be a number of seconds (it is "1")'),
        (graph(MQTTNode={"MQTTBroker": "host:port"}), 'MQTTNode.MQTTBroker: has to be "host:port"'),
        (graph(MQTTNode={"MQTTBroker": ":1883"}), 'MQTTNode.MQTTBroker: has to be "host:port" (it is ":1883")'),
        (simulation(DataPackProcessor="dp"), "DataPackProcessor: has to be 'tf' or 'cg' (it is \"dp\")"),
        (simulation(SimulationTimeout=-1), "SimulationTimeout: has to be a number of seconds from 0"),
        (simulation(SimulationTimeout=1e-10), "SimulationTimeout: has to be at least a nanosecond (it is 1E-10)"),
        (simulation(StatusFunction=[]), "StatusFunction: has to be an object (it is a list)"),
        (function(Name="f", FileName="f.py", IsActive=1), "IsActive: has to be true or false (it is 1)"),
        (simulation(FunctionArgumentsPassingMethod="copy"), "has to be 'value' or 'reference' (it is \"copy\")"),
        (simulation(StatusFunction="f"), 'StatusFunction: has to be an object (it is "f")'),
        (
            simulation(StatusFunction={"Name": "f", "FileName": "g.py"}),
            "StatusFunction.FileName: the experiment has no",
        ),
        (simulation(ExternalProcesses=[{}]), "ExternalProcesses.0.ProcCmd: is missing"),
        (function(Name="f"), "DataPackProcessingFunctions.0.FileName: is missing"),
        (function(Name="f", FileName="f.py", IsActive="perhaps"), "IsActive: has to be true or false"),
        (function(Name="f", FileName="g.py"), "DataPackProcessingFunctions.0.FileName: the experiment has no file"),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) > 60 else str(value)[:60],
)
def test_what_is_wrong_is_told_with_file_field_and_what_is_allowed(
    configuration: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, configuration)
    assert message in str(refusal.value)
    assert "simulation_config.json" in str(refusal.value)
    assert refusal.value.file == "simulation_config.json"


def test_the_line_that_is_not_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, '{\n"a": 1,\n}')
    assert refusal.value.line == 3


def test_a_configuration_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "simulation_config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        load_configuration(tmp_path)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + json.dumps(simulation())).engines[0].name == "a"


def test_a_link_out_of_the_experiment_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (tmp_path / "secret.py").touch()
    (folder / "link.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(ConfigurationError, match="outside"):
        experiment_file(folder, "link.py", "the main script")


@pytest.mark.parametrize("path", ["EngineConfigs.0.EngineTimestep", "EngineConfigs.EngineName:a.EngineTimestep"])
def test_values_can_be_overridden_by_path(path: str, tmp_path: Path) -> None:
    assert load(tmp_path, simulation(), **{path: 0.3}).timestep_ns == 300_000_000


@pytest.mark.parametrize("path", ["EngineConfigs.1.X", "EngineConfigs.EngineName:b.X", "EngineConfigs.0.EngineName.X"])
def test_overriding_what_is_not_there_is_an_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="override EngineConfigs"):
        load(tmp_path, simulation(), **{path: 1})


def test_a_run_names_its_own_topics(tmp_path: Path) -> None:
    configuration = load(tmp_path, {"EngineConfigs": [ENGINE, {**TRANSFER, "simulationID": "5"}]})
    transfer = configuration.of_simulation(7, "lab", "bus:1883").engines[1]
    assert isinstance(transfer, DataTransferConfiguration)
    assert (transfer.simulation_id, transfer.prefix, transfer.broker) == (7, "lab", "bus:1883")
