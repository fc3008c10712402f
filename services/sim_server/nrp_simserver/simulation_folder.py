"""What launcher and simulation server hand each other: the simulation's folder, what to run in it, how far it got."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nrp_common import tracing
from nrp_common.bus import BrokerAddress, BusCounts
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import LifecycleMessage, RuntimeErrorReport
from nrp_simserver.cores import EngineProcesses
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from nrp_simserver.cores.selection import Kind

log = logging.getLogger(__name__)


JOURNAL_SIZE = 4096
"""In bytes, filled up with spaces: a page, which the kernel copies as a whole. Only the last one may be longer."""

LARGEST_NOTE = 100_000_000
"""In bytes: what is larger no process of ours wrote, and is not read into memory."""


class BusAccess(BaseModel):
    """How a simulation server gets onto the bus.

    Attributes:
        broker_host: where the bus is.
        broker_port: of MQTT 5 over TCP.
        broker_username: None to connect without one.
        broker_password: goes with `broker_username`.
        broker_tls: whether to speak TLS.
        broker_ca_file: a PEM file of the certificate authorities that may have signed the broker's certificate.
        mqtt_prefix: put before all topics.
    """

    model_config = ConfigDict(frozen=True)

    broker_host: str
    broker_port: int
    broker_username: str | None = None
    broker_password: str | None = Field(None, repr=False)
    broker_tls: bool = False
    broker_ca_file: str | None = None
    mqtt_prefix: str = ""

    @property
    def broker(self) -> BrokerAddress:
        """The broker as the bus wants it."""
        return BrokerAddress(
            host=self.broker_host,
            port=self.broker_port,
            username=self.broker_username,
            password=self.broker_password,
            tls=self.broker_tls,
            ca_file=self.broker_ca_file,
        )


class ServerSetup(BusAccess):
    """All that a simulation server needs to run one simulation.

    Attributes:
        simulation_id: of the simulation.
        incarnation: of this start of a server, a uuid.
        folder: the simulation's folder, absolute.
        configuration: the configuration's name in the experiment.
        main_script: the main script's name in the experiment.
        real_time_factor: the most simulated seconds in a real second; 0 for no limit, None for the configuration's.
        status_interval_s: seconds between two status messages.
        core: which co-simulation core to use: `auto`, or one by name.
        engine_processes: which engines of the embedded core run in processes of their own: `needed` or `all`.
        nrpcoresim: how to come by the core of that name.
        owner: of the simulation.
        request_id: of the HTTP request that asked for it, "" when none did.
        traceparent: the trace that this request belongs to, "" for none.
        log_format: of the server's own log records: `json`, or `console` for people.
        cgroup: to be entered, absolute; None where there are none.
        largest_file: in bytes; no file becomes larger. None for any size.
        most_tasks_of_user: how many processes and threads the user may have for it to start another; None for any.
        credentials_in_folder: whether the simulation's credentials at the broker are in its folder, to be taken there.
    """

    simulation_id: int
    incarnation: str
    folder: Path
    configuration: str
    main_script: str
    real_time_factor: float | None = None
    status_interval_s: float = 1.0
    core: Kind = "auto"
    engine_processes: EngineProcesses = "needed"
    nrpcoresim: NRPCoreSimOptions = NRPCoreSimOptions()
    owner: str = ""
    request_id: str = ""
    traceparent: str = ""
    log_format: Literal["json", "console"] = "console"
    cgroup: Path | None = None
    largest_file: int | None = None
    most_tasks_of_user: int | None = None
    credentials_in_folder: bool = False

    @property
    def context(self) -> tracing.Context:
        """On whose behalf the server works."""
        return tracing.Context(self.request_id, self.traceparent, self.simulation_id, self.owner)

    def with_credentials(self) -> ServerSetup:
        """The same with the simulation's credentials at the broker, which are taken out of its folder.

        Raises:
            OSError: there are none.
        """
        taken = SimulationFolder(self.folder, self.simulation_id).take_credentials()
        return self.model_copy(update={"broker_username": taken.username, "broker_password": taken.password})

    @property
    def bus_access(self) -> BusAccess:
        """The part that says how to get onto the bus."""
        return BusAccess.model_validate(self.model_dump(include=set(BusAccess.model_fields)))


class Credentials(BaseModel):
    """As whom a simulation server gets onto the bus.

    They reach it through its folder: what went through the process that forks servers would stay in its memory, and so
    in that of each server that it forks afterwards.
    """

    username: str
    password: str = Field(repr=False)


class Journal(BaseModel):
    """How far a simulation server got, read by its launcher when it has ended.

    Written on each transition, and with each regular status.

    Attributes:
        state: the last one.
        seq: the last lifecycle message's.
        simulation_time: in seconds.
        real_time: in seconds.
        total_real_time: in seconds, what was before resets included.
        simulation_time_left: in seconds, 0 without a time-out.
        steps: the smallest timesteps taken, since the last reset.
        bus: what befell the server's connection to the bus.
        stopping: whether the server was asked to stop and ended in order.
        error: the reason when it failed.
        verdict: what somebody else declared, which the server gave way to: its launcher may not have heard it.
        unheard: the report of the error, when it found no broker to tell it to: its launcher does.
    """

    state: SimulationState = SimulationState.CREATED
    seq: int = 0
    simulation_time: float = 0.0
    real_time: float = 0.0
    total_real_time: float = 0.0
    simulation_time_left: float = 0.0
    steps: int = 0
    bus: BusCounts = BusCounts()
    stopping: bool = False
    error: str | None = None
    verdict: LifecycleMessage | None = None
    unheard: RuntimeErrorReport | None = None


@dataclass(frozen=True)
class SimulationFolder:
    """The folder of one simulation.

    Attributes:
        path: the folder.
        simulation_id: of the simulation.
    """

    path: Path
    simulation_id: int

    @property
    def experiment(self) -> Path:
        """The clone of the experiment; the working directory of script, engines and external processes."""
        return self.path / "experiment"

    @property
    def log(self) -> Path:
        """Everything that the simulation, its engines and its external processes write to stdout and stderr."""
        return self.path / f"simulation_{self.simulation_id}.log"

    def append_to_log(self) -> TextIO:
        """Open the log to write at its end.

        Raises:
            OSError: the folder is gone, or an experiment put something else in its place.
        """
        return os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644), "a")

    @property
    def journal(self) -> Path:
        """Where the server's journal is."""
        return self.path / "journal.json"

    @property
    def _credentials(self) -> Path:
        return self.path / "credentials.json"

    def write_credentials(self, credentials: Credentials) -> None:
        """Put the credentials of the simulation there for its server, and for nobody else's eyes."""
        self._credentials.unlink(missing_ok=True)
        file = os.open(self._credentials, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, credentials.model_dump_json().encode())
        finally:
            os.close(file)

    def take_credentials(self) -> Credentials:
        """The credentials of the simulation, which are there no more afterwards.

        Raises:
            OSError: there are none.
        """
        credentials = Credentials.model_validate_json(self._credentials.read_bytes())
        self._credentials.unlink()
        return credentials

    def write_journal(self, journal: Journal) -> None:
        """Replace the journal. A process killed on the way leaves the old one or the new one.

        Written over what was there, in one call: putting a new file in its place takes the file system a hundred times
        as long, and every command waits for it.

        Raises:
            OSError: the folder is gone, or an experiment put something else in its place.
        """
        written = journal.model_dump_json().encode().ljust(JOURNAL_SIZE)
        file = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o644)
        try:
            os.pwrite(file, written, 0)
            if os.fstat(file).st_size > len(written):  # an experiment wrote over it
                os.ftruncate(file, len(written))
        finally:
            os.close(file)

    def read_journal(self) -> Journal:
        """The journal, a fresh one when the server has not written any, or an experiment wrote over it."""
        try:
            return Journal.model_validate_json(read_note(self.journal))
        except (OSError, ValidationError):
            return Journal()


def open_file(path: Path) -> BinaryIO:
    """Open a file to which an experiment has access, and may have put anything in its place: a pipe is not waited for.

    Raises:
        OSError: it is not there, or no file.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "It is no file any more", str(path))
    return file


def read_note(path: Path) -> bytes:
    """What one of our processes noted down in a simulation's folder, or what is in its place.

    Raises:
        OSError: it is not there, or not ours.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_NOTE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()


def remove_folder(folder: Path) -> None:
    """Delete a folder, or what is in its place, also where its owner made it unwritable. What stays is logged."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _make_accessible(folder)
        shutil.rmtree(folder, onerror=_log_obstacle)


def _make_accessible(folder: Path) -> None:
    with suppress(OSError):
        folder.chmod(0o700)
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                _make_accessible(each)


def _log_obstacle(_call: object, path: str, problem: tuple[object, BaseException, object]) -> None:
    if not isinstance(problem[1], FileNotFoundError):
        log.error("%s cannot be deleted: %s", path, problem[1])
