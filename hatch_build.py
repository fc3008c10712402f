"""What the build does beyond copying files: it generates the modules of the backend's own protobuf messages.

They are written into the source tree, so that they are there for an editable installation as well as in the wheel.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtobufModules(BuildHookInterface[Any]):
    """Generates `nrp_protobuf/<name>_pb2.py` from each of the backend's own .proto files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        services = Path(self.root, "services", "sim_server")
        self._compiler = services / "nrp_simserver" / "cores" / "embedded" / "proto_compiler.py"
        self._protos = sorted((services / "nrp_simserver" / "protos").glob("*.proto"))
        self._target = services / "nrp_shims" / "nrp_protobuf"

    def dependencies(self) -> list[str]:
        """protoc, which takes a build environment 10 s to install, only when there is something to generate."""
        return [] if self._are_current() else ["grpcio-tools>=1.62"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  hatchling's signature
        """Write the modules, before the files are gathered."""
        if self._are_current():
            return
        for stale in self._target.glob("*_pb2.py"):
            stale.unlink()
        generate = runpy.run_path(str(self._compiler))["generate"]
        for module in generate(self._protos[0].parent, [proto.name for proto in self._protos]):
            (self._target / f"{module.name}.py").write_text(module.source, encoding="utf-8")

    def _are_current(self) -> bool:
        """Whether there is a module for every .proto file, all written after the files and the compiler were."""
        modules = sorted(self._target.glob("*_pb2.py"))
        if [module.stem for module in modules] != sorted(f"{proto.stem}_pb2" for proto in self._protos):
            return False
        newest_source = max(source.stat().st_mtime for source in [self._compiler, *self._protos])
        return min(module.stat().st_mtime for module in modules) >= newest_source
