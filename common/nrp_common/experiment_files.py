"""Names of experiments and of the files in them: which ones there can be, and which ones a run does without.

Names come from users and from Storage Servers; neither may reach outside an experiment's folder.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from nrp_common.errors import InvalidName

LONGEST_NAME = 255
"""Bytes in UTF-8 of one level of a path: what Linux file systems take."""

DEEPEST_FOLDER = 64
"""Levels in a path; a listing that goes deeper runs in circles."""

_FILES_LEFT_OUT = ("*.log", "*.log.zip", "*.swp")
_FOLDERS_LEFT_OUT = ("logs", "__pycache__")
_RESULTS = re.compile(r"simulation_[0-9]+\.data\.zip$")


def checked_experiment_id(experiment_id: str) -> str:
    """The id itself, when an experiment can have it.

    Raises:
        InvalidName: it is empty, `.`, `..`, too long, or holds a slash or a control character.
    """
    if "/" in experiment_id:
        raise InvalidName(f"'{_shown(experiment_id)}' is no name of an experiment: it holds a slash")
    return checked_path(experiment_id)


def checked_path(path: str) -> str:
    """The path itself, when it names something within an experiment; its levels are separated by slashes.

    Raises:
        InvalidName: it is absolute, or one of its levels is empty, `.`, `..`, too long, or holds a control character.
    """
    levels = path.split("/")
    if len(levels) > DEEPEST_FOLDER:
        raise InvalidName(f"'{_shown(path)}' is no name of a file: it lies more than {DEEPEST_FOLDER} folders deep")
    for level in levels:
        fault = _fault_in(level)
        if fault:
            raise InvalidName(f"'{_shown(path)}' is no name of a file or experiment: {fault}")
    return path


def _fault_in(level: str) -> str | None:
    if level in ("", ".", ".."):
        return f"'{level}' cannot be a part of it"
    try:
        encoded = level.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, or bytes that were not UTF-8
        return "it is not Unicode text"
    if "�" in level:  # what WSGI servers and JSON readers make of bytes that are not UTF-8
        return "it is not Unicode text"
    if len(encoded) > LONGEST_NAME:
        return f"a part of it is longer than {LONGEST_NAME} bytes"
    if any(ord(character) < 32 or ord(character) == 127 for character in level):
        return "it holds a control character"
    return None


def _shown(name: str) -> str:
    return ascii(name[:80])[1:-1]


def is_left_out(path: str, *, is_folder: bool = False) -> bool:
    """Whether a run does without this: logs and results of earlier runs, caches, editors' swap files."""
    *folders, name = path.split("/")
    if is_folder:
        folders.append(name)
    elif any(fnmatchcase(name, pattern) for pattern in _FILES_LEFT_OUT) or _RESULTS.search(name):
        return True
    return any(folder in _FOLDERS_LEFT_OUT for folder in folders)
