"""The bus over a real broker that answers, refuses, freezes, goes away and comes back."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from nrp_common import bus as bus_module
from nrp_common import tracing
from nrp_common.bus import BrokerAddress, Bus, Responder, Will
from nrp_common.errors import BusUnavailable, CommandTimeout
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Command, CommandEvent, Refusal, Reply
from tests.brokers import plain_port
from tests.mosquitto import Mosquitto
from tests.ports import free_port
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

MakeBus = Callable[..., Bus]


@pytest.fixture
def connect() -> Iterator[MakeBus]:
    """Makes connected buses and closes them."""
    made: list[Bus] = []

    def make(address: BrokerAddress, *, asks: bool = False, **arguments: object) -> Bus:
        bus = Bus(address, "test", reply_topic=unique("reply") if asks else None, **arguments)  # type: ignore[arg-type]
        made.append(bus)
        bus.start()
        bus.wait_until_connected(5)
        return bus

    yield make
    for bus in made:
        bus.close(linger_s=0.2)


@pytest.fixture
def make_bus(connect: MakeBus, broker: BrokerAddress) -> MakeBus:
    """Makes buses connected to the broker."""
    return partial(connect, broker)


@pytest.fixture
def fleeting_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of the test's own."""
    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


@pytest.fixture
def proxy(broker: BrokerAddress) -> Iterator[TcpProxy]:
    """A way to the broker that can be cut."""
    proxy = TcpProxy(broker.host, broker.port)
    yield proxy
    proxy.close()


class Heard:
    """What arrives on a topic filter, whoever publishes it from now on; on a bus that still connects, once it does."""

    def __init__(self, bus: Bus, topic_filter: str) -> None:
        self.messages: list[tuple[str, bytes]] = []
        bus.subscribe(topic_filter, lambda topic, payload: self.messages.append((topic, payload)))
        if bus.is_connected:
            bus.await_subscriptions(10)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.messages]


class Server:
    """Serves commands on a topic, as it is told to."""

    def __init__(self, bus: Bus, answer: Callable[[Responder], None]) -> None:
        self.topic = unique("command")
        self.taken: list[Command] = []
        self._answer = answer
        bus.serve(self.topic, Command, self._take)
        bus.await_subscriptions(10)

    def _take(self, command: Command, responder: Responder) -> None:
        self.taken.append(command)
        self._answer(responder)


def unique(name: str) -> str:
    return f"test/{uuid.uuid4().hex}/{name}"


def command(timeout: float = 5.0) -> Command:
    return Command(event=CommandEvent.STARTED, deadline=time.time() + timeout)


def done(responder: Responder) -> None:
    responder.reply(Reply(state=SimulationState.STARTED, seq=7))


def say_nothing(responder: Responder) -> None:
    pass


# -- publishing and subscribing --------------------------------------------------------------------------------------


def test_a_handler_gets_topic_and_payload(make_bus: MakeBus) -> None:
    bus, topic = make_bus(), unique("status")
    heard = Heard(bus, topic)
    bus.publish(topic, b"payload")
    wait_until(lambda: heard.messages == [(topic, b"payload")])


def test_a_filter_with_a_wildcard_hears_all_that_match(make_bus: MakeBus) -> None:
    bus, topic = make_bus(), unique("status")
    heard = Heard(bus, topic.replace("/status", "/+"))
    bus.publish(topic, b"1")
    bus.publish(topic.replace("status", "other"), b"2")
    wait_until(lambda: heard.payloads == [b"1", b"2"])


def test_nothing_is_heard_after_unsubscribing(make_bus: MakeBus) -> None:
    bus, topic = make_bus(), unique("status")
    heard, control = Heard(bus, topic), Heard(bus, topic + "/control")
    bus.unsubscribe(topic)
    bus.publish(topic, b"unheard")
    bus.publish(topic + "/control", b"heard")
    wait_until(lambda: control.payloads == [b"heard"])
    assert heard.payloads == []


