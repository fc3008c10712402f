"""Who may do what on a broker that `nrp broker-access` set up: the table line by line, then the whole product on it."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from typer.testing import CliRunner

from nrp_cli.main import app
from nrp_common.bus import BrokerAddress, Bus
from nrp_common.errors import AccessRefused, BusUnavailable
from nrp_common.topics import Topics
from nrp_simserver.launcher.simulation_credentials import SimulationCredentials
from tests.access_table import FURTHER, IDS, INCARNATION, MATRIX, OTHER_INCARNATION, clients_of, is_taken
from tests.brokers import embedded_broker
from tests.nrpcoresim import install
from tests.secured_broker import Client, LabBroker, PlainBroker, SecuredBroker, broker_in_a_container, lab_broker
from tests.secured_product import SecuredProduct
from tests.waiting import wait_until

# paho leaves a socket to the garbage collector whose handshake failed.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", params=["no prefix", "a prefix", "in a container"])
def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """The broker under test."""
    folder = tmp_path_factory.mktemp("secured")
    if request.param == "in a container":
        image, engine = (request.getfixturevalue(each) for each in ("mosquitto_image", "engine"))
        with broker_in_a_container(folder, image, engine.environment) as broker:
            yield broker
    else:
        with lab_broker(folder, "lab/a" if request.param == "a prefix" else "") as broker:
            yield broker


@pytest.fixture(scope="module")
def clients(secured: SecuredBroker) -> Iterator[dict[str, Client]]:
    """A client of each kind; the simulation is number 7."""
    with clients_of(secured) as clients:
        yield clients


# -- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("who", "what", "topic", "is_allowed"), MATRIX, ids=IDS)
def test_the_table(
    clients: dict[str, Client], secured: SecuredBroker, who: str, what: str, topic: str, is_allowed: str
) -> None:
    assert is_taken(clients[who], secured.prefix, what, topic) is (is_allowed == "yes")


def test_topics_of_other_installations_on_the_broker_are_nobodys(
    clients: dict[str, Client], secured: SecuredBroker
) -> None:
    elsewhere = Topics("" if secured.prefix else "elsewhere")
    assert not clients["gateway"].may_publish(elsewhere.command(7))
    assert not clients["launcher"].may_publish(elsewhere.lifecycle(7))
    assert not clients["simulation"].may_publish(elsewhere.status(7))
    assert not clients["frontend"].may_subscribe(elsewhere.status(7))


def test_a_frontend_that_asks_for_everything_gets_what_it_may_read_and_nothing_else(
    clients: dict[str, Client], secured: SecuredBroker
) -> None:
    topics = Topics(secured.prefix)
    with Client(
        secured.address("frontend"), protocol=MQTTProtocolVersion.MQTTv311, websocket=secured.websocket
    ) as frontend:
        assert frontend.may_subscribe("#", qos=0)  # as those of NRP 4 do, who give up on what is refused
        assert frontend.may_subscribe(topics.status(7), qos=0)
        clients["gateway"].may_publish(topics.launch("one"), b"with a sealed token")
        clients["launcher"].may_publish(topics.launcher_presence("one"))
        clients["simulation"].may_publish(topics.reply("some"))
        clients["simulation"].may_publish("robot/arm")
        clients["doctor"].may_publish(topics.doctor("me/x"))
        clients["simulation"].may_publish(topics.server_presence(INCARNATION))
        clients["simulation"].may_publish(topics.status(7), b"last")
        wait_until(lambda: (topics.status(7), b"last") in frontend.heard)
        assert {topic for topic, _ in frontend.heard} == {topics.server_presence(INCARNATION), topics.status(7)}


def test_what_was_retained_before_reaches_nobody_who_may_not_read_it(
    clients: dict[str, Client], secured: SecuredBroker
) -> None:
    topics = Topics(secured.prefix)
    assert clients["launcher"].may_publish(topics.launcher_presence("retained"), b"{}", retain=True)
    assert clients["simulation"].may_publish(topics.lifecycle(7), b"{}", retain=True)
    with Client(secured.address("frontend")) as frontend:
        assert frontend.may_subscribe("#")
        wait_until(lambda: topics.lifecycle(7) in [topic for topic, _ in frontend.heard])
        assert topics.launcher_presence("retained") not in [topic for topic, _ in frontend.heard]
    for publisher, topic in (("launcher", topics.launcher_presence("retained")), ("simulation", topics.lifecycle(7))):
        clients[publisher].may_publish(topic, b"", retain=True)


# -- who gets in -----------------------------------------------------------------------------------------------------


def test_nobody_gets_in_without_a_password(secured: SecuredBroker) -> None:
    for address in (
        secured.stranger,
        replace(secured.address("gateway"), password="wrong"),
        replace(secured.address("gateway"), username="nobody"),
    ):
        with Client(address) as client:
            assert str(client.connection) == "Not authorized"
            assert not client.is_connected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves sockets that failed behind
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tls": False}, "it may want TLS (NRP_MQTT_TLS)"),
        ({"ca_file": None}, "signed by nobody that is trusted here"),
        ({"host": "127.0.0.1"}, "its certificate is not for '127.0.0.1'"),
        ({"password": "wrong"}, "it says Not authorized to user 'nrp_gateway"),
        ({"username": None, "password": None}, "to a client without user name"),
    ],
    ids=["no TLS", "no authority", "other host", "wrong password", "no password"],
)
def test_a_service_says_why_it_does_not_get_in(
    secured: SecuredBroker, wrong: dict[str, object], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus(replace(secured.address("gateway"), **wrong), "test")  # type: ignore[arg-type]
    bus.start()
    try:
        wait_until(lambda: says in caplog.text)
        with pytest.raises(BusUnavailable, match=re.escape(says)):
            bus.wait_until_connected(0.2)
    finally:
        bus.close(linger_s=0)
    assert caplog.text.count(says) == 1


def test_a_broker_without_tls_is_named_as_such(
    broker: BrokerAddress, secured: SecuredBroker, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus(replace(secured.address("gateway"), port=broker.port), "test")
    bus.start()
    wait_until(lambda: "speaks no TLS" in caplog.text or "UNEXPECTED_EOF" in caplog.text)
    bus.close(linger_s=0)
    assert "speaks no TLS on this port" in caplog.text


def test_a_service_says_what_it_is_not_allowed(secured: SecuredBroker, caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus(secured.address("gateway"), "test")
    bus.subscribe("elsewhere/#", lambda _topic, _payload: None)
    bus.start()
    with pytest.raises(AccessRefused, match="subscribe to elsewhere/#"):
        bus.await_subscriptions(5)
    for _ in range(3):
        bus.publish("elsewhere/here", b"x", qos=1)
    bus.publish(Topics(secured.prefix).command(7), b"x", qos=1)
    bus.flush(5)
    wait_until(lambda: bus.counts.dropped_outgoing == 3)
    bus.close()
    user = secured.address("gateway").username
    assert caplog.text.count(f"does not let user '{user}' publish on elsewhere/here (Not authorized)") == 1
    assert f"does not let user '{user}' subscribe to elsewhere/# (Not authorized)" in caplog.text
    assert "/command" not in caplog.text


# -- what nrp doctor says --------------------------------------------------------------------------------------------


def doctor(settings: dict[str, object], websocket: int | None = None) -> list[dict[str, str]]:
    """What it finds of the broker."""
    environment = {f"NRP_{name.upper()}": "" if value is None else str(value) for name, value in settings.items()}
    arguments = [] if websocket is None else ["--websocket", f"wss://localhost:{websocket}"]
    done = CliRunner().invoke(app, ["doctor", "--json", "--url", "http://127.0.0.1:1", *arguments], env=environment)
    report = json.loads(done.stdout)
    return [each for each in report["findings"] if each["area"] == "Broker"]


def test_the_doctor_has_rights_of_its_own(secured: SecuredBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nrp_cli.doctor.broker.SLOW_S", 5.0)  # other tests run meanwhile
    found = {each["name"]: each["verdict"] for each in doctor(secured.settings("doctor"), secured.websocket)}
    assert found == {
        "MQTT 5": "ok", "MQTT 3.1.1": "ok", "WebSocket": "ok", "round trip": "ok", "retained messages": "ok",
    }  # fmt: skip


def test_the_doctor_asks_launchers(product: SecuredProduct) -> None:
    environment = {f"NRP_{name.upper()}": str(value) for name, value in product.broker.settings("doctor").items()}
    done = CliRunner().invoke(app, ["doctor", "--json", "--url", product.url], env=environment)
    launchers = [each for each in json.loads(done.stdout)["findings"] if each["area"] == "Launchers"]
    assert any(each["name"] == "launcher one" and each["verdict"] == "ok" for each in launchers), launchers


@pytest.mark.parametrize("account", ["gateway", "launcher"])
def test_the_doctor_sees_that_a_service_has_its_rights(secured: SecuredBroker, account: str) -> None:
    (rights,) = [each for each in doctor(secured.settings(account), secured.websocket) if each["name"] == "rights"]
    assert rights["verdict"] == "warning"
    assert f"all that a {account} needs" in rights["message"]
    assert "nrp_doctor" in rights["advice"]


def test_the_doctor_sees_that_a_service_lacks_rights(secured: SecuredBroker) -> None:
    settings = secured.settings("gateway") | {"mqtt_prefix": "elsewhere"}
    (rights,) = [each for each in doctor(settings, secured.websocket) if each["name"] == "rights"]
    assert rights["verdict"] == "problem"
    assert "elsewhere/nrp_launcher/+/presence" in rights["message"]
    assert "NRP_MQTT_PREFIX" in rights["advice"]


@pytest.mark.parametrize(
    ("wrong", "says", "advises"),
    [
        ({"mqtt_tls": False, "mqtt_ca_file": None}, "may want TLS", "NRP_MQTT_TLS=true"),
        ({"mqtt_ca_file": None}, "nobody that is trusted", "NRP_MQTT_CA_FILE"),
        ({"mqtt_broker_address": "127.0.0.1"}, "not for '127.0.0.1'", "broker-access renew"),
        ({"mqtt_password_file": None, "mqtt_password": "wrong"}, "Not authorized", "NRP_MQTT_PASSWORD_FILE"),
    ],
    ids=["no TLS", "no authority", "other host", "wrong password"],
)
def test_the_doctor_says_what_keeps_a_service_out(
    secured: SecuredBroker, wrong: dict[str, object], says: str, advises: str
) -> None:
    if "mqtt_broker_address" in wrong:
        wrong = {"mqtt_broker_address": f"127.0.0.1:{secured.port}"}
    (found,) = doctor(secured.settings("doctor") | wrong)
    assert found["verdict"] == "problem"
    assert says in found["message"]
    assert advises in found["advice"]


def test_a_renewed_certificate_is_taken_at_a_sighup_and_nobody_loses_the_connection(own_broker: LabBroker) -> None:
    secured = own_broker.secured
    with Client(secured.address("gateway")) as client:
        before = certificate_of(secured)
        assert CliRunner().invoke(app, ["broker-access", "renew", str(secured.access)]).exit_code == 0
        own_broker.hang_up()
        wait_until(lambda: certificate_of(secured) != before)
        assert client.may_publish(Topics().command(7))
        with Client(secured.address("gateway")) as another:
            assert another.is_connected


def certificate_of(secured: SecuredBroker) -> bytes:
    """The certificate that a broker shows, checked as clients check it."""
    context = ssl.create_default_context(cafile=secured.stranger.ca_file)
    with (
        socket.create_connection(("localhost", secured.port), 5) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as spoken,
    ):
        certificate = spoken.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


# -- the whole product -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredProduct]:
    """Gateway and launcher on a broker of their own; simulations have credentials of their own."""
    folder = tmp_path_factory.mktemp("product")
    with (
        lab_broker(folder, "lab/a") as broker,
        SecuredProduct(broker, folder, simulation_credentials="required", simulation_topics="robot/#") as running,
    ):
        running.experiment("counting")
        yield running


def test_a_simulation_runs_from_its_launch_to_its_logs_and_its_credentials_are_gone_afterwards(
    product: SecuredProduct, tmp_path: Path
) -> None:
    before = product.broker.simulations
    simulation_id = product.started("counting")
    (own,) = product.broker.simulations - before
    assert f":{simulation_id}:" in own
    wait_until(lambda: product.client.simulation(simulation_id)["simulationTime"] > 0)
    assert product.client.set_state(simulation_id, "paused") == "paused"
    assert product.client.set_state(simulation_id, "stopped") == "stopped"
    wait_until(lambda: own not in product.broker.simulations)
    wait_until(lambda: own not in product.broker.roles)
    assert product.client.download(simulation_id, "logs", tmp_path) is not None


def test_several_at_once_have_each_their_own(product: SecuredProduct) -> None:
    before = product.broker.simulations
    ids = [product.launched("counting") for _ in range(4)]  # more than there are idle servers
    assert len(product.broker.simulations - before) == 4
    for each in ids:
        assert product.client.set_state(each, "stopped") == "stopped"
    wait_until(lambda: product.broker.simulations == before)


def test_a_failed_launch_leaves_no_credentials(product: SecuredProduct) -> None:
    experiment = product.experiment("broken", script="this is no Python")
    assert product.client.launch(experiment)["state"] == "failed"
    wait_until(lambda: not product.broker.simulations)


SPY = """
import json, os, ssl, sys, threading, time
from pathlib import Path
import paho.mqtt.client as mqtt
sys.path.insert(0, {tests!r})
from nrp_common.bus import Bus
import gc
own = next(each for each in gc.get_objects() if isinstance(each, Bus))
seen = {{"username": own.broker.username}}
text = repr([(bus.broker.username, bus.broker.password) for bus in gc.get_objects() if isinstance(bus, Bus)])
seen["environment"] = dict(os.environ)
seen["files"] = sorted(str(path.relative_to("..")) for path in Path("..").rglob("*"))
refused = []
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.tls_set_context(ssl.create_default_context(cafile=own.broker.ca_file))
client.username_pw_set(own.broker.username, own.broker.password)
answers = {{}}
arrived = threading.Event()
def note(packet, reasons):
    answers[packet] = [not reason.is_failure for reason in reasons]
    arrived.set()
