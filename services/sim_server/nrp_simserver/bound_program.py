"""Programs that the kernel kills when whoever started them ends, however that happens.

Only a process itself can ask the kernel for that, and between fork and exec of a process with threads next to nothing
may be done: other libraries' fork handlers run there, gRPC's among them, and what they find depends on what the threads
just did. So a Python of its own asks, and becomes the program. That costs some 15 ms.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_LAUNCH_PAD: Final = Path(__file__).with_name("launch_pad.py")


def start_bound(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that dies with the calling thread, which had better be the main one.

    Args:
        command: program, by its path or its name on the PATH, and arguments.
        options: further ones of `subprocess.Popen`.

    Raises:
        OSError: the program cannot be executed.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as failure:
        try:
            launch_pad = [sys.executable, "-I", "-S", str(_LAUNCH_PAD), str(os.getpid()), str(writing)]
            process = subprocess.Popen([*launch_pad, *command], pass_fds=[writing], **options)
        finally:
            os.close(writing)
        error = failure.read()  # its end comes when the program is executed
    if error:
        process.wait()
        raise OSError(int(error), os.strerror(int(error)), command[0])
    return process
