"""The broker: whether it can be reached in every way that backend and frontends need, and how quick it is."""

from __future__ import annotations

import statistics
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from nrp_cli.doctor.findings import Finding, Verdict
from nrp_cli.doctor.mqtt_probe import Greeting, ask_version, greet, greet_over_websocket, refused_filters
from nrp_cli.doctor.targets import Targets
from nrp_cli.local_broker import find_mosquitto
from nrp_common.access import gateway_rights, launcher_rights
from nrp_common.bus import Bus, Responder
from nrp_common.errors import AccessRefused, BusUnavailable, CommandTimeout
from nrp_common.messages import Reply, Request
from nrp_common.topics import Topics

CONNECTING_S: Final = 4.0

ANSWER_S: Final = 2.0

PINGS: Final = 20

SLOW_S: Final = 0.02
"""A request and its answer, four messages, take a millisecond or two on one machine."""

LARGE_PACKET: Final = 4 * 1024 * 1024
"""In bytes: a camera frame in full HD, three bytes a pixel, is 6 MB; most are smaller."""


@dataclass
class Heard:
    """What is retained on the broker; all of it once a ping is answered, as messages stay in order.

    Attributes:
        launchers: what launchers last said of themselves, by name.
        simulations: the ids that something is retained of.
    """

    launchers: dict[str, bytes] = field(default_factory=dict)
    simulations: set[int] = field(default_factory=set)


class BusView:
    """A connection to the bus, for the examinations that need one.

    Attributes:
        bus: the connection.
        heard: what is retained.
    """

    def __init__(self, targets: Targets) -> None:
        self.heard = Heard()
        self._topics = targets.topics
        self._own = Topics(targets.topics.doctor(uuid.uuid4().hex))
        self.bus = Bus(targets.broker, "doctor", reply_topic=self._own.reply("doctor"))

    def listen(self) -> None:
        """Get onto the bus, and hear what is retained there.

        Raises:
            BusUnavailable: it cannot be reached.
        """
        topics, heard = self._topics, self.heard

        def note_launcher(topic: str, payload: bytes) -> None:
            heard.launchers[topics.launcher_of(topic) or topic] = payload

        def note_simulation(topic: str, payload: bytes) -> None:
            simulation_id = topics.simulation_id_of(topic)
            if simulation_id is not None and payload:
                heard.simulations.add(simulation_id)

        self.bus.serve(self._own.launch("doctor"), Request, _answer)
        self.bus.start()
        self.bus.wait_until_connected(CONNECTING_S)
        self.bus.subscribe(topics.each_launcher_presence(), note_launcher)
        self.bus.subscribe(topics.each_simulation("lifecycle"), note_simulation)

    def ping(self) -> float:
        """How long a request to oneself takes to be answered, in seconds.

        Raises:
            CommandTimeout: it is not answered.
            BusUnavailable: the connection was lost.
        """
        began = time.perf_counter()
        request = Request(deadline=time.time() + ANSWER_S)
        self.bus.request(self._own.launch("doctor"), request, timeout=ANSWER_S)
        return time.perf_counter() - began

    def missing_rights(self) -> tuple[str, list[str]]:
        """Of the service that the user comes closest to: its name, and what it may not read of what it should."""
        services = {"gateway": gateway_rights(self._topics), "launcher": launcher_rights(self._topics)}
        missing = {name: refused_filters(self.bus.broker, rights.reads) for name, rights in services.items()}
        closest = min(missing, key=lambda name: len(missing[name]) / len(services[name].reads))
        return closest, missing[closest]

    def retains(self) -> bool:
        """Whether what is retained is there for who subscribes afterwards."""
        topic, arrived = self._own.launcher_presence("doctor"), threading.Event()
        self.bus.publish(topic, b"retained", qos=1, retain=True)
        self.bus.flush(ANSWER_S)
        self.bus.subscribe(topic, lambda _topic, payload: arrived.set() if payload else None)
        is_there = arrived.wait(ANSWER_S)
        self.bus.forget(topic)
        return is_there


