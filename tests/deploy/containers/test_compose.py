"""`docker compose up`: the whole service in containers, with settings as they come."""

from __future__ import annotations

import io
import json
import zipfile

from tests.deploy.containers.installation import Installation
from tests.e2e.experiments import experiment, launch, log_of, record_of, started
from tests.e2e.websocket_frontend import Frontend
from tests.waiting import wait_until

SERVICES = {"broker", "gateway", "launcher"}
SHORT = """
for _ in range(5):
    nrp.run_loop()
print("five steps were taken")
"""


def test_an_experiment_runs_from_launch_to_stored_logs(installation: Installation) -> None:
    name = experiment(installation, SHORT)
    with Frontend(installation.websocket) as frontend:
        record = launch(installation, name)
        assert record["state"] == "paused", record
        number = record["simulationID"]
        assert installation.put_state(number, "started").json() == {"state": "started"}
        frontend.wait_for_state(number, "completed")
        assert installation.put_state(number, "stopped").json() == {"state": "stopped"}
        frontend.wait_for_state(number, "stopped")
    stored = record_of(installation, number)["logs"]
    archive = installation.get(f"/storage/{name}/{stored}?byname=true").content
    with zipfile.ZipFile(io.BytesIO(archive)) as logs:
        assert "five steps were taken" in logs.read(f"simulation_{number}.log").decode()


def test_everything_is_published_on_this_machine_only(installation: Installation) -> None:
    bindings = [
        binding["HostIp"]
        for container in installation.containers()
        for ports in installation.inspect(container)["HostConfig"]["PortBindings"].values()
        for binding in ports
    ]
    assert len(bindings) == 3
    assert set(bindings) == {"127.0.0.1"}


def test_what_services_keep_is_in_volumes_that_have_names(installation: Installation) -> None:
    for container in installation.containers():
        kept = [mount["Name"] for mount in installation.inspect(container)["Mounts"] if mount["Type"] == "volume"]
        assert kept, container
        assert [name for name in kept if not name.startswith(f"{installation.project}_")] == []


def test_no_service_has_more_rights_than_it_needs(installation: Installation) -> None:
    for container in installation.containers():
        described = installation.inspect(container)
        limits = described["HostConfig"]
        assert limits["ReadonlyRootfs"], described["Name"]
        assert limits["Memory"] > 0, described["Name"]
        assert limits["PidsLimit"] > 0, described["Name"]
        assert [(each["Name"], each["Soft"]) for each in limits["Ulimits"]] == [("nofile", 16384)], described["Name"]
        if described["State"]["Running"]:
            for process in ("1", "self"):
                status = dict(
                    line.split(":\t", 1)
                    for line in installation.execute(container, "cat", f"/proc/{process}/status").splitlines()
                    if ":\t" in line
                )
                assert "0" not in status["Uid"].split(), described["Name"]
                assert {int(status[each], 16) for each in ("CapPrm", "CapEff", "CapBnd")} == {0}, described["Name"]
                assert status["NoNewPrivs"] == "1", described["Name"]


def test_a_simulation_has_no_more_rights_than_its_launcher(installation: Installation) -> None:
    script = 'print(open("/proc/self/status").read())\nopen("/tmp/x", "w").close()\nopen("/opt/x", "w")\n'
    record = launch(installation, experiment(installation, script))
    installation.put_state(record["simulationID"], "started")
    wait_until(lambda: installation.state_of(record["simulationID"]) == "failed", 20)
    written = log_of(installation, record)
    assert "CapEff:\t0000000000000000" in written
    assert "NoNewPrivs:\t1" in written
    assert "Read-only file system: '/opt/x'" in written


def test_each_service_sees_its_own_secrets_only(installation: Installation) -> None:
    seen = {
        service: set(installation.execute(installation.containers(service)[0], "ls", "/run/secrets/nrp").split())
        for service in ("gateway", "launcher")
    }
    assert seen["launcher"] == {"secret_key"}
    assert seen["gateway"] == {"secret_key", "metrics_token", "postgresql_password", "catalogue_url"}
    environments = [installation.inspect(each)["Config"]["Env"] for each in installation.containers()]
    key = installation.execute(installation.containers("gateway")[0], "cat", "/run/secrets/nrp/secret_key").strip()
    assert len(key) > 40
    assert key not in json.dumps(environments)


def test_logs_are_on_stdout_an_object_a_line(installation: Installation) -> None:
    for service in ("gateway", "launcher"):
        lines = [json.loads(line) for line in installation.logs(service).splitlines()]
        assert {line["service"] for line in lines} == {service}
        assert any(line["level"] == "info" for line in lines)


def test_a_service_that_is_told_to_end_ends_in_order(installation: Installation) -> None:
    number = started(installation, experiment(installation))
    installation.compose("stop", "launcher")
    launcher = installation.inspect(installation.containers("launcher")[0])
    assert launcher["State"]["ExitCode"] == 0
    record = record_of(installation, number)
    assert record["state"] == "stopped"
    assert record["logs"]
    installation.compose("start", "launcher")
    installation.await_health()
    installation.await_readiness()


def test_a_gateway_that_would_face_the_network_without_authentication_does_not_start(
    installation: Installation,
) -> None:
    asked = ("run", "--rm", "--no-deps", "-T", "-e", "NRP_PUBLISHED_HOST=0.0.0.0")
    refused = installation.run_compose(*asked, "gateway")
    assert refused.returncode == 2
    told = json.loads(refused.stdout.splitlines()[-1])
    assert (told["service"], told["level"]) == ("gateway", "critical")
    assert told["event"].startswith("NRP_PUBLISHED_HOST=0.0.0.0 is reachable from other machines")
