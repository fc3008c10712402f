"""Who may do what on a broker, line by line, and clients that try it. The reference has the same from the code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from nrp_common.access import CONTROL
from nrp_common.topics import Topics
from nrp_simserver.launcher.simulation_credentials import SimulationCredentials
from tests.secured_broker import Client, SecuredBroker

INCARNATION = "0123456789abcdef0123456789abcdef"
OTHER_INCARNATION = "fedcba9876543210fedcba9876543210"

FURTHER = ("robot/#",)

LINES = f"""
gateway     publish    nrp_simulation/7/command              yes
gateway     publish    nrp_simulation/7/lifecycle            yes
gateway     publish    nrp_simulation/7/status               yes
gateway     publish    nrp_simulation/7/archives             yes
gateway     publish    nrp_simulation/7/data                 yes
gateway     publish    nrp_simulation/7/welcome              yes
gateway     publish    nrp_server/{INCARNATION}/presence     yes
gateway     publish    nrp_launcher/one/launch               yes
gateway     publish    nrp_launcher/one/collect              yes
gateway     publish    nrp_simulation/7/data/camera          no
gateway     publish    nrp_simulation/7/runtime_error        no
gateway     publish    nrp_simulation/7/time                 no
gateway     publish    nrp_launcher/one/presence             no
gateway     publish    nrp_launcher/one/inquiry              no
gateway     publish    nrp_gateway/me/reply                  no
gateway     publish    nrp_doctor/me/reply                   no
gateway     publish    robot/arm                             no
gateway     publish    {CONTROL}                             no
gateway     subscribe  nrp_simulation/+/lifecycle            yes
gateway     subscribe  nrp_simulation/+/status               yes
gateway     subscribe  nrp_simulation/+/archives             yes
gateway     subscribe  nrp_server/+/presence                 yes
gateway     subscribe  nrp_launcher/+/presence               yes
gateway     subscribe  nrp_gateway/me/reply                  yes
gateway     subscribe  nrp_simulation/+/command              no
gateway     subscribe  nrp_simulation/+/data/camera          no
gateway     subscribe  nrp_simulation/#                      no
gateway     subscribe  nrp_launcher/+/launch                 no
gateway     subscribe  #                                     no

launcher    publish    nrp_launcher/one/presence             yes
launcher    publish    nrp_simulation/7/lifecycle            yes
launcher    publish    nrp_simulation/7/status               yes
launcher    publish    nrp_simulation/7/runtime_error        yes
launcher    publish    nrp_simulation/7/archives             yes
launcher    publish    nrp_gateway/some/reply                yes
launcher    publish    nrp_doctor/x/nrp_gateway/doctor/reply yes
launcher    publish    nrp_simulation/7/command              yes
launcher    publish    nrp_simulation/7/data/camera          no
launcher    publish    nrp_server/{INCARNATION}/presence     no
launcher    publish    nrp_launcher/one/launch               no
launcher    publish    robot/arm                             no
launcher    subscribe  nrp_launcher/one/launch               yes
launcher    subscribe  nrp_launcher/one/collect              yes
launcher    subscribe  nrp_launcher/one/inquiry              yes
launcher    subscribe  nrp_simulation/7/command              yes
launcher    subscribe  nrp_simulation/7/lifecycle            yes
launcher    subscribe  nrp_server/+/presence                 yes
launcher    subscribe  {CONTROL}/response                    yes
launcher    subscribe  nrp_gateway/some/reply                no
launcher    subscribe  nrp_simulation/7/data/camera          no
launcher    subscribe  nrp_simulation/#                      no
launcher    subscribe  #                                     no

frontend    subscribe  #                                     yes
frontend    subscribe  nrp_simulation/#                      yes
frontend    subscribe  nrp_simulation/7/status               yes
frontend    subscribe  nrp_simulation/7/runtime_error        yes
frontend    subscribe  nrp_simulation/7/data/camera          yes
frontend    subscribe  nrp_simulation/+/status               yes
frontend    subscribe  nrp_server/#                          yes
frontend    subscribe  nrp_launcher/#                        no
frontend    subscribe  nrp_launcher/one/launch               no
frontend    subscribe  nrp_gateway/#                         no
frontend    subscribe  nrp_doctor/#                          no
frontend    subscribe  robot/arm                             no
frontend    subscribe  {CONTROL}/response                    no
frontend    subscribe  $SYS/#                                no
frontend    subscribe  $share/x/nrp_launcher/one/launch      no
frontend    publish    nrp_simulation/7/status               no
frontend    publish    nrp_simulation/7/command              no
frontend    publish    nrp_server/{INCARNATION}/presence     no
frontend    publish    nrp_launcher/one/launch               no
frontend    publish    nrp_gateway/some/reply                no
frontend    publish    {CONTROL}                             no
frontend    publish    anything                              no

