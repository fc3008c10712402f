"""What access control costs a launch: the same product on a plain broker and on a secured one, taking turns.

python -m benchmarks.broker_access [REPEATS]
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmarks.figures import Figure, milliseconds, table
from benchmarks.stack_under_test import EXPERIMENT
from nrp_cli.broker_access.folder import AccessFolder, accounts
from nrp_cli.local_broker import find_mosquitto
from nrp_cli.rest_client import RestClient
from nrp_common.topics import Topics

CONFIGURATION = Path(__file__).parent.parent / "deploy" / "broker" / "mosquitto.conf"
DEBIANS_PLUGINS = Path("/usr/lib")

PLAIN_CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
"""

REPEATS = 100
SETTLE_S = 0.4
"""Between two launches, so that idle servers are there again."""


@dataclass(frozen=True)
class _Variant:
    """A way to run the product.

    Attributes:
        what: it is called.
        is_secured: whether the broker is.
        credentials: `NRP_SIMULATION_CREDENTIALS` of its launcher.
    """

    what: str
    is_secured: bool
    credentials: str


VARIANTS = (
    _Variant("plain broker", False, "auto"),
    _Variant("secured broker, launcher's credentials for all", True, "none"),
    _Variant("secured broker, credentials for each simulation", True, "required"),
)


def measure_broker_access(repeats: int = REPEATS) -> list[Figure]:
    """Launches one after the other, the variants in turn; all of them run all the time."""
    if find_mosquitto() is None or _plugin() is None:
        return []
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="nrp_benchmark_")))
        products = {
            variant: running.enter_context(_product(variant, folder / str(number)))
            for number, variant in enumerate(VARIANTS)
        }
        times_s: dict[_Variant, list[float]] = {variant: [] for variant in VARIANTS}
        for _ in range(repeats):
            for variant, client in products.items():
                times_s[variant].append(_launch(client))
                time.sleep(SETTLE_S)
    plain = statistics.median(times_s[VARIANTS[0]])
    return [
        Figure(
            f"launch: {variant.what}",
            f"{milliseconds(times)}, x {statistics.median(times) / plain:.2f}",
        )
        for variant, times in times_s.items()
    ]


def _launch(client: RestClient) -> float:
    began = time.perf_counter()
    launched = client.launch("endless")
    took_s = time.perf_counter() - began
    assert launched["state"] == "paused", launched
    client.set_state(launched["simulationID"], "stopped")
    return took_s


@contextmanager
def _product(variant: _Variant, folder: Path) -> Iterator[RestClient]:
    """Broker, gateway and launcher."""
    folder.mkdir()
    access, port, url = AccessFolder(folder / "access"), _free_port(), f"http://127.0.0.1:{_free_port()}"
    configuration = folder / "mosquitto.conf"
    configuration.write_text(
        _secured(access, folder, port) if variant.is_secured else PLAIN_CONFIGURATION.format(port=port)
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NRP_")},
        "NRP_MQTT_BROKER_ADDRESS": f"localhost:{port}",
        "NRP_SECRET_KEY": "of the benchmark",
        "NRP_PORT": url.rpartition(":")[2],
        "NRP_STORAGE_URL": url,
        "NRP_SIMULATION_CREDENTIALS": variant.credentials,
    }
    with ExitStack() as running:
        program = find_mosquitto()
        assert program is not None
        running.enter_context(_process([program, "-c", str(configuration)], folder / "broker.log", environment))
        for kind in ("gateway", "launcher"):
            own = {"NRP_DATA_DIRECTORY": str(folder / kind)}
            if variant.is_secured:
                account = next(each for each in accounts(Topics()) if each.name == kind)
                own |= {
                    "NRP_MQTT_TLS": "true",
                    "NRP_MQTT_CA_FILE": str(access.authority),
                    "NRP_MQTT_USERNAME": account.username,
                    "NRP_MQTT_PASSWORD_FILE": str(access.password(account)),
                }
            command = [sys.executable, "-m", "nrp_cli.services", kind]
            if kind == "gateway":
                own["NRP_STORAGE_URL"] = ""
            running.enter_context(_process(command, folder / f"{kind}.log", {**environment, **own}))
        _await_ready(url, folder)
        client = running.enter_context(RestClient(url))
        client.import_experiment(EXPERIMENT, "endless")
        yield client


def _secured(access: AccessFolder, folder: Path, port: int) -> str:
    access.broker.mkdir(parents=True)
    for _ in access.keep_certificates(["localhost"]):
        pass
    for _ in access.keep_accounts(Topics(), update_rights=False):
        pass
    (folder / "data").mkdir()
    text = CONFIGURATION.read_text()
    for here, there in (
        ("listener 8883", f"listener {port} localhost"),
        ("listener 9001", f"listener {_free_port()} localhost"),
        ("/usr/lib/mosquitto_dynamic_security.so", str(_plugin())),
        ("/mosquitto/access/", f"{access.broker}/"),
        ("/mosquitto/data/", f"{folder / 'data'}/"),
    ):
        text = text.replace(here, there)
    return f"{text}user root\n"


def _plugin() -> Path | None:
    return next(DEBIANS_PLUGINS.glob("*/mosquitto_dynamic_security.so"), None)


@contextmanager
def _process(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    with log.open("ab") as opened:
        process = subprocess.Popen(command, stdout=opened, stderr=opened, env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _await_ready(url: str, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{url}/ready", timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.05)
    logs = "\n".join(f"{log.name}: {log.read_text()[-500:]}" for log in folder.glob("*.log"))
    raise TimeoutError(f"The stack is not ready: {logs}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


if __name__ == "__main__":
    print(table(measure_broker_access(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS)))
