"""The whole examination: every area, each with what the ones before have found."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

from nrp_cli.doctor.broker import BusView, examine_connections, examine_traffic, on_the_bus
from nrp_cli.doctor.findings import Area, Finding, Verdict
from nrp_cli.doctor.gateway import GatewayView, look_at_gateway
from nrp_cli.doctor.launchers import examine_launchers, examine_leftovers
from nrp_cli.doctor.machine import examine_machine
from nrp_cli.doctor.simulators import examine_simulators
from nrp_cli.doctor.storage import examine_storage
from nrp_cli.doctor.targets import Targets


def examine(targets: Targets, experiment: str | None) -> list[Area]:
    """Examine all there is.

    Args:
        targets: where to look.
        experiment: one in a Storage Server that may be written into for a moment, None for none.
    """
    with ThreadPoolExecutor(1) as pool:  # imports of simulators take a while
        simulators = pool.submit(lambda: list(examine_simulators()))
        gateway = look_at_gateway(targets)
        broker, launchers, is_up = _on_the_bus(targets, gateway)
        areas = [
            Area("This machine", list(examine_machine(targets, is_up=is_up))),
            Area("Broker", broker),
            Area("Gateway", gateway.findings),
            Area("Catalogue", _catalogue(targets, gateway)),
            Area("Storage", list(examine_storage(targets, gateway, experiment))),
            Area("Launchers", launchers),
            Area("Simulators", simulators.result()),
        ]
    return areas if is_up else _of_a_machine_at_rest(areas, targets)


def _catalogue(targets: Targets, gateway: GatewayView) -> list[Finding]:
    if not targets.gateway_is_local or find_spec("sqlalchemy") is None:  # where only launchers run, nothing reads it
        return []
    from nrp_cli.doctor.catalogue import examine_catalogue  # with the database's library

    return list(examine_catalogue(targets, gateway))


def _on_the_bus(targets: Targets, gateway: GatewayView) -> tuple[list[Finding], list[Finding], bool]:
    """What is found of the broker and of the launchers, and whether anything of the backend runs or should."""
    is_expected = gateway.answers or targets.expects_gateway or targets.expects_broker
    broker = examine_connections(targets)
    if broker[0].verdict is Verdict.PROBLEM:
        is_elsewhere = gateway.parts.get("broker") == "ok" and not targets.expects_broker
        return [_not_named(targets)] if is_elsewhere else broker, [], is_expected
    with on_the_bus(targets) as view:
        broker += examine_traffic(view)
        if any(finding.verdict is Verdict.PROBLEM for finding in broker):
            return broker, [], is_expected
        broker += examine_leftovers(view, gateway)
        return broker, list(examine_launchers(view, targets, gateway)), is_expected or _hears_launchers(view)


def _hears_launchers(view: BusView) -> bool:
    return any(view.heard.launchers.values())


def _not_named(targets: Targets) -> Finding:
    return Finding.note(
        "MQTT 5",
        f"The gateway is connected to a broker, which is not at {targets.broker}",
        "Name it by --broker or NRP_MQTT_BROKER_ADDRESS to have it and the launchers examined.",
    )


def _of_a_machine_at_rest(areas: list[Area], targets: Targets) -> list[Area]:
    """Nothing runs and nobody said that anything should: that is no problem, but worth saying."""
    nothing = Finding.note(
        "nothing runs",
        f"There is no gateway at {targets.url}, and no launcher on a broker at {targets.broker}",
        "Start everything with `nrp up`, or one experiment with `nrp run FOLDER`. What runs elsewhere is named by --url"
        " and --broker.",
    )
    kept = [area for area in areas if area.title in ("This machine", "Catalogue", "Simulators")]
    return [Area("Backend", [nothing]), *kept]
