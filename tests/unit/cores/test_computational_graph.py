"""Computational graphs in the FTI loop: which node runs when, what it gets, where its messages go, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from nrp_common.errors import EngineFailed, FunctionFailed
from nrp_simserver.cores.error_place import locate
from tests.unit.cores.experiment import Experiment, forward, seen

FORWARD = """
@FromEngine(keyword="given", address="/{source}/out")
@ToEngine(keyword="sent", address="/{target}")
@FunctionalNode(name="forward", outputs=["sent"])
def forward(given):
    out = JsonDataPack("inbox", "{target}")
    out.data["steps"] = given.data["steps"]
    return [out]
"""


def node(body: str, *, inputs: str = '@Iteration(keyword="i")', arguments: str = "i", name: str = "a") -> str:
    """A node whose outputs are x and y; by default it runs in every cycle and knows its number."""
    return f"""
{inputs}
@FunctionalNode(name="{name}", outputs=["x", "y"])
def {name}({arguments}):
    {body}
"""


TELL = """
@FromFunctionalNode(keyword="x", address="/a/x"{policy})
@FunctionalNode(name="tell", exec_policy=node_policies_functional_node.{exec_policy})
def tell(x):
    seen.append(x)
"""


def tell(policy: str = "", exec_policy: str = "on_new_input") -> str:
    """A node that tells output x of node a."""
    return TELL.format(policy=policy, exec_policy=exec_policy)


def run(experiment: Experiment, source: str, cycles: int = 1, **fields: Any) -> list[Any]:
    """What the nodes of a graph told in so many cycles; with an engine whose steps are not looked at."""
    core = experiment.engine("e").graph(source).started(**fields)
    core.run_loop(cycles)
    core.shutdown()
    return [told for told in seen if not (isinstance(told, tuple) and told[0] == "e")]


# -- in place of transceiver functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("timesteps", [(0.01, 0.01), (0.01, 0.03), (0.03, 0.01), (0.01, 0.015)], ids=str)
def test_a_graph_delivers_as_transceiver_functions_do(timesteps: tuple[float, float], experiment: Experiment) -> None:
    source, target = timesteps
    experiment.engine("a", timestep=source).engine("b", timestep=target)
    told = []
    for core in (
        experiment.function("f", forward("a", "b", linked="a")).started(),
        experiment.graph(FORWARD.format(source="a", target="b")).started(),
    ):
        seen.clear()
        core.run_loop(12)
        core.shutdown()
        told.append(list(seen))
    functions, graph = told
    assert graph == functions
    assert any(inbox for _, _, inbox in graph)


def test_what_a_node_returns_at_t_is_read_in_the_step_that_starts_at_t(experiment: Experiment) -> None:
    core = experiment.engine("a").engine("b").graph(FORWARD.format(source="a", target="b")).started()
    core.run_loop(3)
    assert [inbox for name, _, inbox in seen if name == "b"] == [{"steps": 0}, {"steps": 1}, {"steps": 2}]


def test_the_observations_are_the_datapacks_that_nodes_read(experiment: Experiment) -> None:
    core = experiment.engine("a").engine("b").graph(FORWARD.format(source="a", target="b")).core()
    assert core.initialize() == [{"steps": 0}]
    core.run_loop()
    assert core.reset() == [{"steps": 1}]


def test_a_status_function_runs_after_the_graph_and_shares_its_globals(experiment: Experiment) -> None:
    status = """
    @EngineDataPack(keyword="out", id=DataPackIdentifier("out", "e"))
    @StatusFunction()
    def status(out):
        data = JsonRawData()
        data.data["counted"] = counted
        return out.data["steps"] == 2, [data]
    """
    experiment.status(status).engine("e")
    experiment.graph("counted = 0\n" + node("global counted; counted += 1"))
    done, trajectory = experiment.started().run_loop(3)
    assert done
    assert trajectory == [{"counted": 1}, {"counted": 2}, {"counted": 3}]


def test_the_files_of_a_graph_share_one_set_of_globals(experiment: Experiment) -> None:
    experiment.engine("e").graph("shared = 7\n" + node("return i, shared"), "first")
    experiment.graph(tell().replace("seen.append(x)", "seen.append((x, shared))"), "second").started().run_loop()
    assert (0, 7) in seen


def test_functions_that_a_graph_takes_the_place_of_do_not_run(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    experiment.function("f", "raise SystemExit('loaded')\n")
    assert run(experiment, node("seen.append(i)")) == [0]
    assert "DataPackProcessingFunctions has no effect: the ComputationalGraph takes its place" in caplog.text


def test_a_graph_links_engines_in_processes_of_their_own(experiment: Experiment) -> None:
    look = """
    @FromEngine(keyword="back", address="/b/inbox")
    @FunctionalNode(name="look")
    def look(back):
        seen.append(back.data.json_type() == "object" and back.data["steps"])
    """
    for name in ("a", "b"):
        experiment.engine(name, EngineExtraConfigs={"OwnProcess": True})
    core = experiment.graph(FORWARD.format(source="a", target="b")).graph(look, "look").started()
    core.run_loop(4)
    core.shutdown()
    assert seen == [False, 0, 1, 2]


def test_messages_of_protobuf_engines_reach_nodes_and_engines(experiment: Experiment) -> None:
    engine = """
    class Script(GrpcEngineScript):
        def initialize(self):
            self._registerDataPack("number", wrappers_pb2.DoubleValue)
            self._setDataPack("number", wrappers_pb2.DoubleValue(value=1.5))

        def runLoop(self, timestep_ns):
            seen.append(self._getDataPack("number").value)
    """
    graph = """
    @FromEngine("number", "/g/number")
    @ToEngine("twice", "/g/number")
    @FunctionalNode("twice", ["twice"])
    def twice(number):
        number.data.value *= 2
        return [number.data]
    """
    experiment.grpc_engine("g", engine).graph(graph).started().run_loop(2)
    assert seen == [3.0, 6.0]


# -- which node runs when ----------------------------------------------------------------------------------------------


def test_nodes_run_after_those_they_read_from_in_whatever_order_they_are_declared(experiment: Experiment) -> None:
    last = """
    @FromFunctionalNode(keyword="x", address="/b/x")
    @FromFunctionalNode(keyword="y", address="/a/y")
    @FunctionalNode(name="c")
    def c(x, y):
        seen.append((x, y))
    """
    middle = node(
        "return x + 'b', None", inputs='@FromFunctionalNode(keyword="x", address="/a/x")', arguments="x", name="b"
    )
    experiment.graph(last, "1").graph(middle, "2")
    assert run(experiment, node("return f'x{i}', f'y{i}'"), 2) == [("x0b", "y0"), ("x1b", "y1")]


def test_a_node_runs_when_an_input_is_new(experiment: Experiment) -> None:
    experiment.engine("slow", timestep=0.03)
    source = """
    @FromEngine(keyword="given", address="/slow/out")
    @FunctionalNode(name="look")
    def look(given):
        seen.append((given.data["steps"], given.isUpdated()))
    """
    assert [told for told in run(experiment, source, 7) if told[0] != "slow"] == [(0, True), (1, True), (2, True)]


def test_a_node_that_always_runs_gets_what_was_last(experiment: Experiment) -> None:
    experiment.engine("slow", timestep=0.03)
    source = """
    @FromEngine(keyword="given", address="/slow/out")
    @FunctionalNode(name="look", exec_policy=node_policies_functional_node.always)
    def look(given):
        seen.append((given.data["steps"], given.isUpdated()))
    """
    told = [told for told in run(experiment, source, 5) if told[0] != "slow"]
    assert told == [(0, True), (0, False), (0, False), (1, True), (1, False)]


@pytest.mark.parametrize("nothing", ["return None", "return None, 5", "pass"])
def test_no_message_on_an_output_runs_nobody(nothing: str, experiment: Experiment) -> None:
    assert run(experiment, node(nothing) + tell(), 3) == []


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [None, 1, 1, 3, 3]),
        (", cache_policy=node_policies_input_node.keep_cache", [None, 1, 1, 3, 3]),
        (", cache_policy=node_policies_ns.input_node.clear_cache", [None, 1, None, 3, None]),
        (", cache_policy='clear_cache'", [None, 1, None, 3, None]),
    ],
)
def test_a_message_stays_or_is_gone_as_its_cache_policy_says(
    policy: str, expected: list[int | None], experiment: Experiment
) -> None:
    assert run(experiment, node("return (i, 0) if i % 2 else None") + tell(policy, "always"), 5) == expected


def test_a_node_without_inputs_runs_when_it_is_told_to(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
    @FunctionalNode(name="always", outputs=[], exec_policy=node_policies_ns.functional_node.always)
    def always():
        seen.append("always")

    @FunctionalNode(name="idle", outputs=[])
    def idle():
        seen.append("idle")
    """
    assert run(experiment, source, 2) == ["always", "always"]
    assert "graph.py: functional node 'idle' has no inputs and will not run" in caplog.text


