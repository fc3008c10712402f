"""Where in an experiment's own files an exception comes from."""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from nrp_common.errors import EngineFailed, ExperimentError, FunctionFailed, NRPError

FOUND_BY_COMPILERS = (SyntaxError, NameError, ImportError)
"""What other languages' compilers find before a program runs."""

_LONGEST = 4_000
"""Characters of what an exception says, and of a line. Some say a whole array, which no bus would carry."""

_PLACE = "_nrp_place"
"""The attribute of an exception that was brought here from another process."""


_LINE_OF_A_FILE = re.compile(
    r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)|\((?P<script>[^()\n]+\.py), line (?P<of_script>\d+)\)'
)
"""In tracebacks, and in the message of a SyntaxError."""


@dataclass(frozen=True)
class ErrorPlace:
    """A line in a file of the experiment, and the exception that was raised there.

    Attributes:
        error: the exception as the author of that file would see it, without what the core wrapped around it.
        file: the file, relative to the experiment's folder; "" when no file of the experiment took part.
        line: counted from 1; 0 when unknown.
        text: the line itself, without indentation; "" when unknown.
        offset: the column, counted from 1, where Python knows it (syntax errors); else -1.
    """

    error: BaseException
    file: str = ""
    line: int = 0
    text: str = ""
    offset: int = -1

    def describe(self, file: str = "") -> str:
        """The error in one line: "ZeroDivisionError in tf_1.py (Line 7): division by zero".

        Args:
            file: what to call the file instead of its name, such as "main script".
        """
        name = file or self.file
        message = words_of(self.error)
        where = f" in {name}" if name else ""
        where += f" (Line {self.line})" if name and self.line else ""
        return f"{type(self.error).__name__}{where}" + (f": {message}" if message else "")


def locate(error: BaseException, folder: Path) -> ErrorPlace:
    """Find the deepest line inside the experiment's own files that `error` went through.

    Errors that the core wraps around an exception of the user's are looked through; those that it raises itself, about
    a file of the experiment, have that file's place, not that of the call that was under way. If `error` itself never
    passed a file of the experiment, what caused it is searched, then what was being handled when it was raised.

    Of an error that never passed one, such as that of a method with the wrong parameters, what is known is the file
    whose code was about to run.

    Args:
        error: an exception that was raised.
        folder: the experiment's folder.
    """
    folder = folder.resolve()
    chain = list(_chain(error))
    for candidate in chain:
        place = _place_of(candidate, folder)
        if place is not None:
            return place
    if isinstance(error, ExperimentError) and error.file:
        # Wrong syntax is the author's; of anything else the core says more than what it wrapped.
        return ErrorPlace(chain[0] if isinstance(chain[0], SyntaxError) else error, error.file, error.line)
    return ErrorPlace(error)


def words_of(error: BaseException) -> str:
    """What an exception says, whatever the class of the user's does when it is asked."""
    try:
        words = (error.msg or "") if isinstance(error, SyntaxError) else str(error)
    except Exception:  # noqa: BLE001
        return "<exception str() failed>"  # as Python's own tracebacks put it
    return presentable(words)


def presentable(text: str) -> str:
    """Text as it can be told to anybody: no longer than `_LONGEST` and a few words, and valid Unicode."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]} ... (of {len(text)} characters)"
    return text.encode(errors="backslashreplace").decode()


def own_traceback(error: BaseException, folder: Path) -> str:
    """The traceback of an error as the author of the experiment's files sees it, in lines.

    It begins in the experiment's own files, and leaves out what the core wrapped around the exception. An error of the
    backend itself, such as a simulator that is not installed, is a sentence, after the lines of these files.
    """
    seen = locate(error, folder).error
    if isinstance(seen, NRPError):
        frames = traceback.extract_tb(seen.__traceback__)
        theirs = traceback.format_list([frame for frame in frames if Path(frame.filename).is_relative_to(folder)])
        return "".join(["Traceback (most recent call last):\n", *theirs] if theirs else []) + f"{seen}\n"
    own = seen.__traceback__
    while own is not None and not Path(own.tb_frame.f_code.co_filename).is_relative_to(folder):
        own = own.tb_next
    beginning: TracebackType | None = own or seen.__traceback__
    return "".join(traceback.format_exception(type(seen), seen, beginning))


def place_told(text: str, folder: Path) -> tuple[str, int]:
    """The file of the experiment, and the line in it, that a Python traceback in a text leads to; ("", 0) if to none.

    For errors of other processes, of which there is no more than what they say.

    Args:
        text: has a traceback, or not.
        folder: the experiment's folder; files in the text may be named relative to it.
    """
    for told in reversed(list(_LINE_OF_A_FILE.finditer(text))):
        with suppress(OSError, ValueError):  # no file can have that name
            file = _inside(told["file"] or told["script"], folder.resolve())
            if file is not None:
                return file, int(told["line"] or told["of_script"])
    return "", 0


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what led to it, outermost first, without the core's own wrappers around another exception."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        cause = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if not (isinstance(current, EngineFailed | FunctionFailed) and current.__cause__ is not None):
            yield current
        current = cause


def brought_here(error: BaseException, file: str, line: int, text: str, offset: int) -> BaseException:
    """`error`, made in this process after one of another process, with the place where that was raised."""
    setattr(error, _PLACE, ErrorPlace(error, file, line, text, offset))
    return error


def _place_of(error: BaseException, folder: Path) -> ErrorPlace | None:
    brought: ErrorPlace | None = getattr(error, _PLACE, None)
    if brought is not None:
        return brought
    if isinstance(error, ExperimentError) and error.file:
        text = linecache.getline(str(folder / error.file), error.line).strip()
        return ErrorPlace(error, error.file, error.line, text)
    if isinstance(error, SyntaxError) and error.filename:
        file = _inside(error.filename, folder)
        if file is not None:
            line = error.lineno or 0
            text = (error.text or linecache.getline(error.filename, line)).strip()
            return ErrorPlace(error, file, line, text, -1 if error.offset is None else error.offset)
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        filename = frame.f_code.co_filename
        file = _inside(filename, folder)
        if file is not None:
            return ErrorPlace(error, file, line, linecache.getline(filename, line, frame.f_globals).strip())
    return None


def _inside(filename: str, folder: Path) -> str | None:
    """The file's path relative to `folder`, or None for a file elsewhere (also for "<string>" and the like).

    That it exists is asked because compiled extensions name their sources by relative paths, "numpy/random/mtrand.pyx".
    """
    path = (folder / filename).resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) and path.is_file() else None
