"""The nodes of a computational graph, as the experiment's files declare them.

    @FromEngine(keyword="camera", address="/robot/camera")
    @ToEngine(keyword="command", address="/robot")
    @FunctionalNode(name="look", outputs=["command"])
    def look(camera): ...

A decorated function becomes a `Node`. What it is connected to, the decorators above say: each is an edge to it, or
from one of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar

from nrp_simserver.cores.embedded.datapacks import JsonDataPack
from nrp_simserver.cores.embedded.event_loop.payloads import PayloadType
from nrp_simserver.cores.embedded.functions import Declared, declare, expect_text

PolicyT = TypeVar("PolicyT", bound=Enum)


class ExecutionPolicy(Enum):
    """When a node's function is called: in cycles in which an input has got a message, or in every cycle."""

    ON_NEW_INPUT = "on_new_input"
    ALWAYS = "always"


class CachePolicy(Enum):
    """What becomes of a message after the cycle in which it came: it stays until the next one comes, or is gone."""

    KEEP_CACHE = "keep_cache"
    CLEAR_CACHE = "clear_cache"


class PublishPolicy(Enum):
    """What an input is of the messages that came since the cycle before: the last one, or a list of all."""

    LAST = "last"
    ALL = "all"


class Time(Enum):
    """What tells a node the time."""

    CLOCK = "clock"
    ITERATION = "iteration"


class EngineAddress(NamedTuple):
    """A datapack of an engine; for an output the datapack may be "", then the messages say which they are."""

    engine: str
    datapack: str


class OutputAddress(NamedTuple):
    """An output of another node."""

    node: str
    output: str


@dataclass(frozen=True)
class Topic:
    """An MQTT topic.

    Attributes:
        name: the whole of it.
        payload: what its messages are.
        publish_policy: of a subscription.
    """

    name: str
    payload: PayloadType
    publish_policy: PublishPolicy = PublishPolicy.LAST


@dataclass(frozen=True)
class InputEdge:
    """Where the argument `keyword` of a node's function comes from."""

    keyword: str
    origin: EngineAddress | OutputAddress | Topic | Time
    cache_policy: CachePolicy


@dataclass(frozen=True)
class OutputEdge:
    """Where the messages of an output go.

    Attributes:
        output: its name.
        target: where they go.
        cache_policy: whether the last message goes there again while there is no new one.
        compute_period: they go there in every cycle whose number this divides.
    """

    output: str
    target: EngineAddress | Topic
    cache_policy: CachePolicy
    compute_period: int


@dataclass(eq=False)
class Node(Declared):
    """A functional node.

    Attributes:
        outputs: the names of what its function returns, in order.
        exec_policy: when its function is called.
        inputs: the edges to it.
        outgoing: the edges from it that lead out of the graph.
    """

    outputs: tuple[str, ...]
    exec_policy: ExecutionPolicy
    inputs: list[InputEdge] = field(default_factory=list)
    outgoing: list[OutputEdge] = field(default_factory=list)

    what: ClassVar[str] = "functional node"


class node_policies_functional_node:  # noqa: N801  nrp-core's name
    """The values of a functional node's `exec_policy`."""

    on_new_input = ExecutionPolicy.ON_NEW_INPUT
    always = ExecutionPolicy.ALWAYS


class node_policies_input_node:  # noqa: N801  nrp-core's name
    """The values of an input's `cache_policy` and `publish_policy`."""

    keep_cache = CachePolicy.KEEP_CACHE
    clear_cache = CachePolicy.CLEAR_CACHE
    last = PublishPolicy.LAST
    all = PublishPolicy.ALL


class node_policies_output_node:  # noqa: N801  nrp-core's name
    """The values of an output's `cache_policy`."""

    keep_cache = CachePolicy.KEEP_CACHE
    clear_cache = CachePolicy.CLEAR_CACHE


class node_policies_ns:  # noqa: N801  nrp-core's name
    """All policies."""

    functional_node = node_policies_functional_node
    input_node = node_policies_input_node
    output_node = node_policies_output_node


