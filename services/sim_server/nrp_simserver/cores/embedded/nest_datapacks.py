"""Datapacks that stand for nodes of NEST, wherever that runs: read, they are the nodes' status; sent, they set it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nrp_common.errors import EngineFailed
from nrp_simserver.cores.configuration import NestConfiguration
from nrp_simserver.cores.embedded.json_values import is_json


def statuses(got: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    """What `get()` of a NodeCollection answered, node by node.

    Args:
        got: by parameter, the values of all nodes, or the value when there is one node.
        size: the number of nodes.
    """
    if size == 1:
        return [dict(got)]
    # Nodes of several models have None where a parameter is not theirs.
    return [
        {name: value for name, value in zip(got, values, strict=True) if value is not None}
        for values in zip(*got.values(), strict=True)
    ]


def check_parameters(engine: str, datapack: str, content: Any, size: int) -> None:
    """Refuse what is neither a dict, for all nodes, nor a list of one dict a node.

    Raises:
        EngineFailed: says which datapack and why.
    """
    if not is_json(content) or not isinstance(content, Mapping | list):
        raise EngineFailed(
            f"engine {engine!r}: datapack {datapack!r} has to be a dict, or a list of one dict a node,"
            f" not {type(content).__name__}"
        )
    if isinstance(content, list) and len(content) != size:
        raise EngineFailed(
            f"engine {engine!r}: datapack {datapack!r} stands for {size} nodes and is sent {len(content)} dicts"
        )


def unregistered(configuration: NestConfiguration, datapack: str, registered: Collection[str]) -> EngineFailed:
    """The error of asking for a datapack that the init file did not register."""
    return EngineFailed(
        f"engine {configuration.name!r}: datapack {datapack!r} is not registered by {configuration.script}"
        f" (registered are: {', '.join(sorted(registered)) or 'none'})",
        file=configuration.script,
    )
