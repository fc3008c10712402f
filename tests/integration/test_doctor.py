"""What `nrp doctor` finds of real brokers, storages and interpreters that are not as they should be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread

import pytest

from nrp_cli.doctor import simulators
from nrp_cli.doctor.broker import examine_connections, examine_traffic, on_the_bus
from nrp_cli.doctor.findings import Finding, Verdict
from nrp_cli.doctor.gateway import GatewayView, look_at_gateway
from nrp_cli.doctor.storage import examine_storage
from nrp_cli.doctor.targets import Targets, find_targets
from nrp_common.bus import BrokerAddress
from tests.brokers import plain_port
from tests.mosquitto import CONFIGURATION, Mosquitto
from tests.storage_server import StorageServer

OK, NOTE, WARNING, PROBLEM = Verdict.OK, Verdict.NOTE, Verdict.WARNING, Verdict.PROBLEM


@pytest.fixture
def targets(tmp_path: Path, broker: BrokerAddress) -> Targets:
    """A broker that runs, and no gateway."""
    found = find_targets("http://127.0.0.1:1", None, f"127.0.0.1:{broker.port}", None, tmp_path)
    return replace(found, mqtt=replace(found.broker, port=plain_port(broker)))


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[[str], BrokerAddress]]:
    """Starts a Mosquitto with more in its configuration."""
    started: list[Mosquitto] = []

    def start(more: str, base: str = CONFIGURATION) -> BrokerAddress:
        mosquitto = Mosquitto(tmp_path, base + more)
        mosquitto.start()
        started.append(mosquitto)
        return mosquitto.address

    yield start
    for each in started:
        each.stop()


def at(targets: Targets, broker: BrokerAddress) -> Targets:
    return replace(targets, broker=broker, mqtt=broker)


def by_name(found: list[Finding]) -> dict[str, Finding]:
    assert all(each.advice for each in found if each.verdict in (WARNING, PROBLEM))
    return {each.name: each for each in found}


# -- the broker ------------------------------------------------------------------------------------------------------


def test_a_broker_without_websocket_is_a_warning(targets: Targets) -> None:
    found = by_name(examine_connections(replace(targets, websocket="ws://127.0.0.1:1")))
    assert (found["MQTT 5"].verdict, found["MQTT 3.1.1"].verdict) == (OK, OK)
    assert found["WebSocket"].verdict is WARNING


def test_a_broker_that_is_well_is_quick_and_retains(targets: Targets) -> None:
    with on_the_bus(targets) as view:
        found = by_name(list(examine_traffic(view)))
    assert found["retained messages"].verdict is OK
    assert "ms" in found["round trip"].message


def test_a_broker_that_is_not_there_is_a_problem(targets: Targets) -> None:
    (found,) = examine_connections(at(targets, BrokerAddress("127.0.0.1", 1)))
    assert found.verdict is PROBLEM
    assert "nrp up" in found.advice


def test_a_broker_that_wants_a_password_is_a_problem_that_names_the_variables(
    targets: Targets, start_broker: Callable[..., BrokerAddress]
) -> None:
    address = start_broker("", "listener {port} 127.0.0.1\nallow_anonymous false\n")
    (found,) = examine_connections(at(targets, address))
    assert found.verdict is PROBLEM
    assert "NRP_MQTT_USERNAME" in found.advice


def test_a_broker_that_takes_no_large_messages_is_a_warning(
    targets: Targets, start_broker: Callable[..., BrokerAddress]
) -> None:
    found = by_name(examine_connections(at(targets, start_broker("max_packet_size 100000\n"))))
    assert found["MQTT 5"].verdict is WARNING
    assert "0.1 MB" in found["MQTT 5"].message


def test_a_broker_that_retains_nothing_is_a_problem(
    targets: Targets, start_broker: Callable[..., BrokerAddress]
) -> None:
    found = by_name(examine_connections(at(targets, start_broker("retain_available false\n"))))
    assert found["MQTT 5"].verdict is PROBLEM
    assert "retained" in found["MQTT 5"].message


def test_a_broker_whose_access_control_lets_nobody_speak_is_a_problem(
    targets: Targets, start_broker: Callable[..., BrokerAddress], tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read nothing\n")
    address = start_broker(f"acl_file {rules}\nuser root\n")
    with on_the_bus(at(targets, address)) as view:
        (found,) = examine_traffic(view)
    assert found.verdict is PROBLEM
    assert "access control" in found.advice


def test_a_broker_that_hangs_is_a_problem(targets: Targets, tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    mosquitto.freeze()
    try:
        (found,) = examine_connections(at(targets, mosquitto.address))
    finally:
        mosquitto.thaw()
        mosquitto.stop()
    assert found.verdict is PROBLEM
    assert "no answer" in found.message


# -- the gateway -----------------------------------------------------------------------------------------------------


@pytest.fixture
def other_program() -> Iterator[str]:
    """Something that answers HTTP and is no gateway."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_another_program_on_the_gateways_port_is_a_problem(targets: Targets, other_program: str) -> None:
    view = look_at_gateway(replace(targets, url=other_program))
    assert not view.answers
    assert "no gateway" in view.findings[0].message


