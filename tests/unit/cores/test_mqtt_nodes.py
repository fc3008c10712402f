"""MQTT nodes of a computational graph: what they make of messages, and what they publish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from nrp_common.errors import BusUnavailable, ConfigurationError, FunctionFailed
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.cores.embedded.event_loop.sources import MOST_WAITING
from tests.unit.cores.experiment import Experiment, seen
from tests.unit.cores.message_broker import FakeMessageBroker


@pytest.fixture
def broker() -> FakeMessageBroker:
    return FakeMessageBroker()


HEAR = """
from nrp_core.data.nrp_protobuf import *
from nrp_protobuf.dump_pb2 import String

@FromMQTT(keyword="heard", address="lab/heard"{given})
@FunctionalNode(name="{name}")
def {name}(heard):
    seen.append({told})
"""


def hear(told: str, given: str = "", name: str = "hear") -> str:
    """A node that tells of what comes on a topic."""
    return HEAR.format(told=told, given=given and f", {given}", name=name)


SAY = """
from nrp_core.data.nrp_protobuf import *
from nrp_protobuf.dump_pb2 import String

@Iteration("i")
@ToMQTT(keyword="said", address="lab/said"{given})
@FunctionalNode(name="say", outputs=["said"])
def say(i):
    return [{said}]
