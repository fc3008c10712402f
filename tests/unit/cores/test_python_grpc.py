"""python_grpc engines, and the datapacks with protobuf messages that they exchange with functions and clients."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

from nrp_common.errors import EngineFailed, FunctionFailed
from nrp_simserver.cores.configuration import load_configuration
from nrp_simserver.cores.selection import create_core
from tests.unit.cores.experiment import Experiment, forward, seen

COUNTER = """
class Script(GrpcEngineScript):
    def initialize(self):
        self._registerDataPack("out", wrappers_pb2.Int32Value)
        self._registerDataPack("inbox", dump_pb2.String)
        self._setDataPack("out", wrappers_pb2.Int32Value(value=0))

    def runLoop(self, timestep_ns):
        steps = self._getDataPack("out").value + 1
        self._setDataPack("out", wrappers_pb2.Int32Value(value=steps))
        seen.append((self._time_ns, self._getDataPack("inbox").string_stream))
"""
"""Counts its steps in the datapack `out`, and tells time and `inbox` in each."""

SAY = """
from nrp_core.data.nrp_protobuf import *

@EngineDataPack(keyword="count", id=DataPackIdentifier("out", "a"))
@TransceiverFunction("a")
def say(count):
    said = DumpStringDataPack("inbox", "a")
    said.data.string_stream = f"{count.data.value} steps"
    return [said]
