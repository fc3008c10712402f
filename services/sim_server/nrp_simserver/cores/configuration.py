"""simulation_config.json, the file that says what an experiment consists of: read, checked, typed.

The fields are nrp-core 1.4's, and `REAL_TIME_FACTOR`. Times are exact: they are taken from the decimal literal in the
file, never from a float.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from nrp_common.errors import ConfigurationError

logger = logging.getLogger(__name__)

NANOSECONDS = 10**9
"""Nanoseconds in a second."""

_LONGEST_TIME = 9 * 10**9
"""In seconds, 285 years: what 64 bits hold of nanoseconds."""

DEFAULT_FILE = "simulation_config.json"

_OWN_PROCESS = "OwnProcess"
"""The field of EngineExtraConfigs that says whether an engine gets a process of its own."""

REAL_TIME_FACTOR = "RealTimeFactor"
"""The one field that is not nrp-core's: a limit to how fast simulated time passes."""

MQTT_PORT = 1883
"""Where brokers listen when nobody said where."""


def _nanoseconds(seconds: object) -> int:
    """Whole nanoseconds from a JSON number of seconds; what is finer is rounded."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | Decimal):
        raise ValueError("has to be a number of seconds")
    exact = seconds if isinstance(seconds, Decimal) else Decimal(repr(seconds))
    if not 0 <= exact <= _LONGEST_TIME:
        raise ValueError(f"has to be a number of seconds from 0 to {_LONGEST_TIME}")
    nanoseconds = int((exact * NANOSECONDS).to_integral_value())
    if exact and not nanoseconds:
        raise ValueError("has to be at least a nanosecond")
    return nanoseconds


def _positive_nanoseconds(seconds: object) -> int:
    nanoseconds = _nanoseconds(seconds)
    if nanoseconds == 0:
        raise ValueError("has to be at least a nanosecond")
    return nanoseconds


Seconds = Annotated[int, BeforeValidator(_nanoseconds)]
"""A time, written in seconds in the file and kept in nanoseconds."""

PositiveSeconds = Annotated[int, BeforeValidator(_positive_nanoseconds)]


def _real_time_factor(factor: object) -> float:
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor <= sys.float_info.max:
        raise ValueError("has to be a number from 0 (no limit), the most simulated seconds in a second of real time")
    return float(factor)


RealTimeFactor = Annotated[float, BeforeValidator(_real_time_factor)]
"""The most simulated seconds in a second of real time, 0 for as many as there can be."""


def _environment(variables: object) -> object:
    if isinstance(variables, list) and all(isinstance(entry, str) and "=" in entry for entry in variables):
        names = [entry.split("=", 1)[0] for entry in variables]
        texts = variables
    elif isinstance(variables, dict) and all(isinstance(value, str) for value in variables.values()):
        names = list(variables)
        texts = [*variables, *variables.values()]
    else:
        raise ValueError('has to be a list of texts "NAME=value", or an object of texts')
    if not all(names) or any("=" in name for name in names) or any("\0" in text for text in texts):
        raise ValueError("the names of environment variables are not empty, without '=', and nothing contains a NUL")
    return variables


Environment = Annotated[list[str] | dict[str, str], BeforeValidator(_environment)]
"""Environment variables."""

Name = Annotated[str, Field(min_length=1)]


def _variables(environment: list[str] | dict[str, str]) -> dict[str, str]:
    if isinstance(environment, dict):
        return dict(environment)
    return dict(variable.split("=", 1) for variable in environment)


class _Section(BaseModel):
    """A JSON object of the configuration. Fields that it does not know are kept, and reported once as a warning."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, strict=True)


