"""The .proto files that an experiment brings: their messages are there as `nrp_protobuf.<name>_pb2` while it runs."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from nrp_common.errors import ProtoFileWrong
from nrp_simserver.cores.embedded.proto_compiler import GeneratedModule, ProtoFileFault, generate

_PACKAGE = "nrp_protobuf"

_OWN_FILES = Path(__file__).parents[2] / "protos"
"""The backend's own .proto files, which those of experiments may import."""

_DATAPACKS = "nrp_core.data.nrp_protobuf"
"""The module of an experiment that has a class for every message there is."""


class ProtoFiles:
    """The .proto files of one experiment, from `open` to `close`.

    Those directly in its folder, and what they import from folders inside. A module with the name of one of the
    backend's own takes its place.

    Args:
        folder: the experiment's folder, absolute.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: list[str] = []

    def open(self) -> None:
        """Compile the files, if there are any, and load their modules.

        Raises:
            ProtoFileWrong: a file cannot be compiled, or its messages be loaded; says where and why.
        """
        files = sorted(file.name for file in self._folder.glob("*.proto"))
        if not files:
            return
        sys.modules.pop(_DATAPACKS, None)
        try:
            for module in generate(self._folder, files, [_OWN_FILES]):
                self._load(module)
        except ProtoFileFault as fault:
            raise ProtoFileWrong(str(fault), file=fault.file, line=fault.line) from None

    def close(self) -> None:
        """Undo `open`. protobuf itself remembers the messages: they cannot be others later in this process."""
        for name in self._loaded:
            sys.modules.pop(f"{_PACKAGE}.{name}", None)
            vars(_package()).pop(name, None)
        if self._loaded:
            sys.modules.pop(_DATAPACKS, None)
        self._loaded = []

    def _load(self, generated: GeneratedModule) -> None:
        module = ModuleType(f"{_PACKAGE}.{generated.name}")
        module.__package__ = _PACKAGE
        try:
            exec(generated.source, module.__dict__)  # noqa: S102  the text is our own
        except TypeError as error:
            raise ProtoFileWrong(
                f"{generated.file}: this process has loaded other messages of these names: {error}", file=generated.file
            ) from error
        sys.modules[module.__name__] = module
        setattr(_package(), generated.name, module)
        self._loaded.append(generated.name)


def message_modules() -> list[ModuleType]:
    """The modules of all .proto files that there are, the backend's and the experiment's, by name."""
    names = {module.name for module in pkgutil.iter_modules(_package().__path__)} | set(vars(_package()))
    return [importlib.import_module(f"{_PACKAGE}.{name}") for name in sorted(names) if name.endswith("_pb2")]


def _package() -> ModuleType:
    return importlib.import_module(_PACKAGE)  # on the path of a simulation only