@contextmanager
def on_the_bus(targets: Targets) -> Iterator[BusView]:
    """A view of the bus, left again at the end."""
    view = BusView(targets)
    try:
        yield view
    finally:
        view.bus.close(linger_s=0.5)


def _answer(_request: Request, responder: Responder) -> None:
    responder.reply(Reply(error="here I am"))


# -- what is found ---------------------------------------------------------------------------------------------------


def examine_connections(targets: Targets) -> list[Finding]:
    """The ways to get onto the bus. MQTT 5 is the first."""
    mqtt5 = _mqtt5(targets)
    if mqtt5.verdict is Verdict.PROBLEM:
        return [mqtt5]
    return [mqtt5, *_secrecy(targets), *_further_connections(targets)]


def _mqtt5(targets: Targets) -> Finding:
    try:
        greeting = greet(targets.broker, is_mqtt5=True)
    except BusUnavailable as error:
        return Finding.problem(
            "MQTT 5", f"The broker at {targets.broker} cannot be reached: {error}", _how_to_reach(targets, str(error))
        )
    program = ask_version(targets.broker)
    where = f"{targets.broker}{' with TLS' if targets.broker.tls else ''}{f', {program}' if program else ''}"
    return _suits("MQTT 5", where, greeting)


def _suits(name: str, where: str, greeting: Greeting) -> Finding:
    if greeting.best_qos == 0 or greeting.retains is False:
        lacks = "messages at QoS 1" if greeting.best_qos == 0 else "retained messages"
        return Finding.problem(name, f"{where} does not allow {lacks}", f"Allow {lacks} in the broker's configuration.")
    if greeting.largest_packet is not None and greeting.largest_packet < LARGE_PACKET:
        return Finding.warning(
            name,
            f"{where} takes no message larger than {greeting.largest_packet / 1e6:.1f} MB",
            "Camera images and large datapacks are lost: raise the limit (Mosquitto: max_packet_size).",
        )
    return Finding.ok(name, where)


def _how_to_reach(targets: Targets, obstacle: str) -> str:
    if "refused" in obstacle.lower():
        start = "mosquitto" if find_mosquitto() else "nrp up --broker embedded"
        return (
            f"Nothing listens there. Start everything with `nrp up`, or a broker alone (`{start}`); one that is"
            " elsewhere is named by NRP_MQTT_BROKER_ADDRESS or --broker HOST:PORT."
        )
    if "certificate" in obstacle:
        return _about_the_certificate(targets, obstacle)
    if any(word in obstacle.lower() for word in ("authori", "password", "identifier")):
        return (
            "Set NRP_MQTT_USERNAME and NRP_MQTT_PASSWORD, or NRP_MQTT_PASSWORD_FILE, to what the broker asks for: of"
            " `nrp broker-access` that is nrp_doctor with doctor.password."
        )
    if "TLS" in obstacle:
        return (
            f"Set NRP_MQTT_TLS={'false' if targets.broker.tls else 'true'}, or name the port that speaks"
            f" {'TLS' if targets.broker.tls else 'none'}: what `nrp broker-access` sets up has 8883 for TLS."
        )
    if "name" in obstacle.lower() or "route" in obstacle.lower() or "timed out" in obstacle.lower():
        return f"See that {targets.broker.host} is the right host and that this machine reaches it."
    if "no answer" in obstacle.lower():
        return "It takes connections and says nothing: it hangs, or is no MQTT broker. Restart it."
    return (
        "See that an MQTT 5 broker listens there: the embedded one has a port for each version (`nrp up` says which)."
    )


def _about_the_certificate(targets: Targets, obstacle: str) -> str:
    host = targets.broker.host
    if " not for " in obstacle:
        return (
            "Name the broker as its certificate does, in NRP_MQTT_BROKER_ADDRESS; or have a certificate that is for"
            f" '{host}', too: `nrp broker-access renew FOLDER --host {host}` (with each name that it is to have)."
        )
    if "expired" in obstacle:
        return "Make a new one (`nrp broker-access renew FOLDER`) and send the broker SIGHUP, or start it again."
    if "valid yet" in obstacle:
        return "Set the clocks of this machine and the broker's right."
    return "Set NRP_MQTT_CA_FILE to the certificate of who signed it: ca.crt in the folder of `nrp broker-access`."


