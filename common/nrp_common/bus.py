"""The message bus: one MQTT 5 connection a process, kept alive, with requests that are answered.

What a caller may rely on:

- Nothing here blocks on the network but `Bus.request`, `Bus.wait_until_connected`, `Bus.flush`, each with a time-out,
  and `Bus.stream`, which goes at the broker's pace (`nrp_common.outgoing`).
- After a lost connection the bus connects again with random back-off, subscribes again, hears what is retained by then
  and publishes its own retained state (`Bus.retain`) again, since the broker may have lost it, or have published a last
  will over it.
- A request reaches its handler at most once. It goes out at QoS 0 and again after 50, 200 and 800 ms with the same
  correlation until it is acknowledged: the answer is the acknowledgement, which is quicker than QoS 1. A repeated
  correlation is answered again, never executed again; a request whose asker has given up is not executed at all.
- Handlers run one after another in the bus's own thread, never in the network's: they may take a lock, not long.
- What a broker does not allow is not lost silently: a subscription that it refuses, and a message at QoS 1, are logged
  as errors, once a topic. At QoS 0 there is no answer in which a broker could say so.

Nothing is published with MQTT 5 properties, such as those for request and response (MQTT 5, 4.10), but answers to who
used them: the embedded broker (rumqttd 0.20) drops each MQTT 3.1.1 client that a message with properties comes to, and
frontends are such clients and subscribe to everything. So request and reply say in their payloads whom to answer.
"""

from __future__ import annotations

import logging
import queue
import random
import socket
import ssl
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.matcher import MQTTMatcher
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from nrp_common import tracing
from nrp_common.broker_obstacles import CLOSED, obstacle_of, refusal_of
from nrp_common.errors import AccessRefused, BusUnavailable, CommandTimeout, SettingsError
from nrp_common.messages import Message, Refusal, Reply, Request
from nrp_common.outgoing import Outgoing

log = logging.getLogger(__name__)

KEEPALIVE_S = 60
"""A script that holds the interpreter lock for long is no lost client."""

RESEND_AFTER_S = (0.05, 0.2, 0.8)
"""When an unacknowledged request goes out again, in seconds after the last time."""

REMEMBER_ANSWERS = 1000
"""How many answers are kept for requests that arrive again; a resend comes at most 1.05 s after the first."""

QUEUED_WHILE_AWAY = 10_000
"""How many QoS 1 messages wait for a broker that is away; further ones are dropped."""

MOST_UNACKNOWLEDGED = 20
"""How many QoS 1 messages are under way at once: what Mosquitto takes (MQTT 5, 3.2.2.3.3), as paho does not ask."""

MOST_UNHANDLED = 10_000
"""How many messages wait for their handlers; of further ones those at QoS 0 are dropped, as anybody may flood a bus."""

NO_ANSWER = "Keep alive timeout"
"""How paho calls it when a broker that was connected to says nothing at all."""

SAY_AGAIN_S = 60.0
"""Between two log lines about a broker that cannot be reached for the same reason."""

MOST_REFUSED = 100
"""How many topics are remembered that a broker does not let be published on; of further ones each message is logged."""

RequestT = TypeVar("RequestT", bound=Request)
Handler = Callable[[str, bytes], None]


