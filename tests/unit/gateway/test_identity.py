"""Bearer tokens, and how long answers of the Storage Server are believed."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from nrp_common.errors import StorageUnavailable
from nrp_common.storage_client import StorageClient
from nrp_gateway import identity
from nrp_gateway.identity import DEFAULT_OWNER, Callers, bearer_token
from tests.fakes import FakeStorageServer


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(identity, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def storage() -> Iterator[FakeStorageServer]:
    storage = FakeStorageServer()
    storage.users = {"ann-token": "ann", "eve-token": "eve"}
    storage.viewers = {"demo": {"ann"}}
    yield storage
    storage.close()


@pytest.fixture
def callers(storage: FakeStorageServer, clock: Clock) -> Iterator[Callers]:
    client = StorageClient(storage.url, retry_for_s=0)
    yield Callers(client)
    client.close()


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"), ("bearer abc", "abc"), ("Bearer  abc ", "abc"), (None, None), ("", None),
        ("Bearer", None), ("Bearer ", None), ("Bearer false", None), ("Bearer null", None), ("Bearer undefined", None),
        ("Basic abc", None), ("abc", None),
    ],
)  # fmt: skip
def test_token_is_read_from_the_header(header: str | None, token: str | None) -> None:
    assert bearer_token(header) == token


def test_without_authentication_nobody_is_asked() -> None:
    callers = Callers(None)
    assert callers.user(None) == callers.user("whatever") == DEFAULT_OWNER
    assert callers.may_view(None, "demo")


def test_identity_is_asked_once_a_minute(callers: Callers, storage: FakeStorageServer, clock: Clock) -> None:
    for _ in range(3):
        assert callers.user("ann-token") == "ann"
        clock.now += 19.9
    assert storage.asked["/identity/me"] == 1
    clock.now += 1
    callers.user("ann-token")
    assert storage.asked["/identity/me"] == 2


def test_unknown_token_is_asked_for_each_time(callers: Callers, storage: FakeStorageServer) -> None:
    assert callers.user("new") is None
    storage.users["new"] = "ben"
    assert callers.user("new") == "ben"


def test_no_token_is_nobody_and_not_asked_for(callers: Callers, storage: FakeStorageServer) -> None:
    assert callers.user(None) is None
    assert not callers.may_view(None, "demo")
    assert not storage.asked


def test_failure_of_the_storage_is_not_remembered(callers: Callers, storage: FakeStorageServer) -> None:
    storage.failure = 500
    with pytest.raises(StorageUnavailable):
        callers.user("ann-token")
    with pytest.raises(StorageUnavailable):
        callers.may_view("ann-token", "demo")
    storage.failure = None
    assert callers.user("ann-token") == "ann"
    assert callers.may_view("ann-token", "demo")


def test_permission_to_view_is_asked_once_a_minute(callers: Callers, storage: FakeStorageServer, clock: Clock) -> None:
    assert callers.may_view("ann-token", "demo")
    storage.viewers["demo"].clear()
    clock.now += 59
    assert callers.may_view("ann-token", "demo")
    clock.now += 1
    assert not callers.may_view("ann-token", "demo")


def test_refusal_to_view_is_asked_for_again_unless_it_may_be_old(
    callers: Callers, storage: FakeStorageServer, clock: Clock
) -> None:
    assert not callers.may_view("eve-token", "demo")
    storage.viewers["demo"].add("eve")
    assert not callers.may_view("eve-token", "demo", refusal_may_be_old=True)
    assert callers.may_view("eve-token", "demo")
    assert callers.may_view("eve-token", "demo", refusal_may_be_old=True)


def test_memory_of_answers_is_bounded(
    callers: Callers, storage: FakeStorageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "MOST_CACHED", 3)
    storage.users |= {f"token-{number}": "ann" for number in range(10)}
    for number in range(10):
        callers.user(f"token-{number}")
    assert len(callers._users._answers) <= 3
