"""Who may do what: callers are whom the Storage Server says that their tokens belong to."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from nrp_common.errors import SettingsError
from nrp_common.token_seal import unseal_token
from nrp_gateway import identity
from nrp_gateway.settings import Authentication, GatewaySettings
from tests.fakes import FakeLauncher, FakeStorageServer
from tests.gateways import Installations, RunningGateway

MAY_NOT_VIEW = {
    "message": "Insufficient permissions to see the simulation changes. You can only see the simulations you own "
    "or those for which the experiment has been shared with you",
    "type": "Client error",
    "data": None,
}
NOT_THE_OWNER = {
    "message": "Insufficient permissions to apply changes. Operation only allowed by simulation owner",
    "type": "Client error",
    "data": None,
}
STRANGERS_FIELDS = {
    "state", "simulationID", "experimentID", "owner", "creationDate", "ctxId", "MQTTPrefix",
}  # fmt: skip

KEY = "a key shared by gateway and launcher"

READS = [("GET", ""), ("GET", "/state"), ("GET", "/logs"), ("GET", "/results")]
CHANGES = [("PUT", "/state"), ("POST", "/reset"), ("POST", "/step"), ("DELETE", "")]


class Lab:
    """An installation with users: Ann owns a simulation, Ben may view its experiment, Eve may not."""

    def __init__(self, installation: Installations) -> None:
        self.storage: FakeStorageServer = installation.storage()
        self.storage.users = {"ann-token": "ann", "ben-token": "ben", "eve-token": "eve"}
        self.storage.viewers = {"demo": {"ann", "ben"}}
        self.launcher: FakeLauncher = installation.launcher()
        self.gateway: RunningGateway = installation.gateway(
            authentication=Authentication.STORAGE, storage_url=self.storage.url, secret_key=KEY
        )
        self.gateway.await_launcher()
        self.id = self.gateway.launch(token="ann-token")
        self.path = f"/simulation/{self.id}"


@pytest.fixture
def lab(installation: Installations) -> Lab:
    return Lab(installation)


def test_owner_is_whom_the_token_belongs_to(lab: Lab) -> None:
    assert lab.gateway.get(lab.path, token="ann-token").get_json()["owner"] == "ann"


def test_owner_may_do_everything(lab: Lab) -> None:
    assert lab.gateway.ask_state(lab.id, "started", token="ann-token").get_json() == {"state": "started"}
    assert lab.gateway.post(f"{lab.path}/reset", token="ann-token").status_code == 200
    assert lab.gateway.delete(lab.path, token="ann-token").status_code == 204


@pytest.mark.parametrize(("method", "leaf"), CHANGES)
@pytest.mark.parametrize("token", ["ben-token", "eve-token", "unknown", None, "false"])
def test_nobody_else_may_change_a_simulation(lab: Lab, method: str, leaf: str, token: str | None) -> None:
    answer = lab.gateway.call(method, lab.path + leaf, {"state": "stopped"}, token=token)
    assert (answer.status_code, answer.get_json()) == (401, NOT_THE_OWNER)
    assert lab.gateway.state(lab.id, token="ann-token") == "paused"


def test_those_for_whom_the_experiment_is_shared_may_view(lab: Lab) -> None:
    assert lab.gateway.get(lab.path, token="ben-token").get_json()["owner"] == "ann"
    assert lab.gateway.state(lab.id, token="ben-token") == "paused"


@pytest.mark.parametrize(("method", "leaf"), READS)
@pytest.mark.parametrize("token", ["eve-token", "unknown", "false", "", None, "t\u00e4st"])
def test_strangers_may_not_view(lab: Lab, method: str, leaf: str, token: str | None) -> None:
    answer = lab.gateway.call(method, lab.path + leaf, token=token)
    assert (answer.status_code, answer.get_json()) == (401, MAY_NOT_VIEW)


@pytest.mark.parametrize("token", ["unknown", "false", None])
def test_launch_needs_a_valid_token(lab: Lab, token: str | None) -> None:
    for body in ({"experimentID": "demo"}, b"no JSON"):
        answer = lab.gateway.post("/simulation", body, token=token)
        assert (answer.status_code, answer.get_json()) == (401, MAY_NOT_VIEW)


def test_a_header_that_anybody_can_set_makes_nobody_the_owner(lab: Lab) -> None:
    header = {"X-User-Name": "ann"}
    assert lab.gateway.get(lab.path, headers=header).status_code == 401
    assert lab.gateway.get(lab.path, token="eve-token", headers=header).status_code == 401
    assert lab.gateway.ask_state(lab.id, "stopped", token="eve-token", headers=header).status_code == 401


def test_404_comes_before_401_and_401_before_final(lab: Lab) -> None:
    assert lab.gateway.get("/simulation/999999").status_code == 404
    lab.gateway.ask_state(lab.id, "stopped", token="ann-token")
    assert lab.gateway.put(f"{lab.path}/state", b"no JSON").status_code == 401


@pytest.mark.parametrize("token", ["false", None, "eve-token", "unknown"])
def test_list_tells_strangers_enough_to_find_a_free_backend_and_no_more(lab: Lab, token: str | None) -> None:
    answer = lab.gateway.get("/simulation", token=token)
    assert answer.status_code == 200
    [shown] = answer.get_json()
    assert set(shown) == STRANGERS_FIELDS
    assert (shown["simulationID"], shown["state"], shown["owner"]) == (lab.id, "paused", "ann")


@pytest.mark.parametrize("token", ["ann-token", "ben-token"])
def test_list_tells_those_who_may_view_everything(lab: Lab, token: str) -> None:
    [shown] = lab.gateway.get("/simulation", token=token).get_json()
    assert shown == lab.gateway.get(lab.path, token=token).get_json()


def test_list_is_answered_while_the_storage_fails(lab: Lab) -> None:
    lab.storage.failure = 500
    [shown] = lab.gateway.get("/simulation", token="ben-token").get_json()
    assert set(shown) == STRANGERS_FIELDS


def test_storage_that_fails_is_503_that_names_it_and_is_not_remembered(lab: Lab) -> None:
    lab.storage.failure = 500
    for _ in range(2):
        answer = lab.gateway.get(lab.path, token="ben-token")
        assert (answer.status_code, answer.get_json()["type"]) == (503, "Server Error")
        assert "Storage Server" in answer.get_json()["message"]
        assert "ben-token" not in answer.text
    lab.storage.failure = None
    assert lab.gateway.get(lab.path, token="ben-token").status_code == 200


def test_refusal_is_not_remembered(lab: Lab) -> None:
    assert lab.gateway.get(lab.path, token="eve-token").status_code == 401
    lab.storage.viewers["demo"].add("eve")
    assert lab.gateway.get(lab.path, token="eve-token").status_code == 200
    assert lab.gateway.get(lab.path, token="new-token").status_code == 401
    lab.storage.users["new-token"] = "ann"
    assert lab.gateway.get(lab.path, token="new-token").status_code == 200


def test_answers_are_remembered_for_a_minute_at_most(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity.CACHE_S <= 60
    now = 1000.0
    monkeypatch.setattr(identity, "time", SimpleNamespace(monotonic=lambda: now))
    lab.gateway.get(lab.path, token="ben-token")
    lab.storage.asked.clear()
    lab.storage.viewers["demo"].remove("ben")
    assert lab.gateway.get(lab.path, token="ben-token").status_code == 200
    assert not lab.storage.asked
    now += 60
    assert lab.gateway.get(lab.path, token="ben-token").status_code == 401


def test_token_reaches_the_launcher_sealed(lab: Lab) -> None:
    [launch] = lab.launcher.launches
    assert b"ann-token" not in launch.to_json()
    assert unseal_token(launch.sealed_token, KEY) == "ann-token"


def test_without_authentication_everybody_is_the_default_owner(installation: Installations) -> None:
    installation.launcher()
    gateway = installation.gateway()
    gateway.await_launcher()
    simulation_id = gateway.launch(token="whatever")
    for token in ("other", "false", None):
        assert gateway.get(f"/simulation/{simulation_id}", token=token).get_json()["owner"] == "default-owner"
    assert gateway.ask_state(simulation_id, "stopped").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_gateway_without_authentication_refuses_to_serve_other_machines(host: str) -> None:
    with pytest.raises(SettingsError, match="NRP_AUTHENTICATION"):
        GatewaySettings.load(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_gateway_without_authentication_serves_its_own_machine(host: str) -> None:
    assert GatewaySettings.load(host=host).host == host


def test_gateway_serves_other_machines_when_told_to() -> None:
    assert GatewaySettings.load(host="0.0.0.0", allow_unauthenticated=True)
    assert GatewaySettings.load(
        host="0.0.0.0", authentication="storage", storage_url="http://storage.example", secret_key=KEY
    )


@pytest.mark.parametrize("published", ["127.0.0.1", "::1", "[::1]", "localhost"])
def test_gateway_in_a_container_is_reached_where_its_port_is_published(published: str) -> None:
    assert GatewaySettings.load(host="0.0.0.0", published_host=published)


@pytest.mark.parametrize("published", ["0.0.0.0", "[::]", "192.168.1.2"])
def test_gateway_in_a_container_refuses_to_be_published_without_authentication(published: str) -> None:
    with pytest.raises(SettingsError, match=rf"NRP_PUBLISHED_HOST={re.escape(published)} .*NRP_AUTHENTICATION"):
        GatewaySettings.load(host="127.0.0.1", published_host=published)


def test_gateway_in_a_container_refuses_to_be_published_beside_a_broker_that_takes_everybody() -> None:
    guarded = {"authentication": "storage", "storage_url": "http://storage.example", "secret_key": KEY}
    published = {"host": "0.0.0.0", "published_host": "0.0.0.0", **guarded}
    with pytest.raises(SettingsError, match="NRP_MQTT_USERNAME"):
        GatewaySettings.load(**published)
    assert GatewaySettings.load(**published, mqtt_username="gateway")
    assert GatewaySettings.load(**published, allow_unauthenticated=True)


@pytest.mark.parametrize("missing", ["storage_url", "secret_key"])
def test_authentication_needs_a_storage_and_a_key(missing: str) -> None:
    given = {"authentication": "storage", "storage_url": "http://storage.example", "secret_key": KEY}
    with pytest.raises(SettingsError, match=f"NRP_{missing.upper()}"):
        GatewaySettings.load(**{name: value for name, value in given.items() if name != missing})
