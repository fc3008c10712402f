"""The working directory, looked up and changed without letting go of the GIL.

A thread that lets go of it in every step, for a system call of a microsecond, keeps all others from it: each time they
are woken to find it taken again, and begin anew to wait for the moment at which they may demand it. Commands to a
simulation of quick steps took half a second that way.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_LONGEST: Final = 4096

_libc = ctypes.PyDLL(None)  # unlike CDLL's, its calls keep the GIL
_getcwd, _chdir = _libc.getcwd, _libc.chdir
_buffer = ctypes.create_string_buffer(_LONGEST)
_place, _size = ctypes.c_void_p(ctypes.addressof(_buffer)), ctypes.c_size_t(_LONGEST)


def is_working_in(folder: bytes) -> bool:
    """Whether a folder, absolute and encoded for the file system, is this process's working directory."""
    return bool(_getcwd(_place, _size)) and _buffer.value == folder


def working_directory() -> str:
    """The working directory, absolute.

    Raises:
        OSError: it was removed.
    """
    return os.fsdecode(_buffer.value) if _getcwd(_place, _size) else os.getcwd()  # noqa: PTH109  tells what is wrong


def work_in(folder: str) -> None:
    """Make a folder this process's working directory.

    Raises:
        OSError: there is no such folder, or it cannot be entered.
    """
    if _chdir(os.fsencode(folder)) != 0:
        os.chdir(folder)  # tells what is wrong
