"""nest_json: an engine that is a network in NEST, set up by a Python file of the experiment and run in this process."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from nrp_common.errors import EngineFailed
from nrp_simserver.cores.configuration import NestConfiguration
from nrp_simserver.cores.embedded.datapacks import DataPack, JsonDataPack
from nrp_simserver.cores.embedded.engine import Engine
from nrp_simserver.cores.embedded.json_values import from_engine
from nrp_simserver.cores.embedded.nest_datapacks import check_parameters, statuses, unregistered
from nrp_simserver.cores.embedded.surroundings import load_script

NANOSECONDS_PER_MILLISECOND = 1_000_000

_running: NestEngine | None = None
"""The engine that has this process's NEST: there is one kernel a process, and init files call plain functions."""


class NestEngine(Engine[NestConfiguration]):
    """Runs the network that the engine's init file builds.

    A datapack stands for nodes (or connections): read, it is their status, a list of dicts; sent a dict, all of them
    are set to that, sent a list of dicts, each to its own.
    """

    engine_type = "nest_json"
    once_a_process = "NEST"

    _seed = 0

    @classmethod
    def missing(cls, configuration: NestConfiguration) -> str:  # noqa: ARG003  the same for all of them
        """NEST, when it is not installed."""
        if importlib.util.find_spec("nest") is not None:
            return ""
        return "the package nest-simulator: pip install 'nrp-backend[nest]'"

    def initialize(self) -> None:
        """Start from an empty kernel and run the init file.

        Raises:
            EngineFailed: another engine has this process's NEST.
        """
        global _running  # noqa: PLW0603  see there
        if _running is not None:
            raise EngineFailed(f"engine {self.name!r}: NEST can run once a process, and {_running.name!r} has it")
        os.environ.setdefault("PYNEST_QUIET", "1")  # no banner in the simulation's log
        import nest  # takes a second, which only those wait for who use it

        self._nest: Any = nest
        _running = self
        try:
            self._build()
        except BaseException:
            _running = None
            raise

    def _build(self) -> None:
        nest = self._nest
        nest.ResetKernel()
        nest.verbosity = nest.VerbosityLevel.WARNING
        nest.local_num_threads = 1  # the threads of many simulations would fight over the cores
        seed = self.configuration.seed or self._seed
        if seed:
            nest.rng_seed = seed
        self._nodes: dict[str, Any] = {}
        load_script(self.folder, self.configuration.script, self.name)

    def register(self, name: str, nodes: Any) -> None:
        """Have a datapack stand for nodes.

        Raises:
            ValueError: there is one of that name.
        """
        if name in self._nodes:
            raise ValueError(f"datapack {name!r} is registered already")
        self._nodes[name] = nodes

    def start_step(self, timestep_ns: int) -> None:
        """Simulate the network for that long."""
        self._nest.Simulate(timestep_ns / NANOSECONDS_PER_MILLISECOND)

    def get_datapack(self, name: str) -> DataPack:
        """The present status of the nodes."""
        nodes = self._registered(name)
        return JsonDataPack.holding(name, self.name, from_engine(statuses(nodes.get(), len(nodes))))

    def set_datapacks(self, datapacks: dict[str, Any]) -> None:
        """Set the nodes' parameters.

        Raises:
            EngineFailed: there are no such nodes, or the data is neither a dict nor a list of one dict a node, or not
                what they take.
        """
        for name, content in datapacks.items():
            nodes = self._registered(name)
            check_parameters(self.name, name, content, len(nodes))
            try:
                nodes.set(content)
            except Exception as error:
                raise EngineFailed(f"engine {self.name!r}: datapack {name!r} cannot be set: {error}") from error

    def reset(self) -> None:
        """Build the network anew."""
        self._build()

    def seed(self, seed: int) -> None:
        """Have the network that is built next use that seed, unless the configuration gives one."""
        self._seed = seed

    def shutdown(self) -> None:
        """Empty the kernel for whoever comes next."""
        global _running  # noqa: PLW0603
        _running = None
        self._nest.ResetKernel()

    def _registered(self, name: str) -> Any:
        try:
            return self._nodes[name]
        except KeyError:
            raise unregistered(self.configuration, name, self._nodes) from None


def create_datapack(name: str, *arguments: Any, **keywords: Any) -> Any:
    """Create nodes with `nest.Create(*arguments, **keywords)` and have the datapack `name` stand for them."""
    engine = _engine()
    nodes = engine._nest.Create(*arguments, **keywords)
    engine.register(name, nodes)
    return nodes


def register_datapack(name: str, nodes: Any) -> Any:
    """Have the datapack `name` stand for nodes that exist. Returns them."""
    _engine().register(name, nodes)
    return nodes


def _engine() -> NestEngine:
    if _running is None:
        raise RuntimeError(
            "datapacks of NEST are made by the init file of a nest_json engine, while that is initialised"
        )
    return _running
