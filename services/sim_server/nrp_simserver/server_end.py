"""How a simulation server ended, as its spawner saw it, and the words for it.

The spawner notes it down in the simulation's folder: whatever happens to the launcher meanwhile, and to the spawner
afterwards, the next launcher finds it there.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ValidationError

from nrp_simserver.simulation_folder import SimulationFolder, open_file, read_note

SERVER_END: Final = "server_end.json"

LAST_WORDS_LINES: Final = 10
LAST_WORDS_BYTES: Final = 2000
"""How much of a log's end goes into the reason of a failure."""


class ServerEnd(BaseModel):
    """How a simulation server ended.

    Attributes:
        pid: the server's process id.
        spawner: the spawner's.
        exit_code: the server's exit code, or the negative number of the signal that killed it.
        ended_at: in seconds since 1970.
        reason: why the spawner ended it, None when it did not.
        is_told: whether a job of a cluster was told to end before, which its cluster knows the reason of.
    """

    pid: int
    spawner: int
    exit_code: int
    ended_at: float
    reason: str | None = None
    is_told: bool = False

    def write(self, folder: SimulationFolder) -> None:
        """Put this into the simulation's folder."""
        new = folder.path / f"{SERVER_END}.new"
        new.write_text(self.model_dump_json())
        new.replace(folder.path / SERVER_END)

    @classmethod
    def read(cls, folder: SimulationFolder) -> Self | None:
        """What is in a simulation's folder, None when it holds no end of a server."""
        try:
            return cls.model_validate_json(read_note(folder.path / SERVER_END))
        except (OSError, ValidationError):
            return None


def describe_server_end(exit_code: int, reason: str | None) -> str:
    """How a simulation server ended, in a sentence."""
    return reason or f"The simulation server {describe_exit(exit_code)}"


def describe_exit(exit_code: int) -> str:
    """How a process ended, in words to follow its name; a negative code is the number of the signal that killed it."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-exit_code}"


def last_words(file: Path, beginning: int = 0) -> str:
    """The last lines of a log as the end of a sentence, "" when there are none.

    Args:
        file: the log.
        beginning: of what counts, in bytes.
    """
    try:
        with open_file(file) as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(beginning, size - LAST_WORDS_BYTES))
            end = opened.read().decode(errors="replace")
    except OSError:
        return ""
    lines = end.strip().splitlines()[-LAST_WORDS_LINES:]
    return "; its last words:\n" + "\n".join(lines) if lines else ""