def FunctionalNode(  # noqa: N802  nrp-core's name
    name: str, outputs: Sequence[str] = (), exec_policy: ExecutionPolicy | str = ExecutionPolicy.ON_NEW_INPUT
) -> Callable[[Any], Node]:
    """Declare a node whose function returns one message for each of its outputs, in a list when there are several.

    None instead of a message, or of all, stands for no message.
    """
    expect_text("FunctionalNode", "name", name)
    if isinstance(outputs, str) or not all(isinstance(output, str) for output in outputs):
        raise TypeError(f"FunctionalNode: outputs has to be a list of names, it is {outputs!r}")
    twice = next((output for output in outputs if list(outputs).count(output) > 1), None)
    if twice is not None:
        raise ValueError(f"FunctionalNode: output {twice!r} is given twice")
    policy = _policy("FunctionalNode", "exec_policy", ExecutionPolicy, exec_policy)
    return lambda call: declare(Node(call, tuple(outputs), policy, name=name), "@FunctionalNode")


# -- inputs ------------------------------------------------------------------------------------------------------------


def FromEngine(  # noqa: N802  nrp-core's name
    keyword: str, address: str, cache_policy: CachePolicy | str = CachePolicy.KEEP_CACHE
) -> Callable[[Any], Node]:
    """Pass a datapack of an engine, "/engine/datapack", as the argument `keyword`."""
    return _input(
        "FromEngine", keyword, EngineAddress(*_two_names("FromEngine", address, "/engine/datapack")), cache_policy
    )


def FromFunctionalNode(  # noqa: N802  nrp-core's name
    keyword: str, address: str, cache_policy: CachePolicy | str = CachePolicy.KEEP_CACHE
) -> Callable[[Any], Node]:
    """Pass what another node returned for one of its outputs, "/node/output", as the argument `keyword`."""
    names = _two_names("FromFunctionalNode", address, "/node/output")
    return _input("FromFunctionalNode", keyword, OutputAddress(*names), cache_policy)


def FromMQTT(  # noqa: N802
    keyword: str,
    address: str,
    type: Any = JsonDataPack,  # noqa: A002  nrp-core's name
    cache_policy: CachePolicy | str = CachePolicy.KEEP_CACHE,
    publish_policy: PublishPolicy | str = PublishPolicy.LAST,
) -> Callable[[Any], Node]:
    """Pass what is published on a topic as the argument `keyword`."""
    policy = _policy("FromMQTT", "publish_policy", PublishPolicy, publish_policy)
    return _input("FromMQTT", keyword, _topic("FromMQTT", address, type, policy), cache_policy)


def Clock(keyword: str = "clock") -> Callable[[Any], Node]:  # noqa: N802  nrp-core's name
    """Pass the simulated time in milliseconds as the argument `keyword`."""
    return _input("Clock", keyword, Time.CLOCK)


def Iteration(keyword: str = "iteration") -> Callable[[Any], Node]:  # noqa: N802  nrp-core's name
    """Pass the number of the graph's cycle, counted from 0, as the argument `keyword`."""
    return _input("Iteration", keyword, Time.ITERATION)


# -- outputs -----------------------------------------------------------------------------------------------------------


def ToEngine(  # noqa: N802  nrp-core's name
    keyword: str,
    address: str,
    cache_policy: CachePolicy | str = CachePolicy.CLEAR_CACHE,
    compute_period: int = 1,
) -> Callable[[Any], Node]:
    """Send the messages of the output `keyword`, datapacks or lists of them, to an engine, "/engine".

    To "/engine/datapack" also goes what is no datapack yet: values with a JSON form, and protobuf messages.
    """
    names = _two_names("ToEngine", address, "/engine", second_is_optional=True)
    return _output("ToEngine", keyword, EngineAddress(*names), cache_policy, compute_period)


def ToMQTT(  # noqa: N802
    keyword: str,
    address: str,
    type: Any = JsonDataPack,  # noqa: A002  nrp-core's name
    cache_policy: CachePolicy | str = CachePolicy.CLEAR_CACHE,
    compute_period: int = 1,
) -> Callable[[Any], Node]:
    """Publish the messages of the output `keyword` on a topic."""
    return _output("ToMQTT", keyword, _topic("ToMQTT", address, type), cache_policy, compute_period)


