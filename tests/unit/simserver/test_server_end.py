"""How the ends of servers are noted and told."""

from __future__ import annotations

import pytest

from nrp_simserver.server_end import describe_exit


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