def _further_connections(targets: Targets) -> Iterator[Finding]:
    try:
        greet(targets.mqtt, is_mqtt5=False)
        yield Finding.ok("MQTT 3.1.1", str(targets.mqtt))
    except BusUnavailable as error:
        yield Finding.warning(
            "MQTT 3.1.1",
            f"{targets.mqtt} does not serve it: {error}",
            "Older clients and NRPCoreSim need it. The embedded broker has a port of its own for it: see `nrp up`.",
        )
    try:
        greet_over_websocket(targets.websocket, targets.broker)
        yield Finding.ok("WebSocket", targets.websocket)
    except BusUnavailable as error:
        yield Finding.warning(
            "WebSocket",
            f"{targets.websocket} cannot be reached: {error}",
            "Frontends in browsers need it. Mosquitto has it with `listener 9001` and `protocol websockets` in its"
            " configuration. One that is elsewhere is named by --websocket.",
        )


def examine_traffic(view: BusView) -> Iterator[Finding]:
    """What the broker allows, how quick it is, and whether it keeps what it should. Connects."""
    try:
        view.listen()
        view.bus.await_subscriptions(ANSWER_S)
        times_s = [view.ping() for _ in range(PINGS)]
    except AccessRefused as refusal:
        yield from _rights_of_a_service(view, str(refusal))
        return
    except (BusUnavailable, CommandTimeout) as error:
        yield Finding.problem(
            "messages",
            f"A message to oneself does not arrive: {error}",
            "The broker's access control has to let this user publish and subscribe below nrp_doctor/ here, and the"
            " services below nrp_simulation/, nrp_server/, nrp_launcher/ and nrp_gateway/.",
        )
        return
    yield _quickness(statistics.median(times_s))
    if view.retains():
        yield Finding.ok("retained messages", "kept, and cleared again")
    else:
        yield Finding.problem(
            "retained messages",
            "What is retained does not reach who subscribes later",
            "Frontends and gateways that come later would see nothing: allow retained messages"
            " (Mosquitto: retain_available true), and publishing in the access control.",
        )


def _rights_of_a_service(view: BusView, refusal: str) -> Iterator[Finding]:
    """The doctor is let in and not allowed to examine much: these may be the credentials of a service."""
    service, missing = view.missing_rights()
    if missing:
        yield Finding.problem(
            "rights",
            f"{refusal}; nor is this user a {service}: it may not read {', '.join(missing)}",
            "`nrp broker-access init FOLDER` says whether the broker's rights are those that this version needs, and"
            " for which topic prefix (NRP_MQTT_PREFIX). The doctor's own user is nrp_doctor, with doctor.password.",
        )
        return
    yield Finding.warning(
        "rights",
        f"This user may read all that a {service} needs, and no message to itself",
        "The rest could not be examined. For that set NRP_MQTT_USERNAME=nrp_doctor, and NRP_MQTT_PASSWORD_FILE to"
        " doctor.password in the folder of `nrp broker-access`.",
    )


def _secrecy(targets: Targets) -> Iterator[Finding]:
    if targets.broker.password is not None and not targets.broker.tls and not targets.broker_is_local:
        yield Finding.warning(
            "password",
            f"The password goes to {targets.broker} for everybody on the way to read",
            "Have the broker speak TLS (`nrp broker-access init`) and set NRP_MQTT_TLS=true.",
        )


def _quickness(median_s: float) -> Finding:
    shown = f"{median_s * 1e3:.1f} ms for a request and its answer (median of {PINGS})"
    if median_s < SLOW_S:
        return Finding.ok("round trip", shown)
    return Finding.warning(
        "round trip",
        shown,
        "Every command waits for it. Where it is some 40 ms, set `set_tcp_nodelay true` in mosquitto.conf; else the"
        " network or the broker's machine is slow.",
    )
