"""The gateway as a whole: its parts, wired; started and ended together."""

from __future__ import annotations

import uuid
from pathlib import Path

from nrp_common.bus import Bus
from nrp_common.errors import NRPError, StorageError, StorageUnavailable
from nrp_common.storage_client import StorageClient
from nrp_gateway.archives import Archives
from nrp_gateway.caretaker import Caretaker
from nrp_gateway.catalogue import Catalogue
from nrp_gateway.commands import Commands
from nrp_gateway.identity import Callers
from nrp_gateway.launches import Launches
from nrp_gateway.metrics import GatewayMetrics
from nrp_gateway.mirror import Mirror
from nrp_gateway.presences import Presences
from nrp_gateway.settings import Authentication, GatewaySettings

OK = "ok"

IDENTITY_TIMEOUT = (3.05, 5.0)
"""Seconds to connect to the Storage Server, and to wait until it says who somebody is: every request waits for that."""

IDENTITY_RETRY_FOR_S = 1.0


class Gateway:
    """What the REST routes stand on.

    Attributes:
        topics: of this installation.
        catalogue: of all simulations.
        mirror: the live picture of them.
        presences: launchers and servers that are there.
        callers: who calls, and what they may see.
        launches: launches simulations.
        commands: carries out commands.
        archives: fetches logs and results.
        metrics: what is counted for Prometheus.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self.topics = settings.topics
        self.metrics = GatewayMetrics()
        url = settings.storage_url
        self._storage = StorageClient(url) if url else None
        self._identities = (
            StorageClient(url, timeout=IDENTITY_TIMEOUT, retry_for_s=IDENTITY_RETRY_FOR_S) if url else None
        )
        self.catalogue = Catalogue(settings.catalogue, settings.simulations_per_owner)
        self.presences = Presences(self.topics)
        self.bus = Bus(
            settings.broker,
            "gateway",
            reply_topic=self.topics.reply(uuid.uuid4().hex),
            on_connected=self.presences.forget,
        )
        self.mirror = Mirror(self.catalogue, self.bus, self.topics)
        self.callers = Callers(self._identities if settings.authentication is Authentication.STORAGE else None)
        self._caretaker = Caretaker(self.mirror, self.presences, self.bus, self.topics)
        self.launches = Launches(
            self.catalogue,
            self.mirror,
            self.presences,
            self._caretaker,
            self.bus,
            self.topics,
            settings.secret_key.get_secret_value(),
            self.metrics,
        )
        queue = self.launches.queue
        self.metrics.watch(self.bus, self.mirror, self.presences, self.catalogue, lambda: queue.length)
        self.commands = Commands(self.mirror, self.presences, self._caretaker, self.bus, self.topics, self.metrics)
        self.archives = Archives(self.bus, self.presences, self.topics, self._storage or settings.experiments)

    def start(self) -> None:
        """Bring the catalogue up to date, listen to the bus; the broker may come later.

        Raises:
            Unreachable: the catalogue's database does not answer.
        """
        self.catalogue.migrate()
        self.presences.listen_to(self.bus)
        self.mirror.start()
        self._caretaker.start()
        self.launches.queue.start()
        self.bus.start()

    def close(self) -> None:
        """Leave the bus, the storage and the catalogue."""
        self.launches.queue.close()
        self._caretaker.close()
        self.bus.close()
        self.mirror.close()
        for client in (self._storage, self._identities):
            if client is not None:
                client.close()
        self.catalogue.close()

    def readiness(self) -> dict[str, str]:
        """By part, `ok` or what is missing."""
        return {
            "broker": OK if self.bus.is_connected else f"there is no connection to {self.bus.broker}",
            "catalogue": self._catalogue_state(),
            "storage": self._storage_state(),
            "launcher": OK if self.presences.by_room() else "no launcher is connected",
        }

    def _catalogue_state(self) -> str:
        try:
            self.catalogue.check()
        except NRPError as error:
            return str(error)
        return OK

    def _storage_state(self) -> str:
        if self._identities is None:
            return _folder_state(self._settings.experiments)
        try:
            self._identities.identity()
        except StorageUnavailable as error:
            return str(error)
        except StorageError:  # it is there, and asks for a token
            pass
        return OK


def _folder_state(folder: Path) -> str:
    return OK if folder.is_dir() else f"there is no folder {folder}"