# -- what a node gets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timestep", "expected"), [(0.01, [0, 10, 20]), (0.0005, [0.0, 0.5, 1.0])], ids=["whole", "fractions"]
)
def test_the_clock_is_in_milliseconds(timestep: float, expected: list[float], experiment: Experiment) -> None:
    experiment.engine("f", timestep=timestep, source="class Script(EngineScript):\n    def runLoop(self, t): pass\n")
    source = node("seen.append(clock)", inputs='@Clock(keyword="clock")', arguments="clock")
    core = experiment.graph(source).started()
    core.run_loop(3)
    assert seen == expected
    assert {type(told) for told in seen} == {type(expected[0])}


def test_iterations_are_counted_from_0(experiment: Experiment) -> None:
    assert run(experiment, node("seen.append(i)"), 3) == [0, 1, 2]


CHANGE = """
@FromEngine(keyword="given", address="/e/out")
@FunctionalNode(name="{name}")
def {name}(given):
    given.data["steps"] += 10
    seen.append(given.data["steps"])
"""


@pytest.mark.parametrize(("passing", "expected"), [("value", [10, 10]), ("reference", [10, 20])])
def test_nodes_get_datapacks_of_their_own_unless_by_reference(
    passing: str, expected: list[int], experiment: Experiment
) -> None:
    source = CHANGE.format(name="a") + CHANGE.format(name="b")
    assert run(experiment, source, FunctionArgumentsPassingMethod=passing) == expected


