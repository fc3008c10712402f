"""Where the messages in a computational graph come from: engines, topics, the clock, and the outputs of nodes."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from nrp_simserver.cores.embedded.cache import CacheEntry, Clock
from nrp_simserver.cores.embedded.event_loop.nodes import PublishPolicy, Topic

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""How many messages of a topic wait for a cycle; of more than that the oldest are dropped."""

NANOSECONDS_PER_MILLISECOND = 1_000_000


class Source(ABC):
    """Something that messages come from.

    Attributes:
        count: how many times there was a new message since the beginning; whoever remembers the count that it saw last
            knows whether there is a new one.
    """

    def __init__(self) -> None:
        self.count = 0

    @abstractmethod
    def poll(self) -> None:
        """Take in what has come since the last cycle. Called once a cycle, before any node's function."""

    @abstractmethod
    def message(self, *, is_new: bool) -> Any:
        """The last message, for one reader, to whom it is new or not. There is one."""

    def reset(self) -> None:
        """Forget all messages."""
        self.count = 0


class EngineSource(Source):
    """A datapack of an engine: a new message whenever it was fetched from the engine."""

    def __init__(self, entry: CacheEntry, *, by_reference: bool) -> None:
        super().__init__()
        self._entry = entry
        self._by_reference = by_reference
        self._iteration = -1

    def poll(self) -> None:
        """See whether it was fetched."""
        if self._entry.iteration != self._iteration:
            self._iteration = self._entry.iteration
            self.count += 1

    def message(self, *, is_new: bool) -> Any:
        """The datapack itself, or a view of it."""
        datapack = self._entry.datapack
        assert datapack is not None
        if not self._by_reference:
            return datapack.view(updated=is_new)
        datapack.mark(updated=is_new)
        return datapack

    def reset(self) -> None:
        """Wait for the next fetch."""
        super().reset()
        self._iteration = -1


class ClockSource(Source):
    """The simulated time in milliseconds: an integer when `whole`, else a float."""

    def __init__(self, clock: Clock, *, whole: bool) -> None:
        super().__init__()
        self._clock = clock
        self._whole = whole

    def poll(self) -> None:
        """Another cycle has another time."""
        self.count += 1

    def message(self, *, is_new: bool) -> int | float:  # noqa: ARG002
        """The time."""
        now = self._clock.now
        return now // NANOSECONDS_PER_MILLISECOND if self._whole else now / NANOSECONDS_PER_MILLISECOND


class IterationSource(Source):
    """The number of the cycle, counted from 0."""

    def poll(self) -> None:
        """Another cycle has another number."""
        self.count += 1

    def message(self, *, is_new: bool) -> int:  # noqa: ARG002
        """The number."""
        return self.count - 1


class OutputSource(Source):
    """An output of a node. All that read a message get the same object."""

    def __init__(self) -> None:
        super().__init__()
        self._message: Any = None

    def poll(self) -> None:
        """Messages come by `put`, within a cycle."""

    def put(self, message: Any) -> None:
        """A new message."""
        self._message = message
        self.count += 1

    def message(self, *, is_new: bool) -> Any:  # noqa: ARG002
        """The message itself."""
        return self._message

    def reset(self) -> None:
        """Forget the message."""
        super().reset()
        self._message = None


class TopicSource(Source):
    """An MQTT topic: what came between two cycles is new in the second.

    A message that is not of the topic's type is dropped with a warning: anybody may publish anything.
    """

    def __init__(self, topic: Topic) -> None:
        super().__init__()
        self.topic = topic
        self._gives_all = topic.publish_policy is PublishPolicy.ALL
        self._arrived: deque[bytes] = deque(maxlen=MOST_WAITING if self._gives_all else 1)
        self._readers: list[Callable[[bool], Any]] = []
        self._was_wrong = False

    def take(self, payload: bytes) -> None:
        """A message came. Called in the broker's thread."""
        self._arrived.append(payload)

    def poll(self) -> None:
        """Read what came."""
        if not self._arrived:
            return
        readers = []
        for _ in range(len(self._arrived)):  # not those that come meanwhile, however many they are
            try:
                readers.append(self.topic.payload.read(self.topic.name, self._arrived.popleft()))
                self._was_wrong = False
            except ValueError as error:
                if not self._was_wrong:  # the first of a row, for there may be thousands
                    logger.warning("Dropped a message on topic %s that is not of its type: %s", self.topic.name, error)
                self._was_wrong = True
        if readers:
            self._readers = readers
            self.count += 1

    def message(self, *, is_new: bool) -> Any:
        """The last message, or all that came last."""
        if self._gives_all:
            return [read(is_new) for read in self._readers]
        return self._readers[-1](is_new)

    def reset(self) -> None:
        """Forget what came."""
        super().reset()
        self._arrived.clear()
        self._readers = []
