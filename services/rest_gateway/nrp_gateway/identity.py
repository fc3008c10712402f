"""Who calls, and what they may see: the Storage Server knows both.

Its answers are cached for a minute at most, its failures never: whoever was let in stays no longer than that, and
whoever was kept out by a fault is let in as soon as it is gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from nrp_common.errors import InvalidToken
from nrp_common.storage_client import StorageClient

DEFAULT_OWNER: Final = "default-owner"
"""Who everybody is without authentication."""

CACHE_S: Final = 60.0

MOST_CACHED: Final = 10_000
"""Answers; beyond it they are asked for again."""

NO_TOKENS: Final = frozenset({"", "false", "null", "undefined"})
"""What frontends and proxies send in place of a token that they do not have."""

AnswerT = TypeVar("AnswerT")


def bearer_token(authorization: str | None) -> str | None:
    """The token in an `Authorization` header, None when there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    return None if scheme.lower() != "bearer" or token in NO_TOKENS else token


class Callers:
    """The callers of the REST API.

    Args:
        storage: who to ask, None without authentication: then everybody is `DEFAULT_OWNER` and may see everything.
    """

    def __init__(self, storage: StorageClient | None) -> None:
        self._storage = storage
        self._users: _Cache[str] = _Cache()
        self._views: _Cache[bool] = _Cache()

    def user(self, token: str | None) -> str | None:
        """The id of the user whom `token` belongs to, None when it is nobody's.

        Raises:
            StorageUnavailable: nobody can say.
        """
        if self._storage is None:
            return DEFAULT_OWNER
        if token is None:
            return None
        if (known := self._users.get(token)) is not None:
            return known
        try:
            user = self._storage.with_token(token).identity().id
        except InvalidToken:
            return None
        self._users.put(token, user)
        return user

    def may_view(self, token: str | None, experiment_id: str, *, refusal_may_be_old: bool = False) -> bool:
        """Whether the caller may view what belongs to an experiment.

        Args:
            token: a valid one, None only without authentication.
            experiment_id: of the experiment.
            refusal_may_be_old: whether a "no" may be up to a minute old, as a "yes" may be.

        Raises:
            StorageUnavailable: nobody can say.
        """
        if self._storage is None:
            return True
        if token is None:
            return False
        known = self._views.get((token, experiment_id))
        if known or (known is not None and refusal_may_be_old):
            return known
        try:
            may = self._storage.with_token(token).may_view(experiment_id)
        except InvalidToken:
            return False
        self._views.put((token, experiment_id), may)
        return may


class _Cache(Generic[AnswerT]):
    """Answers by question, each for `CACHE_S` seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[Hashable, tuple[float, AnswerT]] = {}

    def get(self, question: Hashable) -> AnswerT | None:
        """The answer, None when there is none that is fresh."""
        until, answer = self._answers.get(question, (0.0, None))
        return answer if time.monotonic() < until else None

    def put(self, question: Hashable, answer: AnswerT) -> None:
        """Keep an answer from now on."""
        with self._lock:
            if len(self._answers) >= MOST_CACHED:
                self._answers.clear()
            self._answers[question] = (time.monotonic() + CACHE_S, answer)