def test_a_handler_that_fails_does_not_stop_the_others(make_bus: MakeBus) -> None:
    bus, topic = make_bus(), unique("status")
    bus.subscribe(topic, lambda _topic, payload: int(payload))  # type: ignore[arg-type, return-value]
    heard = Heard(bus, topic + "/next")
    bus.publish(topic, b"no number")
    bus.publish(topic + "/next", b"1")
    wait_until(lambda: heard.payloads == [b"1"])


def test_a_state_retained_while_the_connection_is_made_is_told_once(make_bus: MakeBus, broker: BrokerAddress) -> None:
    topic, other_topic = unique("state"), unique("other")
    heard = Heard(make_bus(), topic)
    bus: list[Bus] = []

    def say() -> None:
        bus[0].wait_until_connected(5)
        bus[0].retain(topic, b"said on the way")

    bus.append(Bus(broker, "test", on_connected=say))
    bus[0].subscribe(other_topic, lambda *_: None)
    bus[0].start()
    wait_until(lambda: heard.payloads)
    bus[0].flush(5)
    bus[0].publish(topic, b"the end", qos=1)
    wait_until(lambda: b"the end" in heard.payloads)
    bus[0].close()
    assert heard.payloads == [b"said on the way", b"the end"]


def test_a_retained_state_is_told_to_who_comes_later(make_bus: MakeBus) -> None:
    topic = unique("presence")
    make_bus().retain(topic, b"online")
    heard = Heard(make_bus(), topic)
    wait_until(lambda: heard.payloads == [b"online"])


def test_a_forgotten_state_is_removed_from_the_broker(make_bus: MakeBus) -> None:
    bus, topic = make_bus(), unique("presence")
    bus.retain(topic, b"online")
    bus.forget(topic)
    bus.retain(topic + "/control", b"there")
    bus.flush(5)
    heard = Heard(make_bus(), topic + "/#")
    wait_until(lambda: heard.payloads == [b"there"])


def test_a_handler_added_while_the_bus_connects_hears_everything(broker: BrokerAddress, make_bus: MakeBus) -> None:
    topic = unique("presence")
    make_bus().retain(topic, b"online")
    for _ in range(20):
        bus = Bus(broker, "test")
        bus.start()
        heard = Heard(bus, topic)
        wait_until(lambda heard=heard: heard.payloads, 5)  # type: ignore[misc]
        bus.close()


def test_what_is_published_once_subscriptions_are_confirmed_is_heard(make_bus: MakeBus) -> None:
    bus, sender = make_bus(), make_bus()
    for _ in range(20):
        heard = Heard(bus, topic := unique("data"))
        bus.await_subscriptions(5)
        sender.publish(topic, b"once")
        wait_until(lambda heard=heard: heard.payloads == [b"once"])  # type: ignore[misc]


def test_a_subscription_that_is_not_confirmed_in_time_is_an_error(connect: MakeBus, fleeting_broker: Mosquitto) -> None:
    bus = connect(fleeting_broker.address)
    bus.await_subscriptions(5)
    fleeting_broker.freeze()
    bus.subscribe(unique("data"), lambda *_: None)
    with pytest.raises(BusUnavailable, match=r"confirmed no subscription within 0\.1 s"):
        bus.await_subscriptions(0.1)
    fleeting_broker.thaw()
    bus.await_subscriptions(5)


def test_a_bus_may_speak_mqtt_3_1_1(connect: MakeBus, broker: BrokerAddress) -> None:
    address = BrokerAddress(broker.host, plain_port(broker))
    bus, topic = connect(address, protocol=MQTTProtocolVersion.MQTTv311), unique("data")
    heard = Heard(bus, topic)
    bus.await_subscriptions(5)
    bus.publish(topic, b"1", qos=1)
    wait_until(lambda: heard.payloads == [b"1"])