def test_what_nodes_hand_each_other_is_not_copied(experiment: Experiment) -> None:
    source = "thing = object()\n" + node("return thing, None") + tell().replace("append(x)", "append(x is thing)")
    assert run(experiment, source) == [True]


# -- what a node returns -----------------------------------------------------------------------------------------------


TELL_BOTH = """
@FromFunctionalNode(keyword="y", address="/a/y")
@FromFunctionalNode(keyword="x", address="/a/x")
@FunctionalNode(name="both")
def both(x, y):
    seen.append((x, y))
"""


@pytest.mark.parametrize("returned", ["1, 2", "[1, 2]"])
def test_outputs_are_returned_in_order(returned: str, experiment: Experiment) -> None:
    assert run(experiment, node(f"return {returned}") + TELL_BOTH) == [(1, 2)]


ONE = """
@Iteration("i")
@FunctionalNode("a", ["x"])
def a(i):
    return {returned}
"""


@pytest.mark.parametrize(("returned", "message"), [("5", 5), ("[5]", 5), ("[[5, 6]]", [5, 6]), ("{'k': 1}", {"k": 1})])
def test_a_single_output_is_returned_by_itself_or_in_a_list(
    returned: str, message: object, experiment: Experiment
) -> None:
    assert run(experiment, ONE.format(returned=returned) + tell()) == [message]


TO_INBOX = """
@Iteration("i")
@ToEngine("x", "{address}"{policy})
@FunctionalNode("a", ["x"])
def a(i):
    {body}
"""


