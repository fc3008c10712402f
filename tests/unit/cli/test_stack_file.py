"""What a running stack notes down, for others to find it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nrp_cli.stack_file import NAME, StackFile


@pytest.fixture
def own() -> StackFile:
    return StackFile.of_this_process("http://127.0.0.1:8090", "127.0.0.1:1883", "127.0.0.1:1885", "ws://127.0.0.1:9001")


def test_what_is_written_is_read_again(own: StackFile, tmp_path: Path) -> None:
    own.write(tmp_path)
    assert StackFile.read(tmp_path) == own
    assert own.pid == os.getpid()
    assert own.is_up


def test_a_stack_whose_process_is_gone_is_not_up(own: StackFile) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not replace(own, pid=ended.pid).is_up


def test_another_process_that_got_the_same_id_is_no_stack(own: StackFile) -> None:
    assert not replace(own, started_at=own.started_at - 60).is_up


def test_a_stack_that_ends_takes_its_own_note_away(own: StackFile, tmp_path: Path) -> None:
    own.write(tmp_path)
    StackFile.remove_own(tmp_path)
    assert StackFile.read(tmp_path) is None


def test_the_note_of_another_stack_stays(own: StackFile, tmp_path: Path) -> None:
    other = replace(own, pid=own.pid + 1)
    other.write(tmp_path)
    StackFile.remove_own(tmp_path)
    assert StackFile.read(tmp_path) == other


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"pid": 1, "more": 2}'])
def test_what_is_no_note_counts_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert StackFile.read(tmp_path) is None