def test_a_flood_at_qos_0_is_cut_and_qos_1_still_arrives(
    connect: MakeBus, fleeting_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "MOST_UNHANDLED", 10)
    # Not the embedded broker: it delivers everything at the QoS of the subscription.
    bus, sender, topic = connect(fleeting_broker.address), connect(fleeting_broker.address), unique("status")
    go_on, payloads = threading.Event(), []

    def take(_topic: str, payload: bytes) -> None:
        go_on.wait(10)
        payloads.append(payload)

    bus.subscribe(topic, take)
    wait_until(lambda: sender.publish(topic, b"first") or bus._work.qsize() > 1)
    for _ in range(500):
        sender.publish(topic, b"flood")
    sender.publish(topic, b"last", qos=1)
    sender.flush(5)
    wait_until(lambda: bus._work.qsize() >= 11)
    go_on.set()
    wait_until(lambda: payloads and payloads[-1] == b"last")
    assert payloads.count(b"flood") <= 10


# -- requests --------------------------------------------------------------------------------------------------------


def test_a_request_is_answered(make_bus: MakeBus) -> None:
    server = Server(make_bus(), done)
    reply = make_bus(asks=True).request(server.topic, command(), timeout=5)
    assert (reply.state, reply.seq) == (SimulationState.STARTED, 7)


def test_what_was_said_before_an_answer_is_handled_when_it_is_there(make_bus: MakeBus) -> None:
    said, handled = unique("said"), threading.Event()
    answerer, asker = make_bus(), make_bus(asks=True)

    def say_and_answer(responder: Responder) -> None:
        answerer.publish(said, b"this")
        done(responder)

    def take_some_time(_topic: str, _payload: bytes) -> None:
        handled.wait(0.2)
        handled.set()

    asker.subscribe(said, take_some_time)
    asker.await_subscriptions(5)
    server = Server(answerer, say_and_answer)
    answerer.await_subscriptions(5)
    asker.request(server.topic, command(), timeout=5)
    assert handled.is_set()


def test_a_request_that_was_accepted_waits_for_its_last_answer(make_bus: MakeBus) -> None:
    def accept(responder: Responder) -> None:
        responder.accept()
        threading.Timer(0.3, done, [responder]).start()

    server = Server(make_bus(), accept)
    reply = make_bus(asks=True).request(server.topic, command(), timeout=5)
    assert reply.state is SimulationState.STARTED
    assert len(server.taken) == 1


def test_a_request_that_arrives_again_is_answered_again_and_executed_once(make_bus: MakeBus) -> None:
    bus, answers = make_bus(), unique("reply")
    server, heard = Server(bus, done), Heard(bus, answers)
    asker, request = make_bus(), command().model_copy(update={"reply_to": answers, "correlation": "same"})
    for _ in range(3):
        asker.publish(server.topic, request)
    wait_until(lambda: len(heard.payloads) == 3)
    assert len(set(heard.payloads)) == 1
    assert len(server.taken) == 1


def test_a_request_that_nobody_acknowledges_goes_out_four_times(make_bus: MakeBus) -> None:
    bus, topic = make_bus(), unique("command")
    heard, asker = Heard(bus, topic), make_bus(asks=True)
    with pytest.raises(CommandTimeout, match=rf"A request on {topic} got no answer within 3 s"):
        asker.request(topic, command(), timeout=3)
    asker.publish(topic, b"end")
    wait_until(lambda: b"end" in heard.payloads)
    assert len(heard.payloads) == 4 + 1


def test_a_request_with_a_short_time_out_is_not_sent_after_it(make_bus: MakeBus) -> None:
    bus, topic = make_bus(), unique("command")
    heard, asker = Heard(bus, topic), make_bus(asks=True)
    with pytest.raises(CommandTimeout):
        asker.request(topic, command(), timeout=0.1)
    asker.publish(topic, b"end")
    wait_until(lambda: b"end" in heard.payloads)
    assert len(heard.payloads) <= 3


def test_a_request_that_was_accepted_and_never_carried_out_says_so(make_bus: MakeBus) -> None:
    server = Server(make_bus(), Responder.accept)
    with pytest.raises(CommandTimeout, match=r"was accepted but not carried out within 2 s"):
        make_bus(asks=True).request(server.topic, command(), timeout=2)


def test_a_request_whose_asker_has_given_up_is_not_executed(make_bus: MakeBus) -> None:
    bus = make_bus()
    server, asker = Server(bus, done), make_bus(asks=True)
    late = command(timeout=-1).model_copy(update={"reply_to": unique("reply"), "correlation": "late"})
    asker.publish(server.topic, late)
    in_time = command()
    asker.request(server.topic, in_time, timeout=5)
    assert [taken.deadline for taken in server.taken] == [in_time.deadline]


