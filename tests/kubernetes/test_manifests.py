"""What `kubectl apply -k` gets is valid, fits together, and gives nobody more than it needs."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate
import pytest

from nrp_cli.broker_access import certificates
from nrp_gateway.settings import GatewaySettings
from nrp_simserver.settings import LauncherSettings
from tests.kubernetes.manifests import OVERLAYS, Manifests, as_json, make_secrets, references, render, selects
from tests.kubernetes.objects import Object

VERSIONS = ("1.31", "1.37")
"""Of Kubernetes: the oldest that is meant, and the newest whose schemas there are."""

LAUNCHER, GATEWAY, BROKER = "nrp-launcher", "nrp-gateway", "nrp-broker"


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return Manifests(render(request.param, tmp_path_factory.mktemp(request.param)))


# -- valid -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_keeps_to_the_schemas_of_kubernetes(manifests: Manifests, version: str) -> None:
    for each in [*manifests.objects, manifests.simulation_job]:
        kubernetes_validate.validate(each, version, strict=True)


def test_everything_is_in_one_namespace(manifests: Manifests) -> None:
    (namespace,) = manifests.of("Namespace")
    for each in manifests.objects:
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == namespace["metadata"]["name"], each["metadata"]["name"]


def test_every_image_has_a_version(manifests: Manifests) -> None:
    for name, container in manifests.containers():
        if name != "simulation/simulation":
            assert re.search(r":[0-9]", container["image"]), name


# -- fits together -----------------------------------------------------------------------------------------------------


def test_what_is_referred_to_is_there(manifests: Manifests) -> None:
    for each in [*manifests.objects, manifests.simulation_job]:
        for kind, name in references(each.get("spec", each)):
            assert (kind, name) in manifests.names, (
                f"{each['metadata'].get('name', 'simulation')} refers to {kind} {name}"
            )


def test_keys_of_secrets_are_there(manifests: Manifests) -> None:
    secrets = {each["metadata"]["name"]: each["data"].keys() for each in manifests.of("Secret")}
    for name, container in manifests.containers():
        for each in container.get("env", []):
            if (of := each.get("valueFrom", {}).get("secretKeyRef")) is not None:
                assert of["key"] in secrets[of["name"]], name
    for name, pod in manifests.pods.items():
        for each in pod["spec"].get("volumes", []):
            for item in each.get("secret", {}).get("items", []):
                assert item["key"] in secrets[each["secret"]["secretName"]], name


def test_secrets_are_nowhere_else(manifests: Manifests) -> None:
    everything_else = as_json([each for each in manifests.objects if each["kind"] != "Secret"])
    for name in ("nrp-secrets", "nrp-broker-access"):
        for key, value in manifests.files("Secret", name).items():
            if not key.endswith(".crt"):
                assert value.decode().strip() not in everything_else, key


def test_of_the_brokers_secrets_everybody_has_no_more_than_their_own(manifests: Manifests) -> None:
    has = {
        name: {item["key"] for item in each["secret"]["items"]}
        for name, pod in manifests.pods.items()
        for each in pod["spec"].get("volumes", [])
        if "secret" in each and "items" in each["secret"]
    }
    assert has == {GATEWAY: {"gateway.password"}, LAUNCHER: {"launcher.password"}}
    whole = [name for name, pod in manifests.pods.items() if "nrp-broker-access" in as_json(pod) and name not in has]
    assert whole == [BROKER]
    (container,) = manifests.pods[BROKER]["spec"]["containers"]
    assert "secrets" not in [each["name"] for each in container["volumeMounts"]]  # it has what was made of them


def test_all_who_connect_to_the_broker_know_its_authority(manifests: Manifests) -> None:
    for name in (GATEWAY, LAUNCHER, "simulation"):
        (mount,) = [each for each in _container(manifests, name)["volumeMounts"] if each["name"] == "broker-authority"]
        assert manifests.environment(LAUNCHER)["NRP_MQTT_CA_FILE"] == f"{mount['mountPath']}/ca.crt", name
    authority = manifests.named("ConfigMap", "nrp-broker-authority")["data"]["ca.crt"]
    host, _, _ = manifests.environment(LAUNCHER)["NRP_MQTT_BROKER_ADDRESS"].partition(":")
    secrets = manifests.files("Secret", "nrp-broker-access")
    certificate = certificates.read_certificate(secrets["server.crt"], "server.crt")
    assert host in certificates.hosts_of(certificate)
    assert certificates.is_signed_by(certificate, certificates.read_certificate(authority.encode(), "ca.crt"))
    assert b"PRIVATE KEY" in secrets["server.key"]


def test_services_lead_to_ports_of_pods(manifests: Manifests) -> None:
    for service in manifests.of("Service"):
        pods = [
            pod for pod in manifests.pods.values() if selects(service["spec"]["selector"], pod["metadata"]["labels"])
        ]
        assert len(pods) == 1, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in _ports(pods[0]), service["metadata"]["name"]


def test_ingress_leads_to_ports_of_services(manifests: Manifests) -> None:
    for ingress in manifests.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            assert rule["host"] in ingress["spec"]["tls"][0]["hosts"]
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                service = manifests.named("Service", backend["name"])
                assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]


def test_workloads_select_their_own_pods_and_no_others(manifests: Manifests) -> None:
    for workload in manifests.of("Deployment", "StatefulSet"):
        found = [
            name
            for name, pod in manifests.pods.items()
            if selects(workload["spec"]["selector"], pod["metadata"]["labels"])
        ]
        assert found == [workload["metadata"]["name"]]


def test_policies_and_budgets_select_pods_that_there_are(manifests: Manifests) -> None:
    for each in manifests.of("NetworkPolicy", "PodDisruptionBudget"):
        selector = each["spec"].get("podSelector", each["spec"].get("selector"))
        assert any(selects(selector, pod["metadata"]["labels"]) for pod in manifests.pods.values()), each


def test_mounted_volumes_are_there(manifests: Manifests) -> None:
    for name, pod in manifests.pods.items():
        claims = next(
            (each["spec"] for each in manifests.of("StatefulSet") if each["metadata"]["name"] == name), {}
        ).get("volumeClaimTemplates", [])
        there = {each["name"] for each in pod["spec"].get("volumes", [])} | {
            each["metadata"]["name"] for each in claims
        }
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert {each["name"] for each in container["volumeMounts"]} <= there, name


def test_gateway_understands_its_settings(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = _settings(GatewaySettings, manifests, GATEWAY, monkeypatch, tmp_path)
    assert settings.broker.host in [each["metadata"]["name"] for each in manifests.of("Service")]
    assert settings.port in [port["containerPort"] for port in _container(manifests, GATEWAY)["ports"]]
    assert not settings.allow_unauthenticated or not manifests.of("Ingress")


def test_launcher_understands_its_settings(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = _settings(LauncherSettings, manifests, LAUNCHER, monkeypatch, tmp_path)
    assert settings.simulation_credentials == "required"
    assert settings.placement == "kubernetes"
    mounts = {each["name"]: each["mountPath"] for each in _container(manifests, LAUNCHER)["volumeMounts"]}
    assert settings.kubernetes_job is not None
    assert str(settings.kubernetes_job.parent) == mounts["job"]
    assert str(settings.kubernetes_volume) == mounts["simulations"]
    assert settings.data_directory.is_relative_to(mounts["simulations"])
    assert settings.on_shutdown == "leave"


def test_launcher_and_simulations_share_a_volume(manifests: Manifests) -> None:
    claims = [
        each["persistentVolumeClaim"]["claimName"]
        for name in (LAUNCHER, "simulation")
        for each in manifests.pods[name]["spec"]["volumes"]
        if each["name"] == "simulations"
    ]
    assert len(claims) == 2
    assert claims[0] == claims[1]


def test_gateways_that_share_a_catalogue_keep_nothing_to_themselves(manifests: Manifests) -> None:
    gateway = manifests.named("Deployment", GATEWAY)
    if gateway["spec"]["replicas"] > 1:
        assert "NRP_CATALOGUE_URL" in manifests.environment(GATEWAY)
        assert not any("persistentVolumeClaim" in each for each in gateway["spec"]["template"]["spec"]["volumes"])
    else:
        assert gateway["spec"]["strategy"]["type"] == "Recreate"


# -- no more than needed -----------------------------------------------------------------------------------------------


def test_all_pods_keep_to_the_restricted_profile(manifests: Manifests) -> None:
    (namespace,) = manifests.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in manifests.pods.items():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"], name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys(), name
        assert all(
            {"configMap", "secret", "emptyDir", "persistentVolumeClaim"} & each.keys()
            for each in pod["spec"].get("volumes", [])
        ), name


def test_no_container_can_gain_rights_or_change_its_image(manifests: Manifests) -> None:
    for name, container in manifests.containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert "privileged" not in context, name


def test_all_containers_say_what_they_need_and_what_they_may_use(manifests: Manifests) -> None:
    for name, container in manifests.containers():
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
        assert "memory" in container["resources"]["limits"], name
    for name, pod in manifests.pods.items():
        for volume in pod["spec"].get("volumes", []):
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], name


def test_only_launchers_have_access_to_the_cluster(manifests: Manifests) -> None:
    with_access = [name for name, pod in manifests.pods.items() if pod["spec"]["automountServiceAccountToken"]]
    assert with_access == [LAUNCHER]
    (binding,) = manifests.of("RoleBinding")
    assert [each["name"] for each in binding["subjects"]] == [manifests.pods[LAUNCHER]["spec"]["serviceAccountName"]]
    assert manifests.pods["simulation"]["spec"]["serviceAccountName"] != LAUNCHER
    assert not manifests.of("ClusterRole", "ClusterRoleBinding")


def test_launchers_may_make_see_and_delete_jobs_and_pods_and_nothing_else(manifests: Manifests) -> None:
    (role,) = manifests.of("Role")
    rights = {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rights == {
        ("batch", "jobs"): {"create", "get", "list", "watch", "delete"},
        ("", "pods"): {"get", "list", "watch", "delete"},
    }


def test_all_services_are_probed(manifests: Manifests) -> None:
    for name in manifests.pods.keys() - {"simulation"}:
        container = _container(manifests, name)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe in container, name
        named = {each["name"] for each in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            target = container[probe].get("httpGet") or container[probe].get("tcpSocket")
            assert target is None or target["port"] in named, name
    for name in (GATEWAY, LAUNCHER):
        assert _container(manifests, name)["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert _container(manifests, GATEWAY)["livenessProbe"]["httpGet"]["path"] == "/health"


# -- who reaches whom --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "port", "may"),
    [
        (GATEWAY, BROKER, 8883, True),
        (LAUNCHER, BROKER, 8883, True),
        ("simulation", BROKER, 8883, True),
        (LAUNCHER, GATEWAY, 8090, True),
        ("simulation", GATEWAY, 8090, False),
        ("simulation", LAUNCHER, 9117, False),
        ("simulation", "simulation", 5000, False),
        (GATEWAY, LAUNCHER, 9117, False),
        (BROKER, GATEWAY, 8090, False),
        (BROKER, LAUNCHER, 9117, False),
        ("simulation", BROKER, 9001, False),
    ],
)
def test_network_lets_through_what_is_needed(
    manifests: Manifests, source: str, target: str, port: int, may: bool
) -> None:
    assert _may_reach(manifests, source, target, port) is may


@pytest.mark.parametrize("source", [GATEWAY, LAUNCHER, "simulation", BROKER])
def test_database_is_reached_by_gateways_alone(manifests: Manifests, source: str) -> None:
    if "nrp-postgresql" in manifests.pods:
        assert _may_reach(manifests, source, "nrp-postgresql", 5432) is (source == GATEWAY)


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    secrets, access = tmp_path / "secrets.env", tmp_path / "access"
    for _ in range(2):
        said = make_secrets(tmp_path)
        made, password = secrets.read_text(), (access / "gateway.password").read_text()
    assert f"kept {secrets}" in said
    for each in (secrets, access / "ca.key", access / "gateway.password", access / "broker" / "server.key"):
        assert each.stat().st_mode & 0o777 == 0o600, each
    values = dict(line.split("=") for line in made.splitlines() if not line.startswith("#"))
    assert all(len(value) == 48 for value in values.values())
    assert len(set(values.values())) == len(values)
    secrets.unlink()
    make_secrets(tmp_path)
    assert secrets.read_text() != made
    assert (access / "gateway.password").read_text() == password


def _container(manifests: Manifests, workload: str) -> Object:
    (container,) = manifests.pods[workload]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def _ports(pod: Object) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    }


def _settings(  # type: ignore[no-untyped-def]
    kind: type, manifests: Manifests, workload: str, monkeypatch: pytest.MonkeyPatch, folder: Path
):
    environment = manifests.environment(workload)
    mounts = {each["name"]: each["mountPath"] for each in _container(manifests, workload)["volumeMounts"]}
    secrets = manifests.files("Secret", "nrp-broker-access")
    for variable, volume in (("NRP_MQTT_CA_FILE", "broker-authority"), ("NRP_MQTT_PASSWORD_FILE", "broker-password")):
        there = Path(environment[variable])
        assert str(there.parent) == mounts[volume]
        here = folder / there.name
        here.write_bytes(secrets[there.name])
        environment[variable] = str(here)
    known = {f"NRP_{name.upper()}" for name in kind.model_fields} | {"NRP_MQTT_PASSWORD_FILE"}  # type: ignore[attr-defined]
    for name, value in environment.items():
        if name.startswith("NRP_"):
            assert name in known or name in SHARED, name
            monkeypatch.setenv(name, value)
    settings = kind.load()  # type: ignore[attr-defined]
    assert settings.broker.tls
    assert settings.broker.password == secrets[f"{workload.removeprefix('nrp-')}.password"].decode().strip()
    return settings


SHARED = {"NRP_AUTHENTICATION", "NRP_ALLOW_UNAUTHENTICATED", "NRP_CORS_ORIGINS"}
"""Settings of gateways that are among those of all services."""


def _may_reach(manifests: Manifests, source: str, target: str, port: int) -> bool:
    """Whether the policies let a Pod's connection out, and the other's in."""
    return _lets_through(manifests, source, target, port, "egress") and _lets_through(
        manifests, target, source, port, "ingress", _ports(manifests.pods[target])
    )


def _lets_through(
    manifests: Manifests, own: str, other: str, port: int, direction: str, ports: dict[str, int] | None = None
) -> bool:
    labels, others = manifests.pods[own]["metadata"]["labels"], manifests.pods[other]["metadata"]["labels"]
    ports = ports or _ports(manifests.pods[other])
    policies = [
        each["spec"]
        for each in manifests.of("NetworkPolicy")
        if selects(each["spec"]["podSelector"], labels) and direction.capitalize() in each["spec"]["policyTypes"]
    ]
    assert policies, f"{own} is isolated by none"
    peers = {"egress": "to", "ingress": "from"}[direction]
    return any(
        (
            peers not in rule
            or any(selects(peer["podSelector"], others) for peer in rule[peers] if "podSelector" in peer)
        )
        and any(ports.get(each["port"], each["port"]) == port for each in rule["ports"])
        for policy in policies
        for rule in policy.get(direction, [])
    )
