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

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  hatchling's signature
        """Write the modules, before the files are gathered."""
        sources = Path(self.root, "services", "sim_server")
        compiler = runpy.run_path(str(sources / "nrp_simserver/cores/embedded/proto_compiler.py"))
        protos = sources / "nrp_simserver/protos"
        target = sources / "nrp_shims/nrp_protobuf"
        for stale in target.glob("*_pb2.py"):
            stale.unlink()
        for module in compiler["generate"](protos, sorted(file.name for file in protos.glob("*.proto"))):
            (target / f"{module.name}.py").write_text(module.source, encoding="utf-8")