@pytest.mark.parametrize("payload", [b"", b"no JSON", b"{}", b'{"event": "dance", "deadline": 1e12}', b"\xff\xfe"])
def test_what_is_no_request_is_ignored(make_bus: MakeBus, payload: bytes) -> None:
    server, asker = Server(make_bus(), done), make_bus(asks=True)
    asker.publish(server.topic, payload)
    asker.request(server.topic, command(), timeout=5)
    assert len(server.taken) == 1


def test_an_asker_by_mqtt_5_properties_is_answered_by_them(make_bus: MakeBus, broker: BrokerAddress) -> None:
    server = Server(make_bus(), done)
    where = ["-h", broker.host, "-p", str(broker.port), "-V", "5", "-W", "5"]
    topics = ["-t", server.topic, "-e", unique("reply"), "-D", "publish", "correlation-data", "mine"]
    asked = subprocess.run(
        ["mosquitto_rr", *where, *topics, "-m", command().to_json().decode(), "-F", "%D %p"],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    correlation, _, reply = asked.stdout.partition(" ")
    assert correlation == "mine"
    assert json.loads(reply)["state"] == "started"


def test_a_request_without_a_topic_for_the_answer_is_not_executed(make_bus: MakeBus) -> None:
    server, asker = Server(make_bus(), done), make_bus(asks=True)
    asker.publish(server.topic, command())
    asker.request(server.topic, command(), timeout=5)
    assert len(server.taken) == 1


@pytest.mark.parametrize("topic", ["a/#", "+", "nul\0", "x" * 70_000])
def test_a_request_that_names_no_topic_for_the_answer_is_not_executed(make_bus: MakeBus, topic: str) -> None:
    server, asker = Server(make_bus(), done), make_bus(asks=True)
    asker.publish(server.topic, command().model_copy(update={"reply_to": topic, "correlation": "x"}))
    asker.request(server.topic, command(), timeout=5)
    assert len(server.taken) == 1


def test_a_request_whose_handler_fails_is_answered_with_an_error(make_bus: MakeBus) -> None:
    def fail(responder: Responder) -> None:
        raise ZeroDivisionError

    server = Server(make_bus(), fail)
    reply = make_bus(asks=True).request(server.topic, command(), timeout=5)
    assert reply.refusal is Refusal.FAILED
    assert reply.error


def test_many_requests_at_once_get_their_own_answers(make_bus: MakeBus) -> None:
    bus, asker, topic = make_bus(), make_bus(asks=True), unique("command")
    bus.serve(topic, Command, lambda request, responder: responder.reply(Reply(archive=str(request.iterations))))

    def ask(number: int) -> str | None:
        request = Command(event=CommandEvent.STEP, iterations=number, deadline=time.time() + 5)
        return asker.request(topic, request, timeout=5).archive

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(1, 101))) == [str(number) for number in range(1, 101)]


# -- the connection --------------------------------------------------------------------------------------------------


def test_a_broker_that_is_not_there_is_named_with_the_reason() -> None:
    port = free_port()
    bus = Bus(BrokerAddress("127.0.0.1", port), "test", reply_topic="reply")
    bus.start()
    wait_until(lambda: bus._obstacle)
    with pytest.raises(BusUnavailable, match=rf"The MQTT broker at 127.0.0.1:{port} cannot be reached: .*refused"):
        bus.wait_until_connected(0)
    with pytest.raises(BusUnavailable, match="no connection"):
        bus.request("topic", command(), timeout=5)
    bus.close()


def test_a_broker_that_refuses_the_credentials_is_quoted(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path, "listener {port} 127.0.0.1\nallow_anonymous false\n")
    mosquitto.start()
    bus = Bus(
        BrokerAddress(mosquitto.address.host, mosquitto.address.port, username="somebody", password="wr0ng"), "test"
    )
    bus.start()
    wait_until(lambda: bus._obstacle)
    with pytest.raises(BusUnavailable, match="Not authorized") as refusal:
        bus.wait_until_connected(0)
    bus.close()
    mosquitto.stop()
    assert "wr0ng" not in str(refusal.value) + repr(bus.broker)