@dataclass(frozen=True)
class BrokerAddress:
    """Where the broker is and how to get in.

    Attributes:
        host: a name or address.
        port: of MQTT 5 over TCP.
        username: None to connect without one.
        password: goes with `username`.
        tls: whether to speak TLS.
        ca_file: a PEM file of the certificate authorities that may have signed the broker's certificate, None for the
            system's.
    """

    host: str = "localhost"
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@cache
def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """How to speak TLS with a broker that these certificate authorities vouch for: its name has to be right, too.

    Made once a process: to read the system's authorities takes longer than a launch may.

    Args:
        ca_file: see `BrokerAddress`.

    Raises:
        SettingsError: the file cannot be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise SettingsError(f"NRP_MQTT_CA_FILE: {ca_file} holds no certificate ({error.reason or error})") from error
    except OSError as error:
        raise SettingsError(f"NRP_MQTT_CA_FILE: {ca_file} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Will:
    """What the broker publishes, retained at QoS 1, when this client is lost without a goodbye."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class _Asker:
    """Where the answers to a request go, and how they are told from others: as the request said it.

    Requests of this module say it in their payload. Others may say it in MQTT 5 properties, and are answered likewise.
    """

    topic: str
    correlation: str | bytes

    @classmethod
    def of(cls, request: Request, message: mqtt.MQTTMessage) -> _Asker | None:
        """Who asks, None when nobody waits for an answer."""
        if request.reply_to and request.correlation:
            return cls(request.reply_to, request.correlation)
        topic = getattr(message.properties, "ResponseTopic", None)
        correlation = getattr(message.properties, "CorrelationData", None)
        return None if topic is None or correlation is None else cls(topic, correlation)


@dataclass
class BusCounts:
    """What befell a connection so far. Only ever counts up.

    Attributes:
        reconnects: connections after the first one.
        dropped_outgoing: messages of this process that the broker never got: at QoS 0 while it was away, at QoS 1 when
            too many waited for it, streamed data also while it was slow; and those at QoS 1 that it refused.
        dropped_incoming: messages that were not handled since too many waited already.
    """

    reconnects: int = 0
    dropped_outgoing: int = 0
    dropped_incoming: int = 0


class Responder:
    """Answers one request. May be handed to another thread."""

    def __init__(self, bus: Bus, asker: _Asker) -> None:
        self._bus = bus
        self._asker = asker
        self._latest: Reply | None = None

    def accept(self) -> None:
        """Acknowledge: the request will be carried out, its last answer follows. Ends the resending."""
        self.reply(Reply())

    def reply(self, reply: Reply) -> None:
        """Answer. What was said last is said again when the request arrives again."""
        self._latest = reply
        self._send(reply)

    def repeat(self) -> None:
        """Say the latest answer again."""
        if self._latest is not None:
            self._send(self._latest)

    def _send(self, reply: Reply) -> None:
        topic, correlation = self._asker.topic, self._asker.correlation
        if isinstance(correlation, str):
            self._bus.publish(topic, reply.model_copy(update={"correlation": correlation}))
            return
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.CorrelationData = correlation
        self._bus.publish(topic, reply, properties=properties)


class _PendingRequest:
    """A request that waits for its answers."""

    def __init__(self) -> None:
        self.acknowledged = threading.Event()
        self.answered = threading.Event()
        self.answer: Reply | None = None

    def take(self, last: Reply) -> None:
        self.answer = last
        self.answered.set()


