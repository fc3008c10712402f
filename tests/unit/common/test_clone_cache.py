from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nrp_common.clone_cache import PARTIAL, PARTIAL_IS_LEFT_OVER_AFTER_S, CloneCache

VERSION = (7, "2026-11-24T10:00:00Z")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> CloneCache:
    return CloneCache(tmp_path / "cache")


def test_a_version_that_was_added_is_copied(cache: CloneCache, source: Path, tmp_path: Path) -> None:
    cache.of_experiment("http://a", "demo").add("file", VERSION, source)
    assert cache.of_experiment("http://a", "demo").copy("file", VERSION, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("url", "experiment", "path", "version"),
    [
        ("http://b", "demo", "file", VERSION),
        ("http://a", "other", "file", VERSION),
        ("http://a", "demo", "other", VERSION),
        ("http://a", "demo", "file", (8, VERSION[1])),
        ("http://a", "demo", "file", (7, "later")),
        ("http://a", "demo", "file", ()),
    ],
)
def test_nothing_else_is_taken_for_it(
    cache: CloneCache,
    source: Path,
    tmp_path: Path,
    url: str,
    experiment: str,
    path: str,
    version: tuple[object, ...],
) -> None:
    cache.of_experiment("http://a", "demo").add("file", VERSION, source)
    assert not cache.of_experiment(url, experiment).copy(path, version, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_later_writes_to_a_source_or_copy_do_not_reach_the_cache(
    cache: CloneCache, source: Path, tmp_path: Path
) -> None:
    experiment = cache.of_experiment("http://a", "demo")
    experiment.add("file", VERSION, source)
    source.write_bytes(b"changed")
    for _ in range(2):
        assert experiment.copy("file", VERSION, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"content"
        (tmp_path / "copy").write_bytes(b"changed")


def test_versions_that_a_clone_did_not_use_are_forgotten(cache: CloneCache, source: Path, tmp_path: Path) -> None:
    first = cache.of_experiment("http://a", "demo")
    first.add("kept", VERSION, source)
    first.add("gone", VERSION, source)
    second = cache.of_experiment("http://a", "demo")
    second.copy("kept", VERSION, tmp_path / "copy")
    second.forget_unused()
    third = cache.of_experiment("http://a", "demo")
    assert third.copy("kept", VERSION, tmp_path / "copy")
    assert not third.copy("gone", VERSION, tmp_path / "copy")


def test_what_a_process_left_that_died_is_removed_and_what_others_write_is_not(cache: CloneCache, source: Path) -> None:
    experiment = cache.of_experiment("http://a", "demo")
    experiment.add("file", VERSION, source)
    left, being_written = experiment.folder / f"left{PARTIAL}", experiment.folder / f"new{PARTIAL}"
    left.touch()
    being_written.touch()
    long_ago = time.time() - PARTIAL_IS_LEFT_OVER_AFTER_S - 10
    os.utime(left, (long_ago, long_ago))
    experiment.forget_unused()
    assert not left.exists()
    assert being_written.exists()


def test_beyond_its_limit_it_forgets_what_was_cloned_longest_ago(source: Path, tmp_path: Path) -> None:
    cache = CloneCache(tmp_path / "cache", limit=15)  # two times seven bytes
    for age, name in enumerate(["newest", "middle", "oldest"]):
        experiment = cache.of_experiment("http://a", name)
        experiment.add("file", VERSION, source)
        os.utime(experiment.folder, (1e9 - age, 1e9 - age))
    cache.shrink()
    kept = {
        name
        for name in ("newest", "middle", "oldest")
        if cache.of_experiment("http://a", name).copy("file", VERSION, tmp_path / "copy")
    }
    assert kept == {"newest", "middle"}


def test_a_cache_that_was_deleted_is_empty(cache: CloneCache, tmp_path: Path) -> None:
    cache.shrink()
    cache.of_experiment("http://a", "demo").forget_unused()
    assert not cache.of_experiment("http://a", "demo").copy("file", VERSION, tmp_path / "copy")


def test_a_destination_without_its_folder_is_an_error(cache: CloneCache, source: Path, tmp_path: Path) -> None:
    experiment = cache.of_experiment("http://a", "demo")
    experiment.add("file", VERSION, source)
    with pytest.raises(FileNotFoundError):
        experiment.copy("file", VERSION, tmp_path / "nowhere" / "copy")
