"""The catalogue: what is known of every simulation, in a database that outlives the gateway.

SQLite for one gateway, PostgreSQL where several share it. Ids are never reused. A reported state is written only over
an older one, so that gateways that hear the same report in different order agree.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command as alembic
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from nrp_common import tracing
from nrp_common.errors import SettingsError
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Archives, LifecycleMessage, Wishes
from nrp_gateway.errors import NoRoom, Unreachable

LARGEST_ID: Final = 2**63 - 1
"""What the database can count to."""

BUSY_TIMEOUT_S: Final = 10
"""How long a writer waits for another one before the database is called unreachable."""

OWNER_RETRY_AFTER_S: Final = 30
"""When it may be worth trying again, for an owner who has as many simulations as may be."""

MIGRATION_LOCK: Final = 0x4E5250
"""PostgreSQL's name for the lock under which one gateway at a time migrates: `NRP` in ASCII."""

OWNERS_LOCK: Final = 0x4E5251
"""PostgreSQL's name for the locks under which one gateway at a time adds to an owner's simulations."""

_FINAL: Final = (SimulationState.STOPPED.value, SimulationState.FAILED.value)

_metadata = sa.MetaData()

_simulations = sa.Table(
    "simulations",
    _metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("experiment_id", sa.Text, nullable=False),
    sa.Column("configuration", sa.Text, nullable=False),
    sa.Column("main_script", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("context_id", sa.Text),
    sa.Column("slot", sa.Integer),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("launcher", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("incarnation", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("logs", sa.Text),
    sa.Column("results", sa.Text),
    sa.Column("ended_at", sa.Double),
    sa.Column("cleaned", sa.Boolean, nullable=False),
    sa.Column("wishes", sa.Text, nullable=False),
    sa.Column("queued_at", sa.Double),
    sa.Column("sealed_token", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("traceparent", sa.Text, nullable=False),
    sa.Index(
        "one_unfinished_simulation_a_slot",
        "slot",
        unique=True,
        sqlite_where=sa.text("state NOT IN ('stopped', 'failed')"),
        postgresql_where=sa.text("state NOT IN ('stopped', 'failed')"),
    ),
    sa.Index("simulations_by_end", "ended_at"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True)
class SimulationRecord:
    """What is known of one simulation.

    Attributes:
        id: counts up from 1.
        experiment_id: of the experiment it was launched from.
        configuration: name of the experiment's configuration.
        main_script: name of the experiment's main script.
        owner: id of the user who launched it.
        context_id: the client's own name for it.
        slot: through which it was launched, None at the root.
        created_at: in seconds since 1970.
        launcher: the launcher that it was given to, "" while it waits for one.
        state: the last one reported.
        incarnation: of the server that reports it, "" until the launcher said that it took it.
        seq: of that report.
        error: why it failed or was stopped.
        logs: name of the archive in the experiment, or `PENDING`.
        results: the same.
        ended_at: in seconds since 1970, None while it is unfinished.
        cleaned: whether its retained messages were removed from the broker.
        wishes: what its owner asked for beyond the experiment.
        queued_at: since when it may wait for a launcher, in seconds since 1970; None when it may not.
        sealed_token: its owner's token, encrypted, while it waits.
        request_id: of the HTTP request that launched it.
        traceparent: the trace that this request belongs to, "" for none.
    """

    id: int
    experiment_id: str
    configuration: str
    main_script: str
    owner: str
    context_id: str | None
    slot: int | None
    created_at: float
    launcher: str
    state: SimulationState = SimulationState.CREATED
    incarnation: str = ""
    seq: int = 0
    error: str | None = None
    logs: str | None = None
    results: str | None = None
    ended_at: float | None = None
    cleaned: bool = False
    wishes: Wishes = field(default_factory=Wishes)
    queued_at: float | None = None
    sealed_token: str = field(default="", repr=False)
    request_id: str = ""
    traceparent: str = ""

    @property
    def context(self) -> tracing.Context:
        """On whose behalf it was launched."""
        return tracing.Context(self.request_id, self.traceparent, self.id, self.owner)

    @property
    def is_queued(self) -> bool:
        """Whether it waits for a launcher."""
        return not self.launcher and self.queued_at is not None and self.state is SimulationState.CREATED

    @property
    def holds_a_place(self) -> bool:
        """Whether it counts for its owner: it is with a launcher, and has not ended."""
        return bool(self.launcher) and not self.state.is_final

    def is_ahead_of(self, other: SimulationRecord) -> bool:
        """Whether this is a later state that the same server reported."""
        return other.incarnation in ("", self.incarnation) and self.seq > other.seq and not other.state.is_final


_COLUMNS: Final = [_simulations.c[column.name] for column in fields(SimulationRecord)]


_REPORT: Final = (
    sa.update(_simulations)
    .where(
        _simulations.c.id == sa.bindparam("simulation_id"),
        _simulations.c.state.not_in(_FINAL),
        _simulations.c.incarnation.in_(["", sa.bindparam("reporter")]),
        _simulations.c.seq < sa.bindparam("newer_seq"),
    )
    .values({name: sa.bindparam(f"new_{name}") for name in ("state", "error", "logs", "results", "ended_at")})
    .values(incarnation=sa.bindparam("reporter"), seq=sa.bindparam("newer_seq"))
    .returning(*_COLUMNS)
)
"""Made once: every command waits for it, and to make it takes as long as to carry it out."""


def _record(row: sa.Row[Any]) -> SimulationRecord:
    values = dict(row._mapping)  # public in spite of its name
    read = {"state": SimulationState(values["state"]), "wishes": Wishes.model_validate_json(values["wishes"])}
    return SimulationRecord(**values | read)


class Catalogue:
    """The table of simulations. Usable from several threads.

    Every method raises `Unreachable` when the database does not answer.

    Args:
        url: SQLAlchemy's.
        simulations_per_owner: how many an owner may have at once, those in the queue not counted; None for any number.

    Attributes:
        failures: how often it did not, so far.

    Raises:
        SettingsError: the URL is malformed, or its driver is not installed.
    """

    def __init__(self, url: str, simulations_per_owner: int | None = None) -> None:
        self.simulations_per_owner = simulations_per_owner
        try:
            parsed = sa.make_url(url)
            is_sqlite = parsed.get_backend_name() == "sqlite"
            if is_sqlite and parsed.database and not parsed.database.startswith("file:"):
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            arguments = {"timeout": BUSY_TIMEOUT_S} if is_sqlite else {}
            self._engine = sa.create_engine(parsed, connect_args=arguments, pool_pre_ping=not is_sqlite)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, OSError) as error:
            raise SettingsError(f"NRP_CATALOGUE_URL: {error}") from error
        if is_sqlite:
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
        self._is_sqlite = is_sqlite
        self.failures = 0

    def migrate(self) -> None:
        """Bring the tables to this version's, or leave them as they are: a gateway may be killed at any moment.

        Raises:
            Unreachable: the database does not answer, or is none; says where it is and what it says.
            SettingsError: the tables are of a newer version.
        """
        config, place = _migrations(), self._engine.url.render_as_string(hide_password=True)
        try:
            with self._transaction() as connection:
                if self._is_sqlite:  # for which Python begins no transaction to change tables in
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                config.attributes["connection"] = connection
                alembic.upgrade(config, "head")
        except Unreachable as error:
            said = getattr(error.__cause__, "orig", None) or error.__cause__
            raise Unreachable(f"The catalogue of simulations at {place} cannot be used: {said}") from error
        except CommandError as error:
            raise SettingsError(
                f"NRP_CATALOGUE_URL: the catalogue at {place} was made by a newer version of this program ({error}). "
                "Install that, or name another catalogue"
            ) from error

    def is_of_this_version(self) -> bool:
        """Whether the tables are this version's; False when there are none, too."""
        newest = ScriptDirectory.from_config(_migrations()).get_current_head()
        with self._transaction() as connection:
            return MigrationContext.configure(connection).get_current_revision() == newest

    def check_writing(self) -> None:
        """See that the database takes changes, without making one."""
        with self._transaction() as connection:
            connection.execute(sa.update(_simulations).where(_simulations.c.id == -1).values(cleaned=True))

    def check(self) -> None:
        """See that the database answers."""
        with self._transaction() as connection:
            connection.execute(sa.select(1))

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, simulation_id: int) -> SimulationRecord | None:
        """One simulation, None when there is none of that id."""
        if simulation_id > LARGEST_ID:
            return None
        found = self._select(_simulations.c.id == simulation_id)
        return found[0] if found else None

    def unfinished_or_ended_since(self, moment: float, *, newer_than: int = 0) -> list[SimulationRecord]:
        """All that run, and those that ended after `moment` (in seconds since 1970), ascending by id.

        Args:
            moment: in seconds since 1970.
            newer_than: only those with a larger id.
        """
        is_listed = sa.or_(_simulations.c.state.not_in(_FINAL), _simulations.c.ended_at >= moment)
        return self._select(_simulations.c.id > newer_than, is_listed)

    def ended(
        self, states: list[SimulationState], *, owner: str | None, experiment_id: str | None
    ) -> list[SimulationRecord]:
        """All that have ended, in one of `states`, ascending by id; None lets every owner or experiment through."""
        conditions = [
            _simulations.c.state.in_(set(_FINAL) & set(states)),
            *([] if owner is None else [_simulations.c.owner == owner]),
            *([] if experiment_id is None else [_simulations.c.experiment_id == experiment_id]),
        ]
        return self._select(*conditions)

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[SimulationRecord]:
        with self._transaction() as connection:
            rows = connection.execute(sa.select(*_COLUMNS).where(*conditions).order_by(_simulations.c.id))
            return [_record(row) for row in rows]

    # -- writing -------------------------------------------------------------------------------------------------------

    def add(self, **values: Any) -> SimulationRecord:
        """A new simulation in state `created`: a record with these attributes, but for its id and time.

        Raises:
            NoRoom: an unfinished simulation holds the slot, or the owner has as many simulations as may be.
        """
        record = SimulationRecord(id=0, created_at=time.time(), **values)
        values = {each.name: getattr(record, each.name) for each in _COLUMNS if each.name != "id"}
        values["wishes"] = record.wishes.to_json().decode()
        insert = sa.insert(_simulations).values(values)
        if record.holds_a_place and self.simulations_per_owner is not None:
            row = sa.select(*(sa.literal(value, _simulations.c[name].type) for name, value in values.items()))
            insert = sa.insert(_simulations).from_select(list(values), row.where(self._has_place_for(record.owner)))
        try:
            with self._transaction() as connection:
                self._queue_up(connection, record.owner)
                inserted = connection.execute(insert.returning(_simulations.c.id)).scalar_one_or_none()
        except IntegrityError as error:
            raise NoRoom("Another simulation is already running on the server") from error
        if inserted is None:
            raise NoRoom(
                f"'{record.owner}' has {self.simulations_per_owner} simulations, and no owner may have more at once "
                f'(limit NRP_SIMULATIONS_PER_OWNER). Try again when one has ended, or with "queue": true',
                retry_after_s=OWNER_RETRY_AFTER_S,
            )
        return replace(record, id=inserted)

    def _has_place_for(self, owner: str) -> sa.ColumnElement[bool]:
        """Whether an owner may have one more simulation. Part of the statement that adds it, so that it stays true."""
        if self.simulations_per_owner is None:
            return sa.true()
        others = _simulations.alias()
        held = (others.c.owner == owner, others.c.launcher != "", others.c.state.not_in(_FINAL))
        return sa.select(sa.func.count()).where(*held).scalar_subquery() < self.simulations_per_owner

    def _queue_up(self, connection: sa.Connection, owner: str) -> None:
        """Let nobody else add to an owner's simulations until the end of the transaction; SQLite has one writer."""
        if self.simulations_per_owner is not None and not self._is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(OWNERS_LOCK, sa.func.hashtext(owner))))

    def note_incarnation(self, simulation_id: int, incarnation: str) -> SimulationRecord | None:
        """Note which server will report, before it does; None when there is no such simulation or one reported."""
        values = {"incarnation": incarnation, "sealed_token": ""}
        return self._update(values, _simulations.c.id == simulation_id, _simulations.c.incarnation == "")

    def give_to(self, record: SimulationRecord, launcher: str) -> SimulationRecord | None:
        """Note which launcher a queued simulation is given to.

        Returns:
            The new record; None when another gateway did that, it ended, or its owner has as many as may be.
        """
        given = sa.update(_simulations).where(
            _simulations.c.id == record.id,
            _simulations.c.launcher == "",
            _simulations.c.state == SimulationState.CREATED.value,
            self._has_place_for(record.owner),
        )
        with self._transaction() as connection:
            self._queue_up(connection, record.owner)
            row = connection.execute(given.values(launcher=launcher).returning(*_COLUMNS)).one_or_none()
        return None if row is None else _record(row)

    def take_back(self, simulation_id: int) -> SimulationRecord | None:
        """Let a simulation wait again that its launcher did not take; None when it ended meanwhile."""
        return self._update(
            {"launcher": ""}, _simulations.c.id == simulation_id, _simulations.c.state == SimulationState.CREATED.value
        )

    def report(self, simulation_id: int, message: LifecycleMessage) -> SimulationRecord | None:
        """Write a reported state over an older one of the same incarnation, unless that is final.

        Returns:
            The new record, None when nothing was written.
        """
        is_final = message.target_state.is_final
        return self._written(
            _REPORT,
            {
                "simulation_id": simulation_id,
                "reporter": message.incarnation,
                "newer_seq": message.seq,
                "new_state": message.target_state.value,
                "new_error": message.reason,
                "new_logs": message.logs if is_final else None,
                "new_results": message.results if is_final else None,
                "new_ended_at": time.time() if is_final else None,
            },
        )

    def store_archives(self, simulation_id: int, archives: Archives) -> SimulationRecord | None:
        """Note where the archives of a simulation are, and that its message about them is to be cleaned up.

        Returns:
            The new record, None when there is no such simulation.
        """
        values = {"logs": archives.logs, "results": archives.results, "cleaned": False}
        return self._update(values, _simulations.c.id == simulation_id)

    def note_cleaned(self, simulation_id: int) -> SimulationRecord | None:
        """Note that a simulation's retained messages are removed from the broker. Returns the new record."""
        return self._update({"cleaned": True}, _simulations.c.id == simulation_id)

    def remove(self, simulation_id: int) -> None:
        """Forget a simulation; its id is not used again."""
        with self._transaction() as connection:
            connection.execute(sa.delete(_simulations).where(_simulations.c.id == simulation_id))

    def _update(self, values: dict[str, Any], *conditions: sa.ColumnElement[bool]) -> SimulationRecord | None:
        return self._written(sa.update(_simulations).where(*conditions).values(values).returning(*_COLUMNS))

    def _written(self, update: sa.Executable, values: dict[str, Any] | None = None) -> SimulationRecord | None:
        with self._transaction() as connection:
            row = connection.execute(update, values).one_or_none()
        return None if row is None else _record(row)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            self.failures += 1
            reason = type(error).__name__
            raise Unreachable(f"The catalogue of simulations cannot be reached ({reason})") from error


def _migrations() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    return config


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # Readers do not wait for writers; a power cut may lose the last transitions, which the bus reports again.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
