"""The .proto files that an experiment brings.

protobuf never forgets a message within a process: every test has packages and files of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import nrp_shims
from nrp_common.errors import ProtoFileWrong
from nrp_simserver.cores.embedded.proto_compiler import generate
from nrp_simserver.cores.error_place import locate
from tests.unit.cores.experiment import Experiment, seen

LOOK = """
from nrp_core.data.nrp_protobuf import *

@EngineDataPack(keyword="d", id=DataPackIdentifier("out", "a"))
@TransceiverFunction("a")
def look(d):
    seen.append((d.type, d.data))
"""


def bringing(experiment: Experiment, name: str, message: str, package: str = "") -> Experiment:
    """A .proto file with a message Pose, and an engine `a` whose datapack `out` is one."""
    declaration = f"package {package};" if package else ""
    experiment.file(f"{name}.proto", f'syntax = "proto3";\n{declaration}\n{message}\n')
    return experiment.grpc_engine(
        "a",
        f"from nrp_protobuf.{name}_pb2 import Pose\n\nclass Script(GrpcEngineScript):\n"
        '    def initialize(self):\n        self._registerDataPack("out", Pose)\n\n'
        "    def runLoop(self, timestep_ns):\n        pass\n",
    ).function("look", LOOK)


def test_messages_of_the_experiment_are_there_for_engines_and_functions(experiment: Experiment) -> None:
    bringing(experiment, "own", "message Pose { double x = 1; }", "Own")
    experiment.function(
        "make",
        """
        @TransceiverFunction("a")
        def make():
            pose = OwnPoseDataPack("out", "a")
            pose.data.x = 1.5
            return [pose]
        """,
    )
    experiment.started().run_loop(2)
    assert [(kind, pose.x) for kind, pose in seen] == [("Own.Pose", 0.0), ("Own.Pose", 1.5)]


def test_a_file_imports_its_neighbours_the_backends_and_googles(experiment: Experiment) -> None:
    (experiment.folder / "parts").mkdir()
    experiment.file("parts/part.proto", 'syntax = "proto3";\npackage Importing;\nmessage Part { int32 n = 1; }\n')
    (experiment.folder / "importing.proto").write_text("")
    bringing(
        experiment,
        "importing",
        'import "parts/part.proto"; import "dump.proto"; import "google/protobuf/timestamp.proto";\n'
        "message Pose { Part part = 1; Dump.String text = 2; google.protobuf.Timestamp at = 3; }",
        "Importing",
    )
    experiment.function(
        "fill",
        """
        from nrp_protobuf import dump_pb2, part_pb2

        @TransceiverFunction("a")
        def fill():
            out = ImportingPoseDataPack("out", "a")
            out.data.part.CopyFrom(part_pb2.Part(n=3))
            out.data.text.CopyFrom(dump_pb2.String(string_stream="hello"))
            out.data.at.FromSeconds(7)
            return [out]
        """,
    )
    experiment.started().run_loop(2)
    pose = seen[-1][1]
    assert (pose.part.n, pose.text.string_stream, pose.at.seconds) == (3, "hello", 7)


def test_a_file_without_a_package_names_datapacks_by_the_message_alone(experiment: Experiment) -> None:
    bringing(experiment, "plain", "message Pose { double x = 1; }")
    experiment.function("make", "@TransceiverFunction('a')\ndef make():\n    return [PoseDataPack('out', 'a')]\n")
    experiment.started().run_loop(2)
    assert [kind for kind, _ in seen] == ["Pose", "Pose"]


def test_a_module_that_protoc_made_of_the_same_file_can_be_loaded_too(experiment: Experiment) -> None:
    from grpc_tools import protoc

    bringing(experiment, "twice", "message Pose { double far_away = 1; message Inner { int32 an_int = 1; } }", "Twice")
    made = protoc.main(["protoc", f"-I{experiment.folder}", f"--python_out={experiment.folder}", "twice.proto"])
    assert made == 0
    experiment.function(
        "compare",
        """
        import nrp_protobuf.twice_pb2
        import twice_pb2

        @TransceiverFunction("a")
        def compare():
            seen.append(twice_pb2.Pose is nrp_protobuf.twice_pb2.Pose)
        """,
    )
    experiment.started().run_loop()
    assert seen[-1] is True


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('syntax = "proto3";\npackage Wrong;\nmessage Pose { flat x = 1; }\n', 3, '"flat" is not defined'),
        ('syntax = "proto3";\n\nmessage Pose { double x = 1 }\n', 3, 'Expected ";"'),
        ('syntax = "proto3";\nimport "nowhere.proto";\n', 2, 'Import "nowhere.proto" was not found'),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(
    text: str, line: int, what: str, experiment: Experiment
) -> None:
    experiment.engine("a").file("wrong.proto", text)
    core = experiment.core()
    with pytest.raises(ProtoFileWrong, match=f"^wrong.proto \\(Line {line}\\): .*{what}") as caught:
        core.initialize()
    place = locate(caught.value, experiment.folder)
    assert (place.file, place.line, place.text) == ("wrong.proto", line, text.splitlines()[line - 1])


def test_a_file_of_the_experiment_is_never_taken_for_pythons_own(experiment: Experiment) -> None:
    experiment.file("subprocess.py", "raise RuntimeError").file("re.py", "raise RuntimeError")
    bringing(experiment, "shadowed", "message Pose { double x = 1; }", "Shadowed")
    experiment.core().initialize()


def test_after_the_end_the_experiments_messages_cannot_be_imported(experiment: Experiment) -> None:
    core = bringing(experiment, "ended", "message Pose { double x = 1; }", "Ended").started()
    assert "nrp_protobuf.ended_pb2" in sys.modules
    core.shutdown()
    assert "nrp_protobuf.ended_pb2" not in sys.modules
    assert "nrp_core.data.nrp_protobuf" not in sys.modules


def test_a_core_starts_again_with_its_messages(experiment: Experiment) -> None:
    core = bringing(experiment, "again", "message Pose { double x = 1; }", "Again").started()
    core.shutdown()
    core.initialize()
    core.run_loop()
    assert [kind for kind, _ in seen] == ["Again.Pose"]


def test_two_experiments_in_a_process_cannot_differ_in_a_message(experiment: Experiment) -> None:
    bringing(experiment, "differing", "message Pose { double x = 1; }", "Differing").started().shutdown()
    experiment.file("differing.proto", 'syntax = "proto3";\npackage Differing;\nmessage Pose { int32 x = 1; }\n')
    core = experiment.core()
    with pytest.raises(ProtoFileWrong, match=r"^differing\.proto: this process has loaded other messages"):
        core.initialize()


def test_the_backends_own_modules_are_those_of_its_files() -> None:
    services = Path(nrp_shims.__file__).parents[1]
    protos = services / "nrp_simserver" / "protos"
    generated = generate(protos, sorted(file.name for file in protos.glob("*.proto")))
    installed = {file.stem: file.read_text() for file in (nrp_shims.PATH / "nrp_protobuf").glob("*_pb2.py")}
    assert installed == {module.name: module.source for module in generated}, "install the backend anew"
