"""Which directory a launcher has for itself."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from nrp_common.errors import SettingsError
from nrp_simserver.launcher.data_directory import data_directory_of
from nrp_simserver.settings import LauncherSettings


def settings(directory: Path, *, shared: bool = False) -> LauncherSettings:
    return LauncherSettings.load(data_directory=directory, launcher_name="lab", share_data_directory=shared)


def test_a_launcher_has_the_directory_that_it_was_given(tmp_path: Path) -> None:
    with data_directory_of(settings(tmp_path / "new")) as own:
        assert (own.data_directory, own.launcher_name) == (tmp_path / "new", "lab")


def test_a_directory_is_used_by_one_launcher_at_a_time(tmp_path: Path) -> None:
    with data_directory_of(settings(tmp_path)), pytest.raises(SettingsError, match="used by another launcher"):
        data_directory_of(settings(tmp_path)).__enter__()
    with data_directory_of(settings(tmp_path)) as own:
        assert own.data_directory == tmp_path


def test_copies_of_a_launcher_have_a_folder_and_a_name_each(tmp_path: Path) -> None:
    with ExitStack() as copies:
        own = [copies.enter_context(data_directory_of(settings(tmp_path, shared=True))) for _ in range(3)]
        assert [each.data_directory for each in own] == [tmp_path / "1", tmp_path / "2", tmp_path / "3"]
        assert [each.launcher_name for each in own] == ["lab-1", "lab-2", "lab-3"]
        assert own[1].spool_directory == tmp_path / "2" / "spool"


def test_a_copy_that_comes_back_finds_what_one_has_left(tmp_path: Path) -> None:
    with ExitStack() as others:
        others.enter_context(data_directory_of(settings(tmp_path, shared=True)))
        with data_directory_of(settings(tmp_path, shared=True)) as second:
            (second.data_directory / "left").touch()
        others.enter_context(data_directory_of(settings(tmp_path, shared=True)))
        assert others.enter_context(data_directory_of(settings(tmp_path, shared=True))).data_directory.name == "3"
        with pytest.raises(SettingsError):
            others.enter_context(data_directory_of(settings(tmp_path / "2")))
    assert (tmp_path / "2" / "left").exists()


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for shared in (False, True):
        with pytest.raises(SettingsError, match=rf"NRP_DATA_DIRECTORY={tmp_path}/file"):
            data_directory_of(settings(tmp_path / "file", shared=shared)).__enter__()


def test_what_fails_in_a_launcher_is_not_blamed_on_its_directory(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), data_directory_of(settings(tmp_path)):
        raise ConnectionError