"""


def counting(experiment: Experiment) -> Experiment:
    return experiment.grpc_engine("a", COUNTER)


def script(experiment: Experiment, initialize: str, run_loop: str = "pass") -> Experiment:
    """A python_grpc engine `a` whose methods consist of one statement."""
    return experiment.grpc_engine(
        "a",
        f"class Script(GrpcEngineScript):\n    def initialize(self):\n        {initialize}\n\n"
        f"    def runLoop(self, timestep_ns):\n        {run_loop}\n",
    )


def asking(experiment: Experiment, statement: str, datapack: str = "out") -> Experiment:
    """A function that has a statement about `d`, a datapack of `a`."""
    return experiment.function(
        f"ask_{len(list(experiment.folder.iterdir()))}",
        f"""
        from nrp_core.data.nrp_protobuf import *

        @EngineDataPack(keyword="d", id=DataPackIdentifier("{datapack}", "a"))
        @TransceiverFunction("a")
        def ask(d):
            {statement}
        """,
    )


# -- engines ---------------------------------------------------------------------------------------------------------


def test_messages_go_from_an_engine_through_a_function_to_an_engine(experiment: Experiment) -> None:
    core = counting(experiment).function("say", SAY).started()
    core.run_loop(3)
    assert seen == [(10_000_000, "0 steps"), (20_000_000, "1 steps"), (30_000_000, "2 steps")]


def test_such_an_engine_is_for_the_embedded_core(experiment: Experiment) -> None:
    counting(experiment).core()
    core = create_core(load_configuration(experiment.folder), experiment.folder)
    assert core.initialize() == []


def test_a_datapack_is_registered_once(experiment: Experiment) -> None:
    register = 'self._registerDataPack("out", dump_pb2.String)'
    with pytest.raises(EngineFailed, match=r"ValueError in a\.py \(Line 6\): datapack 'out' is registered already"):
        script(experiment, f"{register}; {register}").started()


@pytest.mark.parametrize("given", ["str", "'Dump.String'", "dump_pb2.String()", "None"])
def test_a_datapack_is_registered_with_a_type_of_message(given: str, experiment: Experiment) -> None:
    with pytest.raises(
        EngineFailed, match=r"TypeError in a\.py .*has to be registered with a type of protobuf message"
    ):
        script(experiment, f'self._registerDataPack("out", {given})').started()


def test_a_datapack_takes_messages_of_its_type_only(experiment: Experiment) -> None:
    initialize = 'self._registerDataPack("out", dump_pb2.String); self._setDataPack("out", wrappers_pb2.BoolValue())'
    with pytest.raises(EngineFailed, match=r"'out' takes Dump\.String, not Wrappers\.BoolValue"):
        script(experiment, initialize).started()


def test_a_datapack_that_was_never_set_is_an_empty_message(experiment: Experiment) -> None:
    initialize = 'self._registerDataPack("out", dump_pb2.String); seen.append(self._getDataPack("out"))'
    core = asking(script(experiment, initialize), "seen.append((d.isEmpty(), d.data.string_stream))").started()
    core.run_loop()
    assert seen[0].string_stream == ""
    assert seen[1] == (False, "")


def test_an_engine_that_was_not_registered_with_a_datapack_cannot_be_asked_for_it(experiment: Experiment) -> None:
    experiment = asking(counting(experiment), "pass", datapack="other")
    with pytest.raises(EngineFailed, match=r"'other', which a\.py does not register \(registered are: inbox, out\)"):
        experiment.started()


def test_the_file_has_to_define_a_script_for_messages(experiment: Experiment) -> None:
    with pytest.raises(EngineFailed, match=r"a\.py defines no class Script\(GrpcEngineScript\)"):
        experiment.grpc_engine("a", "class Script: pass").started()


def test_a_reset_restarts_the_time_and_keeps_what_the_engine_holds(experiment: Experiment) -> None:
    core = counting(experiment).function("say", SAY).started()
    core.run_loop(2)
    (observed,) = core.reset()
    core.run_loop()
    assert observed.value == 2
    assert seen[-1] == (10_000_000, "2 steps")


def test_an_unknown_protobuf_package_is_warned_of(experiment: Experiment, caplog: pytest.LogCaptureFixture) -> None:
    experiment.grpc_engine("a", COUNTER, ProtobufPackages=["Wrappers", "Dump", "Wrapers"])
    with caplog.at_level(logging.WARNING):
        experiment.started()
    assert [record.getMessage() for record in caplog.records] == [
        "engine a: ProtobufPackages names Wrapers; neither the backend nor the experiment has such a .proto file"
    ]


# -- datapacks -------------------------------------------------------------------------------------------------------


def test_a_datapack_knows_what_it_is(experiment: Experiment) -> None:
    core = asking(counting(experiment), "seen.append((d.name, d.engine_name, d.type, d.isEmpty(), d.isUpdated()))")
    core.started().run_loop()
    assert seen[0] == ("out", "a", "Wrappers.Int32Value", False, True)


def test_there_is_a_class_for_every_message_of_every_package(experiment: Experiment) -> None:
    names = [
        "DumpArrayFloat",
        "WrappersBytesValue",
        "NrpGenericProtoArraySInt64",
        "NrpGenericProtoImage",
        "EngineTestTestPayload",
    ]
    made = ", ".join(f"{name}DataPack('n', 'a'), {name}RawData()" for name in names)
    core = asking(counting(experiment), f"seen.append([m.data.DESCRIPTOR.full_name for m in ({made})])").started()
    core.run_loop()
    assert seen[0][::2] == seen[0][1::2]
    assert seen[0][::2] == [
        "Dump.ArrayFloat",
        "Wrappers.BytesValue",
        "NrpGenericProto.ArraySInt64",
        "NrpGenericProto.Image",
        "EngineTest.TestPayload",
    ]


def test_functions_cannot_change_each_others_messages(experiment: Experiment) -> None:
    core = asking(counting(experiment), "d.data.value = 77")
    core = asking(core, "seen.append(d.data.value)")
    core.started().run_loop(2)
    assert [told for told in seen if not isinstance(told, tuple)] == [0, 1]


def test_by_reference_functions_share_messages(experiment: Experiment) -> None:
    core = asking(asking(counting(experiment), "d.data.value = 77"), "seen.append(d.data.value)")
    core.started(FunctionArgumentsPassingMethod="reference").run_loop()
    assert seen[0] == 77


def test_a_function_cannot_change_what_the_engine_holds(experiment: Experiment) -> None:
    core = asking(counting(experiment), "d.data.value = 77")
    core = core.started(FunctionArgumentsPassingMethod="reference")
    core.run_loop(2)
    assert core.reset()[0].value == 2


def test_a_message_changed_after_it_was_returned_is_sent_as_it_was(experiment: Experiment) -> None:
    experiment.grpc_engine("a", COUNTER).function(
        "keep",
        """
        from nrp_core.data.nrp_protobuf import *

        kept = DumpStringDataPack("inbox", "a")

        @TransceiverFunction("a")
        def keep():
            kept.data.string_stream += "x"
            return [kept]
        """,
    ).function("change", "@TransceiverFunction('a')\ndef change():\n    kept.data.string_stream += 'y'\n")
    experiment.started().run_loop(2)
    assert [text for _, text in seen] == ["x", "xyx"]


def test_a_message_is_assigned_as_a_copy(experiment: Experiment) -> None:
    statement = "o = WrappersInt32ValueDataPack('n', 'a'); o.data = d.data; d.data.value = 5; seen.append(o.data.value)"
    asking(counting(experiment), statement).started().run_loop()
    assert seen[0] == 0


@pytest.mark.parametrize("given", ["7", "DumpStringRawData().data"])
def test_only_a_message_of_its_type_can_be_assigned(given: str, experiment: Experiment) -> None:
    core = asking(counting(experiment), f"d.data = {given}").started()
    with pytest.raises(FunctionFailed, match=r"the data has to be a message of type Wrappers\.Int32Value, it is "):
        core.run_loop()


def test_a_preprocessing_function_hands_messages_on(experiment: Experiment) -> None:
    counting(experiment).function(
        "double",
        """
        from nrp_core.data.nrp_protobuf import *

        @EngineDataPack(keyword="count", id=DataPackIdentifier("out", "a"))
        @PreprocessingFunction("a")
        def double(count):
            doubled = WrappersDoubleValueDataPack("doubled", "a")
            doubled.data.value = count.data.value * 2
            return [doubled]
        """,
    ).function(
        "look",
        """
        @PreprocessedDataPack(keyword="doubled", id=DataPackIdentifier("doubled", "a"))
        @TransceiverFunction("a")
        def look(doubled):
            seen.append(doubled.data.value)
        """,
    ).started().run_loop(2)
    assert [told for told in seen if not isinstance(told, tuple)] == [0.0, 2.0]


# -- what clients get and give ---------------------------------------------------------------------------------------


def test_observations_are_messages_beside_json(experiment: Experiment) -> None:
    core = asking(counting(experiment), "pass").engine("b").function("forward", forward("b", "b")).core()
    count, steps = core.initialize()
    assert (count.DESCRIPTOR.full_name, count.value) == ("Wrappers.Int32Value", 0)
    assert steps == {"steps": 0}


def test_a_trajectory_mixes_messages_and_json_in_order(experiment: Experiment) -> None:
    core = counting(experiment).status(
        """
        from nrp_core.data.nrp_protobuf import *

        said = DumpStringRawData()

        @SimulationIteration(keyword="iteration")
        @StatusFunction()
        def status(iteration):
            said.data.string_stream = str(iteration)
            number = JsonRawData()
            number.data["n"] = iteration
            return iteration == 1, [said, number]
        """
    )
    done, trajectory = core.started().run_loop(2)
    assert done
    assert [getattr(entry, "string_stream", entry) for entry in trajectory] == ["0", {"n": 0}, "1", {"n": 1}]


def string(text: str) -> Any:
    from nrp_protobuf import dump_pb2  # type: ignore[import-not-found]  # on the path of a simulation only

    return dump_pb2.String(string_stream=text)


def test_a_message_from_outside_arrives_at_the_next_start(experiment: Experiment) -> None:
    core = counting(experiment).started()
    message = string("hello")
    core.set_proto_datapack("inbox", "a", message)
    message.string_stream = "changed"
    core.run_loop(2)
    assert seen == [(10_000_000, "hello"), (20_000_000, "hello")]


def test_a_message_from_outside_is_there_after_a_reset(experiment: Experiment) -> None:
    core = asking(counting(experiment), "pass", datapack="inbox").started()
    core.set_proto_datapack("inbox", "a", string("anew"))
    assert [observed.string_stream for observed in core.reset()] == ["anew"]


def test_a_message_for_an_unknown_engine_is_an_error_at_once(experiment: Experiment) -> None:
    core = counting(experiment).started()
    with pytest.raises(ValueError, match="no engine 'b'; engines are: a"):
        core.set_proto_datapack("inbox", "b", string(""))


# -- the two kinds of data -------------------------------------------------------------------------------------------


def test_json_is_refused_by_an_engine_of_messages(experiment: Experiment) -> None:
    core = counting(experiment).started()
    core.set_json_datapack("inbox", "a", {"text": "hello"})
    with pytest.raises(EngineFailed, match=r"engine 'a': datapack 'inbox' takes Dump\.String, not dict"):
        core.run_loop()


def test_a_message_of_another_type_is_refused_by_its_engine(experiment: Experiment) -> None:
    core = counting(experiment).started()
    core.set_proto_datapack("out", "a", string(""))
    with pytest.raises(EngineFailed, match=r"'out' takes Wrappers\.Int32Value, not Dump\.String"):
        core.run_loop()


def test_a_message_is_refused_by_an_engine_of_json(experiment: Experiment) -> None:
    core = counting(experiment).engine("b").started()
    core.set_proto_datapack("inbox", "b", string(""))
    with pytest.raises(
        EngineFailed, match="engine 'b' takes JSON data; datapack 'inbox' is a protobuf message, String"
    ):
        core.run_loop()


def test_json_alone_does_not_wait_for_protobuf(experiment: Experiment) -> None:
    experiment.engine("a").file(
        "a.py",
        """
        from nrp_core.engines.python_json import EngineScript

        class Script(EngineScript):
            def runLoop(self, timestep_ns):
                pass
        """,
    ).core()
    run = (
        "import sys; from nrp_simserver.cores.embedded import EmbeddedCore; core = EmbeddedCore(sys.argv[1]);"
        "core.initialize(); core.run_loop(); core.shutdown();"
        "print([name for name in sys.modules if name.startswith('google.')])"
    )
    ran = subprocess.run([sys.executable, "-c", run, experiment.folder], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