# -- the storage -----------------------------------------------------------------------------------------------------


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[StorageServer]:
    root = tmp_path / "storage"
    root.mkdir()
    with StorageServer(root) as storage:
        storage.put("mine", {"main_script.py": ""})
        yield storage


def of_storage(
    targets: Targets, storage: StorageServer, token: str | None = StorageServer.TOKEN, experiment: str | None = "mine"
) -> dict[str, Finding]:
    there = replace(targets, storage_url=storage.url, token=token)
    return by_name(list(examine_storage(there, GatewayView(answers=True), experiment)))


def test_a_file_is_written_read_and_deleted_again(targets: Targets, storage: StorageServer) -> None:
    found = of_storage(targets, storage)
    assert (found["identity"].verdict, found["files"].verdict) == (OK, OK)
    assert StorageServer.OWNER in found["identity"].message
    assert [path.name for path in (storage.root / "mine").iterdir()] == ["main_script.py"]


def test_nothing_is_written_where_nobody_said_that_it_may(targets: Targets, storage: StorageServer) -> None:
    found = of_storage(targets, storage, experiment=None)
    assert found["files"].verdict is NOTE
    assert storage.count("POST") == storage.count("PUT") == 0


def test_a_token_that_is_missing_is_asked_for(targets: Targets, storage: StorageServer) -> None:
    found = of_storage(targets, storage, token=None)
    assert list(found) == ["identity"]
    assert found["identity"].verdict is NOTE
    assert "NRP_TOKEN" in found["identity"].advice


def test_a_token_that_is_not_known_is_a_problem(targets: Targets, storage: StorageServer) -> None:
    found = of_storage(targets, storage, token="wrong-and-secret")
    assert found["identity"].verdict is PROBLEM
    assert "wrong-and-secret" not in str(found)


def test_an_experiment_that_is_not_there_is_a_problem(targets: Targets, storage: StorageServer) -> None:
    assert of_storage(targets, storage, experiment="nobodys")["files"].verdict is PROBLEM


def test_a_storage_that_takes_nothing_is_a_problem(targets: Targets, storage: StorageServer) -> None:
    storage.answer(507, "/storage/mine/")
    assert of_storage(targets, storage)["files"].verdict is PROBLEM


def test_a_storage_that_is_away_is_a_problem_that_names_it(targets: Targets) -> None:
    there = replace(targets, storage_url="http://127.0.0.1:1")
    found = by_name(list(examine_storage(there, GatewayView(answers=True), None)))
    assert found["storage"].verdict is PROBLEM
    assert "127.0.0.1:1" in found["storage"].message


# -- the simulators --------------------------------------------------------------------------------------------------


def of_simulator(monkeypatch: pytest.MonkeyPatch, module: str, distribution: str) -> Finding:
    only = [simulators.Simulator(module, distribution, "extra")]
    monkeypatch.setattr(simulators, "SIMULATORS", only)
    return next(iter(simulators.examine_simulators()))


def test_a_simulator_that_can_be_imported_is_told_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    found = of_simulator(monkeypatch, "mujoco", "mujoco")
    assert (found.verdict, found.message) == (OK, metadata.version("mujoco"))


def test_a_simulator_that_is_not_installed_is_told_with_the_extra_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = of_simulator(monkeypatch, "no_such_simulator", "no-such-simulator")
    assert found.verdict is NOTE
    assert "nrp-backend[extra]" in found.advice


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise ImportError('libGL.so.1 is missing')", "libGL.so.1 is missing"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "exit status -11"),
    ],
)
def test_a_simulator_that_is_broken_is_a_problem_and_breaks_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "broken_simulator.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = of_simulator(monkeypatch, "broken_simulator", "broken-simulator")
    assert found.verdict is PROBLEM
    assert said in found.message


def test_the_interpreter_that_runs_simulations_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho version of-another-interpreter\nexec {sys.executable} -c ""\n')
    python.chmod(0o755)
    monkeypatch.setenv("NRP_PYTHON", str(python))
    assert of_simulator(monkeypatch, "mujoco", "mujoco").message == "of-another-interpreter"
    monkeypatch.setenv("NRP_PYTHON", str(tmp_path / "none"))
    assert of_simulator(monkeypatch, "mujoco", "mujoco").verdict is PROBLEM