"""


def say(said: str, given: str = "") -> str:
    """A node that publishes something in every cycle."""
    return SAY.format(said=said, given=given and f", {given}")


QUIET = "class Script(EngineScript):\n    def runLoop(self, timestep_ns): pass\n"


def started(experiment: Experiment, broker: FakeMessageBroker, source: str, **fields: Any) -> EmbeddedCore:
    return experiment.engine("e", QUIET).graph(source).started(connect=broker.connect, **fields)


# -- what comes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "(heard.name, heard.data['x'], heard.isUpdated())"),
        ("type=JsonDataPack", "(heard.name, heard.data['x'], heard.isUpdated())"),
        ("type=JsonRawData", "('lab/heard', heard.data['x'], True)"),
        ("type=NlohmannJson", "('lab/heard', heard['x'], True)"),
    ],
)
def test_json_comes_as_the_type_that_was_declared(
    given: str, told: str, experiment: Experiment, broker: FakeMessageBroker
) -> None:
    core = started(experiment, broker, hear(told, given))
    broker.say("lab/heard", b'{"x": [1, 2.5, "\xc3\xa9"]}')
    core.run_loop(2)
    assert seen == [("lab/heard", [1, 2.5, "é"], True)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("type=String", "heard.string_stream"),
        ("type=DumpStringRawData", "heard.data.string_stream"),
        ("type=DumpStringDataPack", "heard.data.string_stream if heard.isUpdated() else None"),
    ],
)
def test_protobuf_messages_come_as_the_type_that_was_declared(
    given: str, told: str, experiment: Experiment, broker: FakeMessageBroker
) -> None:
    core = started(experiment, broker, hear(told, given))
    from nrp_protobuf.dump_pb2 import String  # on the path of a simulation only

    broker.say("lab/heard", String(string_stream="hello").SerializeToString())
    core.run_loop()
    assert seen == ["hello"]


@pytest.mark.parametrize(("given", "expected"), [("type=str", "é"), ("type=bytes", b"\xc3\xa9")])
def test_text_and_bytes_come_as_they_are(
    given: str, expected: object, experiment: Experiment, broker: FakeMessageBroker
) -> None:
    core = started(experiment, broker, hear("heard", given))
    broker.say("lab/heard", b"\xc3\xa9")
    core.run_loop()
    assert seen == [expected]


def test_of_several_messages_a_node_gets_the_last(experiment: Experiment, broker: FakeMessageBroker) -> None:
    core = started(experiment, broker, hear("heard.data['n']"))
    for n in range(5):
        broker.say("lab/heard", json.dumps({"n": n}).encode())
    core.run_loop(3)
    assert seen == [4]


def test_of_several_messages_a_node_gets_all_if_it_asks_for_them(
    experiment: Experiment, broker: FakeMessageBroker
) -> None:
    given = "type=NlohmannJson, publish_policy=node_policies_input_node.all"
    core = started(experiment, broker, hear("[each['n'] for each in heard]", given))
    for n in range(3):
        broker.say("lab/heard", json.dumps({"n": n}).encode())
    core.run_loop()
    broker.say("lab/heard", b'{"n": 3}')
    core.run_loop(2)
    assert seen == [[0, 1, 2], [3]]


def test_what_nobody_reads_does_not_fill_the_memory(experiment: Experiment, broker: FakeMessageBroker) -> None:
    core = started(experiment, broker, hear("(len(heard), heard[-1])", "type=str, publish_policy='all'"))
    for n in range(MOST_WAITING + 5):
        broker.say("lab/heard", str(n).encode())
    core.run_loop()
    assert seen == [(MOST_WAITING, str(MOST_WAITING + 4))]


def test_nodes_that_hear_the_same_topic_cannot_change_what_others_get(
    experiment: Experiment, broker: FakeMessageBroker
) -> None:
    change = "heard.data['list'].append(4) or heard.data['list']"
    core = started(experiment, broker, hear(change, name="one") + hear(change, name="two"))
    broker.say("lab/heard", b'{"list": [3]}')
    core.run_loop()
    assert seen == [[3, 4], [3, 4]]


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("", b"{"),
        ("", b"\xff\xfe\xff"),
        ("", b"[" * 100_000),
        ("type=String", b"\xff\xff"),
        ("type=str", b"\xff"),
    ],
)
def test_what_is_not_of_the_type_is_dropped_with_a_warning(
    given: str, wrong: bytes, experiment: Experiment, broker: FakeMessageBroker, caplog: pytest.LogCaptureFixture
) -> None:
    core = started(experiment, broker, hear("heard", given))
    for _ in range(3):
        broker.say("lab/heard", wrong)
        core.run_loop()
    assert seen == []
    (message,) = caplog.messages
    assert message.startswith("Dropped a message on topic lab/heard that is not of its type: ")


def test_a_reset_forgets_messages_but_what_the_broker_retains(
    experiment: Experiment, broker: FakeMessageBroker
) -> None:
    source = HEAR.format(name="hear", given="", told="heard and heard.data['n']").replace(
        'name="hear"', 'name="hear", exec_policy="always"'
    )
    broker.retained["lab/heard"] = b'{"n": "retained"}'
    core = started(experiment, broker, source)
    core.run_loop()
    broker.say("lab/heard", b'{"n": 1}')
    core.run_loop()
    core.reset()
    core.run_loop()
    del broker.retained["lab/heard"]
    core.reset()
    core.run_loop()
    assert seen == ["retained", 1, "retained", None]


# -- what goes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "given", "payload"),
    [
        ("{'b': i, 'a': [1.5, None]}", "", b'{"a":[1.5,null],"b":0}'),
        ("{'b': i, 'a': [1.5, None]}", "type=NlohmannJson", b'{"a":[1.5,null],"b":0}'),
        ("NlohmannJson([i])", "", b"[0]"),
        ("JsonDataPack('any', 'any')", "", b"null"),
        ("float('inf')", "", b"null"),
        ("'é'", "", '"é"'.encode()),
        ("'é'", "type=str", "é".encode()),
        ("b'\\xff'", "type=bytes", b"\xff"),
        ("String(string_stream='hi')", "type=String", b"\x2a\x02hi"),
        ("String(string_stream='hi')", "type=DumpStringDataPack", b"\x2a\x02hi"),
        ("DumpStringDataPack('any', 'any')", "type=String", b""),
    ],
)
def test_messages_are_published_in_the_form_of_their_type(
    said: str, given: str, payload: bytes, experiment: Experiment, broker: FakeMessageBroker
) -> None:
    started(experiment, broker, say(said, given)).run_loop()
    assert broker.published == [("lab/said", payload)]


@pytest.mark.parametrize(
    ("said", "given", "message"),
    [
        ("object()", "", "Attempted to convert unsupported python type"),
        ("{1: 2}", "", "basic_string"),
        ("String()", "", "it has to have a JSON form, it is String"),
        ("{}", "type=String", "it has to be a message of type Dump.String, it is dict"),
        ("DumpArrayFloatRawData()", "type=String", "it has to be a message of type Dump.String, it is Dump.ArrayFloat"),
        ("5", "type=str", "it has to be str, it is int"),
    ],
)
def test_what_is_not_of_the_type_cannot_be_published(
    said: str, given: str, message: str, experiment: Experiment, broker: FakeMessageBroker
) -> None:
    core = started(experiment, broker, say(said, given))
    with pytest.raises(FunctionFailed) as failure:
        core.run_loop()
    assert f"node 'say' returned what cannot be published on topic 'lab/said': {message}" in str(failure.value)
    assert failure.value.file == "graph.py"


@pytest.mark.parametrize("name", ["MQTTPublisher", "ToMQTT"])
def test_publishers_have_two_names(name: str, experiment: Experiment, broker: FakeMessageBroker) -> None:
    started(experiment, broker, say("i").replace("ToMQTT", name)).run_loop(2)
    assert broker.published == [("lab/said", b"0"), ("lab/said", b"1")]


@pytest.mark.parametrize("name", ["MQTTSubscriber", "FromMQTT"])
def test_subscribers_have_two_names(name: str, experiment: Experiment, broker: FakeMessageBroker) -> None:
    core = started(experiment, broker, hear("heard", "type=str").replace("FromMQTT", name))
    broker.say("lab/heard", b"x")
    core.run_loop()
    assert seen == ["x"]


# -- the connection ----------------------------------------------------------------------------------------------------


def test_the_connection_is_made_as_the_experiment_says_and_closed_at_the_end(
    experiment: Experiment, broker: FakeMessageBroker
) -> None:
    core = started(experiment, broker, say("i"), MQTTNode={"MQTTBroker": "host:1884", "ClientName": "me"})
    assert broker.configuration is not None
    assert broker.configuration.address == ("host", 1884)
    assert broker.configuration.client_name == "me"
    assert not broker.is_closed
    core.shutdown()
    assert broker.is_closed


def test_a_graph_without_mqtt_nodes_needs_no_broker(experiment: Experiment, broker: FakeMessageBroker) -> None:
    started(experiment, broker, "@Clock()\n@FunctionalNode('n')\ndef n(clock): pass\n").run_loop()
    assert broker.configuration is None


@pytest.mark.parametrize("source", [say("i"), hear("heard")], ids=["to", "from"])
def test_mqtt_nodes_without_a_way_to_a_broker_are_refused(source: str, experiment: Experiment) -> None:
    core = experiment.engine("e", QUIET).graph(source).core()
    with pytest.raises(ConfigurationError, match="has MQTT nodes, and the embedded core was given no way to connect"):
        core.initialize()
    core.shutdown()


def test_a_connection_without_subscriptions_is_not_left_open(experiment: Experiment, broker: FakeMessageBroker) -> None:
    def refuse(takers: Mapping[str, object]) -> None:
        raise BusUnavailable("no")

    broker.subscribe = refuse  # type: ignore[method-assign]
    core = experiment.engine("e", QUIET).graph(hear("heard")).core(connect=broker.connect)
    with pytest.raises(BusUnavailable):
        core.initialize()
    assert broker.is_closed
    core.shutdown()
