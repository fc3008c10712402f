"""What it costs to be observed: request ids and figures at the gateway, a look at the journals of many simulations."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from werkzeug.test import EnvironBuilder

from benchmarks.figures import Figure
from nrp_common.bus import BrokerAddress, Bus
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Wishes
from nrp_gateway.app import create_app
from nrp_gateway.settings import GatewaySettings
from nrp_simserver.launcher.metrics import LauncherMetrics
from nrp_simserver.launcher.spool import Spool
from nrp_simserver.simulation_folder import Journal, SimulationFolder

NOWHERE = BrokerAddress("127.0.0.1", 1)
REQUESTS = 2_000
ROUNDS = 15
SIMULATIONS = 300

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def measure_observation() -> list[Figure]:
    """In processor time, alternating in one process; medians of rounds."""
    return [
        Figure(f"one look at the figures of {SIMULATIONS} simulations, at a launcher", _look()),
        Figure("GET state in the gateway: what request ids and figures add", _requests(), target="5 %"),
    ]


def _requests() -> str:
    with tempfile.TemporaryDirectory() as data:
        app = create_app(GatewaySettings(mqtt_broker_address=str(NOWHERE), data_directory=Path(data)))
        gateway = app.extensions["nrp_gateway"]
        record = gateway.catalogue.add(
            experiment_id="endless",
            configuration="simulation_config.json",
            main_script="main_script.py",
            owner="default-owner",
            context_id=None,
            slot=None,
            launcher="none",
            wishes=Wishes(),
        )
        gateway.mirror.add(record)
        observed: WsgiApp = app.wsgi_app
        plain: WsgiApp = type(app).wsgi_app.__get__(app)
        times_s: dict[WsgiApp, list[float]] = {observed: [], plain: []}
        for _ in range(ROUNDS):
            for each, times in times_s.items():
                times.append(_request_time(each, f"/simulation/{record.id}/state"))
        gateway.close()
    with_it, without = (statistics.median(times) for times in times_s.values())
    return f"{(with_it - without) * 1e6:.1f} us of {with_it * 1e6:.0f} us ({with_it / without - 1:.1%})"


def _request_time(app: WsgiApp, path: str) -> float:
    environments = [EnvironBuilder(path=path).get_environ() for _ in range(REQUESTS)]
    statuses: list[str] = []
    began = time.process_time()
    for environment in environments:
        b"".join(app(environment, lambda status, *_: statuses.append(status)))
    took_s = time.process_time() - began
    assert set(statuses) == {"200 OK"}, set(statuses)
    return took_s / REQUESTS


class _Simulation:
    """One whose journal is on the disk."""

    is_running = True

    def __init__(self, folder: SimulationFolder) -> None:
        self.incarnation = str(folder.simulation_id)
        folder.path.mkdir()
        folder.write_journal(Journal(state=SimulationState.STARTED, steps=1000, simulation_time=10.0, real_time=1.0))
        self.read_journal = folder.read_journal


def _look() -> str:
    with tempfile.TemporaryDirectory() as data:
        folders = [SimulationFolder(Path(data) / str(number), number) for number in range(SIMULATIONS)]
        simulations = [_Simulation(folder) for folder in folders]
        registry = CollectorRegistry()
        spool = Spool(Path(data) / "spool", lambda _: None, lambda *_: None)  # type: ignore[arg-type, return-value]
        LauncherMetrics(registry, Bus(NOWHERE, "benchmark"), SIMULATIONS, lambda: simulations, spool, lambda: 2)
        times_s = []
        for _ in range(ROUNDS):
            began = time.process_time()
            generate_latest(registry)
            times_s.append(time.process_time() - began)
    return f"{statistics.median(times_s) * 1e3:.1f} ms"
