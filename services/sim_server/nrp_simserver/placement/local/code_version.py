"""Which code a process has imported: what a spawner and the launcher that finds it must have in common.

The distribution's version does not tell: an editable installation changes without it, and so does what is installed
beside it, which a running process would import in two versions.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import nrp_common
import nrp_shims
import nrp_simserver

_PACKAGES: Final = (nrp_common, nrp_shims, nrp_simserver)


def code_version() -> str:
    """A digest of the interpreter, of our own files with sizes and times, and of the versions of what is installed."""
    digest = hashlib.sha256()
    for part in _parts():
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _parts() -> Iterator[str]:
    yield sys.version
    yield sys.prefix
    for package in _PACKAGES:
        assert package.__file__ is not None
        for path in sorted(Path(package.__file__).parent.rglob("*.py")):
            status = path.stat()
            yield f"{path} {status.st_size} {status.st_mtime_ns}"
    for folder in sys.path:
        yield from sorted(path.name for path in Path(folder).glob("*.dist-info"))
