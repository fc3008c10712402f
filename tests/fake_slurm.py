"""Stand-ins for Slurm's programs, which answer as a test says and note down how they were called."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

PROGRAM = """#!/bin/sh
echo "$*" >> {folder}/{name}.calls
[ {name} = sbatch ] && cat > {folder}/script
. {folder}/{name}.does
"""


class FakeSlurm:
    """The programs, in a folder for the PATH; each does nothing at first.

    Args:
        folder: for their files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            program = self.programs / name
            program.write_text(PROGRAM.format(folder=folder, name=name))
            program.chmod(0o755)
            self.answers(name, "")

    def answers(self, name: str, stdout: str, *, stderr: str = "", status: int = 0) -> None:
        """Have a program print this from now on."""
        self.does(name, f"printf %s {quote(stdout)}; printf %s {quote(stderr)} >&2; exit {status}")

    def does(self, name: str, script: str) -> None:
        """Have a program do this from now on."""
        new = self._folder / f"{name}.does.new"
        new.write_text(script)
        new.replace(self._folder / f"{name}.does")

    def calls(self, name: str) -> list[str]:
        """The arguments of each call of a program so far."""
        calls = self._folder / f"{name}.calls"
        return calls.read_text().splitlines() if calls.exists() else []

    @property
    def script(self) -> str:
        """The last one that was submitted."""
        return (self._folder / "script").read_text()