class EngineConfiguration(_Section):
    """One entry of EngineConfigs, with the fields that all engine types share."""

    name: Name = Field(alias="EngineName")
    type: Name = Field(alias="EngineType")
    timestep_ns: PositiveSeconds = Field(10_000_000, alias="EngineTimestep")
    command_timeout_ns: Seconds = Field(0, alias="EngineCommandTimeout")
    extra: dict[str, Any] = Field({}, alias="EngineExtraConfigs")
    environment: Environment = Field([], alias="EngineEnvParams")
    command: str = Field("", alias="EngineProcCmd")
    command_arguments: list[str] = Field([], alias="EngineProcStartParams")
    launch_command: str | dict[str, Any] = Field("", alias="EngineLaunchCommand")
    server_address: str = Field("", alias="ServerAddress")
    registration_server_address: str = Field("", alias="RegistrationServerAddress")
    server_options: str = Field("", alias="ServerOptions")
    protobuf_plugins_path: str = Field("", alias="ProtobufPluginsPath")
    protobuf_packages: list[str] = Field(["EngineTest"], alias="ProtobufPackages")

    files: ClassVar[tuple[str, ...]] = ()
    """The attributes that name a file of the experiment."""

    @field_validator("extra")
    @classmethod
    def _says_where_to_run(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(extra.get(_OWN_PROCESS, False), bool):
            raise ValueError(f"{_OWN_PROCESS} has to be true or false")
        return extra

    @property
    def own_process(self) -> bool | None:
        """Whether the engine is to run in a process of its own; None to leave that to the core."""
        return self.extra.get(_OWN_PROCESS)

    @property
    def main_file(self) -> str:
        """The file of the experiment that the engine runs, "" when it runs none."""
        return next((getattr(self, attribute) for attribute in self.files), "")

    def environment_variables(self) -> dict[str, str]:
        """What the engine finds in its environment beyond what the simulation has."""
        return _variables(self.environment)

    def as_json(self) -> dict[str, Any]:
        """The entry as in the file, defaults filled in: what an engine script finds as its `_config`."""
        plain: dict[str, Any] = self.model_dump(by_alias=True, mode="json")
        plain["EngineTimestep"] = self.timestep_ns / NANOSECONDS
        plain["EngineCommandTimeout"] = self.command_timeout_ns / NANOSECONDS
        return plain


class PythonEngineConfiguration(EngineConfiguration):
    """An engine whose behaviour is a Python script of the experiment: python_json, python_grpc."""

    script: Name = Field(alias="PythonFileName")
    files: ClassVar[tuple[str, ...]] = ("script",)


class PySimConfiguration(PythonEngineConfiguration):
    """A physics simulator driven by a Python script: py_sim."""

    simulator: Literal["Mujoco", "OpenAI", "Bullet", "Opensim"] = Field(alias="Simulator")
    world: str = Field("", alias="WorldFileName")
    visualizer: bool | str = Field(default=False, alias="Visualizer")


class NestConfiguration(EngineConfiguration):
    """NEST, set up by a Python file: nest_json, nest_server."""

    script: Name = Field(alias="NestInitFileName")
    seed: int = Field(0, alias="NestRNGSeed")
    files: ClassVar[tuple[str, ...]] = ("script",)


class NestServerConfiguration(NestConfiguration):
    """NEST Server: nest_server. Without a host the engine starts one of its own."""

    host: str = Field("", alias="NestServerHost")
    port: int = Field(0, alias="NestServerPort", ge=0, le=65535)


class Dump(_Section):
    """One datapack that a data transfer engine hands on."""

    name: Name
    network: bool = False
    file: bool = False

    @field_validator("name")
    @classmethod
    def _can_be_a_topic_and_a_file(cls, name: str) -> str:
        if any(character in name for character in "/+#\0"):
            raise ValueError("is part of a topic and of a file name: '/', '+', '#' and NUL are not allowed in it")
        return name


class DataTransferConfiguration(EngineConfiguration):
    """The engine that publishes and records datapacks: datatransfer_grpc_engine."""

    broker: str = Field("localhost:1883", alias="MQTTBroker")
    prefix: str = Field("", alias="MQTTPrefix")
    simulation_id: str | int = Field("0", alias="simulationID")
    directory: str = Field("data", alias="dataDirectory", min_length=1)
    stream_datapack_message: bool = Field(default=True, alias="streamDataPackMessage")
    dumps: list[Dump] = []
    protobuf_packages: list[str] = Field(["Dump"], alias="ProtobufPackages")


ENGINE_TYPES: Mapping[str, type[EngineConfiguration]] = {
    "python_json": PythonEngineConfiguration,
    "python_grpc": PythonEngineConfiguration,
    "py_sim": PySimConfiguration,
    "nest_json": NestConfiguration,
    "nest_server": NestServerConfiguration,
    "datatransfer_grpc_engine": DataTransferConfiguration,
    "gazebo_grpc": EngineConfiguration,
    "gazebo_json": EngineConfiguration,
    "edlut_grpc": EngineConfiguration,
    "unity_grpc": EngineConfiguration,
}
"""The engine types of nrp-core 1.4 and how each is configured. NRPCoreSim may have been built with others."""


def _engine(entry: object) -> EngineConfiguration:
    if isinstance(entry, EngineConfiguration):
        return entry
    if not isinstance(entry, Mapping):
        raise ValueError("has to be an object that describes one engine")
    engine_type = entry.get("EngineType")
    model = ENGINE_TYPES.get(engine_type) if isinstance(engine_type, str) else None
    return (model or EngineConfiguration).model_validate(entry)


Engine = Annotated[EngineConfiguration, BeforeValidator(_engine)]


class FunctionConfiguration(_Section):
    """One entry of DataPackProcessingFunctions, or the StatusFunction."""

    name: Name = Field(alias="Name")
    file: Name = Field(alias="FileName")
    active: bool = Field(default=True, alias="IsActive")


class ExternalProcess(_Section):
    """A program that runs beside the simulation, started before and ended after it."""

    name: str = Field("", alias="ProcName")
    command: Name = Field(alias="ProcCmd")
    arguments: list[str] = Field([], alias="ProcStartParams")
    environment: Environment = Field([], alias="ProcEnvParams")
    launch_command: str | dict[str, Any] = Field("", alias="LaunchCommand")

    @model_validator(mode="before")
    @classmethod
    def _accept_the_short_name(cls, entry: Any) -> Any:
        if isinstance(entry, dict) and "EnvParams" in entry and "ProcEnvParams" not in entry:
            entry = {**entry, "ProcEnvParams": entry["EnvParams"]}
            del entry["EnvParams"]
        return entry

    def environment_variables(self) -> dict[str, str]:
        """What the process finds in its environment beyond what the simulation has."""
        return _variables(self.environment)


class EventLoopConfiguration(_Section):
    """How a loop in real time runs: EventLoop."""

    timestep_ns: PositiveSeconds = Field(10_000_000, alias="Timestep")
    timeout_ns: Seconds = Field(0, alias="Timeout")
    tolerated_lag_ns: Seconds = Field(10_000_000, alias="TimestepWarn")


class MQTTNodeConfiguration(_Section):
    """Where the MQTT nodes of a computational graph are connected: MQTTNode.

    Attributes:
        broker: `host:port`; "" for the broker that the simulation itself uses.
        client_name: begins the name under which that broker knows the simulation.
    """

    broker: str = Field("", alias="MQTTBroker")
    client_name: str = Field("nrp_core", alias="ClientName")

    @field_validator("broker")
    @classmethod
    def _is_an_address(cls, broker: str) -> str:
        try:
            is_one = not broker or bool(_host_and_port(broker)[0])
        except ValueError:
            is_one = False
        if not is_one:
            raise ValueError('has to be "host:port"')
        return broker

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `broker`."""
        return _host_and_port(self.broker)


def _host_and_port(broker: str) -> tuple[str, int]:
    address = urlsplit(f"//{broker.removeprefix('tcp://').removeprefix('mqtt://')}")
    return address.hostname or "", address.port or MQTT_PORT


class SimulationConfiguration(_Section):
    """The whole of a simulation_config.json."""

    name: str = Field("", alias="SimulationName")
    description: str = Field("", alias="SimulationDescription")
    loop: Literal["FTILoop", "EventLoop"] = Field("FTILoop", alias="SimulationLoop")
    declared_timeout_ns: Seconds = Field(0, alias="SimulationTimeout")
    declared_timestep_ns: PositiveSeconds = Field(10_000_000, alias="SimulationTimestep")
    real_time_factor: RealTimeFactor = Field(0.0, alias=REAL_TIME_FACTOR)
    processor: Literal["tf", "cg"] = Field("tf", alias="DataPackProcessor")
    engines: list[Engine] = Field([], alias="EngineConfigs")
    functions: list[FunctionConfiguration] = Field([], alias="DataPackProcessingFunctions")
    status_function: FunctionConfiguration | None = Field(None, alias="StatusFunction")
    external_processes: list[ExternalProcess] = Field([], alias="ExternalProcesses")
    argument_passing: Literal["value", "reference"] = Field("value", alias="FunctionArgumentsPassingMethod")
    process_launcher: str = Field("Basic", alias="ProcessLauncherType")
    computational_graph: list[Name] = Field([], alias="ComputationalGraph")
    event_loop: EventLoopConfiguration = Field(EventLoopConfiguration(), alias="EventLoop")
    ros_node: Any = Field(None, alias="ROSNode")
    mqtt_node: MQTTNodeConfiguration = Field(MQTTNodeConfiguration(), alias="MQTTNode")

    @property
    def runs_in_real_time(self) -> bool:
        """Whether the loop is the EventLoop."""
        return self.loop == "EventLoop"

    @property
    def has_graph(self) -> bool:
        """Whether a computational graph takes the place of transceiver functions."""
        return self.processor == "cg" or self.runs_in_real_time

    @property
    def timeout_ns(self) -> int:
        """When the simulation ends, 0 for never: after SimulationTimeout; in real time after EventLoop.Timeout, too."""
        timeouts = [self.declared_timeout_ns, self.event_loop.timeout_ns if self.runs_in_real_time else 0]
        return min((timeout for timeout in timeouts if timeout), default=0)

    @property
    def timestep_ns(self) -> int:
        """The loop's step: in real time EventLoop.Timestep.

        Else the smallest EngineTimestep; without engines what SimulationTimestep says.
        """
        if self.runs_in_real_time:
            return self.event_loop.timestep_ns
        return min((engine.timestep_ns for engine in self.engines), default=self.declared_timestep_ns)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for field, names in (
            ("EngineConfigs: EngineName", [engine.name for engine in self.engines]),
            ("DataPackProcessingFunctions: Name", [function.name for function in self.functions]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{field} {twice[0]!r} is given twice; each has to be unique")
        return self

    def of_simulation(self, simulation_id: int, mqtt_prefix: str, broker: str) -> Self:
        """The same for one run: data transfer engines name the topics of that simulation, not those in the file.

        Args:
            simulation_id: of the simulation.
            mqtt_prefix: of all topics.
            broker: `host:port` of the broker that they publish to.
        """
        return self._transferring(simulation_id=simulation_id, prefix=mqtt_prefix, broker=broker)

    @property
    def transfers_data(self) -> bool:
        """Whether there is a data transfer engine."""
        return any(isinstance(engine, DataTransferConfiguration) for engine in self.engines)

    def publishing_below(self, mqtt_prefix: str, broker: str | None = None) -> Self:
        """The same with data transfer engines that publish below another prefix, and to another broker if given."""
        return self._transferring(prefix=mqtt_prefix, **({} if broker is None else {"broker": broker}))

    def _transferring(self, **update: Any) -> Self:
        engines = [
            engine.model_copy(update=update) if isinstance(engine, DataTransferConfiguration) else engine
            for engine in self.engines
        ]
        return self.model_copy(update={"engines": engines})


def real_time_factor_override(factor: float | None) -> dict[str, Any]:
    """What `load_configuration` is to be given so that this limit replaces the file's; None leaves that as it is."""
    return {} if factor is None else {REAL_TIME_FACTOR: factor}


def load_configuration(
    folder: Path, file: str = DEFAULT_FILE, overrides: Mapping[str, Any] | None = None
) -> SimulationConfiguration:
    """Read and check the configuration of an experiment.

    Args:
        folder: the experiment's folder; every file that the configuration names has to be inside.
        file: the configuration, relative to `folder`.
        overrides: values that replace those of the file, by path: names joined by dots, where a list is entered by
            index or by a field of its entries, as in "EngineConfigs.EngineName:camera.MQTTBroker".

    Raises:
        ConfigurationError: says the file, the path of the field, what is wrong and what is allowed.
    """
    path = experiment_file(folder, file, "the configuration")
    tree = _read(path, file)
    for place, value in (overrides or {}).items():
        _override(tree, place, value, file)
    try:
        configuration = SimulationConfiguration.model_validate(_with_exact_times_only(tree))
    except ValidationError as error:
        raise ConfigurationError(f"{file}: {_faults(error)}", file=file) from None
    except RecursionError:
        raise _nested_too_deeply(file) from None
    _refuse_incomplete(configuration, file)
    try:
        for field, name in _files(configuration):
            experiment_file(folder, name, field)
        for index, engine in enumerate(configuration.engines):
            if isinstance(engine, DataTransferConfiguration):
                _inside(folder, engine.directory, f"EngineConfigs.{index}.dataDirectory")
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}", file=file) from None
    for field in _unknown_fields(configuration, ""):
        logger.warning("%s: field %s is unknown and has no effect", file, field)
    for field, because in _fields_without_effect(configuration):
        logger.warning("%s: %s has no effect: %s", file, field, because)
    return configuration


