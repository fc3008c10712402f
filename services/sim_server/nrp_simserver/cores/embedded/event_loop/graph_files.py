"""Loading of the files that declare the nodes of a computational graph."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from nrp_common.errors import FunctionFailed
from nrp_simserver.cores.embedded.event_loop.nodes import Node
from nrp_simserver.cores.embedded.function_files import run_file
from nrp_simserver.cores.embedded.functions import misuse


def load_nodes(files: list[str], folder: Path, module: ModuleType) -> list[Node]:
    """Run the files in the globals of a module; the nodes that they declare, in order.

    Raises:
        FunctionFailed: a file raised, declares a function of another kind, or none of them declares a node.
    """
    nodes = []
    for file in files:
        for declared in run_file(file, folder, module):
            declared.file = file
            if not isinstance(declared, Node):
                declared.name = getattr(declared.call, "__name__", "")
                raise misuse(
                    declared, "is none of a computational graph, whose functions are declared as @FunctionalNode"
                )
            nodes.append(declared)
    if not nodes:
        raise FunctionFailed(f"{', '.join(files)}: no function is decorated with @FunctionalNode", file=files[0])
    return nodes