# -- what this core does not have --------------------------------------------------------------------------------------


def _refused(decorator: str, lacking: str) -> Callable[..., NoReturn]:
    def refuse(*_arguments: Any, **_keywords: Any) -> NoReturn:
        raise NotImplementedError(
            f"@{decorator} needs {lacking}, which the embedded core does not have: only the original nrp-core, built"
            " with it, can run this graph (NRP_CORE=nrpcoresim)"
        )

    return refuse


RosSubscriber = _refused("RosSubscriber", "ROS")
RosPublisher = _refused("RosPublisher", "ROS")
FromROS = _refused("FromROS", "ROS")
ToROS = _refused("ToROS", "ROS")
FromSpinnaker = _refused("FromSpinnaker", "SpiNNaker")
ToSpinnaker = _refused("ToSpinnaker", "SpiNNaker")


# -- how an edge is declared -------------------------------------------------------------------------------------------


def _input(
    decorator: str,
    keyword: str,
    origin: EngineAddress | OutputAddress | Topic | Time,
    cache_policy: CachePolicy | str = CachePolicy.KEEP_CACHE,
) -> Callable[[Any], Node]:
    expect_text(decorator, "keyword", keyword)
    edge = InputEdge(keyword, origin, _policy(decorator, "cache_policy", CachePolicy, cache_policy))

    def add(decorated: object) -> Node:
        node = _node(decorator, decorated)
        if any(other.keyword == keyword for other in node.inputs):
            raise ValueError(f"two inputs have the keyword {keyword!r}")
        node.inputs.append(edge)
        return node

    return add


def _output(
    decorator: str, keyword: str, target: EngineAddress | Topic, cache_policy: CachePolicy | str, compute_period: int
) -> Callable[[Any], Node]:
    expect_text(decorator, "keyword", keyword)
    if not (isinstance(compute_period, int) and compute_period >= 1):
        raise ValueError(f"{decorator}: compute_period has to be a number of cycles from 1, it is {compute_period!r}")
    edge = OutputEdge(keyword, target, _policy(decorator, "cache_policy", CachePolicy, cache_policy), compute_period)

    def add(decorated: object) -> Node:
        node = _node(decorator, decorated)
        if keyword not in node.outputs:
            raise ValueError(
                f"{decorator}: there is no output {keyword!r}; outputs of {node.name!r} are:"
                f" {', '.join(node.outputs) or 'none'}"
            )
        node.outgoing.append(edge)
        return node

    return add


def _node(decorator: str, decorated: object) -> Node:
    if not isinstance(decorated, Node):
        raise TypeError(f"@{decorator} goes above @FunctionalNode")
    return decorated


def _two_names(decorator: str, address: str, form: str, *, second_is_optional: bool = False) -> tuple[str, str]:
    expect_text(decorator, "address", address)
    first, slash, second = address.removeprefix("/").partition("/")
    if not first or bool(slash) != bool(second) or not (second or second_is_optional):
        raise ValueError(f"{decorator}: address has to be {form!r}, it is {address!r}")
    return first, second


def _topic(decorator: str, address: str, kind: Any, policy: PublishPolicy = PublishPolicy.LAST) -> Topic:
    expect_text(decorator, "address", address)
    if not address or any(character in address for character in "+#\0"):
        raise ValueError(f"{decorator}: address has to be one topic, without '+' and '#', it is {address!r}")
    return Topic(address, PayloadType.of(kind, decorator), policy)


def _policy(decorator: str, parameter: str, policies: type[PolicyT], given: PolicyT | str) -> PolicyT:
    try:
        return policies(given)
    except ValueError:
        allowed = ", ".join(policy.value for policy in policies)
        raise ValueError(f"{decorator}: {parameter} has to be one of {allowed}, it is {given!r}") from None


MQTTSubscriber = FromMQTT
MQTTPublisher = ToMQTT