def test_a_broker_that_comes_late_is_found(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path)
    bus = Bus(mosquitto.address, "test")
    bus.start()
    mosquitto.start()
    bus.wait_until_connected(10)
    bus.close()
    mosquitto.stop()


def test_client_ids_of_the_same_name_differ(broker: BrokerAddress) -> None:
    assert Bus(broker, "test").client_id != Bus(broker, "test").client_id


def test_small_packets_are_sent_at_once(make_bus: MakeBus) -> None:
    sock = make_bus()._client.socket()
    assert sock is not None
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_subscriptions_and_retained_states_survive_a_broker_that_forgot_them(
    connect: MakeBus, fleeting_broker: Mosquitto
) -> None:
    bus, topic = connect(fleeting_broker.address), unique("state")
    heard = Heard(bus, topic + "/subscribed")
    bus.retain(topic, b"mine")
    fleeting_broker.stop()
    wait_until(lambda: not bus.is_connected)
    fleeting_broker.start()
    bus.wait_until_connected(10)
    bus.await_subscriptions(10)
    other = connect(fleeting_broker.address)
    retained = Heard(other, topic)
    other.publish(topic + "/subscribed", b"heard")
    wait_until(lambda: heard.payloads == [b"heard"])
    wait_until(lambda: b"mine" in retained.payloads)


def test_who_comes_back_hears_the_last_word_of_others_before_it_says_its_own_again(
    connect: MakeBus, broker: BrokerAddress, proxy: TcpProxy
) -> None:
    topic, presence, over = unique("lifecycle"), unique("presence"), unique("over")
    bus, other = connect(BrokerAddress(port=proxy.port)), connect(broker)
    witness, marker = Heard(other, topic), Heard(other, over)

    def yield_to_others(_topic: str, payload: bytes) -> None:
        if payload.startswith(b"failed"):
            bus.forget(topic, clear=False)
            bus.publish(over, payload, qos=1)

    bus.retain(presence, b"online")
    bus.subscribe(topic, yield_to_others)
    for attempt in range(5):  # which of two threads comes first is a matter of luck
        mine, verdict = b"started %d" % attempt, b"failed %d" % attempt
        bus.retain(topic, mine)
        wait_until(lambda mine=mine: mine in witness.payloads)  # type: ignore[misc]
        proxy.cut()
        wait_until(lambda: not bus.is_connected)
        other.publish(topic, verdict, qos=1, retain=True)
        wait_until(lambda verdict=verdict: verdict in witness.payloads)  # type: ignore[misc]
        proxy.heal()
        wait_until(lambda verdict=verdict: verdict in marker.payloads)  # type: ignore[misc]
        bus.flush(5)
        assert witness.payloads[-1] == verdict


def test_however_long_the_way_own_state_comes_after_the_last_word_of_others(
    connect: MakeBus, broker: BrokerAddress, proxy: TcpProxy
) -> None:
    topic, over = unique("lifecycle"), unique("over")
    bus, other = connect(BrokerAddress(port=proxy.port)), connect(broker)
    witness, marker = Heard(other, topic), Heard(other, over)

    def yield_to_others(_topic: str, payload: bytes) -> None:
        if payload == b"failed":
            bus.forget(topic, clear=False)
            bus.publish(over, payload, qos=1)

    bus.subscribe(topic, yield_to_others)
    bus.retain(unique("presence"), b"online")
    bus.retain(topic, b"started")
    wait_until(lambda: witness.payloads == [b"started"])
    proxy.cut()
    wait_until(lambda: not bus.is_connected)
    other.publish(topic, b"failed", qos=1, retain=True)
    wait_until(lambda: witness.payloads[-1] == b"failed")
    connection_made = bus._client.on_connect
    assert connection_made is not None

    def slow_down(*arguments: Any) -> None:
        proxy.delay(1.5)
        connection_made(*arguments)

    bus._client.on_connect = slow_down
    proxy.heal()
    wait_until(lambda: marker.payloads)
    assert witness.payloads == [b"started", b"failed"]


