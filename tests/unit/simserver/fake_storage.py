"""A Storage Server in memory, as spool and archiving use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class FakeStorage:
    """The server; `trouble` may return an error for the caller's token and the path, before anything is done."""

    files: dict[str, bytes] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    trouble: Callable[[str, str], Exception | None] = lambda _token, _path: None

    def of(self, token: str) -> _Caller:
        return _Caller(self, token)


@dataclass
class _Caller:
    storage: FakeStorage
    token: str

    def write(self, experiment_id: str, path: str, data: Path) -> None:
        self._fail(path)
        self.storage.writes.append(path)
        self.storage.files[f"{experiment_id}/{path}"] = data.read_bytes()

    def delete_file(self, experiment_id: str, path: str) -> None:
        self._fail(path)
        self.storage.files.pop(f"{experiment_id}/{path}", None)

    def _fail(self, path: str) -> None:
        self.storage.tokens.append(self.token)
        error = self.storage.trouble(self.token, path)
        if error is not None:
            raise error
