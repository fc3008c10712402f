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
    launches, starts, pauses, stops = [], [], [], []
    for _ in range(repeats):
        began = time.perf_counter()
        simulation_id = client.launch("endless")["simulationID"]
        launches.append(witness.when(simulation_id, "paused") - began)
        for state, times in (("started", starts), ("paused", pauses), ("started", starts)):
            began = time.perf_counter()
            reached = client.set_state(simulation_id, state)
            times.append(time.perf_counter() - began)
            assert reached == state, reached
        began = time.perf_counter()
        reached = client.set_state(simulation_id, "stopped")
        stops.append(time.perf_counter() - began)
        assert reached == "stopped", reached
        assert client.simulation(simulation_id)["logs"] != "pending"
    launch_target = "30 ms" if broker == "mosquitto" else "250 ms"
    return [
        Figure(f"POST until `paused` is on the bus ({broker})", milliseconds(launches), "1650 ms", launch_target),
        Figure(f"PUT started until answered ({broker})", milliseconds(starts), "up to 1 s", "10 ms"),
        Figure(f"PUT paused until answered, script busy ({broker})", milliseconds(pauses), "up to 1 s", "10 ms"),
        Figure(
            f"PUT stopped while running until answered, logs stored ({broker})",
            milliseconds(stops),
            "23,200 ms",
            "150 ms",
        ),
    ]


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
