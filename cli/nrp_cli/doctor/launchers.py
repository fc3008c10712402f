"""The launchers: who is there, has room, answers, keeps time, and has room on its disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from nrp_cli.doctor.broker import BusView
from nrp_cli.doctor.findings import Finding
from nrp_cli.doctor.gateway import GatewayView
from nrp_cli.doctor.machine import disk_space
from nrp_cli.doctor.targets import Targets
from nrp_common.errors import NRPError
from nrp_common.messages import Inquiry, LauncherHealth, LauncherPresence

ANSWER_S: Final = 3.0

ANSWERS_IN_TIME_S: Final = 24 * 3600.0
"""Of the deadline: a launcher with a wrong clock has to answer, too."""

SKEW_S: Final = 0.5

MOST_SUSPECTS: Final = 50
"""Simulations that are looked at to see whether they are left over; a hint is enough."""

HARMFUL_SKEW_S: Final = 2.0
"""A launch is dropped by a launcher whose clock is 3 s ahead: to it the gateway has given up."""


def examine_launchers(view: BusView, targets: Targets, gateway: GatewayView) -> Iterator[Finding]:
    """All launchers that said anything of themselves."""
    presences = {name: LauncherPresence.from_json(payload) for name, payload in view.heard.launchers.items() if payload}
    online = {name: presence for name, presence in presences.items() if presence is not None and presence.online}
    if not online:
        yield Finding.problem(
            "launchers",
            "None is connected to this broker" + (f" below '{targets.topics.prefix}'" if targets.topics.prefix else ""),
            "Nothing can be launched. Start one with `nrp launcher` (`nrp up` does), with the same broker and"
            " NRP_MQTT_PREFIX.",
        )
    for name, presence in sorted(online.items()):
        yield from _room(name, presence)
        yield from _health(name, presence, view, targets, gateway.version)
    for name in sorted(presences.keys() - online.keys()):
        topic = targets.topics.launcher_presence(name)
        yield Finding.warning(
            f"launcher {name}",
            "It was lost, or ended without a goodbye",
            f"Start it again, or if it is gone for good: mosquitto_pub -h {targets.broker.host} -p {targets.mqtt.port}"
            f" -r -n -t '{topic}'",
        )


def _room(name: str, presence: LauncherPresence) -> Iterator[Finding]:
    has = f"{presence.running} of {presence.capacity} simulations{_unreserved(presence)}"
    labels = f"; labels: {', '.join(presence.labels)}" if presence.labels else ""
    if presence.capacity == 0:
        yield Finding.warning(f"launcher {name}", "It is being shut down and takes no launches", "Start it again.")
    elif presence.running >= presence.capacity:
        yield Finding.warning(
            f"launcher {name}",
            f"It is full: {has}{labels}",
            "Launches are refused until a simulation has ended: stop those that are not needed (`nrp simulations ls`),"
            " raise NRP_CAPACITY, or start a launcher on another machine.",
        )
    else:
        yield Finding.ok(f"launcher {name}", f"{has}{labels}")


def _unreserved(presence: LauncherPresence) -> str:
    if presence.free_cores is None or presence.free_memory_mb is None:
        return ""
    return f"; {presence.free_cores:g} cores and {presence.free_memory_mb / 1000:.1f} GB not reserved"


def _health(
    name: str, presence: LauncherPresence, view: BusView, targets: Targets, gateway_version: str
) -> Iterator[Finding]:
    yield from _version(name, presence.version, gateway_version or version("nrp-backend"))
    asked_at = time.time()
    try:
        reply = view.bus.request(
            targets.topics.inquiry(name), Inquiry(deadline=asked_at + ANSWERS_IN_TIME_S), timeout=ANSWER_S
        )
    except NRPError:
        yield Finding.problem(
            f"launcher {name}",
            f"It says that it is there, and does not answer within {ANSWER_S:g} s",
            "Its process hangs, its machine was cut off, or it is of an older version: see its log, and restart it.",
        )
        return
    if reply.health is not None:
        answered_at = time.time()
        yield _clock(name, reply.health.time - (asked_at + answered_at) / 2, (answered_at - asked_at) / 2)
        yield from _disk(name, reply.health)


def _version(name: str, theirs: str, expected: str) -> Iterator[Finding]:
    if theirs != expected:
        yield Finding.warning(
            f"launcher {name}",
            f"It runs version {theirs or 'unknown'}, the gateway {expected}",
            "Install the same version everywhere, then restart the services.",
        )


def _clock(name: str, skew_s: float, uncertain_s: float) -> Finding:
    surely_s = abs(skew_s) - uncertain_s
    shown = f"{abs(skew_s):.2f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's"
    advice = "Have both machines keep time (chrony, systemd-timesyncd): requests carry a deadline."
    if surely_s < SKEW_S:
        return Finding.ok(f"clock of {name}", "agrees with this machine's")
    if surely_s < HARMFUL_SKEW_S:
        return Finding.warning(f"clock of {name}", shown, advice)
    return Finding.problem(f"clock of {name}", f"{shown}: launches and commands are taken for late", advice)


def _disk(name: str, health: LauncherHealth) -> Iterator[Finding]:
    yield disk_space(f"disk of {name}", health.free_disk)
    if health.spooled:
        yield Finding.warning(
            f"spool of {name}",
            f"Logs and results of {health.spooled} simulations wait for the Storage Server",
            "They are tried again until they are stored. See whether the storage can be reached from there, and in the"
            " launcher's log why it refuses them.",
        )


def examine_leftovers(view: BusView, gateway: GatewayView) -> Iterator[Finding]:
    """What is retained of simulations that the gateway knows nothing of."""
    if gateway.simulations is None:
        return
    suspects = sorted(view.heard.simulations - gateway.simulations)[:MOST_SUSPECTS]
    unknown = [each for each in suspects if not gateway.knows(each)]  # else launched since it was asked
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
        yield Finding.warning(
            "leftovers",
            f"States of {len(unknown)} simulations are retained that the gateway does not list ({shown})",
            "Frontends show them. Another installation shares the broker (set NRP_MQTT_PREFIX), or the catalogue was"
            " deleted: mosquitto_sub --remove-retained -W 2 -t 'nrp_simulation/<id>/#' takes them away.",
        )
