"""The .proto files that an experiment brings: their messages are there as `nrp_protobuf.<name>_pb2` while it runs."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import MutableSequence
from pathlib import Path

from nrp_common.errors import ProtoFileWrong
from nrp_simserver.cores.embedded.proto_compiler import ProtoFileFault, write_modules

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
        self._modules: tempfile.TemporaryDirectory[str] | None = None

    def open(self) -> None:
        """Compile the files, if there are any, and let the experiment import them.

        Raises:
            ProtoFileWrong: a file cannot be compiled; says where and why.
        """
        files = sorted(file.name for file in self._folder.glob("*.proto"))
        if not files:
            return
        self._modules = tempfile.TemporaryDirectory(prefix="nrp_protobuf_")
        try:
            write_modules(self._folder, files, Path(self._modules.name), [_OWN_FILES])
        except ProtoFileFault as fault:
            raise ProtoFileWrong(str(fault), file=fault.file, line=fault.line) from None
        modules_path().insert(0, self._modules.name)
        importlib.invalidate_caches()
        sys.modules.pop(_DATAPACKS, None)

    def close(self) -> None:
        """Undo `open`. protobuf itself remembers the messages: they cannot be others later in this process."""
        modules, self._modules = self._modules, None
        if modules is None:
            return
        if modules.name in modules_path():
            modules_path().remove(modules.name)
        for name in [f"nrp_protobuf.{file.stem}" for file in Path(modules.name).glob("*.py")] + [_DATAPACKS]:
            sys.modules.pop(name, None)
        modules.cleanup()


def modules_path() -> MutableSequence[str]:
    """Where the modules of the package `nrp_protobuf` are looked for: the folders, first come first served."""
    return importlib.import_module("nrp_protobuf").__path__  # on the path of a simulation only
