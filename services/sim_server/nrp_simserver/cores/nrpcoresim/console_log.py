"""The log of an NRPCoreSim: a file in the experiment's folder that has what the program and its engines write."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

LOG: Final = ".console_output.log"
"""Its name, which is nrp_client's."""

LOOK_INTERVAL_S: Final = 0.2
"""Between two looks at whether there is more to pass on."""

LAST_WORDS_LINES: Final = 15
LAST_WORDS_BYTES: Final = 3000
"""How much of its end is told."""

_STDOUT: Final = 1


class ConsoleLog:
    """A new log, in place of an earlier run's.

    Args:
        folder: the experiment's folder.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        with self._path.open("wb"):
            pass
        self._is_over = threading.Event()
        self._passing_on: threading.Thread | None = None

    def open(self) -> BinaryIO:
        """The file, to be written at its end, as the program itself does it too."""
        return self._path.open("ab")

    def pass_on(self) -> None:
        """Write all that comes to this process's stdout, too, until `close`."""
        self._passing_on = threading.Thread(target=self._pass_on, name=LOG, daemon=True)
        self._passing_on.start()

    def close(self) -> None:
        """Pass on the rest."""
        self._is_over.set()
        if self._passing_on is not None:
            self._passing_on.join()

    def last_words(self) -> str:
        """Its end, introduced; "" when it is empty."""
        try:
            end = self._path.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace")
        except OSError:  # an engine may have deleted it
            return ""
        lines = end.strip().splitlines()[-LAST_WORDS_LINES:]
        return f"; the end of {LOG}:\n" + "\n".join(lines) if lines else ""

    def _pass_on(self) -> None:
        with suppress(OSError), self._path.open("rb") as log:
            is_over = False
            while not is_over:
                is_over = self._is_over.wait(LOOK_INTERVAL_S)
                if log.tell() > os.fstat(log.fileno()).st_size:  # the program has begun it anew
                    log.seek(0)
                for line in log:
                    if not line.endswith(b"\n") and not is_over:
                        log.seek(-len(line), os.SEEK_CUR)
                        break
                    os.write(_STDOUT, line)