def experiment_file(folder: Path, name: str, role: str) -> Path:
    """The absolute path of a file of the experiment.

    Raises:
        ConfigurationError: there is no such file, or it lies outside of `folder`; the message names `role`.
    """
    path = _inside(folder, name, role)
    try:
        exists = path.is_file()
    except OSError as error:  # such as a name that is too long
        raise ConfigurationError(f"{role}: file {name[:80]!r}... cannot be read: {error.strerror}", file=name) from None
    if not exists:
        raise ConfigurationError(f"{role}: the experiment has no file {name!r}", file=name)
    return path


def _inside(folder: Path, name: str, role: str) -> Path:
    if "\0" in name:
        raise ConfigurationError(f"{role}: {name!r} is not a file name", file=name)
    root = folder.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ConfigurationError(f"{role}: {name!r} is outside of the experiment's folder", file=name)
    return path


def _read(path: Path, file: str) -> dict[str, Any]:
    def no_constant(constant: str) -> None:
        raise ConfigurationError(f"{file}: {constant} is not allowed in JSON", file=file)

    try:
        # With a byte order mark, as editors of other systems put it, for nrp-core reads that.
        tree = json.loads(path.read_text(encoding="utf-8-sig"), parse_float=Decimal, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{file} is not JSON (Line {error.lineno}, column {error.colno}): {error.msg}", file=file, line=error.lineno
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}", file=file) from None
    except RecursionError:
        raise _nested_too_deeply(file) from None
    except (ValueError, InvalidOperation):
        raise ConfigurationError(f"{file}: a number has more digits than can be read", file=file) from None
    if not isinstance(tree, dict):
        raise ConfigurationError(f"{file} has to contain a JSON object, it contains {_kind(tree)}", file=file)
    return tree


