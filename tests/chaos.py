"""Clients at work on a whole installation while parts of it die: `python -m tests.chaos [--minutes 5] [--seed 1]`.

Prints its seed, and at the end everything that must not have been; exit status 1 when there is anything.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from tests.history import FINAL, Client
from tests.lab import Lab

COMMANDS = ("started", "paused", "started", "paused", "reset", "stopped")

SETTLING_S = 10.0
"""Between two faults of the long run."""


class Load:
    """Clients that launch, command and read, each in a thread of its own, until the block ends.

    Args:
        lab: where.
        clients: how many.
        most: how many simulations there are at once, at most.
        rng: for what they do.
    """

    def __init__(self, lab: Lab, clients: int, most: int, rng: random.Random) -> None:
        self._lab = lab
        self._most = most
        self._experiment = lab.experiment()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(random.Random(rng.random()), number), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, rng: random.Random, number: int) -> None:
        client = self._lab.clients[number % len(self._lab.clients)]
        while not self._over.wait(rng.uniform(0.0, 0.3)):
            running = [each for each, state in self._lab.states(client).items() if state not in FINAL]
            if len(running) < self._most and rng.random() < 0.4:
                client.launch(self._experiment)
            elif running:
                self._command(client, rng)

    def _command(self, client: Client, rng: random.Random) -> None:
        simulation_id = rng.choice(self._lab.ids() or [0])
        if rng.random() < 0.5:
            client.state(simulation_id)
        else:
            client.ask(simulation_id, rng.choice(COMMANDS))


# -- what goes wrong -------------------------------------------------------------------------------------------------

Fault = Callable[[Lab, random.Random], None]


def kill_a_gateway(lab: Lab, rng: random.Random) -> None:
    gateway = rng.choice(lab.gateways)
    gateway.kill()
    time.sleep(rng.uniform(0.0, 3.0))
    gateway.start()


def kill_the_broker(lab: Lab, rng: random.Random) -> None:
    lab.broker.stop()
    time.sleep(rng.uniform(0.0, 5.0))
    lab.broker.start()


def end_the_broker(lab: Lab, rng: random.Random) -> None:
    lab.broker.stop(signal.SIGTERM)
    time.sleep(rng.uniform(0.0, 5.0))
    lab.broker.start()


def freeze_the_broker(lab: Lab, rng: random.Random) -> None:
    lab.broker.freeze()
    time.sleep(rng.uniform(0.5, 5.0))
    lab.broker.thaw()


def kill_a_launcher(lab: Lab, rng: random.Random) -> None:
    launcher = rng.choice(lab.launchers)
    launcher.kill()
    time.sleep(rng.uniform(0.0, 5.0))
    launcher.start()


def kill_a_spawner(lab: Lab, rng: random.Random) -> None:
    for pid in _spawners(lab, rng.randrange(len(lab.launchers))):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_a_server(lab: Lab, rng: random.Random) -> None:
    running = [each for each, state in lab.states().items() if state not in FINAL]
    with suppress(KeyError, StopIteration, ValueError, ProcessLookupError):
        os.kill(lab.server_of(rng.choice(running or [0])), signal.SIGKILL)


def kill_a_machine(lab: Lab, rng: random.Random) -> None:
    """A launcher and all that it has started, at once."""
    number = rng.randrange(len(lab.launchers))
    victims = [pid for spawner in _spawners(lab, number) for pid in _with_descendants(spawner)]
    launcher = lab.launchers[number]
    assert launcher.process is not None
    for pid in [launcher.process.pid, *victims]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    launcher.process.wait()
    time.sleep(rng.uniform(0.0, 3.0))
    launcher.start()


def take_the_storage_away(lab: Lab, rng: random.Random) -> None:
    lab.storage.stop()
    time.sleep(rng.uniform(1.0, 8.0))
    lab.storage.start()


def cut_a_connection(lab: Lab, rng: random.Random) -> None:
    proxy = lab.proxies[rng.choice(sorted(lab.proxies))]
    proxy.cut()
    time.sleep(rng.uniform(0.0, 5.0))
    proxy.heal()


def lose_all_packets(lab: Lab, rng: random.Random) -> None:
    proxy = lab.proxies[rng.choice(sorted(lab.proxies))]
    proxy.fall_silent()
    time.sleep(rng.uniform(0.5, 8.0))
    proxy.heal()


def delay_everything(lab: Lab, rng: random.Random) -> None:
    for proxy in lab.proxies.values():
        proxy.delay(rng.uniform(0.01, 0.2))
    time.sleep(rng.uniform(1.0, 4.0))
    for proxy in lab.proxies.values():
        proxy.heal()


def narrow_a_connection(lab: Lab, rng: random.Random) -> None:
    proxy = lab.proxies[rng.choice(sorted(lab.proxies))]
    proxy.slow_down(rng.uniform(1_000, 50_000))
    time.sleep(rng.uniform(1.0, 8.0))
    proxy.heal()


FAULTS: tuple[Fault, ...] = (
    kill_a_gateway,
    kill_the_broker,
    end_the_broker,
    freeze_the_broker,
    kill_a_launcher,
    kill_a_spawner,
    kill_a_server,
    kill_a_machine,
    take_the_storage_away,
    cut_a_connection,
    lose_all_packets,
    delay_everything,
    narrow_a_connection,
)


def _spawners(lab: Lab, launcher: int) -> list[int]:
    """The process ids of a launcher's spawners: they are told their data directory, or are its children."""
    data = str(lab.launchers[launcher].log.parent)
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any("nrp_simserver.placement.local.spawner" in word for word in process.cmdline()) and (
                process.ppid() == _pid(lab, launcher) or data in " ".join(process.cmdline())
            ):
                found.append(process.pid)
    return found


def _pid(lab: Lab, launcher: int) -> int:
    process = lab.launchers[launcher].process
    assert process is not None
    return process.pid


def _with_descendants(pid: int) -> list[int]:
    with suppress(psutil.Error):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


# -- the long run ----------------------------------------------------------------------------------------------------


def run(minutes: float, seed: int, folder: Path) -> list[str]:
    """Let faults come for so long. Returns what must not have been."""
    rng = random.Random(seed)
    lab = Lab(folder, launchers=2, remembering=rng.random() < 0.5)
    try:
        lab.start()
        with Load(lab, clients=4, most=12, rng=rng):
            until = time.monotonic() + minutes * 60
            while time.monotonic() < until:
                time.sleep(rng.uniform(0.5, SETTLING_S))
                fault = rng.choice(FAULTS)
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {fault.__name__}\n")
                fault(lab, rng)
        lab.settle()
        violations = lab.violations()
        ids = lab.ids()
        print(f"{len(ids)} simulations, {len(lab.history.answers)} answers, {len(lab.history.seen)} messages")
        return violations
    finally:
        lab.close()


def main() -> None:
    """Run, and tell what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--folder", type=Path, help="keep all files here; it has to be empty")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="nrp_chaos_") as scratch:
        violations = run(arguments.minutes, arguments.seed, arguments.folder or Path(scratch))
    for violation in violations:
        print(violation)
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
