"""The port where figures are read, and who may read them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import requests
from prometheus_client import CollectorRegistry

from nrp_common.errors import SettingsError
from nrp_common.metrics import MetricsServer, is_authorised, new_registry


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return new_registry()


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[MetricsServer]:
    server = MetricsServer(registry, "127.0.0.1", 0, is_ready=lambda: True)
    yield server
    server.close()


@pytest.fixture
def guarded(registry: CollectorRegistry) -> Iterator[MetricsServer]:
    server = MetricsServer(registry, "127.0.0.1", 0, "secret", is_ready=lambda: False)
    yield server
    server.close()


def ask(server: MetricsServer, path: str = "/metrics", **headers: str) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{server.port}{path}", headers=headers, timeout=5)


def test_figures_are_served(server: MetricsServer) -> None:
    answer = ask(server)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "nrp_build_info{version=" in answer.text
    assert "process_cpu_seconds_total" in answer.text


def test_nothing_else_is_served(server: MetricsServer) -> None:
    assert ask(server, "/").status_code == 404
    assert ask(server, "/metrics/x").status_code == 404


def test_with_a_token_they_are_for_who_has_it(guarded: MetricsServer) -> None:
    assert ask(guarded).status_code == 401
    assert ask(guarded, Authorization="Bearer wrong").status_code == 401
    assert ask(guarded, Authorization="Bearer secret").status_code == 200


def test_everybody_is_told_whether_the_process_is_ready(server: MetricsServer, guarded: MetricsServer) -> None:
    assert (ask(server, "/ready").status_code, ask(guarded, "/ready").status_code) == (200, 503)


def test_a_client_that_says_nothing_keeps_nobody_waiting(server: MetricsServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        assert ask(server).status_code == 200


def test_a_port_that_is_taken_is_named(registry: CollectorRegistry, server: MetricsServer) -> None:
    with pytest.raises(SettingsError, match=f"NRP_METRICS_PORT.*{server.port}"):
        MetricsServer(registry, "127.0.0.1", server.port, is_ready=lambda: True)


def test_an_address_that_is_none_is_named(registry: CollectorRegistry) -> None:
    with pytest.raises(SettingsError, match=r"NRP_METRICS_HOST.*no-such-host\.invalid"):
        MetricsServer(registry, "no-such-host.invalid", 0, is_ready=lambda: True)


@pytest.mark.parametrize(
    "header", [None, "", "secret", "Basic secret", "Bearer", "Bearer ", "Bearer secrets", "Bearer ä"]
)
def test_what_is_not_the_token_opens_nothing(header: str | None) -> None:
    assert not is_authorised(header, "secret")


@pytest.mark.parametrize("header", ["Bearer secret", "bearer secret", "Bearer  secret "])
def test_the_token_opens(header: str) -> None:
    assert is_authorised(header, "secret")