client.on_publish = lambda _c, _u, packet, reason, _p: note(packet, [reason])
client.on_subscribe = lambda _c, _u, packet, reasons, _p: note(packet, reasons)
connected = threading.Event()
client.on_connect = lambda *_: connected.set()
client.connect(own.broker.host, own.broker.port)
client.loop_start()
connected.wait(5)
def answer(packet):
    while packet not in answers:
        arrived.wait(0.1)
        arrived.clear()
    return answers[packet][0]
other = os.environ["NRP_SIMULATION_ID"] == "0" or {other}
prefix = {prefix!r}
seen["publish"] = {{
    topic: answer(client.publish(prefix + topic, b"{{}}", qos=1).mid)
    for topic in (f"nrp_simulation/{{other}}/lifecycle", f"nrp_simulation/{{other}}/command", "nrp_launcher/one/launch")
}}
seen["subscribe"] = {{
    topic: answer(client.subscribe(prefix + topic, 1)[1])
    for topic in (f"nrp_simulation/{{other}}/command", "nrp_simulation/+/command", "#")
}}
client.disconnect()
Path("seen.json").write_text(json.dumps(seen))
nrp.run_loop()
"""


def test_a_script_with_all_that_its_process_knows_reaches_no_other_simulation(product: SecuredProduct) -> None:
    other = product.started("counting")
    prefix = product.broker.prefix + "/" if product.broker.prefix else ""
    script = SPY.format(tests=str(Path(__file__).parent), other=other, prefix=prefix)
    spy = product.started(product.experiment("spying", script))
    try:
        wait_until(lambda: product.client.simulation(spy)["state"] in ("completed", "failed"), 20)
        seen_file = product.data() / "simulations" / str(spy) / "experiment" / "seen.json"
        seen = json.loads(seen_file.read_text())
    finally:
        product.client.set_state(spy, "stopped")
    assert f":{spy}:" in seen["username"]
    assert not any(seen["publish"].values()), seen["publish"]
    assert not any(seen["subscribe"].values()), seen["subscribe"]
    launcher_password = product.broker.address("launcher").password
    assert launcher_password is not None
    assert not [name for name in seen["environment"] if "PASSWORD" in name or "SECRET" in name]
    assert launcher_password not in json.dumps(seen["environment"])
    assert not [name for name in seen["files"] if "credentials" in name]
    assert product.client.simulation(other)["state"] == "started"
    product.client.set_state(other, "stopped")


def test_no_server_process_has_the_launchers_password_in_its_memory(product: SecuredProduct) -> None:
    simulation_id = product.started("counting")
    password = product.broker.address("launcher").password
    assert password is not None
    others = {password.encode()}
    launcher = product.launchers["one"].process
    assert launcher is not None
    servers = psutil.Process(launcher.pid).children(recursive=True)
    assert servers
    for each in servers:
        assert not _is_in_memory(each.pid, others), each
    assert _is_in_memory(launcher.pid, others)
    product.client.set_state(simulation_id, "stopped")


def _is_in_memory(pid: int, secrets: set[bytes]) -> bool:
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(each, 16) for each in span.split("-"))
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue
            if any(secret in content for secret in secrets):
                return True
    return False


GRAPH = """
import os
from nrp_core.event_loop import *

