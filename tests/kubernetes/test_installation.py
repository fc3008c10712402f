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
from tests.kubernetes.broker import connected, manifest_broker
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.manifests import Manifests, render
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
    manifests = Manifests(render("single-node", tmp_path))
    job = manifests.simulation_job
    job["spec"]["template"]["spec"]["containers"][0]["image"] = "nrp-launcher:test"  # no Pod has a launcher here
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    shutil.copytree(EXPERIMENT, tmp_path / "gateway" / "experiments" / "two_engines")
    gateway = environment_of(manifests, "nrp-gateway")
    launcher = environment_of(manifests, "nrp-launcher")
    passwords = {"gateway": gateway["NRP_MQTT_PASSWORD"], "launcher": launcher["NRP_MQTT_PASSWORD"]}
    (tmp_path / "broker").mkdir()
    mosquitto = manifest_broker(tmp_path / "broker", passwords)
    port, bus = free_port(), {"NRP_MQTT_BROKER_ADDRESS": str(mosquitto.address)}
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as running:
        mosquitto.start()
        running.callback(mosquitto.stop)
        _, seen = running.enter_context(connected(mosquitto))
        here = {"NRP_HOST": "127.0.0.1", "NRP_PORT": port, "NRP_DATA_DIRECTORY": str(tmp_path / "gateway")}
        gateway = environment_of(manifests, "nrp-gateway", **bus, **here)
        running.enter_context(service("gateway", gateway, tmp_path / "gateway.log"))
        launcher = environment_of(
            manifests,
            "nrp-launcher",
            **bus,
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
        for state in ("started", "stopped"):
            path = f"{url}{answer.headers['Location']}"
            assert requests.put(f"{path}/state", json={"state": state}, timeout=30).json() == {"state": state}
        assert requests.get(f"{path}/logs", timeout=30).status_code == 200
        assert requests.get(path, timeout=30).json()["error"] is None
        wait_until(lambda: not cluster.jobs and not cluster.pods, 20)
        # What a frontend hears, which gives no name.
        states = [each.payload for each in seen if each.topic == "nrp_simulation/1/status"]
        assert any(b'"paused"' in each for each in states)
        wait_until(lambda: any(b'"stopped"' in each.payload for each in seen))
        assert {each.topic.partition("/")[0] for each in seen} <= {"nrp_simulation", "nrp_server"}


def _status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=5).status_code
    except requests.ConnectionError:
        return None