def inboxes(
    experiment: Experiment, body: str, cycles: int = 1, address: str = "/e/inbox", policy: str = ""
) -> list[Any]:
    """What engine `e` has in its inbox in each step, of what a node returns."""
    run(experiment, TO_INBOX.format(body=body, address=address, policy=policy), cycles)
    return [inbox for _, _, inbox in seen]


@pytest.mark.parametrize(
    ("returned", "delivered"),
    [
        ("{'k': i}", {"k": 0}),
        ("[[1, 2]]", [1, 2]),
        ("[[]]", []),
        ("NlohmannJson({'k': [i]})", {"k": [0]}),
        ("float('nan')", None),
        ("JsonDataPack('inbox', 'e')", None),
    ],
)
def test_to_a_named_datapack_goes_whatever_has_a_json_form(
    returned: str, delivered: object, experiment: Experiment
) -> None:
    assert inboxes(experiment, f"return {returned}") == [delivered]


def test_an_output_may_be_several_datapacks_or_none(experiment: Experiment) -> None:
    body = "d = JsonDataPack('inbox', 'e'); d.data['i'] = i; return [[d]] if i else [[]]"
    assert inboxes(experiment, body, 2, address="/e") == [None, {"i": 1}]


def test_what_was_returned_may_be_changed_afterwards(experiment: Experiment) -> None:
    body = "data.append(i); return [data]"
    source = "data = []\n" + TO_INBOX.format(body=body, address="/e/inbox", policy="")
    run(experiment, source, 2)
    assert [inbox for _, _, inbox in seen] == [[0], [0, 1]]


EVERY_STEP = """
class Script(EngineScript):
    def initialize(self):
        self._registerDataPack("inbox")

    def runLoop(self, timestep_ns):
        seen.append(self._getDataPack("inbox"))
        self._setDataPack("inbox", None)
"""


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [0, None, None, 3, None]),
        (", cache_policy=node_policies_output_node.keep_cache", [0, 0, 0, 3, 3]),
        (", compute_period=2", [0, None, None, None, 3]),
    ],
)
def test_messages_leave_as_policy_and_period_of_the_output_say(
    policy: str, expected: list[int | None], experiment: Experiment
) -> None:
    body = "return None if i % 3 else {'i': i}"
    graph = TO_INBOX.format(body=body, address="/f/inbox", policy=policy)
    experiment.engine("f", EVERY_STEP).graph(graph).started().run_loop(5)
    assert [inbox and inbox["i"] for inbox in seen] == expected


# -- reset -------------------------------------------------------------------------------------------------------------


def test_after_a_reset_nothing_is_left_of_what_nodes_had_seen(experiment: Experiment) -> None:
    source = node("return (i, 0) if i == 1 else None") + tell(exec_policy="always")
    core = experiment.engine("e").graph(source).started()
    core.run_loop(3)
    core.reset()
    core.run_loop(3)
    assert [told for told in seen if not isinstance(told, tuple)] == [None, 1, 1, None, 1, 1]


def test_a_graph_can_be_loaded_again_after_a_shutdown(experiment: Experiment) -> None:
    core = experiment.engine("e").graph(node("seen.append(i)")).started()
    core.shutdown()
    core.initialize()
    core.run_loop()
    assert 0 in seen


# -- what is refused ---------------------------------------------------------------------------------------------------

KNOWN = node("return i, i")


def fails_to_load(experiment: Experiment, source: str) -> FunctionFailed:
    """The error with which an experiment of an engine `e` and this graph does not initialise."""
    core = experiment.engine("e").graph(source).core()
    with pytest.raises(FunctionFailed) as failure:
        core.initialize()
    core.shutdown()
    return failure.value


