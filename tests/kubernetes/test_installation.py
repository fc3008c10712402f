"""Gateway and launcher as the manifests start them work together, with the manifests' broker and rights."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests
import yaml

from tests.kubernetes.api import KubernetesApi
from tests.kubernetes.broker import ManifestBroker
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.manifests import Manifests, render
from tests.secured_broker import Client
from tests.waiting import wait_until

EXPERIMENT = Path(__file__).parents[2] / "examples" / "two_engines"


@contextmanager
def service(name: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run a service with nothing but this in its environment."""
    with log.open("wb") as output:
        command = [sys.executable, "-m", "nrp_cli.services", name]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def environment_of(manifests: Manifests, workload: str, **here: str) -> dict[str, str]:
    """What a workload's container has, secrets in place, but for what is elsewhere on this machine."""
    data = manifests.generated("Secret", "nrp-secrets")["data"]
    secrets = {f"<{key}>": base64.b64decode(value).decode() for key, value in data.items()}
    told = {name: secrets.get(value, value) for name, value in manifests.environment(workload).items()}
    assert told.keys() >= here.keys() - {"NRP_KUBERNETES_CONFIG", "NRP_PORT"}
    return {"PATH": os.environ["PATH"], **told, **here}


def test_launch_to_logs_with_what_the_manifests_say(
    cluster: Cluster, api: KubernetesApi, volume: Path, tmp_path: Path
) -> None:
    manifests = Manifests(render("single-node", tmp_path / "deploy"))
    job = manifests.simulation_job
    job["spec"]["template"]["spec"]["containers"][0]["image"] = "nrp-launcher:test"  # no Pod has a launcher here
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    shutil.copytree(EXPERIMENT, tmp_path / "gateway" / "experiments" / "two_engines")
    broker = ManifestBroker(manifests, tmp_path / "broker")
    port, secured = free_port(), broker.secured
    bus = {"NRP_MQTT_BROKER_ADDRESS": str(secured.stranger), "NRP_MQTT_CA_FILE": str(secured.access / "ca.crt")}
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as running:
        broker.start()
        running.callback(broker.stop)
        frontend = running.enter_context(Client(secured.address("frontend")))
        assert frontend.may_subscribe("#")
        here = {"NRP_HOST": "127.0.0.1", "NRP_PORT": port, "NRP_DATA_DIRECTORY": str(tmp_path / "gateway")}
        here["NRP_MQTT_PASSWORD_FILE"] = str(secured.access / "gateway.password")
        gateway = environment_of(manifests, "nrp-gateway", **bus, **here)
        running.enter_context(service("gateway", gateway, tmp_path / "gateway.log"))
        launcher = environment_of(
            manifests,
            "nrp-launcher",
            **bus,
            NRP_MQTT_PASSWORD_FILE=str(secured.access / "launcher.password"),
            NRP_STORAGE_URL=url,
            NRP_DATA_DIRECTORY=str(volume / "nrp-launcher-0"),
            NRP_KUBERNETES_VOLUME=str(volume),
            NRP_KUBERNETES_JOB=str(tmp_path / "job.yaml"),
            NRP_KUBERNETES_CONFIG=str(api.kubeconfig),
            NRP_METRICS_HOST="127.0.0.1",
            NRP_METRICS_PORT=free_port(),
        )
        running.enter_context(service("launcher", launcher, tmp_path / "launcher.log"))
        wait_until(lambda: _status(f"{url}/ready") == 200, 30)
        wait_until(lambda: _status(f"http://127.0.0.1:{launcher['NRP_METRICS_PORT']}/ready") == 200)
        answer = requests.post(f"{url}/simulation", json={"experimentID": "two_engines"}, timeout=30)
        assert (answer.status_code, answer.json()["state"]) == (201, "paused"), answer.text
        assert answer.json()["launcher"] == "nrp-launcher-0"
        assert len(cluster.jobs) == 1
        assert len(secured.simulations) == 1
        for state in ("started", "stopped"):
            path = f"{url}{answer.headers['Location']}"
            assert requests.put(f"{path}/state", json={"state": state}, timeout=30).json() == {"state": state}
        assert requests.get(f"{path}/logs", timeout=30).status_code == 200
        assert requests.get(path, timeout=30).json()["error"] is None
        wait_until(lambda: not cluster.jobs and not cluster.pods, 20)
        wait_until(lambda: not secured.simulations | secured.roles)
        states = [payload for topic, payload in frontend.heard if topic == "nrp_simulation/1/status"]
        assert any(b'"paused"' in each for each in states)
        wait_until(lambda: any(b'"stopped"' in payload for _, payload in list(frontend.heard)))
        assert {topic.partition("/")[0] for topic, _ in frontend.heard} <= {"nrp_simulation", "nrp_server"}
        for name in ("gateway", "launcher"):
            assert "does not let" not in (tmp_path / f"{name}.log").read_text()


def _status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=5).status_code
    except requests.ConnectionError:
        return None
