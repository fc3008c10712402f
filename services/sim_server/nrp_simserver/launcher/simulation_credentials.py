"""The credentials of simulations at the broker: each gets its own at its launch, and they are removed after its end.

Mosquitto's dynamic security plugin keeps them, and takes orders on a topic of its own. Changing the rights of a client
that is connected would disconnect it, so a simulation server connects when it has a simulation, and its credentials.

A user name says whose it is: that of the launcher is in it. What a launcher finds at the broker under its own name, of
simulations that it does not have, was left over when it or the broker died, and is removed.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from nrp_common import dynamic_security
from nrp_common.access import CONTROL, CONTROL_ANSWERS, simulation_rights
from nrp_common.bus import BrokerAddress, Bus
from nrp_common.errors import BusUnavailable
from nrp_common.topics import Topics
from nrp_simserver.settings import CredentialsPolicy
from nrp_simserver.simulation_folder import Credentials

log = logging.getLogger(__name__)

FIRST_LEVEL: Final = "nrp-simulation"
"""How all user names of simulations begin."""

ANSWER_S: Final = 2.0
"""How long a broker may take to carry out an order; it takes a millisecond or two."""

ATTEMPTS: Final = 3
"""How often an order is given: one is lost when the connection is just then."""

KNOWN_WITHIN_S: Final = 5.0
"""How long a launch waits until it is known whether the broker keeps credentials."""

RETRY_S: Final = 5.0
"""Between two attempts to remove what could not be removed."""

REMOVED_WITHIN_S: Final = 3.0
"""How long a launcher that ends waits until its simulations' credentials are removed."""

ORDERS_AT_ONCE: Final = 100

DONE_BEFORE: Final = "already exists"
"""How the answer ends to an order that was carried out before."""


@dataclass
class _Order:
    """An order that waits for its answers."""

    answered: threading.Event = field(default_factory=threading.Event)
    answers: list[dict[str, Any]] = field(default_factory=list)


