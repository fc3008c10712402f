"""The table of simulations."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from nrp_common.errors import SettingsError
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import Archives
from nrp_gateway import catalogue as catalogue_module
from nrp_gateway.catalogue import Catalogue
from nrp_gateway.errors import NoRoom, Unreachable
from tests.unit.gateway.conftest import add, report


class BrokenOff(Exception):
    """Stands for the end of the process."""


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes empty databases; returns their URLs."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/{uuid.uuid4()}.sqlite"
    make: Callable[[], str] = request.getfixturevalue("postgresql").database
    return make


@pytest.fixture
def catalogue(new_database: Callable[[], str]) -> Iterator[Catalogue]:
    """An empty one in each database."""
    catalogue = Catalogue(new_database())
    catalogue.migrate()
    yield catalogue
    catalogue.close()


def test_migrations_lead_to_the_table_that_the_code_uses(catalogue: Catalogue) -> None:
    with catalogue._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), catalogue_module._metadata) == []


def test_migrating_again_changes_nothing(catalogue: Catalogue) -> None:
    record = add(catalogue)
    catalogue.migrate()
    assert catalogue.get(record.id) == record


def test_migrating_that_is_broken_off_anywhere_is_begun_anew(new_database: Callable[[], str]) -> None:
    for last in count(1):
        catalogue, statements = Catalogue(new_database()), 0

        def break_off(*_: object, last: int = last) -> None:
            nonlocal statements
            statements += 1
            if statements == last:
                raise BrokenOff

        sa.event.listen(catalogue._engine, "after_cursor_execute", break_off)
        with suppress(BrokenOff):
            catalogue.migrate()
        sa.event.remove(catalogue._engine, "after_cursor_execute", break_off)
        was_broken_off = statements == last
        catalogue.migrate()
        assert add(catalogue).state is SimulationState.CREATED
        catalogue.close()
        if not was_broken_off:
            break
    assert statements > 10


def test_catalogue_of_a_newer_version_is_refused_by_name_and_left_as_it_is(new_database: Callable[[], str]) -> None:
    url = new_database()
    catalogue = Catalogue(url)
    catalogue.migrate()
    with catalogue._engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    place = re.escape(sa.make_url(url).render_as_string())
    with pytest.raises(SettingsError, match=rf"NRP_CATALOGUE_URL: the catalogue at {place} .* newer version .*'9999'"):
        catalogue.migrate()
    assert add(catalogue).state is SimulationState.CREATED
    catalogue.close()


def test_file_that_is_no_catalogue_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalogue.sqlite").write_text("something else " * 100)
    catalogue = Catalogue(f"sqlite:///{tmp_path}/catalogue.sqlite")
    with pytest.raises(Unreachable, match=rf"{tmp_path}/catalogue\.sqlite cannot be used: file is not a database"):
        catalogue.migrate()
    catalogue.close()


def test_what_was_written_outlives_the_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/folder/catalogue.sqlite"
    first = Catalogue(url)
    first.migrate()
    record = add(first, slot=3)
    first.close()
    second = Catalogue(url)
    second.migrate()
    assert second.get(record.id) == record
    second.close()


def test_new_simulation_is_created(catalogue: Catalogue) -> None:
    record = add(catalogue)
    assert record == catalogue.get(record.id)
    assert (record.state, record.seq, record.incarnation, record.ended_at) == (SimulationState.CREATED, 0, "", None)
    assert abs(record.created_at - time.time()) < 5


def test_ids_count_up_and_are_never_reused(catalogue: Catalogue) -> None:
    first = add(catalogue).id
    catalogue.remove(first)
    assert add(catalogue).id == first + 1


def test_launches_of_many_threads_get_ids_of_their_own(catalogue: Catalogue) -> None:
    ids: list[int] = []
    threads = [threading.Thread(target=lambda: ids.extend(add(catalogue).id for _ in range(5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 40


def test_report_is_written_over_an_older_one(catalogue: Catalogue) -> None:
    record = add(catalogue)
    written = catalogue.report(record.id, report(record, SimulationEvent.INITIALIZED, 1))
    assert written == replace(record, state=SimulationState.PAUSED, incarnation="i", seq=1)
    assert catalogue.get(record.id) == written


@pytest.mark.parametrize("seq", [0, 1, 2])
def test_report_is_not_written_over_a_newer_one(catalogue: Catalogue, seq: int) -> None:
    record = add(catalogue)
    newest = catalogue.report(record.id, report(record, SimulationEvent.INITIALIZED, 2))
    assert catalogue.report(record.id, report(record, SimulationEvent.STARTED, seq)) is None
    assert catalogue.get(record.id) == newest


def test_report_of_another_incarnation_is_not_written(catalogue: Catalogue) -> None:
    record = add(catalogue)
    catalogue.note_incarnation(record.id, "i")
    assert catalogue.report(record.id, report(record, SimulationEvent.STARTED, 5, incarnation="other")) is None


def test_nothing_is_written_over_a_final_state(catalogue: Catalogue) -> None:
    record = add(catalogue)
    final = catalogue.report(record.id, report(record, SimulationEvent.FAILED, 1, reason="out of memory"))
    assert final is not None
    assert final.error == "out of memory"
    assert final.ended_at is not None
    assert catalogue.report(record.id, report(record, SimulationEvent.STOPPED, 2)) is None
    assert catalogue.get(record.id) == final


def test_incarnation_is_noted_once(catalogue: Catalogue) -> None:
    record = add(catalogue)
    assert catalogue.note_incarnation(record.id, "i") == replace(record, incarnation="i")
    assert catalogue.note_incarnation(record.id, "other") is None


def test_archives_are_noted_and_to_be_cleaned_up_again(catalogue: Catalogue) -> None:
    record = add(catalogue)
    catalogue.note_cleaned(record.id)
    noted = catalogue.store_archives(record.id, Archives(logs="l.zip", results="r.zip"))
    assert noted == replace(record, logs="l.zip", results="r.zip", cleaned=False)


def test_what_is_not_there_is_none(catalogue: Catalogue) -> None:
    missing = add(catalogue)
    catalogue.remove(missing.id)
    assert catalogue.get(missing.id) is None
    assert catalogue.get(2**80) is None
    assert catalogue.report(missing.id, report(missing, SimulationEvent.STARTED, 1)) is None
    assert catalogue.store_archives(missing.id, Archives()) is None


def test_slot_holds_one_unfinished_simulation(catalogue: Catalogue) -> None:
    first = add(catalogue, slot=0)
    add(catalogue, slot=1)
    add(catalogue)
    add(catalogue)
    with pytest.raises(NoRoom, match=r"^Another simulation is already running on the server$"):
        add(catalogue, slot=0)
    catalogue.report(first.id, report(first, SimulationEvent.STOPPED, 1))
    assert add(catalogue, slot=0).id > first.id


def test_unfinished_and_recently_ended_are_found(catalogue: Catalogue) -> None:
    running, ended = add(catalogue), add(catalogue)
    catalogue.report(ended.id, report(ended, SimulationEvent.STOPPED, 1))

    def found(since: float, newer_than: int = 0) -> list[int]:
        return [each.id for each in catalogue.unfinished_or_ended_since(since, newer_than=newer_than)]

    assert found(time.time() - 60) == [running.id, ended.id]
    assert found(time.time() + 60) == [running.id]
    assert found(time.time() - 60, newer_than=running.id) == [ended.id]


def test_ended_are_found_by_state_owner_and_experiment(catalogue: Catalogue) -> None:
    add(catalogue)
    stopped, failed = add(catalogue), add(catalogue)
    catalogue.report(stopped.id, report(stopped, SimulationEvent.STOPPED, 1))
    catalogue.report(failed.id, report(failed, SimulationEvent.FAILED, 1))

    def found(states: list[SimulationState], owner: str | None = None, experiment: str | None = None) -> list[int]:
        return [each.id for each in catalogue.ended(states, owner=owner, experiment_id=experiment)]

    assert found(list(SimulationState)) == [stopped.id, failed.id]
    assert found([SimulationState.FAILED, SimulationState.PAUSED]) == [failed.id]
    assert found(list(SimulationState), owner="ann", experiment="demo") == [stopped.id, failed.id]
    assert found(list(SimulationState), owner="ben") == found(list(SimulationState), experiment="other") == []


def test_readers_do_not_wait_for_a_writer(catalogue: Catalogue) -> None:
    record = add(catalogue)
    with catalogue._engine.connect() as writer:
        if writer.dialect.name == "sqlite":
            writer.exec_driver_sql("BEGIN EXCLUSIVE")
        writer.execute(sa.text("UPDATE simulations SET cleaned = true"))
        assert catalogue.get(record.id) == record  # who waited would do so in vain


def test_database_that_does_not_answer_is_unreachable(catalogue: Catalogue) -> None:
    with catalogue._engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE simulations"))
    with pytest.raises(Unreachable, match="catalogue"):
        catalogue.get(1)


@pytest.mark.parametrize("url", ["nonsense", "nosuchdatabase://x/y", "sqlite:////proc/nowhere/c.sqlite"])
def test_url_that_cannot_be_used_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="NRP_CATALOGUE_URL"):
        Catalogue(url)