def test_own_state_that_was_under_way_does_not_come_over_the_last_word_of_others(
    connect: MakeBus, broker: BrokerAddress, proxy: TcpProxy
) -> None:
    topic = unique("lifecycle")
    bus, other = connect(BrokerAddress(port=proxy.port)), connect(broker)
    witness, heard = Heard(other, topic), Heard(bus, topic)
    proxy.fall_silent()
    bus.retain(topic, b"started")
    proxy.cut()
    wait_until(lambda: not bus.is_connected)
    bus.forget(topic, clear=False)
    other.publish(topic, b"failed", qos=1, retain=True)
    wait_until(lambda: witness.payloads == [b"failed"])
    proxy.heal()
    wait_until(lambda: heard.payloads == [b"failed"])
    bus.publish(topic, b"later", qos=1)
    wait_until(lambda: witness.payloads[-1] == b"later")
    assert witness.payloads == [b"failed", b"later"]


def test_who_says_no_more_has_its_last_state_arrive_all_the_same(
    connect: MakeBus, broker: BrokerAddress, proxy: TcpProxy
) -> None:
    topic = unique("lifecycle")
    bus, witness = connect(BrokerAddress(port=proxy.port)), Heard(connect(broker), topic)
    proxy.fall_silent()
    bus.retain(topic, b"stopped")
    bus.forget(topic, clear=False)
    proxy.cut()
    wait_until(lambda: not bus.is_connected)
    proxy.heal()
    wait_until(lambda: witness.payloads == [b"stopped"])


def test_the_newest_state_wins_over_older_ones_that_were_under_way_when_the_broker_went(
    connect: MakeBus, fleeting_broker: Mosquitto
) -> None:
    bus, topic = connect(fleeting_broker.address), unique("state")
    Heard(bus, unique("something"))
    fleeting_broker.freeze()
    for number in range(50):
        bus.retain(topic, b"older %d" % number)
    fleeting_broker.stop()
    wait_until(lambda: not bus.is_connected)
    bus.retain(topic, b"newest")
    connection_made = bus._client.on_connect
    assert connection_made is not None

    def leave_time_before_paho_sends_again(*arguments: Any) -> None:
        connection_made(*arguments)
        threading.Event().wait(0.2)

    bus._client.on_connect = leave_time_before_paho_sends_again
    fleeting_broker.start()
    bus.wait_until_connected(10)
    meanwhile = Heard(connect(fleeting_broker.address), topic)
    wait_until(lambda: b"newest" in meanwhile.payloads and not bus._client._out_messages)
    afterwards = Heard(connect(fleeting_broker.address), topic)
    wait_until(lambda: afterwards.payloads == [b"newest"])


def test_what_is_published_at_qos_1_while_the_broker_is_away_arrives(
    connect: MakeBus, fleeting_broker: Mosquitto
) -> None:
    bus, listener = connect(fleeting_broker.address), connect(fleeting_broker.address)
    topic = unique("error")
    heard = Heard(listener, topic)
    fleeting_broker.stop()
    wait_until(lambda: not bus.is_connected and not listener.is_connected)
    late = Bus(fleeting_broker.address, "late")
    for number in range(100):
        late.publish(topic, b"%d" % number, qos=1)
    fleeting_broker.start()
    listener.await_subscriptions(30)  # nobody keeps messages for who is away
    late.start()
    wait_until(lambda: len(set(heard.payloads)) == 100)
    late.close()
    assert list(dict.fromkeys(heard.payloads)) == [b"%d" % number for number in range(100)]


def test_a_request_goes_through_after_the_broker_came_back(connect: MakeBus, fleeting_broker: Mosquitto) -> None:
    server = Server(connect(fleeting_broker.address), done)
    asker = connect(fleeting_broker.address, asks=True)
    fleeting_broker.stop()
    wait_until(lambda: not asker.is_connected)
    fleeting_broker.start()
    asker.wait_until_connected(10)
    # The server may be back later than the asker: its time-outs are longer than a reconnect.
    wait_until(lambda: _is_answered(asker, server.topic))


