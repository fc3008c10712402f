"""What a process has imported since it was looked at last."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from nrp_simserver.cores.embedded.imports import Imports


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Imports, "_shared", None)
    before = sys.modules.copy()
    yield
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]


def imported(*names: str) -> dict[str, ModuleType]:
    modules = {name: ModuleType(name) for name in names}
    sys.modules.update(modules)
    return modules


def test_all_are_new_at_first() -> None:
    assert Imports().new() == sys.modules


def test_those_that_came_since_are_new_once() -> None:
    imports = Imports()
    imports.note()
    first, second = imported("a", "b"), imported("c")
    assert imports.new() == first | second
    assert imports.new() == {}
    assert imports.known == len(sys.modules)


def test_those_that_were_shared_are_not_new_to_anybody() -> None:
    imported("a")
    Imports.share()
    late = imported("b")
    assert Imports().new() == late


@pytest.mark.parametrize("gone", ["old", "latest"])
def test_all_are_looked_at_when_some_have_gone(gone: str) -> None:
    imported("old", "latest")
    imports = Imports()
    imports.note()
    del sys.modules[gone]
    new = imported("new")
    assert new.items() <= imports.new().items()


def test_module_that_was_imported_anew_is_new() -> None:
    imported("old", "latest")
    imports = Imports()
    imports.note()
    new = imported("new")
    del sys.modules["latest"]
    new |= imported("latest")
    assert new.items() <= imports.new().items()