class Bus:
    """A process's connection to the bus.

    Args:
        broker: where it is.
        name: what this process is, such as `gateway`; client ids are unique all the same.
        reply_topic: where answers to this process's requests arrive, None when it makes none.
        will: what the broker says when this process is lost.
        on_connected: called in the bus's thread after each connection, before the first message that comes over it.
        protocol: of MQTT. Brokers of others may know 3.1.1 only; then nobody can be answered by MQTT 5 properties.

    Attributes:
        counts: what befell the connection so far.

    Raises:
        SettingsError: the file of certificate authorities cannot be used.
    """

    def __init__(
        self,
        broker: BrokerAddress,
        name: str,
        *,
        reply_topic: str | None = None,
        will: Will | None = None,
        on_connected: Callable[[], None] | None = None,
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5,
    ) -> None:
        self.broker = broker
        self.counts = BusCounts()
        self.client_id = f"nrp_{name}_{uuid.uuid4().hex}"
        self._reply_topic = reply_topic
        self._on_connected = on_connected
        self._connected = threading.Event()
        self._was_connected = False
        self._obstacle: str | None = None
        self._obstacle_told_at = 0.0
        self._was_turned_away = False  # by the broker itself, which then closes the connection
        self._closing = False
        self._work: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        # Guards all below, and the order of what is published. A signal handler may publish on top of a publication.
        self._lock = threading.RLock()
        self._handlers: dict[str, tuple[int, Callable[[mqtt.MQTTMessage], None]]] = {}
        self._retained: dict[str, bytes] = {}
        self._said_at_first: set[str] | None = set()  # of these, while the first connection is being made
        self._said_before_the_rest: dict[int, str] = {}  # of these, by packet
        self._acknowledged_meanwhile: set[int] | None = None  # packets, while the one before the rest is published
        self._pending: dict[str, _PendingRequest] = {}
        self._answered: OrderedDict[str | bytes, Responder] = OrderedDict()
        self._matcher = MQTTMatcher()  # type: ignore[no-untyped-call]
        self._latest_publications: dict[int, mqtt.MQTTMessageInfo] = {}  # by QoS
        self._subscribing: int | None = None  # the packet that subscribes after a connection
        self._unconfirmed: dict[int | None, list[str]] = {}  # filters, by the packets that subscribe to them
        self._refused_filters: dict[str, str] = {}  # why, by filter
        self._refused_topics: set[str] = set()
        self._under_way: dict[int, str] = {}  # topics, by packet; what is acknowledged at once may stay behind
        self._confirmed = threading.Condition(self._lock)
        self._outgoing = Outgoing(str(broker))
        self._client = self._new_client(will, protocol)
        self._dispatcher = threading.Thread(target=self._dispatch, name="bus", daemon=True)

    def _new_client(self, will: Will | None, protocol: MQTTProtocolVersion) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self.client_id, protocol=protocol)
        client.on_connect = self._connection_made
        client.on_connect_fail = self._connection_failed
        client.on_subscribe = self._subscribed
        client.on_disconnect = self._connection_lost
        client.on_message = self._message_arrived
        client.on_publish = self._published
        client.on_socket_open = _send_small_packets_at_once
        client.max_queued_messages_set(QUEUED_WHILE_AWAY)
        client.max_inflight_messages_set(MOST_UNACKNOWLEDGED)
        if self.broker.username is not None:
            client.username_pw_set(self.broker.username, self.broker.password)
        if self.broker.tls:
            client.tls_set_context(tls_context(self.broker.ca_file))
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        return client

    # -- connection ----------------------------------------------------------------------------------------------------

    def use_credentials(self, username: str | None, password: str | None) -> None:
        """Get in with these, not with those of the address. For a bus that is not started yet."""
        self.broker = replace(self.broker, username=username, password=password)
        self._client.username_pw_set(username, password)

    def start(self) -> None:
        """Connect in the background, for as long as it takes."""
        self._dispatcher.start()
        self._back_off_randomly()
        self._client.connect_async(self.broker.host, self.broker.port, keepalive=KEEPALIVE_S)
        self._client.loop_start()

    def wait_until_connected(self, timeout: float) -> None:
        """Wait for the connection.

        Raises:
            BusUnavailable: the broker could not be reached within `timeout` seconds, or refused this client.
        """
        if not self._connected.wait(timeout):
            reason = self._obstacle or f"no answer within {timeout:g} s"
            raise BusUnavailable(f"The MQTT broker at {self.broker} cannot be reached: {reason}")

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection at this moment, as far as is known."""
        return self._connected.is_set()

    @property
    def unhandled(self) -> int:
        """How many messages have arrived and wait for their handlers."""
        return self._work.qsize()

    def flush(self, timeout: float) -> None:
        """Wait until what was published is delivered (QoS 1: acknowledged), at most `timeout` seconds.

        Returns at once while there is no connection.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            latest = list(self._latest_publications.values())
        for publication in latest:  # a broker acknowledges in order (MQTT 5, 4.6)
            if self.is_connected:
                with suppress(RuntimeError, ValueError):  # the connection went, or the queue was full
                    publication.wait_for_publish(max(0.0, deadline - time.monotonic()))

    def wait_until_sent(self, timeout: float) -> None:
        """Wait until what was published at QoS 0 has left this process, at most `timeout` seconds.

        For a thread that is about to set a busy one going: the network's thread, which sends, would have to take the
        interpreter from that one several times.
        """
        with self._lock:
            latest = self._latest_publications.get(0)
        if latest is not None and self.is_connected:
            with suppress(RuntimeError, ValueError):  # the connection went
                latest.wait_for_publish(timeout)

    def close(self, *, linger_s: float = 1.0) -> None:
        """Say goodbye to the broker; what is still on its way gets `linger_s` seconds to be delivered."""
        self.flush(linger_s)
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()
        self._work.put(None)
        if self._dispatcher.is_alive() and self._dispatcher is not threading.current_thread():
            self._dispatcher.join(timeout=linger_s)

    def _back_off_randomly(self) -> None:
        # Clients that lost the same broker must not come back in step. paho doubles the delay up to the maximum.
        minimum, maximum = random.uniform(0.05, 0.3), random.uniform(1.0, 3.0)  # noqa: S311
        self._client.reconnect_delay_set(minimum, maximum)  # type: ignore[arg-type]  # fractions work, as its wait is timed

    def _connection_made(
        self, _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self._was_turned_away = True
            self._note_obstacle(refusal_of(reason, self.broker.username))
            return
        self._obstacle = None
        self.counts.reconnects += self._was_connected
        self._was_connected = True
        if self._on_connected is not None:
            self._work.put((self._on_connected, ()))
        # Under the lock, so that a handler added meanwhile is subscribed here or by whoever adds it.
        with self._lock:
            filters = [(topic_filter, qos) for topic_filter, (qos, _) in self._handlers.items()]
            if self._reply_topic is not None:
                filters.append((self._reply_topic, 0))
            self._subscribing = self._client.subscribe(filters)[1] if filters else None
            self._unconfirmed = {self._subscribing: [each for each, _ in filters]} if filters else {}
            self._refused_filters.clear()
            self._refused_topics.clear()
            self._connected.set()
        if not filters:
            self._work.put((self._publish_own_state_again, ()))

    def _subscribed(
        self, _client: mqtt.Client, _userdata: object, packet: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        with self._lock:
            filters = self._unconfirmed.pop(packet, [])
            refused = {each: str(why) for each, why in zip(filters, reasons, strict=False) if why.is_failure}
            self._refused_filters.update(refused)
            self._confirmed.notify_all()
        for topic_filter, why in refused.items():
            log.error("%s: nothing of it is heard", self._refusal("subscribe to", topic_filter, why))
        if packet == self._subscribing:
            # Not before: what was not acknowledged is sent once more by paho, and must not come last.
            self._work.put((self._publish_own_state_again, ()))

    def _publish_own_state_again(self) -> None:
        with self._lock:
            if not self.is_connected:  # it is said after the next connection
                return
            already_said, self._said_at_first = self._said_at_first, None
            first = next(iter(self._retained), None)
            if already_said is not None:  # this is the first connection
                self._publish_retained(set(self._retained) - already_said)
                return
            if first is None:
                return
            acknowledged = self._acknowledged_meanwhile = set()
            self._publish_retained({first})
            publication = self._latest_publications[1]
            self._said_before_the_rest = {publication.mid: first}
            self._acknowledged_meanwhile = None
        if publication.mid in acknowledged or publication.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            self._say_the_rest_after(publication.mid)

    def _say_the_rest_after(self, packet: int) -> None:
        # When this is acknowledged all has arrived that the broker retained meanwhile. Who hears there that others have
        # the last word (`forget`) must not say its own again over it.
        first = self._said_before_the_rest.pop(packet, None)
        if first is not None:
            self._work.put((self._publish_rest, (first,)))  # behind what has arrived

    def _publish_rest(self, first: str) -> None:
        with self._lock:
            if self.is_connected:  # else it is said after the next connection
                self._publish_retained(set(self._retained) - {first})

    def _publish_retained(self, topics: set[str]) -> None:
        for topic, payload in self._retained.items():
            if topic in topics:
                self._send(topic, payload, qos=1, retain=True)

    def _connection_failed(self, _client: mqtt.Client, _userdata: object) -> None:
        self._note_obstacle(obstacle_of(sys.exception(), self.broker.host, tls=self.broker.tls))  # paho handles it

    def _connection_lost(
        self, _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        was_connected = self._connected.is_set()
        self._connected.clear()
        with self._lock:
            self._said_at_first = None
            self._said_before_the_rest.clear()
            self._drop_own_state_under_way()
        self._back_off_randomly()
        was_turned_away, self._was_turned_away = self._was_turned_away, False
        if was_connected and not self._closing:
            log.warning("Lost the MQTT broker at %s (%s), connecting again", self.broker, reason)
        elif not was_turned_away and not self._closing and str(reason) != NO_ANSWER:
            self._note_obstacle(CLOSED)

    def _drop_own_state_under_way(self) -> None:
        # paho would send it once more before anything is heard: perhaps over what others have said meanwhile.
        unacknowledged = self._client._out_messages  # `drop_out_messages` would drop what must arrive, too
        with self._client._out_message_mutex:
            for packet, message in list(unacknowledged.items()):
                if message.retain and message.topic in self._retained:
                    del unacknowledged[packet]
                    self._under_way.pop(packet, None)

    def _note_obstacle(self, obstacle: str) -> None:
        now = time.monotonic()
        if obstacle != self._obstacle or now - self._obstacle_told_at > SAY_AGAIN_S:  # not at each attempt
            self._obstacle_told_at = now
            log.warning("The MQTT broker at %s cannot be reached: %s", self.broker, obstacle)
        self._obstacle = obstacle

    def _refusal(self, what: str, topic: str, why: str) -> str:
        who = "anybody" if self.broker.username is None else f"user '{self.broker.username}'"
        return f"The MQTT broker at {self.broker} does not let {who} {what} {topic} ({why})"

    # -- publishing ----------------------------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: Message | bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> None:
        """Publish and return at once. While the broker is away QoS 0 is lost, QoS 1 waits."""
        data = _serialised(payload)
        with self._lock:
            self._send(topic, data, qos=qos, retain=retain, properties=properties)
            outcome = self._latest_publications[qos].rc
            if outcome and (qos == 0 or outcome is MQTTErrorCode.MQTT_ERR_QUEUE_SIZE):
                self.counts.dropped_outgoing += 1

    def stream(self, topic: str, payload: bytes, *, patient: bool = True) -> bool:
        """Publish one of many messages at QoS 1, once there is room for it.

        Args:
            topic: where.
            payload: may be large.
            patient: whether to wait for the broker; not in the bus's own thread, whose commands would wait, too.

        Returns:
            Whether it was published; it is dropped when the broker has not taken anything for so long, or is given so
            much, that no more can be kept (`nrp_common.outgoing`).
        """

        def publish() -> int | None:
            with self._lock:
                self._send(topic, payload, qos=1, retain=False)
                publication = self._latest_publications[1]
            return None if publication.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else publication.mid

        is_published = self._outgoing.send(publish, len(payload), patient=patient)
        self.counts.dropped_outgoing += not is_published
        return is_published

    def retain(self, topic: str, payload: Message | bytes) -> None:
        """Publish this process's state, retained at QoS 1, and again after each reconnect until `forget` is called."""
        data = _serialised(payload)
        with self._lock:
            self._retained[topic] = data
            # While the broker is away only the newest matters: older states would be queued and sent afterwards.
            if self.is_connected:
                self._send(topic, data, qos=1, retain=True)
                if self._said_at_first is not None:
                    self._said_at_first.add(topic)

    def forget(self, topic: str, *, clear: bool = True) -> None:
        """Stop publishing `topic` again after a reconnect; with `clear` also remove it from the broker."""
        with self._lock:
            self._retained.pop(topic, None)
            if clear:
                self._send(topic, b"", qos=1, retain=True)

    def _send(self, topic: str, data: bytes, *, qos: int, retain: bool, properties: Properties | None = None) -> None:
        publication = self._latest_publications[qos] = self._client.publish(topic, data, qos, retain, properties)
        if qos:
            self._under_way[publication.mid] = topic

    def _published(
        self, _client: mqtt.Client, _userdata: object, packet: int, reason: ReasonCode, _properties: object
    ) -> None:
        self._outgoing.acknowledge(packet)
        if (meanwhile := self._acknowledged_meanwhile) is not None:  # it may be the one before the rest
            meanwhile.add(packet)
        self._say_the_rest_after(packet)
        topic = self._under_way.pop(packet, "some topic")  # without the lock, under which paho may be waited for
        if reason.is_failure:
            self.counts.dropped_outgoing += 1
            if topic not in self._refused_topics:
                if len(self._refused_topics) < MOST_REFUSED:
                    self._refused_topics.add(topic)
                log.error("%s: what is published there is lost", self._refusal("publish on", topic, str(reason)))

    # -- subscribing ---------------------------------------------------------------------------------------------------

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Call `handler(topic, payload)` for each message.

        One handler a filter; filters of one bus must not overlap, as the broker sends a message once for each.
        """
        self._add_handler(topic_filter, qos, lambda message: handler(message.topic, bytes(message.payload)))

    def serve(
        self, topic: str, request_type: type[RequestT], handler: Callable[[RequestT, Responder], None], *, qos: int = 0
    ) -> None:
        """Call `handler(request, responder)` for each new request on `topic`.

        A message that is no `request_type`, says not where to answer, or is late is logged and dropped.
        """

        def take(message: mqtt.MQTTMessage) -> None:
            request = request_type.from_json(bytes(message.payload))
            asker = _Asker.of(request, message) if request is not None else None
            if request is None or asker is None:
                log.warning("Ignored what is no %s on %s: %.200r", request_type.__name__, topic, message.payload)
                return
            with self._lock:
                responder = self._answered.get(asker.correlation)
            if responder is not None:
                responder.repeat()
                return
            if request.is_late:
                log.warning("Ignored a %s on %s whose asker has given up", request_type.__name__, topic)
                return
            responder = Responder(self, asker)
            with self._lock:
                self._answered[asker.correlation] = responder
                if len(self._answered) > REMEMBER_ANSWERS:
                    self._answered.popitem(last=False)
            with tracing.within(tracing.Context(request.request_id, request.traceparent)):
                try:
                    handler(request, responder)
                except Exception:
                    log.exception("The handler of a %s on %s failed", request_type.__name__, topic)
                    error = "An unexpected error occurred; its log says more"
                    responder.reply(Reply(error=error, refusal=Refusal.FAILED))

        self._add_handler(topic, qos, take)

    def await_subscriptions(self, timeout: float) -> None:
        """Wait until the broker has confirmed all subscriptions: nothing that is published from then on is missed.

        Raises:
            BusUnavailable: it did not within `timeout` seconds.
            AccessRefused: it refused one.
        """
        with self._confirmed:
            if not self._confirmed.wait_for(lambda: self.is_connected and not self._unconfirmed, timeout):
                raise BusUnavailable(f"The MQTT broker at {self.broker} confirmed no subscription within {timeout:g} s")
            for topic_filter, why in self._refused_filters.items():
                raise AccessRefused(self._refusal("subscribe to", topic_filter, why))

    def unsubscribe(self, topic_filter: str) -> None:
        """Undo `subscribe` or `serve`."""
        with self._lock:
            if self._handlers.pop(topic_filter, None) is None:
                return
            self._refused_filters.pop(topic_filter, None)
            del self._matcher[topic_filter]  # type: ignore[no-untyped-call]
        self._client.unsubscribe(topic_filter)

    def _add_handler(self, topic_filter: str, qos: int, take: Callable[[mqtt.MQTTMessage], None]) -> None:
        with self._lock:
            self._handlers[topic_filter] = (qos, take)
            self._matcher[topic_filter] = take
            if self.is_connected:
                self._unconfirmed[self._client.subscribe(topic_filter, qos)[1]] = [topic_filter]

    # -- requests ------------------------------------------------------------------------------------------------------

    def request(self, topic: str, request: Request, *, timeout: float) -> Reply:
        """Ask, and wait for the last answer. What is asked names the request that it goes back to (`tracing`).

        When this returns, what the broker passed on before the answer has been handled. Not for handlers, which would
        wait for themselves.

        Raises:
            BusUnavailable: there is no connection to the broker.
            CommandTimeout: no last answer within `timeout` seconds.
        """
        if not self.is_connected:
            raise BusUnavailable(f"There is no connection to the MQTT broker at {self.broker}")
        with self._awaiting_answers() as (correlation, pending):
            deadline = time.monotonic() + timeout
            asked = self._addressed(request, correlation)
            for pause in (*RESEND_AFTER_S, timeout):
                self.publish(topic, asked)
                left = deadline - time.monotonic()
                if pending.acknowledged.wait(max(0.0, min(pause, left))) or left <= pause:
                    break
            if not pending.answered.wait(max(0.0, deadline - time.monotonic())):
                heard = "was accepted but not carried out" if pending.acknowledged.is_set() else "got no answer"
                raise CommandTimeout(f"A request on {topic} {heard} within {timeout:g} s")
        assert pending.answer is not None
        return pending.answer

    def tell(self, topic: str, request: Request) -> None:
        """Ask, once, and leave the answer to nobody. While the broker is away it is lost."""
        self.publish(topic, self._addressed(request, uuid.uuid4().hex))

    def _addressed(self, request: RequestT, correlation: str) -> RequestT:
        behalf = tracing.current()
        return request.model_copy(
            update={
                "reply_to": self._reply_topic,
                "correlation": correlation,
                "request_id": behalf.request_id,
                "traceparent": behalf.traceparent,
            }
        )

    @contextmanager
    def _awaiting_answers(self) -> Iterator[tuple[str, _PendingRequest]]:
        assert self._reply_topic is not None, "a Bus that makes requests is made with a reply_topic"
        correlation, pending = uuid.uuid4().hex, _PendingRequest()
        with self._lock:
            self._pending[correlation] = pending
        try:
            yield correlation, pending
        finally:
            with self._lock:
                del self._pending[correlation]

    # -- arrival -------------------------------------------------------------------------------------------------------

    def _message_arrived(self, client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        _acknowledge_at_once(client.socket())
        if message.topic == self._reply_topic:
            self._answer_arrived(message)
        elif message.qos > 0 or self._work.qsize() < MOST_UNHANDLED:
            self._work.put((self._handle, (message,)))
        else:
            self.counts.dropped_incoming += 1

    def _answer_arrived(self, message: mqtt.MQTTMessage) -> None:
        reply = Reply.from_json(bytes(message.payload))
        if reply is None:
            return
        with self._lock:
            pending = self._pending.get(reply.correlation)
        if pending is None:
            return
        pending.acknowledged.set()
        if reply.is_last:  # behind what was said before it: who has the answer may ask what is known meanwhile
            self._work.put((pending.take, (reply,)))

    def _handle(self, message: mqtt.MQTTMessage) -> None:
        with self._lock:
            handlers = list(self._matcher.iter_match(message.topic))  # type: ignore[no-untyped-call]
        for handler in handlers:
            handler(message)

    def _dispatch(self) -> None:
        while (work := self._work.get()) is not None:
            call, arguments = work
            try:
                call(*arguments)
            except Exception:
                log.exception("A handler of bus messages failed")


def _serialised(payload: Message | bytes) -> bytes:
    return payload if isinstance(payload, bytes) else payload.to_json()


def _send_small_packets_at_once(_client: mqtt.Client, _userdata: object, sock: Any) -> None:
    # paho leaves Nagle's algorithm on: a round trip at QoS 1 then takes 44 ms instead of 0.8.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge_at_once(sock: Any) -> None:
    # A broker that leaves Nagle's algorithm on (the embedded one does) sends its next small packet when this one is
    # acknowledged, which the kernel puts off for 40 ms. It forgets the option by and by, so it is set each time.
    if sock is not None:
        with suppress(OSError):  # just closed, or a wrapper of TLS that is
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
