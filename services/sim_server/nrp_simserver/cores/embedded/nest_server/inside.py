"""What works for a nest_server engine inside NEST Server: the text of this file is sent there and executed.

It has to do with whatever Python and NEST the server has. All its functions answer JSON: {"result": ...}, or
{"failure": {...}} with what was raised and where; NEST Server itself would say no more than that there was an error.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import nest

_nodes: dict[str, Any] = {}
"""What each datapack stands for."""

_folder = ""
"""Where the experiment's files are, on the machine of the simulation."""

_FOUND_BY_COMPILERS = (SyntaxError, NameError, ImportError)


def _answered(function: Callable[..., Any]) -> Callable[..., str]:
    def answer(*arguments: Any) -> str:
        try:
            return json.dumps({"result": function(*arguments)}, default=_plain)
        except (Exception, SystemExit) as error:  # noqa: BLE001  told to the engine
            return json.dumps({"failure": _failure(error)})

    return answer


@_answered
def build(init_file: str, file: str, folder: str, settings: dict[str, Any]) -> dict[str, int]:
    """Start from an empty kernel and run an init file; the sizes of the datapacks that it registers.

    Args:
        init_file: the text of the file.
        file: its path, relative to `folder`.
        folder: the experiment's, with its last separator; it need not exist on this machine.
        settings: attributes to set on the empty kernel.
    """
    global _folder  # noqa: PLW0603  the failure of any call is told with the place in there
    _folder = folder
    nest.ResetKernel()
    for name, value in settings.items():
        setattr(nest, name, value)
    _nodes.clear()
    _offer_imports()
    script = ModuleType("nrp_init_file")
    script.__file__ = folder + file
    script.__dict__.update(nest=nest, CreateDataPack=create_datapack, RegisterDataPack=register_datapack)
    sys.modules[script.__name__] = script
    exec(compile(init_file, script.__file__, "exec", dont_inherit=True), script.__dict__)  # noqa: S102  asked for
    populations = getattr(script, "populations", {})
    if not isinstance(populations, dict):
        raise TypeError(f"populations has to be a dict of nodes by name, not {type(populations).__name__}")
    for name, nodes in populations.items():
        if name not in _nodes:
            register_datapack(name, nodes)
    return {name: len(nodes) for name, nodes in _nodes.items()}


@_answered
def step(milliseconds: float, wanted: list[str]) -> dict[str, Any]:
    """Simulate, then read the status of datapacks."""
    nest.Simulate(milliseconds)
    return {name: _nodes[name].get() for name in wanted}


@_answered
def read(name: str) -> Any:
    """The status of a datapack's nodes."""
    return _nodes[name].get()


@_answered
def set_parameters(parameters: dict[str, Any]) -> tuple[str, str] | None:
    """Set the nodes of datapacks, by name; which of them could not be set, and why not."""
    for name, content in parameters.items():
        try:
            _nodes[name].set(content)
        except Exception as error:  # noqa: BLE001  told to the engine
            return name, str(error)
    return None


def create_datapack(name: str, *arguments: Any, **keywords: Any) -> Any:
    """Create nodes with `nest.Create(*arguments, **keywords)` and have the datapack `name` stand for them."""
    return register_datapack(name, nest.Create(*arguments, **keywords))


def register_datapack(name: str, nodes: Any) -> Any:
    """Have the datapack `name` stand for nodes that exist, or for a list of their ids, ascending. Returns them."""
    if name in _nodes:
        raise ValueError(f"datapack {name!r} is registered already")
    if isinstance(nodes, int):
        nodes = [nodes]
    if isinstance(nodes, (list, tuple)):
        nodes = nest.NodeCollection(nodes)
    if not isinstance(nodes, (nest.NodeCollection, nest.SynapseCollection)):
        raise TypeError(f"datapack {name!r} has to stand for nodes or connections, not {type(nodes).__name__}")
    _nodes[name] = nodes
    return nodes


def _offer_imports() -> None:
    """Let init files import what those of nest_json engines import."""
    names = ("nrp_core", "nrp_core.engines", "nrp_core.engines.nest_json")
    packages = [sys.modules.setdefault(name, ModuleType(name)) for name in names]
    packages[-1].__dict__.update(CreateDataPack=create_datapack, RegisterDataPack=register_datapack)


def _plain(value: Any) -> Any:
    """What NEST has beyond JSON: numpy's arrays and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a status of type {type(value).__name__} has no JSON form")


def _failure(error: BaseException) -> dict[str, Any]:
    file, line, text, offset = _place(error)
    return {
        "kind": type(error).__name__,
        "base": next((base.__name__ for base in _FOUND_BY_COMPILERS if isinstance(error, base)), "Exception"),
        "words": error.msg if isinstance(error, SyntaxError) else str(error),
        "file": file,
        "line": line,
        "text": text,
        "offset": offset,
        "traceback": "".join(traceback.format_exception(type(error), error, error.__traceback__)),
    }


def _place(error: BaseException) -> tuple[str, int, str, int]:
    """Where in the experiment's own files an error comes from: file, line, its text, column; ("", 0, "", -1) if not."""
    if isinstance(error, SyntaxError) and (error.filename or "").startswith(_folder):
        offset = -1 if error.offset is None else error.offset
        return (error.filename or "")[len(_folder) :], error.lineno or 0, (error.text or "").strip(), offset
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _folder and frame.filename.startswith(_folder):
            return frame.filename[len(_folder) :], frame.lineno or 0, "", -1
    return "", 0, "", -1
