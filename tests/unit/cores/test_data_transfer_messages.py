"""What the data transfer engine publishes and records of protobuf messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nrp_common.errors import EngineFailed
from tests.unit.cores.experiment import Experiment


class Listener:
    """A publisher that keeps what it is given, in bytes."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    def __call__(self, topic: str, payload: bytes, _qos: int, _retained: bool) -> None:
        self.published.append((topic, payload))

    def on(self, topic: str) -> list[bytes]:
        return [payload for on, payload in self.published if on == topic]


def sending(experiment: Experiment, kind: str, statement: str, **fields: Any) -> Experiment:
    """A function that sends `m`, the message of a new datapack `out`, to the data transfer engine in every step."""
    experiment.engine("a").configuration["EngineConfigs"].append(
        {
            "EngineName": "transfer",
            "EngineType": "datatransfer_grpc_engine",
            "dumps": [{"name": "out", "network": True, "file": True}],
            **fields,
        }
    )
    return experiment.function(
        "send",
        f"""
        from nrp_core.data.nrp_protobuf import *

        @SimulationIteration(keyword="n")
        @TransceiverFunction("a")
        def send(n):
            out = {kind}DataPack("out", "transfer")
            m = out.data
            {statement}
            return [out]
        """,
    )


def recorded(experiment: Experiment) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(experiment.folder, "data").glob("*/*.data")}


def record(experiment: Experiment, kind: str, statement: str) -> str:
    """What is in the file after two steps."""
    sending(experiment, kind, statement).started().run_loop(2)
    return recorded(experiment)["out-0.data"]


def test_a_message_is_published_in_a_datapack_message(experiment: Experiment) -> None:
    listener = Listener()
    core = sending(experiment, "DumpString", "m.string_stream = f'step {n}'").core(publisher=listener)
    core.initialize()
    core.run_loop(2)
    from nrp_protobuf import dump_pb2, engine_grpc_pb2  # type: ignore[import-not-found]  # on the path of a simulation

    (first, second) = map(engine_grpc_pb2.DataPackMessage.FromString, listener.on("data/out"))
    identifier = first.dataPackId
    assert (identifier.dataPackName, identifier.dataPackType, identifier.engineName) == (
        "out",
        "Dump.String",
        "transfer",
    )
    said = dump_pb2.String()
    assert second.data.Unpack(said)
    assert said.string_stream == "step 1"


def test_a_message_is_published_by_itself_when_asked(experiment: Experiment) -> None:
    listener = Listener()
    sending(experiment, "DumpString", "m.string_stream = 'hello'", streamDataPackMessage=False)
    core = experiment.core(publisher=listener)
    core.initialize()
    core.run_loop()
    assert listener.on("data/out") == [b"\x2a\x05hello"]


def test_the_list_of_topics_has_the_type_of_message(experiment: Experiment) -> None:
    listener = Listener()
    core = sending(experiment, "DumpString", "pass", simulationID=3).core(publisher=listener)
    core.initialize()
    core.run_loop(2)
    assert [json.loads(payload)[0] for payload in listener.on("data")] == [
        {"topic": "nrp_simulation/3/data/out", "type": ""},
        {"topic": "nrp_simulation/3/data/out", "type": "Dump.String"},
    ]


def test_a_reset_is_told_between_messages(experiment: Experiment) -> None:
    listener = Listener()
    core = sending(experiment, "DumpString", "m.string_stream = 'hello'", streamDataPackMessage=False).core(listener)
    core.initialize()
    core.run_loop()
    core.reset()
    core.run_loop()
    assert listener.on("data/out") == [b"\x2a\x05hello", b"reset", b"\x2a\x05hello"]


def test_a_text_is_recorded_as_a_line(experiment: Experiment) -> None:
    assert record(experiment, "DumpString", "m.string_stream = f'step {n}, ä'") == "0,step 0, ä\n0.01,step 1, ä\n"


@pytest.mark.parametrize("dims", ["", "m.dims.append(3)"])
def test_an_array_is_recorded_as_a_row(dims: str, experiment: Experiment) -> None:
    statement = f"m.float_stream.extend([n, 0.1, -1e-9]); {dims}"
    assert record(experiment, "DumpArrayFloat", statement) == "0,0,0,0.1,-1e-09\n0.01,0,1,0.1,-1e-09\n"


def test_an_array_of_two_dimensions_is_recorded_as_numbered_rows(experiment: Experiment) -> None:
    statement = "m.float_stream.extend([n, 1, 2, 3, 4, 5]); m.dims.extend([2, 3])"
    assert record(experiment, "DumpArrayFloat", statement) == "0,0,0,1,2\n0,1,3,4,5\n0.01,0,1,1,2\n0.01,1,3,4,5\n"


def test_an_array_that_does_not_fill_its_rows_is_an_error(experiment: Experiment) -> None:
    core = sending(experiment, "DumpArrayFloat", "m.float_stream.append(1); m.dims.extend([2, 3])").started()
    with pytest.raises(EngineFailed, match=r"'out' cannot be recorded: 1 numbers do not fill 2 rows of 3"):
        core.run_loop()


def test_any_other_message_is_recorded_by_its_fields(experiment: Experiment) -> None:
    statement = "m.height = n; m.type = 1; m.data = b'abc'"
    assert record(experiment, "NrpGenericProtoImage", statement) == (
        "sim_time,height,width,step,type,isBigEndian,data\n0,0,0,0,RGB8,false,YWJj\n0.01,1,0,0,RGB8,false,YWJj\n"
    )


def test_a_field_of_several_values_is_recorded_as_json(experiment: Experiment) -> None:
    statement = "m.array.extend([0.5, n])"
    assert record(experiment, "NrpGenericProtoArrayDouble", statement) == (
        'sim_time,array,shape\n0,"[0.5,0.0]",\n0.01,"[0.5,1.0]",\n'
    )


def test_after_a_reset_another_file_begins_with_the_names_of_the_fields(experiment: Experiment) -> None:
    core = sending(experiment, "WrappersInt64Value", "m.value = n").started()
    core.run_loop()
    core.reset()
    core.run_loop()
    assert recorded(experiment) == {"out-0.data": "sim_time,value\n0,0\n", "out-1.data": "sim_time,value\n0,0\n"}
