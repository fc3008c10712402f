"""Who may do what on the bus, where the broker keeps to it: the one place that says so.

The configuration of a broker, the credentials of a simulation and the table in the documentation are made of this.
"""

from __future__ import annotations

from dataclasses import dataclass

from nrp_common.topics import Topics

CONTROL = "$CONTROL/dynamic-security/v1"
"""Where Mosquitto's dynamic security plugin takes orders. Whoever may publish there may do everything."""

CONTROL_ANSWERS = f"{CONTROL}/response"

EVERYTHING = "#"


@dataclass(frozen=True)
class Rights:
    """What a client may do. Whatever is not named here is refused.

    Attributes:
        publishes: filters of the topics that it may publish on.
        reads: filters of the topics that it may subscribe to, and whose messages it gets.
        may_not_publish: filters that are taken out of `publishes` again.
        may_ask_for_everything: whether a subscription to `#` is taken; it brings what `reads` names and nothing else.
    """

    publishes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    may_not_publish: tuple[str, ...] = ()
    may_ask_for_everything: bool = False


def gateway_rights(topics: Topics) -> Rights:
    """A gateway: asks launchers and servers, hears what they report, passes verdicts and clears what is retained."""
    return Rights(
        publishes=(
            topics.command("+"),
            *(topics.simulation("+", leaf) for leaf in ("lifecycle", "status", "archives", "data", "welcome")),
            topics.server_presence("+"),
            topics.launch("+"),
            topics.collect("+"),
        ),
        reads=(
            *(topics.simulation("+", leaf) for leaf in ("lifecycle", "status", "archives")),
            topics.server_presence("+"),
            topics.launcher_presence("+"),
            topics.reply("+"),
        ),
    )


def launcher_rights(topics: Topics) -> Rights:
    """A launcher: takes launches, has the last word on simulations, and keeps their credentials.

    What it starts in a cluster it knows by the bus: whether a server is there, and how to have it stop.
    """
    return Rights(
        publishes=(
            topics.launcher_presence("+"),
            topics.command("+"),
            *(topics.simulation("+", leaf) for leaf in ("lifecycle", "status", "runtime_error", "archives")),
            topics.reply("+"),
            _doctor(topics).reply("+"),
            CONTROL,
        ),
        reads=(
            topics.launch("+"),
            topics.collect("+"),
            topics.inquiry("+"),
            topics.launcher_presence("+"),
            topics.command("+"),
            topics.lifecycle("+"),
            topics.server_presence("+"),
            CONTROL_ANSWERS,
        ),
    )


def frontend_rights(topics: Topics) -> Rights:
    """A frontend: watches, and publishes nothing. Those of NRP 4 subscribe to `#` first."""
    return Rights(reads=(topics.simulation_subtree(), topics.server_subtree()), may_ask_for_everything=True)


def doctor_rights(topics: Topics) -> Rights:
    """`nrp doctor`: talks to itself, and asks launchers how they are."""
    own = topics.doctor("#")
    return Rights(
        publishes=(own, topics.inquiry("+")),
        reads=(own, topics.launcher_presence("+"), topics.lifecycle("+"), "$SYS/broker/#"),
    )


def simulation_rights(
    topics: Topics, simulation_id: int | str, incarnation: str, further: tuple[str, ...] = ()
) -> Rights:
    """A simulation server, with the experiment that runs in it: its own simulation, and answers to who commands it.

    Args:
        topics: of the installation.
        simulation_id: of the simulation.
        incarnation: of the server.
        further: filters of topics that are no installation's, for experiments that talk to others over MQTT.
    """
    relayed = f"{topics.relayed(simulation_id)}/#"
    own = topics.simulation(simulation_id, "#")
    return Rights(
        publishes=(own, topics.server_presence(incarnation), topics.reply("+"), relayed, *further),
        reads=(own, relayed, *further),
        may_not_publish=(topics.command(simulation_id), topics.archives(simulation_id)),
    )


def _doctor(topics: Topics) -> Topics:
    return Topics(topics.doctor("+"))
