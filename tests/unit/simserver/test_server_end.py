"""How the ends of servers are noted and told."""

from __future__ import annotations

from pathlib import Path

import pytest

from nrp_simserver.server_end import LAST_WORDS_LINES, ServerEnd, describe_exit, describe_server_end, last_words
from nrp_simserver.simulation_folder import SimulationFolder


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was killed by SIGKILL"),
        (-40, "was killed by signal 40"),
    ],
)
def test_ends_of_processes_are_told_in_words(exit_code: int, words: str) -> None:
    assert describe_exit(exit_code) == words
    assert describe_server_end(exit_code, None) == f"The simulation server {words}"


def test_reason_of_the_spawner_comes_first() -> None:
    assert describe_server_end(0, "No launcher came") == "No launcher came"


def test_end_is_read_as_it_was_noted(tmp_path: Path) -> None:
    folder = SimulationFolder(tmp_path, 1)
    assert ServerEnd.read(folder) is None
    end = ServerEnd(pid=1, spawner=2, exit_code=-11, ended_at=3.5)
    end.write(folder)
    assert ServerEnd.read(folder) == end


def test_end_that_an_experiment_wrote_over_is_none(tmp_path: Path) -> None:
    folder = SimulationFolder(tmp_path, 1)
    (tmp_path / "server_end.json").write_text("{}")
    assert ServerEnd.read(folder) is None


def test_last_words_are_the_last_lines_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    words = last_words(log)
    assert words.startswith("; its last words:\nline 90\n")
    assert words.count("line") == LAST_WORDS_LINES


def test_last_words_do_not_reach_behind_their_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of another\n")
    beginning = log.stat().st_size
    assert last_words(log, beginning) == ""
    log.write_text("of another\nits own\n")
    assert last_words(log, beginning) == "; its last words:\nits own"


def test_without_a_log_there_are_no_last_words(tmp_path: Path) -> None:
    assert last_words(tmp_path / "log") == ""
