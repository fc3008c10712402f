"""Python modules from .proto files.

protoc only translates the files to descriptors; the modules, written here, hand these to whatever protobuf is
installed. protoc's own Python output would not do: it refuses to be loaded by a protobuf older than its protoc or two
major versions newer, and which protoc an isolated build environment gets has nothing to do with the protobuf that is
installed later, perhaps next to a simulator that wants an old one.

The build of the backend loads this file alone: it imports nothing of the backend.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_MODULE = '''\
"""Messages of {file}. Generated: change that file instead."""

from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

{imports}DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
    {descriptor!r}
)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, __name__, globals())
'''

_FAULT = re.compile(r"^(?P<file>[^:\n]+\.proto):(?:(?P<line>\d+):\d+:)? (?!warning:)(?P<what>.+)$", re.MULTILINE)


class ProtoFileFault(Exception):
    """What is wrong in a .proto file.

    Attributes:
        file: the file, relative to the folder that was compiled; "" when unknown.
        line: counted from 1; 0 when unknown.
        what: what is wrong.
    """

    def __init__(self, file: str, line: int, what: str) -> None:
        super().__init__(f"{file} (Line {line}): {what}" if line else f"{file}: {what}" if file else what)
        self.file = file
        self.line = line
        self.what = what


class GeneratedModule(NamedTuple):
    """A module for the messages of one .proto file, to be part of the package of all such modules.

    Attributes:
        file: the .proto file, relative to the folder that was compiled.
        name: the module's, `<name>_pb2`.
        source: its text.
    """

    file: str
    name: str
    source: str


def generate(folder: Path, files: Sequence[str], includes: Sequence[Path] = ()) -> Iterator[GeneratedModule]:
    """A module for every file, and for all that they import from `folder`; each after those that it needs itself.

    Takes 0.1 s, nearly all of it for starting protoc.

    Args:
        folder: where the files are, and what they name each other relative to.
        files: the .proto files, relative to `folder`.
        includes: further folders to import from, whose modules exist.

    Raises:
        ProtoFileFault: a file cannot be compiled.
    """
    for descriptor in _descriptors(folder, files, includes):
        if (folder / descriptor.name).is_file():
            imports = "".join(f"{_import(dependency)}\n" for dependency in descriptor.dependency)
            source = _MODULE.format(
                file=descriptor.name, imports=imports and f"{imports}\n", descriptor=descriptor.SerializeToString()
            )
            yield GeneratedModule(descriptor.name, _module(descriptor.name), source)


def _descriptors(folder: Path, files: Sequence[str], includes: Sequence[Path]) -> Iterator[Any]:
    """The FileDescriptorProto of every file and of all that they import."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet  # only experiments with messages pay for it

    # -P: "types.py" in the folder of an experiment is not Python's own.
    command = [sys.executable, "-P", "-m", "grpc_tools.protoc", "-I.", *(f"-I{include}" for include in includes)]
    command += ["--include_imports", "--descriptor_set_out=/dev/stdout", *files]
    protoc = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if protoc.returncode:
        output = protoc.stderr.decode(errors="replace").strip()
        faults = list(_FAULT.finditer(output))
        if not faults:
            raise ProtoFileFault("", 0, f"protoc failed: {output}")
        fault = next(
            (fault for fault in faults if fault["line"]), faults[0]
        )  # one without: an imported file is missing
        raise ProtoFileFault(fault["file"], int(fault["line"] or 0), fault["what"])
    for file in FileDescriptorSet.FromString(protoc.stdout).file:
        for message in file.message_type:
            _leave_out_json_names(message)
        yield file


def _leave_out_json_names(message: Any) -> None:
    """Remove what only follows from the names of fields.

    Python modules that protoc itself made of the same file do not have it, and protobuf loads two modules of one file,
    perhaps because an experiment brings its own, only when they are the same to the byte.
    """
    for field in message.field:
        first, *others = field.name.split("_")
        if field.json_name == first + "".join(word[:1].upper() + word[1:] for word in others):
            field.ClearField("json_name")
    for nested in message.nested_type:
        _leave_out_json_names(nested)


def _import(file: str) -> str:
    """The statement that loads what a file imports."""
    if file.startswith("google/"):
        package, _, name = file.rpartition("/")
        return f"from {package.replace('/', '.')} import {_module(name)}"
    return f"from . import {_module(file)}"


def _module(file: str) -> str:
    return f"{Path(file).stem.replace('-', '_')}_pb2"
