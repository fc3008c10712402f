"""The profile `monitoring`: a real Prometheus, our alerts, and the dashboard's queries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.deploy.containers import debian_images
from tests.deploy.containers.engine import Engine
from tests.deploy.containers.installation import DEPLOY, Installation
from tests.documented_metrics import SHARED, documented
from tests.waiting import wait_until

DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "nrp.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def names_in(expression: str) -> set[str]:
    """The figures that a query asks for, without what a histogram adds to its name."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\b(?:nrp|process)_\w+", expression)}


def test_the_dashboard_and_the_alerts_ask_for_documented_figures_only() -> None:
    known = {figure.name for figure in documented(SHARED, "Gateway", "Launcher")}
    alerts = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    asked = set().union(*map(names_in, [*EXPRESSIONS, *re.findall(r"expr: (.*)", alerts)]))
    assert len(asked) > 20
    assert asked - known == set()


@pytest.fixture(scope="module")
def monitored(engine: Engine, scaled: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """With a Prometheus."""
    try:
        stand_in = debian_images.prometheus(tmp_path_factory.mktemp("prometheus"))
        image = debian_images.make(stand_in, "nrp-test/prometheus", engine.command)
    except debian_images.NoImages as reason:
        pytest.skip(str(reason))
    scaled.set(NRP_PROMETHEUS_IMAGE=image)
    scaled.up("prometheus", profiles=("monitoring",))
    yield scaled
    scaled.compose("--profile", "monitoring", "rm", "--force", "--stop", "prometheus")


def asked(installation: Installation, path: str, **parameters: str) -> Any:
    answer = requests.get(f"{installation.prometheus}/api/v1/{path}", params=parameters, timeout=10)
    assert answer.ok, answer.text
    return answer.json()["data"]


def test_all_gateways_and_launchers_are_read(monitored: Installation) -> None:
    def read() -> list[str]:
        targets = asked(monitored, "targets", state="active")["activeTargets"]
        return sorted(each["labels"]["job"] for each in targets if each["health"] == "up")

    wait_until(lambda: read() == ["gateway"] * 2 + ["launcher"] * 3, 60)


def test_prometheus_takes_every_query_of_the_dashboard(monitored: Installation) -> None:
    for expression in EXPRESSIONS:
        asked(monitored, "query", query=expression.replace("$__rate_interval", "1m"))
    wait_until(lambda: asked(monitored, "query", query="max(nrp_launchers)")["result"], 60)
    assert asked(monitored, "query", query="max(nrp_launchers)")["result"][0]["value"][1] == "3"


def test_prometheus_takes_the_alerts(monitored: Installation) -> None:
    (group,) = asked(monitored, "rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    assert len(group["rules"]) == len(re.findall("alert:", Path(DEPLOY / "prometheus" / "alerts.yml").read_text()))
