"""The log of an NRPCoreSim and its engines: told the end of, and passed on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nrp_simserver.cores.nrpcoresim.console_log import LOG, ConsoleLog
from tests.waiting import wait_until


def test_a_new_log_holds_nothing_of_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("earlier\n")
    assert ConsoleLog(tmp_path).last_words() == ""


def test_its_end_is_told_and_no_more(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path)
    (tmp_path / LOG).write_text("\n".join(map(str, range(1000))) + "\n\n")
    lines = "\n".join(map(str, range(985, 1000)))
    assert log.last_words() == f"; the end of .console_output.log:\n{lines}"


def test_the_end_of_a_log_that_is_gone_or_no_text_does_not_matter(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path)
    (tmp_path / LOG).write_bytes(b"\xff")
    assert "\ufffd" in log.last_words()
    (tmp_path / LOG).unlink()
    assert log.last_words() == ""
    log.pass_on()
    log.close()


def test_it_is_passed_on_in_whole_lines_and_to_its_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log, passed_on = ConsoleLog(tmp_path), []

    def seen() -> str:
        passed_on.append(capfd.readouterr().out)
        return "".join(passed_on)

    log.pass_on()
    with log.open() as file:
        file.write(b"one\ntw")
        file.flush()
        wait_until(lambda: seen() == "one\n")
        file.write(b"o\nthree")
        file.flush()
        wait_until(lambda: seen() == "one\ntwo\n")
    log.close()
    assert seen() == "one\ntwo\nthree"


def test_one_that_the_program_begins_anew_is_passed_on_from_its_beginning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = ConsoleLog(tmp_path)
    (tmp_path / LOG).write_text("a long line\n")
    log.pass_on()
    wait_until(lambda: capfd.readouterr().out == "a long line\n")
    os.truncate(tmp_path / LOG, 0)
    with log.open() as file:
        file.write(b"short\n")
    log.close()
    assert capfd.readouterr().out == "short\n"