def _nested_too_deeply(file: str) -> ConfigurationError:
    return ConfigurationError(f"{file} is nested too deeply", file=file)


def _kind(value: object) -> str:
    """What something is called in JSON."""
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return kinds.get(type(value), "a number")


def _override(tree: Any, place: str, value: Any, file: str) -> None:
    *path, last = place.split(".")
    node = tree
    for step in path:
        node = node.setdefault(step, {}) if isinstance(node, dict) else _entry(node, step, place, file)
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list):
        node[node.index(_entry(node, last, place, file))] = value
    else:
        raise ConfigurationError(f"{file}: override {place}: {last!r} is not inside an object or a list", file=file)


def _entry(entries: Any, step: str, place: str, file: str) -> Any:
    """The entry of a list that a step of a path means: by index, or by `Field:value`."""
    if isinstance(entries, list):
        if step.isdecimal() and int(step) < len(entries):
            return entries[int(step)]
        field, _, wanted = step.partition(":")
        for entry in entries:
            if isinstance(entry, dict) and str(entry.get(field)) == wanted:
                return entry
    raise ConfigurationError(f"{file}: override {place}: there is no {step!r}", file=file)


_TIMES = frozenset({"SimulationTimeout", "SimulationTimestep"})
_ENGINE_TIMES = frozenset({"EngineTimestep", "EngineCommandTimeout"})
_EVENT_LOOP_TIMES = frozenset({"Timestep", "Timeout", "TimestepWarn"})