class SimulationCredentials:
    """The credentials of all simulations of a launcher, over a connection of their own.

    Args:
        broker: with the launcher's own credentials.
        topics: of the installation.
        launcher: its name.
        policy: `required`: no simulation runs without. `auto`: where the broker does not keep any, simulations use the
            launcher's own.
        further: filters of topics that simulations may use beside their own.
    """

    def __init__(
        self, broker: BrokerAddress, topics: Topics, launcher: str, policy: CredentialsPolicy, further: tuple[str, ...]
    ) -> None:
        self._of_launcher = Credentials(username=broker.username or "", password=broker.password or "")
        self._topics = topics
        self._further = further
        self._start_of_names = f"{FIRST_LEVEL}:{quote(topics.prefix, safe='')}:{quote(launcher, safe='')}:"
        self._bus = Bus(broker, "credentials", on_connected=self._sweep_soon)
        self._bus.subscribe(CONTROL_ANSWERS, self._take_answers)
        self._changed = threading.Condition()  # guards all below
        self._orders: dict[str, _Order] = {}
        self._are_kept: bool | None = True if policy == "required" else None
        self._in_use: set[str] = set()
        self._obsolete: set[str] = set()
        self._is_sweep_due = False
        self._not_before = 0.0
        self._is_closing = False
        self._worker = threading.Thread(target=self._work, name="credentials", daemon=True)

    def start(self) -> None:
        """Connect, and remove what is left over of simulations that nobody has expected."""
        self._worker.start()
        self._bus.start()

    def close(self) -> None:
        """Remove what is to be removed, and leave the broker."""
        with self._changed:
            self._changed.wait_for(lambda: not self._obsolete or not self._are_kept, REMOVED_WITHIN_S)
            self._is_closing = True
            self._changed.notify_all()
        self._worker.join(ANSWER_S * ATTEMPTS)
        self._bus.close()

    # -- simulations ---------------------------------------------------------------------------------------------------

    def expect(self, simulation_id: int, incarnation: str) -> None:
        """A simulation that an earlier launcher launched has credentials, and needs them."""
        with self._changed:
            self._in_use.add(self._name(simulation_id, incarnation))

    def grant(self, simulation_id: int, incarnation: str) -> Credentials:
        """Credentials for a simulation; the launcher's where the broker keeps none for it and none are required.

        Raises:
            BusUnavailable: the broker does not give them; says why.
        """
        name = self._name(simulation_id, incarnation)
        with self._changed:
            if not self._changed.wait_for(lambda: self._are_kept is not None, KNOWN_WITHIN_S):
                raise BusUnavailable(f"{self._broker} does not say whether it keeps credentials of simulations")
            if not self._are_kept:
                return self._of_launcher
            self._in_use.add(name)
        password = secrets.token_urlsafe(32)
        rights = simulation_rights(self._topics, simulation_id, incarnation, self._further)
        text = f"Simulation {simulation_id}"
        self._order(
            {"command": "createRole", **dynamic_security.role(name, text, rights)},
            {
                "command": "createClient",
                "username": name,
                "password": password,
                "textname": text,
                "roles": [{"rolename": name}],
            },
        )
        return Credentials(username=name, password=password)

    def revoke(self, simulation_id: int, incarnation: str) -> None:
        """A simulation needs no credentials any more. Returns at once."""
        name = self._name(simulation_id, incarnation)
        with self._changed:
            if name in self._in_use:
                self._in_use.discard(name)
                self._obsolete.add(name)
                self._changed.notify_all()

    def _name(self, simulation_id: int, incarnation: str) -> str:
        return f"{self._start_of_names}{simulation_id}:{incarnation}"

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _sweep_soon(self) -> None:
        if self._are_kept is None and self._bus.counts.reconnects:
            self._do_without(f"{self._broker} closes a connection over which it is asked for dynamic security")
            return
        with self._changed:
            self._is_sweep_due = True
            self._not_before = 0.0
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._is_closing and not self._is_something_due():
                    self._changed.wait(RETRY_S)
                if self._is_closing:
                    return
                is_sweep_due, self._is_sweep_due = self._is_sweep_due, False
            try:
                if is_sweep_due:
                    self._sweep()
                self._remove_obsolete()
            except BusUnavailable as error:
                if self._are_kept is None and self._bus.is_connected:
                    self._do_without(str(error))
                if self._are_kept is False:
                    return
                self._try_later(str(error), was_sweep=is_sweep_due)

    def _is_something_due(self) -> bool:
        is_any = self._is_sweep_due or bool(self._obsolete and self._are_kept and self._bus.is_connected)
        return is_any and time.monotonic() >= self._not_before

    def _sweep(self) -> None:
        """See that the broker keeps credentials, and find what is left over."""
        clients, roles = self._order({"command": "listClients"}, {"command": "listRoles"})
        found = {*clients["data"]["clients"], *roles["data"]["roles"]}
        with self._changed:
            self._are_kept = True
            own = {each for each in found if each.startswith(self._start_of_names)}
            left_over = own - self._in_use - self._obsolete
            self._obsolete |= left_over
            self._changed.notify_all()
        if left_over:
            log.info("Credentials of %d simulations that are gone are removed", len(left_over))

    def _remove_obsolete(self) -> None:
        with self._changed:
            obsolete = sorted(self._obsolete)
        for start in range(0, len(obsolete), ORDERS_AT_ONCE):
            names = obsolete[start : start + ORDERS_AT_ONCE]
            self._order(
                *({"command": "deleteClient", "username": each} for each in names),
                *({"command": "deleteRole", "rolename": each} for each in names),
                is_removal=True,
            )
            with self._changed:
                self._obsolete.difference_update(names)
                self._changed.notify_all()

    def _try_later(self, reason: str, *, was_sweep: bool) -> None:
        log.warning("%s. Trying again", reason)
        with self._changed:
            self._not_before = time.monotonic() + RETRY_S
            self._is_sweep_due = self._is_sweep_due or was_sweep

    def _do_without(self, reason: str) -> None:
        """Leave the broker alone, which keeps no credentials."""
        with self._changed:
            self._are_kept = False
            self._is_closing = True
            self._changed.notify_all()
        self._bus.close(linger_s=0.0)
        log.warning("%s: simulations use the credentials of this launcher", reason)

    # -- orders --------------------------------------------------------------------------------------------------------

    @property
    def _broker(self) -> str:
        return f"The MQTT broker at {self._bus.broker}"

    def _order(self, *orders: dict[str, Any], is_removal: bool = False) -> list[dict[str, Any]]:
        """Have the broker carry out orders. Returns its answers, in the same order.

        Raises:
            BusUnavailable: it does not answer, or refuses one; says why.
        """
        self._bus.wait_until_connected(ANSWER_S)
        correlation, order = uuid.uuid4().hex, _Order()
        payload = json.dumps({"commands": [{**each, "correlationData": correlation} for each in orders]}).encode()
        with self._changed:
            self._orders[correlation] = order
        try:
            for _ in range(ATTEMPTS):
                self._bus.publish(CONTROL, payload)
                if order.answered.wait(ANSWER_S / ATTEMPTS):
                    break
            else:
                raise BusUnavailable(
                    f"{self._broker} keeps no credentials of simulations: no dynamic security answers this user"
                )
        finally:
            with self._changed:
                del self._orders[correlation]
        self._check(order.answers, is_removal=is_removal)
        return order.answers

    def _check(self, answers: Iterable[dict[str, Any]], *, is_removal: bool) -> None:
        for answer in answers:
            error = str(answer.get("error") or "")
            is_done_already = "not found" in error if is_removal else error.endswith(DONE_BEFORE)
            if error and not is_done_already:
                raise BusUnavailable(f"{self._broker} refuses {answer.get('command')}: {error}")

    def _take_answers(self, _topic: str, payload: bytes) -> None:
        try:
            answers = json.loads(payload)["responses"]
            correlation = answers[0]["correlationData"]
        except (ValueError, KeyError, IndexError, TypeError):
            return
        with self._changed:
            order = self._orders.get(correlation)
        if order is not None:
            order.answers = answers
            order.answered.set()