def _is_answered(asker: Bus, topic: str) -> bool:
    try:
        return asker.request(topic, command(), timeout=0.5).state is SimulationState.STARTED
    except CommandTimeout:
        return False


def test_who_is_told_of_a_connection_is_told_of_each(connect: MakeBus, fleeting_broker: Mosquitto) -> None:
    connections: list[None] = []
    connect(fleeting_broker.address, on_connected=lambda: connections.append(None))
    wait_until(lambda: len(connections) == 1)
    fleeting_broker.stop()
    fleeting_broker.start()
    wait_until(lambda: len(connections) == 2)


def test_reconnects_and_what_is_lost_are_counted(connect: MakeBus, fleeting_broker: Mosquitto) -> None:
    bus, topic = connect(fleeting_broker.address), unique("status")
    assert (bus.counts.reconnects, bus.counts.dropped_outgoing) == (0, 0)
    fleeting_broker.stop()
    wait_until(lambda: not bus.is_connected)
    for _ in range(3):
        bus.publish(topic, b"lost")
    bus.publish(topic, b"waits", qos=1)
    bus.retain(topic, b"said again")
    assert bus.counts.dropped_outgoing == 3
    fleeting_broker.start()
    bus.wait_until_connected(10)
    wait_until(lambda: bus.counts.reconnects == 1)
    assert bus.counts.dropped_outgoing == 3


def test_what_does_not_fit_into_the_queue_for_a_broker_that_is_away_is_counted(
    connect: MakeBus, fleeting_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "QUEUED_WHILE_AWAY", 5)
    bus, topic = connect(fleeting_broker.address), unique("error")
    fleeting_broker.stop()
    wait_until(lambda: not bus.is_connected)
    for _ in range(8):
        bus.publish(topic, b"waits", qos=1)
    assert bus.counts.dropped_outgoing == 3


def test_messages_that_nobody_has_time_for_are_counted(make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "MOST_UNHANDLED", 2)
    bus, topic = make_bus(), unique("status")
    go_on = threading.Event()
    bus.subscribe(topic, lambda *_: bool(go_on.wait(10)), qos=0)
    bus.await_subscriptions(10)
    other = make_bus()
    Heard(other, topic)
    for _ in range(10):
        other.publish(topic, b"status")
    wait_until(lambda: bus.counts.dropped_incoming >= 7)
    assert bus.unhandled <= 3
    go_on.set()
    wait_until(lambda: bus.unhandled == 0)


def test_a_request_takes_along_on_whose_behalf_it_is_made(make_bus: MakeBus) -> None:
    seen: list[tracing.Context] = []

    def note(responder: Responder) -> None:
        seen.append(tracing.current())
        done(responder)

    server = Server(make_bus(), note)
    asker = make_bus(asks=True)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with tracing.within(tracing.Context("r-1", trace, 7, "ann")):
        asker.request(server.topic, command(), timeout=5)
    asker.request(server.topic, command(), timeout=5)
    assert seen == [tracing.Context("r-1", trace), tracing.Context()]


def test_publishing_never_blocks_while_the_broker_is_frozen(connect: MakeBus, fleeting_broker: Mosquitto) -> None:
    bus, topic = connect(fleeting_broker.address), unique("data")
    fleeting_broker.freeze()
    slowest = 0.0
    for _ in range(2000):
        start = time.perf_counter()
        bus.publish(topic, bytes(10_000), qos=1)
        slowest = max(slowest, time.perf_counter() - start)
    fleeting_broker.thaw()
    assert slowest < 3.0


def test_closing_ends_within_its_time_while_the_broker_is_frozen(connect: MakeBus, fleeting_broker: Mosquitto) -> None:
    bus = connect(fleeting_broker.address)
    fleeting_broker.freeze()
    bus.retain(unique("state"), b"unheard")
    start = time.monotonic()
    bus.close(linger_s=0.2)
    took = time.monotonic() - start
    fleeting_broker.thaw()
    assert took < 3.0


