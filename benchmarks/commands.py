"""How long launch, start, pause and stop take, as a REST client sees them; and how many GETs a second are answered."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from benchmarks.figures import Figure, milliseconds
from benchmarks.stack_under_test import Witness
from nrp_cli.rest_client import RestClient

CONNECTIONS = 16
GET_SECONDS = 3.0


def measure_commands(client: RestClient, witness: Witness, broker: str, repeats: int) -> list[Figure]:
    """Latencies of the lifecycle, one simulation at a time."""
    launches, stops = [], []
    times: dict[str, list[float]] = {"started": [], "paused": []}
    for _ in range(repeats):
        began = time.perf_counter()
        simulation_id = client.launch("endless")["simulationID"]
        launches.append(witness.when(simulation_id, "paused") - began)
        _start_and_pause(client, simulation_id, times)
        client.set_state(simulation_id, "started")
        began = time.perf_counter()
        reached = client.set_state(simulation_id, "stopped")
        stops.append(time.perf_counter() - began)
        assert reached == "stopped", reached
        assert client.simulation(simulation_id)["logs"] != "pending"
    simulation_id = client.launch("endless", main_script="printing_script.py")["simulationID"]
    printing: dict[str, list[float]] = {"started": [], "paused": []}
    for _ in range(repeats):
        _start_and_pause(client, simulation_id, printing)
    client.delete(simulation_id)
    launch_target = "30 ms" if broker == "mosquitto" else "250 ms"
    return [
        Figure(f"POST until `paused` is on the bus ({broker})", milliseconds(launches), "1650 ms", launch_target),
        Figure(f"PUT started until answered ({broker})", milliseconds(times["started"]), "up to 1 s", "5 ms"),
        Figure(
            f"PUT paused until answered, script busy ({broker})", milliseconds(times["paused"]), "up to 1 s", "5 ms"
        ),
        Figure(f"the same, it prints in every fourth step ({broker})", milliseconds(printing["paused"]), "up to 1 s"),
        Figure(
            f"PUT stopped while running until answered, logs stored ({broker})",
            milliseconds(stops),
            "23,200 ms",
            "60 ms",
        ),
    ]


def _start_and_pause(client: RestClient, simulation_id: int, times: dict[str, list[float]]) -> None:
    for state, taken in times.items():
        began = time.perf_counter()
        reached = client.set_state(simulation_id, state)
        taken.append(time.perf_counter() - began)
        assert reached == state, reached


def measure_reads(client: RestClient) -> list[Figure]:
    """GET state of a paused simulation, over 16 connections that are kept alive."""
    simulation_id = client.launch("endless")["simulationID"]
    rate = asyncio.run(_get_rate(client.url, f"/simulation/{simulation_id}/state"))
    client.delete(simulation_id)
    return [Figure("GET state, one worker", f"{rate:,.0f} requests/s", "blocked up to 23 s", "1,500 requests/s")]


async def _get_rate(url: str, path: str) -> float:
    address = urlsplit(url)
    request = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
    until = time.perf_counter() + GET_SECONDS

    async def ask() -> int:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        answered = 0
        while time.perf_counter() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            answered += 1
        writer.close()
        return answered

    began = time.perf_counter()
    answered = sum(await asyncio.gather(*(ask() for _ in range(CONNECTIONS))))
    return answered / (time.perf_counter() - began)
