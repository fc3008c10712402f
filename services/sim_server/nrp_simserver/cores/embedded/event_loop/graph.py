"""A computational graph: nodes linked by what they pass on, each run after those that it reads from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from nrp_simserver.cores import MessageBroker
from nrp_simserver.cores.embedded.cache import Cache, Clock
from nrp_simserver.cores.embedded.callables import line_of, misfit, place
from nrp_simserver.cores.embedded.datapacks import DataPack
from nrp_simserver.cores.embedded.event_loop.nodes import (
    CachePolicy,
    EngineAddress,
    ExecutionPolicy,
    InputEdge,
    Node,
    OutputAddress,
    OutputEdge,
    Time,
    Topic,
)
from nrp_simserver.cores.embedded.event_loop.payloads import content
from nrp_simserver.cores.embedded.event_loop.sources import (
    ClockSource,
    EngineSource,
    IterationSource,
    OutputSource,
    Source,
    TopicSource,
)
from nrp_simserver.cores.embedded.functions import function_error, misuse

logger = logging.getLogger(__name__)

Send = Callable[[str, str, Any], None]
"""Sends data to an engine: (engine, name of the datapack, its content)."""


class Link:
    """The way from a source of messages to one reader of them."""

    __slots__ = ("_keeps", "_seen", "_source")

    def __init__(self, source: Source, policy: CachePolicy) -> None:
        self._source = source
        self._keeps = policy is CachePolicy.KEEP_CACHE
        self._seen = 0

    def has_new(self) -> bool:
        """Whether there is a message that the reader has not taken."""
        return self._source.count != self._seen

    def take(self) -> Any:
        """The last message; None when there was none, or only one that was taken before and is not kept."""
        source = self._source
        is_new = source.count != self._seen
        self._seen = source.count
        return source.message(is_new=is_new) if is_new or (self._keeps and source.count) else None

    def reset(self) -> None:
        """Go back to the beginning, together with the source."""
        self._seen = 0


class RunningNode:
    """A node with its links.

    Args:
        node: as declared.
        links: to what its function's arguments come from, by keyword.
        outputs: where its messages are read from, in the order of its outputs.
        folder: the experiment's folder, to find errors in.
    """

    def __init__(self, node: Node, links: dict[str, Link], outputs: list[OutputSource], folder: Path) -> None:
        self._node = node
        self._links = links
        self._outputs = outputs
        self._folder = folder
        self._always = node.exec_policy is ExecutionPolicy.ALWAYS

    def run(self) -> None:
        """Call the function, if it is to be called in this cycle.

        Raises:
            FunctionFailed: it raised, or returned more or less than its outputs.
        """
        if not (self._always or any(link.has_new() for link in self._links.values())):
            return
        arguments = {keyword: link.take() for keyword, link in self._links.items()}
        try:
            result = self._node.call(**arguments)
        except (Exception, SystemExit) as error:
            raise function_error(self._node, error, self._folder) from error
        if result is None:
            return
        messages = result if isinstance(result, list | tuple) else [result]
        if len(messages) != len(self._outputs):
            raise misuse(self._node, self._miscount(len(messages)))
        for output, message in zip(self._outputs, messages, strict=True):
            if message is not None:
                output.put(message)

    def reset(self) -> None:
        """Go back to the beginning."""
        for link in self._links.values():
            link.reset()
        for output in self._outputs:
            output.reset()

    def _miscount(self, returned: int) -> str:
        names = ", ".join(self._node.outputs) or "none"
        return (
            f"returned {returned} values for its outputs ({names}): a list has one for each of them, a list that is a"
            " message itself goes into another one, None is no message"
        )


class Sink:
    """Where the messages of an output leave the graph.

    Args:
        link: to the output.
        period: they leave in every cycle whose number this divides.
        deliver: takes the last of them.
    """

    def __init__(self, link: Link, period: int, deliver: Callable[[Any], None]) -> None:
        self.link = link
        self._period = period
        self._deliver = deliver

    def flush(self, cycle: int) -> None:
        """Let go of the last message, if there is one to be delivered in this cycle."""
        if cycle % self._period == 0:
            message = self.link.take()
            if message is not None:
                self._deliver(message)


class ComputationalGraph:
    """Nodes, and what they are linked to.

    Args:
        nodes: as declared.
        engines: the names of all engines.
        send: sends data to one of them.
        cache: the datapacks that were fetched from them.
        clock: the loop's.
        whole_milliseconds: whether all times of the loop are such.
        by_reference: whether nodes get the cached datapacks themselves instead of views of their own.
        folder: the experiment's folder, to find errors in.

    Raises:
        FunctionFailed: a node is linked to what does not exist or to itself, perhaps through others, or its function
            cannot be called with its inputs.
    """

    def __init__(
        self,
        nodes: list[Node],
        *,
        engines: Collection[str],
        send: Send,
        cache: Cache,
        clock: Clock,
        whole_milliseconds: bool,
        by_reference: bool,
        folder: Path,
    ) -> None:
        self._engines = engines
        self._send = send
        self._cache = cache
        self._by_reference = by_reference
        self._times: dict[Time, Source] = {
            Time.CLOCK: ClockSource(clock, whole=whole_milliseconds),
            Time.ITERATION: IterationSource(),
        }
        self._datapacks: dict[EngineAddress, Source] = {}
        self._topics: list[TopicSource] = []
        self._broker: MessageBroker | None = None
        self._cycle = 0
        nodes_by_name = _by_name(nodes)
        self._outputs = {
            name: {output: OutputSource() for output in node.outputs} for name, node in nodes_by_name.items()
        }
        links = {node: self._links(node) for node in nodes}
        self._running = [
            RunningNode(node, links[node], list(self._outputs[node.name].values()), folder)
            for node in _in_order(nodes_by_name)
        ]
        self._sinks = [self._sink(node, edge) for node in nodes for edge in node.outgoing]
        self._polled: list[Source] = [*self._times.values(), *self._datapacks.values(), *self._topics]
        self._publishes = any(isinstance(edge.target, Topic) for node in nodes for edge in node.outgoing)

    @property
    def has_topics(self) -> bool:
        """Whether nodes are linked to MQTT topics, so that `connect` has to be called before the first cycle."""
        return self._publishes or bool(self._topics)

    def requested(self, engine: str) -> list[str]:
        """The names of the datapacks that nodes read from an engine."""
        return [address.datapack for address in self._datapacks if address.engine == engine]

    def connect(self, broker: MessageBroker) -> None:
        """Subscribe to the topics of the nodes, and publish there from now on."""
        self._broker = broker
        self._subscribe(broker)

    def close(self) -> None:
        """Undo `connect`."""
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.close()

    def compute(self) -> None:
        """Run one cycle: take in messages, run the nodes, let messages out.

        Raises:
            FunctionFailed: a function raised, or its output cannot be delivered.
        """
        for source in self._polled:
            source.poll()
        for node in self._running:
            node.run()
        for sink in self._sinks:
            sink.flush(self._cycle)
        self._cycle += 1

    def reset(self) -> None:
        """Go back to the beginning. Of what was published to the nodes only what the broker retains comes again."""
        for source in self._polled:
            source.reset()
        for node in self._running:
            node.reset()
        for sink in self._sinks:
            sink.link.reset()
        self._cycle = 0
        if self._broker is not None:
            self._subscribe(self._broker)

    # -- links ---------------------------------------------------------------------------------------------------------

    def _links(self, node: Node) -> dict[str, Link]:
        fault = misfit(node.call, **{edge.keyword: None for edge in node.inputs})
        if fault:
            raise misuse(node, f"cannot be called with its inputs: {fault}")
        if not node.inputs and node.exec_policy is not ExecutionPolicy.ALWAYS:
            logger.warning(
                "%s: functional node %r has no inputs and will not run; its exec_policy would have to be always",
                node.file,
                node.name,
            )
        return {edge.keyword: Link(self._source(node, edge), edge.cache_policy) for edge in node.inputs}

    def _source(self, node: Node, edge: InputEdge) -> Source:
        match edge.origin:
            case Time() as time:
                return self._times[time]
            case EngineAddress() as address:
                self._check_engine(node, "reads from", address)
                if address not in self._datapacks:
                    entry = self._cache.entry(address.datapack, address.engine)
                    self._datapacks[address] = EngineSource(entry, by_reference=self._by_reference)
                return self._datapacks[address]
            case OutputAddress() as address:
                return self._output(node, address)
            case Topic() as topic:
                source = TopicSource(topic)
                self._topics.append(source)
                return source

    def _output(self, reader: Node, address: OutputAddress) -> OutputSource:
        outputs = self._outputs.get(address.node)
        if outputs is None:
            raise misuse(
                reader,
                f"reads from functional node {address.node!r}, which does not exist"
                f" (functional nodes are: {', '.join(self._outputs)})",
            )
        if address.output not in outputs:
            raise misuse(
                reader,
                f"reads output {address.output!r} of functional node {address.node!r}, which does not exist"
                f" (its outputs are: {', '.join(outputs) or 'none'})",
            )
        return outputs[address.output]

    def _sink(self, node: Node, edge: OutputEdge) -> Sink:
        link = Link(self._outputs[node.name][edge.output], edge.cache_policy)
        match edge.target:
            case EngineAddress() as address:
                self._check_engine(node, "sends to", address)
                return Sink(link, edge.compute_period, partial(self._send_to_engine, node, address))
            case Topic() as topic:
                return Sink(link, edge.compute_period, partial(self._publish, node, topic))

    def _check_engine(self, node: Node, verb: str, address: EngineAddress) -> None:
        if address.engine not in self._engines:
            raise misuse(
                node,
                f"{verb} engine {address.engine!r}, which does not exist"
                f" (engines are: {', '.join(self._engines) or 'none'})",
            )

    # -- deliveries ----------------------------------------------------------------------------------------------------

    def _send_to_engine(self, node: Node, address: EngineAddress, message: Any) -> None:
        engine, name = address
        datapacks = message if isinstance(message, list | tuple) else [message]
        try:
            if all(isinstance(datapack, DataPack) for datapack in datapacks) and (datapacks or not name):
                for datapack in datapacks:
                    self._check_datapack(node, address, datapack)
                    self._send(engine, datapack.name, datapack.sent())
            elif name:
                self._send(engine, name, content(message))
            else:
                raise TypeError(
                    f"it has to be a datapack or a list of datapacks, unless the address names one"
                    f" ('/{engine}/datapack'), and is {type(message).__name__}"
                )
        except (TypeError, RuntimeError) as error:
            raise misuse(node, f"returned what cannot be sent to engine {engine!r}: {error}") from error

    def _check_datapack(self, node: Node, address: EngineAddress, datapack: DataPack) -> None:
        if datapack.engine_name != address.engine or address.datapack not in ("", datapack.name):
            raise misuse(
                node,
                f"returned datapack {datapack.name!r} of engine {datapack.engine_name!r} for an output that goes to"
                f" '/{'/'.join(filter(None, address))}'",
            )

    def _publish(self, node: Node, topic: Topic, message: Any) -> None:
        try:
            payload = topic.payload.bytes_of(message)
        except (TypeError, RuntimeError) as error:
            raise misuse(node, f"returned what cannot be published on topic {topic.name!r}: {error}") from error
        assert self._broker is not None
        self._broker.publish(topic.name, payload)

    def _subscribe(self, broker: MessageBroker) -> None:
        takers: dict[str, list[Callable[[bytes], None]]] = {}
        for source in self._topics:
            takers.setdefault(source.topic.name, []).append(source.take)
        broker.subscribe({topic: partial(_hand_out, taking) for topic, taking in takers.items()})


def _hand_out(takers: list[Callable[[bytes], None]], payload: bytes) -> None:
    for take in takers:
        take(payload)


def _by_name(nodes: list[Node]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for node in nodes:
        other = found.setdefault(node.name, node)
        if other is not node:
            raise misuse(node, f"has the name of another one, in {place(other.file, line_of(other.call, other.file))}")
    return found


def _in_order(nodes: Mapping[str, Node]) -> list[Node]:
    """Each node after those that it reads from."""
    read = {
        name: [edge.origin.node for edge in node.inputs if isinstance(edge.origin, OutputAddress)]
        for name, node in nodes.items()
    }
    try:
        return [nodes[name] for name in TopologicalSorter(read).static_order()]
    except CycleError as error:
        circle: list[str] = error.args[1]
        raise misuse(nodes[circle[0]], f"reads what depends on itself: {' -> '.join(circle)}") from None