def test_what_was_published_before_closing_arrives(broker: BrokerAddress, make_bus: MakeBus) -> None:
    topic = unique("error")
    heard = Heard(make_bus(), topic)
    bus = make_bus()
    for number in range(200):
        bus.publish(topic, b"%d" % number, qos=number % 2)
    bus.close()
    wait_until(lambda: len(heard.payloads) == 200)


def test_what_is_streamed_all_arrives_in_order(make_bus: MakeBus) -> None:
    topic = unique("data")
    heard = Heard(make_bus(), topic)
    bus = make_bus()
    sent = [b"%d" % number for number in range(5000)]
    assert all(bus.stream(topic, payload) for payload in sent)
    wait_until(lambda: len(heard.payloads) == len(sent), 60)
    assert heard.payloads == sent


def test_a_broker_that_hangs_holds_a_stream_up_for_a_while_only(
    connect: MakeBus, fleeting_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nrp_common.outgoing.PATIENCE_S", 0.2)
    topic = unique("data")
    heard = Heard(connect(fleeting_broker.address), topic)
    bus = connect(fleeting_broker.address)
    fleeting_broker.freeze()
    sent = [b"%d" % number for number in range(500)]
    assert all(bus.stream(topic, payload) for payload in sent)
    fleeting_broker.thaw()
    wait_until(lambda: len(heard.payloads) == len(sent), 20)
    assert heard.payloads == sent


def test_what_is_streamed_while_the_broker_is_away_arrives_when_it_is_back(
    connect: MakeBus, fleeting_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nrp_common.outgoing.PATIENCE_S", 0.2)
    topic = unique("data")
    listener, bus = connect(fleeting_broker.address), connect(fleeting_broker.address)
    heard = Heard(listener, topic)
    fleeting_broker.stop()
    wait_until(lambda: not bus.is_connected)
    assert all(bus.stream(topic, b"%d" % number) for number in range(200))
    monkeypatch.undo()
    fleeting_broker.start()
    listener.await_subscriptions(20)
    bus.stream(topic, b"last")
    wait_until(lambda: b"last" in heard.payloads, 20)


def test_states_are_told_while_much_is_streamed(make_bus: MakeBus) -> None:
    topic = unique("state")
    heard = Heard(make_bus(), topic)
    bus = make_bus()
    for number in range(2000):
        bus.stream(unique("data"), bytes(1000))
        if number % 500 == 0:
            bus.retain(topic, b"%d" % number)
    wait_until(lambda: heard.payloads[-3:] == [b"500", b"1000", b"1500"], 20)


def test_flushing_waits_for_what_has_to_be_acknowledged(connect: MakeBus, fleeting_broker: Mosquitto) -> None:
    bus, topic = connect(fleeting_broker.address), unique("state")
    fleeting_broker.freeze()
    bus.retain(topic, b"unacknowledged")
    bus.publish(topic, b"without acknowledgement")
    thawed = threading.Event()
    threading.Timer(0.4, lambda: (thawed.set(), fleeting_broker.thaw())).start()
    bus.flush(5)
    assert thawed.is_set()


KILLED = """
import sys, threading
from nrp_common.bus import BrokerAddress, Bus, Will
bus = Bus(BrokerAddress("127.0.0.1", int(sys.argv[1])), "killed", will=Will(sys.argv[2], b"gone"))
bus.retain(sys.argv[2], b"online")
bus.start()
threading.Event().wait()
"""


def test_the_last_will_of_a_killed_process_is_published_and_retained(broker: BrokerAddress, make_bus: MakeBus) -> None:
    topic = unique("presence")
    heard = Heard(make_bus(), topic)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(broker.port), topic])
    wait_until(lambda: heard.payloads == [b"online"])
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: heard.payloads == [b"online", b"gone"])
    later = Heard(make_bus(), topic)
    wait_until(lambda: later.payloads == [b"gone"])


def test_a_goodbye_leaves_no_last_will(make_bus: MakeBus) -> None:
    topic = unique("presence")
    listener = make_bus()
    heard, control = Heard(listener, topic), Heard(listener, topic + "/control")
    make_bus(will=Will(topic, b"gone")).close()
    make_bus().publish(topic + "/control", b"after")
    wait_until(lambda: control.payloads)
    assert heard.payloads == []