def b(inputs: str, arguments: str = "x", outputs: str = "['z']") -> str:
    return f"{inputs}\n@FunctionalNode('b', {outputs})\ndef b({arguments}): pass\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            b("@FromFunctionalNode('x', '/n/x')"),
            "'b' reads from functional node 'n', which does not exist (functional nodes are: a, b)",
        ),
        (
            b("@FromFunctionalNode('x', '/a/z')"),
            "functional node 'b' reads output 'z' of functional node 'a', which does not exist (its outputs are: x, y)",
        ),
        (b("@FromEngine('x', '/n/out')"), "'b' reads from engine 'n', which does not exist (engines are: e)"),
        (b("@Clock('x')\n@ToEngine('z', '/n')"), "'b' sends to engine 'n', which does not exist (engines are: e)"),
        (b("@FromFunctionalNode('x', '/b/z')"), "'b' reads what depends on itself: b -> b"),
        (b("@Clock('x')", "y"), "'b' cannot be called with its inputs: missing a required argument: 'y'"),
        (b("@Clock('x')").replace("'b'", "'a'"), "'a' has the name of another one, in graph.py (Line 6)"),
        (
            "@TransceiverFunction('e')\ndef f(): pass\n",
            "(Line 10): function 'f' is none of a computational graph, whose functions are declared as @FunctionalNode",
        ),
    ],
)
def test_a_wrong_graph_is_refused_with_file_node_and_what_there_is(
    source: str, message: str, experiment: Experiment
) -> None:
    failure = fails_to_load(experiment, KNOWN + source)
    assert message in str(failure)
    assert str(failure).startswith("graph.py (Line ")
    assert failure.file == "graph.py"
    assert failure.line >= 6


def test_a_circle_of_nodes_is_refused_and_told(experiment: Experiment) -> None:
    nodes = "".join(
        node("pass", name=name, inputs=f"@FromFunctionalNode('i', '/{other}/x')")
        for name, other in [("a", "b"), ("b", "c"), ("c", "a")]
    )
    message = str(fails_to_load(experiment, nodes))
    assert message.rsplit(": ", maxsplit=1)[-1] in ("a -> c -> b -> a", "b -> a -> c -> b", "c -> b -> a -> c")


@pytest.mark.parametrize(
    ("decorators", "message"),
    [
        ("@FromEngine('x', '/e')", "ValueError in graph.py (Line 5): FromEngine: address has to be '/engine/datapack'"),
        ("@FromEngine('x', '')", "FromEngine: address has to be '/engine/datapack', it is ''"),
        ("@FromFunctionalNode('x', '/a/')", "FromFunctionalNode: address has to be '/node/output', it is '/a/'"),
        ("@ToEngine('z', '/')", "ToEngine: address has to be '/engine', it is '/'"),
        ("@ToEngine('q', '/e')", "ToEngine: there is no output 'q'; outputs of 'b' are: z"),
        ("@ToEngine('z', '/e', compute_period=0)", "compute_period has to be a number of cycles from 1, it is 0"),
        ("@Clock('x')\n@Iteration('x')", "two inputs have the keyword 'x'"),
        ("@Clock(3)", "Clock: keyword has to be text, it is int"),
        ("@FromEngine('x', '/e/out', cache_policy='forget')", "cache_policy has to be one of keep_cache, clear_cache"),
        ("@FromEngine('x', '/e/out', policy=1)", "unexpected keyword argument 'policy'"),
        ("@FromMQTT('x', 'a/#')", "FromMQTT: address has to be one topic, without '+' and '#', it is 'a/#'"),
        ("@FromMQTT('x', 'a', type=int)", "FromMQTT: type has to be JsonDataPack, JsonRawData, NlohmannJson, str"),
        ("@FromMQTT('x', 'a', publish_policy='some')", "publish_policy has to be one of last, all, it is 'some'"),
        ("@RosSubscriber('x', '/a', int)", "@RosSubscriber needs ROS, which the embedded core does not have"),
        ("@RosPublisher(keyword='z', address='/a', type=int)", "@RosPublisher needs ROS"),
        ("@FromSpinnaker('x', 'a')", "@FromSpinnaker needs SpiNNaker"),
        ("@EngineDataPack('x', DataPackIdentifier('out', 'e'))", "decorators of inputs go above @TransceiverFunction"),
        ("@FunctionalNode('c')", "@FunctionalNode decorates a plain function and goes below all other decorators"),
        ("@FunctionalNode", "FunctionalNode: name has to be text, it is Node"),
    ],
)
def test_decorators_used_wrongly_say_how_they_are_used(decorators: str, message: str, experiment: Experiment) -> None:
    assert message in str(fails_to_load(experiment, b(decorators)))


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("@FunctionalNode('b', 'z')", "outputs has to be a list of names, it is 'z'"),
        ("@FunctionalNode('b', ['z', 'z'])", "output 'z' is given twice"),
        ("@FunctionalNode('b', [], 'never')", "exec_policy has to be one of on_new_input, always, it is 'never'"),
        ("@Clock('x')", "@Clock goes above @FunctionalNode"),
    ],
)
def test_nodes_declared_wrongly_say_how_they_are_declared(
    declaration: str, message: str, experiment: Experiment
) -> None:
    assert message in str(fails_to_load(experiment, f"{declaration}\ndef b(x): pass\n"))


