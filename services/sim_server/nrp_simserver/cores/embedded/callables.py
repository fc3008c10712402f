"""What can be known of the functions and methods of an experiment before they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any


def misfit(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> str:
    """Why something cannot be called with these arguments, "" when it can."""
    try:
        inspect.signature(call).bind(*arguments, **keywords)
    except TypeError as error:
        return str(error)
    except ValueError:
        return ""  # not every callable tells its signature
    return ""


def line_of(call: Callable[..., Any], file: str) -> int:
    """The line of a file of the experiment that the definition begins at, 0 when it is not in there."""
    code = getattr(inspect.unwrap(call), "__code__", None)
    return code.co_firstlineno if code is not None and Path(code.co_filename).match(file) else 0


def place(file: str, line: int) -> str:
    """How messages call a line, or the file alone when the line is unknown (0)."""
    return f"{file} (Line {line})" if line else file
