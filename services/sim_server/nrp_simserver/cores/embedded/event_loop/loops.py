"""The loops that run a computational graph: the FTI loop with one in place of functions, and the event loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nrp_common.errors import ConfigurationError
from nrp_simserver.cores import BrokerConnector, Rest
from nrp_simserver.cores.configuration import SimulationConfiguration
from nrp_simserver.cores.embedded.engine import Engine
from nrp_simserver.cores.embedded.event_loop.graph import ComputationalGraph
from nrp_simserver.cores.embedded.event_loop.graph_files import load_nodes
from nrp_simserver.cores.embedded.event_loop.pace import Pace
from nrp_simserver.cores.embedded.event_loop.sources import NANOSECONDS_PER_MILLISECOND
from nrp_simserver.cores.embedded.function_files import functions_module, load_status_function
from nrp_simserver.cores.embedded.loop import Loop, Plan
from nrp_simserver.cores.embedded.surroundings import Occupant, Surroundings


class GraphLoop(Loop):
    """The FTI loop, with a computational graph that runs in each iteration in place of all but the status function.

    Args:
        configuration: the experiment's, which names the files of the graph; they are run here.
        engines: initialised, in the order of the configuration; each with its occupant of the process.
        surroundings: switches the process between the engines and the functions.
        occupant: the functions'; present.
        folder: the experiment's folder.
        connect: connects to the broker of MQTT nodes; None when there is no such broker.

    Raises:
        FunctionFailed: a node or the status function is wrong, or cannot be loaded.
        ConfigurationError: there are MQTT nodes and no broker.
        NRPError: the broker cannot be reached.
    """

    def __init__(
        self,
        configuration: SimulationConfiguration,
        engines: list[tuple[Engine[Any], Occupant]],
        surroundings: Surroundings,
        occupant: Occupant,
        folder: Path,
        connect: BrokerConnector | None,
    ) -> None:
        module = functions_module()
        nodes = load_nodes(configuration.computational_graph, folder, module)
        by_reference = configuration.argument_passing == "reference"
        super().__init__(
            engines,
            load_status_function(configuration, folder, module),
            surroundings,
            occupant,
            folder,
            timestep_ns=configuration.timestep_ns,
            by_reference=by_reference,
        )
        steps = [configuration.timestep_ns, *(engine.timestep_ns for engine, _ in engines)]
        self._graph = ComputationalGraph(
            nodes,
            engines=self._members,
            send=self.put,
            cache=self._cache,
            clock=self.clock,
            whole_milliseconds=not any(step % NANOSECONDS_PER_MILLISECOND for step in steps),
            by_reference=by_reference,
            folder=folder,
        )
        for engine in self._members:
            names = {*self._graph.requested(engine), *(name for name, _ in self._wanted[engine])}
            self._wanted[engine] = [(name, self._cache.entry(name, engine)) for name in sorted(names)]
        if self._graph.has_topics:
            self._connect(connect, configuration)

    def reset(self, handed_in: list[tuple[str, str, Any]]) -> None:
        """Reset the engines and the graph, and go back to t = 0; see `Loop.reset`."""
        super().reset(handed_in)
        self._graph.reset()

    def close(self) -> None:
        """Leave the broker of MQTT nodes."""
        self._graph.close()

    def _run_functions(self, plan: Plan) -> bool:  # noqa: ARG002  the graph runs whoever is due
        self._surroundings.switch(self._occupant)
        self._graph.compute()
        return self._status is not None and self._run_status(self._status)

    def _connect(self, connect: BrokerConnector | None, configuration: SimulationConfiguration) -> None:
        if connect is None:
            raise ConfigurationError(
                "The computational graph has MQTT nodes, and the embedded core was given no way to connect to a broker"
            )
        try:
            self._graph.connect(connect(configuration.mqtt_node))
        except BaseException:
            self._graph.close()
            raise


class EventLoop(GraphLoop):
    """The loop in real time: the graph runs once a step, and a step takes as long as it stands for.

    Engines keep their own timesteps, in the loop's time: one that is due with the graph is served as in the FTI loop,
    one that is due between two cycles steps on with what waits for it.

    Args:
        configuration, engines, surroundings, occupant, folder, connect: as of `GraphLoop`.
        rest: lets time pass.

    Raises:
        As `GraphLoop`.
    """

    def __init__(
        self,
        configuration: SimulationConfiguration,
        engines: list[tuple[Engine[Any], Occupant]],
        surroundings: Surroundings,
        occupant: Occupant,
        folder: Path,
        connect: BrokerConnector | None,
        rest: Rest,
    ) -> None:
        super().__init__(configuration, engines, surroundings, occupant, folder, connect)
        self._pace = Pace(configuration.timestep_ns, configuration.event_loop.tolerated_lag_ns, rest)

    def step(self) -> bool:
        """Run one step, and rest until its time is over. Returns whether the status function said done."""
        self._pace.begin_step()
        done = super().step()
        self._pace.end_step()
        return done

    def _run_functions(self, plan: Plan) -> bool:
        return self.clock.now % self._timestep_ns == 0 and super()._run_functions(plan)
