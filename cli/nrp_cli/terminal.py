"""What the commands show: tables and lines for people, JSON for scripts; errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from nrp_cli.rest_client import CallRefused
from nrp_common.errors import NRPError, SettingsError

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130

STATE_COLOURS = {
    "created": "cyan",
    "paused": "yellow",
    "started": "green",
    "completed": "blue",
    "stopped": "dim",
    "failed": "red",
}

console = Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
errors = Console(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())


def complain(message: str) -> None:
    """Say on stderr what is wrong."""
    errors.print("Error:", style="bold red", end=" ")
    errors.print(message, markup=False)


def complain_with_log(lines: Sequence[str]) -> None:
    """Show the end of a log, set apart from what this program says itself."""
    for line in lines:
        errors.print(f"  {line}", markup=False, highlight=False, style="dim", soft_wrap=True)


def reports_errors(command: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """Make a command that ends with a message and an exit status instead of a traceback."""

    @wraps(command)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        try:
            return command(*args, **kwargs)
        except SettingsError as error:
            complain(str(error))
            raise typer.Exit(BAD_USAGE) from error
        except CallRefused as error:
            complain(str(error))
            raise typer.Exit(FAILED) from error
        except NRPError as error:
            complain(str(error))
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(INTERRUPTED) from interrupt

    return run


def print_json(value: Any) -> None:
    """One JSON document on a line of its own."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; None shows as a dash."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    console.print(table)


def coloured_state(state: str) -> str:
    """A state as rich markup."""
    colour = STATE_COLOURS.get(state, "white")
    return f"[{colour}]{state}[/{colour}]"


def seconds(value: float | None) -> str:
    """A time for people."""
    return "-" if value is None else f"{value:.2f} s"