@Clock(keyword="clock")
@FromMQTT(keyword="heard", address="{heard}", type=str)
@ToMQTT(keyword="said", address="{said}", type=str)
@FunctionalNode(name="echo", outputs=["said"])
def echo(clock, heard):
    return "silence" if heard is None else heard + "!"
"""

GRAPH_CONFIGURATION = {
    "SimulationName": "graph",
    "SimulationLoop": "EventLoop",
    "DataPackProcessor": "cg",
    "SimulationTimestep": 0.01,
    "EventLoop": {"Timestep": 0.01},
    "ComputationalGraph": ["graph.py"],
}


def test_mqtt_nodes_use_the_simulations_credentials(product: SecuredProduct) -> None:
    graph = GRAPH.format(heard="robot/heard", said="robot/said")
    experiment = product.experiment(
        "graph", "nrp.run_loop(100000)\n", configuration=GRAPH_CONFIGURATION, **{"graph.py": graph}
    )
    simulation_id = product.started(experiment)
    (own,) = product.broker.simulations
    assert f":{simulation_id}:" in own
    credentials = SimulationCredentials(
        product.broker.address("launcher"), Topics(product.broker.prefix), "robot", "required", FURTHER
    )
    credentials.start()
    granted = credentials.grant(999, OTHER_INCARNATION)
    address = replace(product.broker.stranger, username=granted.username, password=granted.password)
    with Client(address) as robot:
        assert robot.may_subscribe("robot/said")

        def is_answered() -> bool:
            robot.may_publish("robot/heard", b"hello")
            return ("robot/said", b"hello!") in robot.heard

        wait_until(is_answered)
    credentials.revoke(999, OTHER_INCARNATION)
    credentials.close()
    product.client.set_state(simulation_id, "stopped")


def test_mqtt_nodes_that_read_what_they_may_not_fail_the_launch_and_say_what_they_may(product: SecuredProduct) -> None:
    graph = GRAPH.format(heard="elsewhere/heard", said="robot/said")
    experiment = product.experiment(
        "trespassing", "nrp.run_loop(100000)\n", configuration=GRAPH_CONFIGURATION, **{"graph.py": graph}
    )
    launched = product.client.launch(experiment)
    assert launched["state"] == "failed", launched
    assert "elsewhere/heard" in launched["error"]
    assert "NRP_SIMULATION_TOPICS" in launched["error"]


def test_what_mqtt_nodes_publish_where_they_may_not_is_in_the_simulations_log(product: SecuredProduct) -> None:
    graph = GRAPH.format(heard="robot/heard", said="elsewhere/said")
    experiment = product.experiment(
        "shouting", "nrp.run_loop(100000)\n", configuration=GRAPH_CONFIGURATION, **{"graph.py": graph}
    )
    simulation_id = product.started(experiment)
    wait_until(lambda: "publish on elsewhere/said" in product.own_log(simulation_id))
    product.client.set_state(simulation_id, "stopped")


# -- what is left over -----------------------------------------------------------------------------------------------


def test_credentials_outlive_a_killed_launcher_and_go_with_their_simulation(product: SecuredProduct) -> None:
    simulation_id = product.started("counting")
    (own,) = product.broker.simulations
    launcher = product.launchers["one"]
    launcher.kill()
    launcher.start()
    product.await_ready()
    wait_until(lambda: "runs on" in product.log("one"))
    steps = product.client.simulation(simulation_id)["simulationTime"]
    wait_until(lambda: product.client.simulation(simulation_id)["simulationTime"] > steps)
    assert product.broker.simulations == {own}
    assert product.client.set_state(simulation_id, "stopped") == "stopped"
    wait_until(lambda: not product.broker.simulations)


def test_what_a_dead_launcher_left_over_is_removed_by_the_next_and_nothing_of_others(product: SecuredProduct) -> None:
    prefix = quote(product.broker.prefix, safe="")
    own, *of_others = [
        f"nrp-simulation:{prefix}:one:31:{INCARNATION}",
        f"nrp-simulation:{prefix}:one_more:31:{INCARNATION}",
        f"nrp-simulation:{prefix}:on:31:{INCARNATION}",
        f"nrp-simulation:elsewhere:one:31:{INCARNATION}",
    ]
    product.launchers["one"].kill()
    with Client(product.broker.address("launcher")) as admin:
        for each in (own, *of_others):
            admin.order("createRole", rolename=each, acls=[])
            admin.order("createClient", username=each, password="some", roles=[{"rolename": each}])
    product.launchers["one"].start()
    wait_until(lambda: own not in product.broker.simulations | product.broker.roles)
    assert product.broker.simulations == set(of_others)
    with Client(product.broker.address("launcher")) as admin:
        for each in of_others:
            admin.order("deleteClient", username=each)
            admin.order("deleteRole", rolename=each)
    product.await_ready()


@pytest.mark.parametrize("victim", ["server", "spawner"])
def test_credentials_go_when_a_server_or_its_spawner_is_killed(product: SecuredProduct, victim: str) -> None:
    simulation_id = product.started("counting")
    assert product.broker.simulations
    server = _server(product, simulation_id)
    (server if victim == "server" else psutil.Process(server.ppid())).kill()
    wait_until(lambda: product.client.simulation(simulation_id)["state"] == "failed")
    wait_until(lambda: not product.broker.simulations | product.broker.roles)


# -- brokers that keep no credentials --------------------------------------------------------------------------------


@pytest.fixture(params=["mosquitto", "embedded"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerAddress]:
    """A broker that lets everybody do everything."""
    if request.param == "mosquitto":
        yield request.getfixturevalue("broker")
    else:
        with embedded_broker(tmp_path) as address:
            yield address


def test_simulations_use_the_launchers_credentials_where_the_broker_keeps_none(
    plain: BrokerAddress, tmp_path: Path
) -> None:
    with SecuredProduct(PlainBroker(plain), tmp_path / "product") as product:
        simulation_id = product.started(product.experiment("counting"))
        wait_until(lambda: product.client.simulation(simulation_id)["simulationTime"] > 0)
        assert product.client.set_state(simulation_id, "stopped") == "stopped"
        assert product.launched("counting")
        warnings = [line for line in product.log("one").splitlines() if "[warning" in line or "[error" in line]
        assert sum("simulations use the credentials of this launcher" in each for each in warnings) == 1, warnings
        assert len(warnings) <= 3, warnings  # the embedded one closes the connection over which it is asked


def test_where_credentials_are_required_and_the_broker_keeps_none_a_launch_fails_and_says_so(
    broker: BrokerAddress, tmp_path: Path
) -> None:
    with SecuredProduct(PlainBroker(broker), tmp_path / "product", simulation_credentials="required") as product:
        launched = product.client.launch(product.experiment("counting"))
        assert launched["state"] == "failed", launched
        assert "gets no credentials" in launched["error"]
        assert "keeps no credentials of simulations" in launched["error"]


# -- a broker of the test's own --------------------------------------------------------------------------------------


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[LabBroker]:
    """A broker of the test's own."""
    broker = LabBroker(tmp_path)
    broker.start()
    yield broker
    broker.stop()


