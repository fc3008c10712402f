"""`GET /version`, `/health`, `/ready` and `/openapi`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nrp_gateway.app import openapi_document
from tests.fakes import FakeLauncher
from tests.gateways import Installations, RunningGateway


def test_version_maps_packages_to_versions(gateway: RunningGateway) -> None:
    answer = gateway.get("/version")
    assert answer.status_code == 200
    assert all(isinstance(version, str) for version in answer.get_json().values())
    assert "nrp-backend" in answer.get_json()


def test_health_is_answered_without_anything_else(installation: Installations) -> None:
    gateway = installation.unconnected_gateway(mqtt_broker_address="127.0.0.1:1")
    assert (gateway.get("/health").status_code, gateway.get("/health").get_json()) == (200, {"healthy": True})


def test_ready_when_all_parts_are_there(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    answer = gateway.get("/ready")
    assert answer.status_code == 200
    assert answer.get_json() == {
        "ready": True, "broker": "ok", "catalogue": "ok", "storage": "ok", "launcher": "ok",
    }  # fmt: skip


def test_ready_names_a_missing_launcher(installation: Installations) -> None:
    answer = installation.gateway().get("/ready")
    assert answer.status_code == 503
    assert answer.get_json()["launcher"] == "no launcher is connected"
    assert answer.get_json()["broker"] == "ok"


def test_ready_names_a_missing_broker(installation: Installations) -> None:
    gateway = installation.unconnected_gateway(mqtt_broker_address="127.0.0.1:1")
    answer = gateway.get("/ready")
    assert answer.status_code == 503
    assert answer.get_json()["ready"] is False
    assert "127.0.0.1:1" in answer.get_json()["broker"]


def test_ready_names_a_missing_storage(installation: Installations) -> None:
    answer = installation.gateway(storage_url="http://127.0.0.1:1").get("/ready")
    assert answer.status_code == 503
    assert "127.0.0.1:1" in answer.get_json()["storage"]


def test_ready_takes_a_storage_that_asks_for_a_token(installation: Installations) -> None:
    storage = installation.storage()
    assert installation.gateway(storage_url=storage.url).get("/ready").get_json()["storage"] == "ok"


def test_ready_names_a_missing_catalogue(installation: Installations, tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    gateway = installation.gateway(catalogue_url=f"sqlite:///{folder}/c.sqlite")
    gateway.gateway._caretaker.close()  # else it would open the database again meanwhile
    gateway.gateway.catalogue.close()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    answer = gateway.get("/ready")
    assert answer.status_code == 503
    assert "cannot be reached" in answer.get_json()["catalogue"]


@pytest.mark.parametrize("path", ["/openapi"])
def test_openapi_is_served(gateway: RunningGateway, path: str) -> None:
    answer = gateway.get(path)
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert answer.get_json() == json.loads(json.dumps(openapi_document()))


def test_openapi_document_needs_no_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NRP_PORT", "nonsense")
    assert openapi_document()["openapi"].startswith("3.")
    assert list(tmp_path.iterdir()) == []


def test_openapi_describes_every_route(gateway: RunningGateway) -> None:
    served = {
        (rule.rule.replace("<", "{").replace(">", "}"), method)
        for rule in gateway.app.url_map.iter_rules()
        if not rule.rule.startswith(("/slot/", "/static", "/openapi"))
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {
        (path, method.upper()) for path, operations in openapi_document()["paths"].items() for method in operations
    }
    assert {(rule.replace("path:", ""), method) for rule, method in served} == described