def test_a_graph_without_nodes_is_refused(experiment: Experiment) -> None:
    assert str(fails_to_load(experiment, "x = 1\n")) == "graph.py: no function is decorated with @FunctionalNode"


def test_a_node_is_no_transceiver_function(experiment: Experiment) -> None:
    core = experiment.engine("e").status("from nrp_core.event_loop import *\n" + KNOWN).graph(KNOWN).core()
    with pytest.raises(FunctionFailed, match=r"status\.py defines no function decorated with"):
        core.initialize()


def test_messages_of_ros_are_refused_by_name(experiment: Experiment) -> None:
    message = str(fails_to_load(experiment, "from nrp_core.data.nrp_ros.geometry_msgs import Twist\n"))
    assert message.startswith("ImportError in graph.py (Line 5): messages of ROS need ROS")


def test_a_datapack_that_the_engine_does_not_have_is_an_error_at_launch(experiment: Experiment) -> None:
    core = experiment.engine("e").graph(b("@FromEngine('x', '/e/none')")).core()
    with pytest.raises(EngineFailed, match="a function asks for datapack 'none'"):
        core.initialize()


# -- what goes wrong while it runs -------------------------------------------------------------------------------------


def test_a_node_that_raises_names_file_line_and_text(experiment: Experiment) -> None:
    experiment.file("deeper.py", "def divide(i):\n    return 1 / i\n")
    core = experiment.engine("e").graph(node("import deeper; return deeper.divide(i), 0")).started()
    with pytest.raises(
        FunctionFailed, match=r"ZeroDivisionError in deeper\.py \(Line 2\): division by zero"
    ) as failure:
        core.run_loop()
    assert locate(failure.value, experiment.folder).text == "return 1 / i"
    assert core.current_state() == "Failed"


@pytest.mark.parametrize("returned", ["5", "[5]", "5, 6, 7", "[]"])
def test_returning_more_or_less_than_the_outputs_is_an_error(returned: str, experiment: Experiment) -> None:
    with pytest.raises(FunctionFailed) as failure:
        run(experiment, node(f"return {returned}"))
    assert "graph.py (Line 6): functional node 'a' returned" in str(failure.value)
    assert "values for its outputs (x, y): a list has one for each of them" in str(failure.value)


@pytest.mark.parametrize(
    ("address", "returned", "message"),
    [
        ("/e", "5", "it has to be a datapack or a list of datapacks, unless the address names one ('/e/datapack')"),
        ("/e", "JsonDataPack('inbox', 'f')", "returned datapack 'inbox' of engine 'f' for an output that goes to '/e'"),
        ("/e/inbox", "JsonDataPack('in', 'e')", "datapack 'in' of engine 'e' for an output that goes to '/e/inbox'"),
        ("/e/inbox", "{'x': object()}", "returned what cannot be sent to engine 'e': Attempted to convert unsupported"),
        ("/e/inbox", "{1: 2}", "returned what cannot be sent to engine 'e'"),
    ],
)
def test_what_cannot_be_sent_to_an_engine_is_told(
    address: str, returned: str, message: str, experiment: Experiment
) -> None:
    with pytest.raises(FunctionFailed) as failure:
        inboxes(experiment, f"return {returned}", address=address)
    assert message in str(failure.value)
    assert failure.value.file == "graph.py"