NRPCORESIM_CONFIGURATION = {
    "SimulationName": "original",
    "EngineConfigs": [
        {"EngineName": "engine", "EngineType": "gazebo_grpc", "EngineTimestep": 0.01},
        {"EngineName": "transfer", "EngineType": "datatransfer_grpc_engine", "EngineTimestep": 0.01},
    ],
}


def test_what_the_original_nrp_core_streams_arrives_although_it_knows_no_password(
    own_broker: LabBroker, tmp_path: Path
) -> None:
    secured, topics, program = own_broker.secured, Topics(), install(tmp_path)
    with (
        SecuredProduct(
            secured,
            tmp_path / "product",
            simulation_credentials="required",
            core="nrpcoresim",
            nrpcoresim=program,
        ) as product,
        Client(secured.address("frontend")) as frontend,
    ):
        assert frontend.may_subscribe("#")
        experiment = product.experiment(
            "original", "nrp.run_loop(); nrp.run_loop()", configuration=NRPCORESIM_CONFIGURATION
        )
        simulation_id = product.started(experiment)
        data = topics.simulation(simulation_id, "data/words")
        wait_until(lambda: len([topic for topic, _ in frontend.heard if topic == data]) == 2)
        assert product.client.set_state(simulation_id, "stopped") == "stopped"
        welcome = topics.simulation(simulation_id, "welcome")
        wait_until(lambda: (welcome, b"Bye! NRP-core is disconnecting!") in frontend.heard)


def test_credentials_survive_a_killed_broker_and_those_of_what_ended_meanwhile_are_removed(
    own_broker: LabBroker, tmp_path: Path
) -> None:
    with SecuredProduct(own_broker.secured, tmp_path / "product", simulation_credentials="required") as product:
        product.experiment("counting")
        runs_on, ends = product.started("counting"), product.launched("counting")
        own_broker.kill()
        server_of_the_latter = _server(product, ends)
        server_of_the_latter.kill()
        own_broker.start()
        product.await_ready()
        wait_until(lambda: product.client.simulation(ends)["state"] == "failed", 20)
        wait_until(lambda: len(own_broker.secured.simulations) == 1, 20)
        steps = product.client.simulation(runs_on)["simulationTime"]
        wait_until(lambda: product.client.simulation(runs_on)["simulationTime"] > steps, 20)
        assert product.client.set_state(runs_on, "stopped") == "stopped"
        wait_until(lambda: not own_broker.secured.simulations)


def _server(product: SecuredProduct, simulation_id: int) -> psutil.Process:
    folder = product.data() / "simulations" / str(simulation_id) / "experiment"
    return next(each for each in psutil.process_iter() if _works_in(each, folder))


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()) == folder
    except (psutil.Error, OSError):
        return False