doctor      publish    nrp_doctor/me/x                       yes
doctor      publish    nrp_launcher/one/inquiry              yes
doctor      publish    nrp_launcher/one/launch               no
doctor      publish    nrp_simulation/7/command              no
doctor      publish    nrp_simulation/7/lifecycle            no
doctor      publish    {CONTROL}                             no
doctor      subscribe  nrp_doctor/me/x                       yes
doctor      subscribe  nrp_launcher/+/presence               yes
doctor      subscribe  nrp_simulation/+/lifecycle            yes
doctor      subscribe  $SYS/broker/version                   yes
doctor      subscribe  nrp_gateway/+/reply                   no
doctor      subscribe  nrp_simulation/+/command              no
doctor      subscribe  #                                     no

simulation  publish    nrp_simulation/7/status               yes
simulation  publish    nrp_simulation/7/runtime_error        yes
simulation  publish    nrp_simulation/7/lifecycle            yes
simulation  publish    nrp_simulation/7/data                 yes
simulation  publish    nrp_simulation/7/data/camera          yes
simulation  publish    nrp_simulation/7/time                 yes
simulation  publish    nrp_simulation/7/welcome              yes
simulation  publish    nrp_simulation/7/steering/wheel       yes
simulation  publish    nrp_server/{INCARNATION}/presence     yes
simulation  publish    nrp_gateway/some/reply                yes
simulation  publish    robot/arm                             yes
simulation  publish    nrp_simulation/7/command              no
simulation  publish    nrp_simulation/7/archives             no
simulation  publish    nrp_simulation/8/status               no
simulation  publish    nrp_simulation/8/lifecycle            no
simulation  publish    nrp_simulation/8/command              no
simulation  publish    nrp_simulation/8/data/camera          no
simulation  publish    nrp_simulation/77/status              no
simulation  publish    nrp_simulation                        no
simulation  publish    nrp_server/{OTHER_INCARNATION}/presence  no
simulation  publish    nrp_launcher/one/presence             no
simulation  publish    nrp_launcher/one/launch               no
simulation  publish    nrp_gateway/some/other                no
simulation  publish    nrp_doctor/me/x                       no
simulation  publish    {CONTROL}                             no
simulation  publish    {CONTROL}/response                    no
simulation  publish    anything                              no
simulation  subscribe  nrp_simulation/7/command              yes
simulation  subscribe  nrp_simulation/7/lifecycle            yes
simulation  subscribe  nrp_simulation/7/#                    yes
simulation  subscribe  robot/arm                             yes
simulation  subscribe  nrp_simulation/8/command              no
simulation  subscribe  nrp_simulation/8/data/camera          no
simulation  subscribe  nrp_simulation/+/command              no
simulation  subscribe  nrp_simulation/#                      no
simulation  subscribe  nrp_server/#                          no
simulation  subscribe  nrp_gateway/+/reply                   no
simulation  subscribe  nrp_launcher/+/launch                 no
simulation  subscribe  {CONTROL}/response                    no
simulation  subscribe  $SYS/#                                no
simulation  subscribe  $share/x/nrp_simulation/8/command     no
simulation  subscribe  $share/x/#                            no
simulation  subscribe  #                                     no
"""

MATRIX = [tuple(line.split()) for line in LINES.splitlines() if line]

IDS = [" ".join(line[:3]).replace("/", ".") for line in MATRIX]


@contextmanager
def clients_of(broker: SecuredBroker) -> Iterator[dict[str, Client]]:
    """A client of each kind; the simulation is number 7, with credentials of its own."""
    topics = Topics(broker.prefix)
    credentials = SimulationCredentials(broker.address("launcher"), topics, "table", "required", FURTHER)
    credentials.start()
    granted = credentials.grant(7, INCARNATION)
    with ExitStack() as connected:
        accounts = {each: broker.address(each) for each in ("gateway", "launcher", "frontend", "doctor")}
        accounts["simulation"] = replace(broker.stranger, username=granted.username, password=granted.password)
        yield {name: connected.enter_context(Client(address)) for name, address in accounts.items()}
    credentials.revoke(7, INCARNATION)
    credentials.close()


def is_taken(client: Client, prefix: str, what: str, topic: str) -> bool:
    """Whether the broker takes what a line of the table says of a client.

    Args:
        client: who.
        prefix: of the topics of the installation.
        what: `publish` or `subscribe`.
        topic: without the prefix.
    """
    shared, ours, rest = topic.partition("nrp_")
    if ours and shared in ("", "$share/x/"):
        topic = shared + Topics(prefix)._name(ours + rest)
    return client.may_publish(topic, b"{}") if what == "publish" else client.may_subscribe(topic)
