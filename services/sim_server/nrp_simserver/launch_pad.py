"""Become a program that dies with its parent: the far side of `bound_program`, run as a file.

    launch_pad.py PARENT FAILURE PROGRAM [ARGUMENTS]

PARENT is the parent's process id; to the descriptor FAILURE goes the error number when the program cannot be executed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, failure = map(int, sys.argv[1:3])
    os.set_inheritable(failure, False)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew
        sys.exit(1)
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606  what it is for
    except OSError as error:
        os.write(failure, str(error.errno).encode())
        sys.exit(127)