def _with_exact_times_only(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with decimals as floats, except where a time is written."""
    plain = {key: value if key in _TIMES else _with_floats(value) for key, value in tree.items()}
    engines = tree.get("EngineConfigs")
    if isinstance(engines, list):
        plain["EngineConfigs"] = [_with_floats(engine, _ENGINE_TIMES) for engine in engines]
    if "EventLoop" in tree:
        plain["EventLoop"] = _with_floats(tree["EventLoop"], _EVENT_LOOP_TIMES)
    return plain


def _with_floats(node: Any, exact: frozenset[str] = frozenset()) -> Any:
    if isinstance(node, dict):
        return {key: value if key in exact else _with_floats(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_floats(value) for value in node]
    return float(node) if isinstance(node, Decimal) else node


_PLAIN_WORDS = {
    "model_type": "has to be an object",
    "dict_type": "has to be an object",
    "list_type": "has to be a list",
    "string_type": "has to be text",
    "string_too_short": "may not be empty",
    "bool_type": "has to be true or false",
    "bool_parsing": "has to be true or false",
}
"""What is wrong, by pydantic's type of error, where its own words speak of Python."""


def _faults(error: ValidationError) -> str:
    """All that is wrong, each as "path.of.field: what (got what)"."""
    faults = []
    for fault in error.errors():
        place = ".".join(str(step) for step in fault["loc"])
        if fault["type"] == "missing":
            faults.append(f"{place}: is missing")
            continue
        what = _PLAIN_WORDS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
        what = what.replace("Input should be", "has to be")
        faults.append(f"{place}: {what}{_given(fault['input'])}" if place else what)
    return "; ".join(faults)


def _given(value: object) -> str:
    if isinstance(value, BaseModel):
        return ""
    return f" (it is {_kind(value) if isinstance(value, dict | list) else _as_written(value)})"


def _as_written(value: object) -> str:
    text = str(value) if isinstance(value, Decimal) else json.dumps(value, default=repr, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()  # JSON may contain what is no valid Unicode


def _refuse_incomplete(configuration: SimulationConfiguration, file: str) -> None:
    if configuration.has_graph and not configuration.computational_graph:
        setting = 'SimulationLoop "EventLoop"' if configuration.runs_in_real_time else 'DataPackProcessor "cg"'
        raise ConfigurationError(
            f"{file}: ComputationalGraph: at least one file has to be given, for {setting}", file=file
        )
    if not configuration.engines and not configuration.runs_in_real_time:
        raise ConfigurationError(f"{file}: EngineConfigs: at least one engine has to be given", file=file)


def _files(configuration: SimulationConfiguration) -> Iterator[tuple[str, str]]:
    """The files of the experiment that the configuration names, each with the field that names it."""
    for index, engine in enumerate(configuration.engines):
        for attribute in engine.files:
            alias = type(engine).model_fields[attribute].alias
            yield f"EngineConfigs.{index}.{alias}", getattr(engine, attribute)
    if configuration.has_graph:
        for index, name in enumerate(configuration.computational_graph):
            yield f"ComputationalGraph.{index}", name
    for index, function in enumerate(configuration.functions):
        if function.active and not configuration.has_graph:
            yield f"DataPackProcessingFunctions.{index}.FileName", function.file
    if configuration.status_function is not None and configuration.status_function.active:
        yield "StatusFunction.FileName", configuration.status_function.file


def _fields_without_effect(configuration: SimulationConfiguration) -> Iterator[tuple[str, str]]:
    """Fields that were given for nothing, each with the reason."""
    if configuration.has_graph and configuration.functions:
        yield "DataPackProcessingFunctions", "the ComputationalGraph takes its place"
    if configuration.computational_graph and not configuration.has_graph:
        yield "ComputationalGraph", 'it needs DataPackProcessor "cg" or SimulationLoop "EventLoop"'
    if "event_loop" in configuration.model_fields_set and not configuration.runs_in_real_time:
        yield "EventLoop", 'it needs SimulationLoop "EventLoop"'


def _unknown_fields(section: _Section, place: str) -> Iterator[str]:
    if type(section) is not EngineConfiguration:
        yield from (f"{place}{field}" for field in section.model_extra or {})
    for attribute, field in type(section).model_fields.items():
        value = getattr(section, attribute)
        for index, inner in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(inner, _Section):
                where = f"{place}{field.alias or attribute}"
                yield from _unknown_fields(inner, f"{where}.{index}." if isinstance(value, list) else f"{where}.")
