"""What is under way of streamed data: who waits, for how long, and what is dropped."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator

import pytest

from nrp_common import outgoing as outgoing_module
from nrp_common.outgoing import MOST_BYTES, MOST_MESSAGES, PACED_BYTES, PACED_MESSAGES, Outgoing
from tests.waiting import wait_until


class Stream:
    """Streams messages whose packets are acknowledged when a test says so."""

    def __init__(self) -> None:
        self.outgoing = Outgoing("broker:1883")
        self.published: list[int] = []
        self._packets = itertools.count(1)

    def send(self, count: int = 1, size: int = 10, *, patient: bool = True) -> list[bool]:
        """Stream messages; whether each was published."""
        return [self.outgoing.send(self._publish, size, patient=patient) for _ in range(count)]

    def send_in_background(self, count: int = 1, size: int = 10) -> threading.Thread:
        thread = threading.Thread(target=self.send, args=(count, size))
        thread.start()
        return thread

    def acknowledge(self, count: int) -> None:
        for packet in self.published[:count]:
            self.outgoing.acknowledge(packet)
        del self.published[:count]

    def _publish(self) -> int:
        packet = next(self._packets)
        self.published.append(packet)
        return packet


@pytest.fixture
def stream() -> Iterator[Stream]:
    stream = Stream()
    yield stream
    stream.acknowledge(len(stream.published))


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing_module, "PATIENCE_S", 0.05)


@pytest.mark.parametrize(("count", "size"), [(PACED_MESSAGES, 10), (4, PACED_BYTES // 4)])
def test_as_much_as_a_broker_takes_at_once_is_published_without_waiting(stream: Stream, count: int, size: int) -> None:
    assert all(stream.send(count, size))


@pytest.mark.parametrize(("count", "size"), [(PACED_MESSAGES, 10), (4, PACED_BYTES // 4)])
def test_further_messages_wait_until_half_of_that_is_taken(stream: Stream, count: int, size: int) -> None:
    stream.send(count, size)
    waiting = stream.send_in_background()
    stream.acknowledge(count // 2 - 1)
    waiting.join(0.05)
    assert waiting.is_alive()
    stream.acknowledge(1)
    waiting.join(5)
    assert not waiting.is_alive()
    assert len(stream.published) == count - count // 2 + 1


def test_nobody_waits_for_what_is_acknowledged_before_publishing_returns(stream: Stream) -> None:
    packets = itertools.count(1)

    def publish() -> int:
        packet = next(packets)
        stream.outgoing.acknowledge(packet)
        return packet

    for _ in range(3 * PACED_MESSAGES):
        assert stream.outgoing.send(publish, 10, patient=True)


def test_packets_of_others_make_no_room(stream: Stream) -> None:
    stream.send(PACED_MESSAGES)
    for packet in range(1000, 1000 + PACED_MESSAGES):
        stream.outgoing.acknowledge(packet)
    waiting = stream.send_in_background()
    waiting.join(0.02)
    assert waiting.is_alive()
    stream.acknowledge(PACED_MESSAGES)
    waiting.join(5)


def test_a_broker_that_takes_nothing_is_waited_for_once(
    stream: Stream, short_patience: None, caplog: pytest.LogCaptureFixture
) -> None:
    stream.send(PACED_MESSAGES + 100)
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["The MQTT broker at broker:1883 has taken nothing for 0.05 s: the simulation goes on"]


def test_a_broker_that_is_slow_is_waited_for_longer(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing_module, "PATIENCE_S", 2.0)
    stream.send(PACED_MESSAGES)
    waiting = stream.send_in_background()
    for _ in range(PACED_MESSAGES // 2 - 1):
        waiting.join(0.1)
        stream.acknowledge(1)
    assert waiting.is_alive()
    stream.acknowledge(1)
    waiting.join(5)


def test_a_broker_that_takes_something_again_is_waited_for_again(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing_module, "PATIENCE_S", 0.05)
    stream.send(PACED_MESSAGES + 10)
    monkeypatch.undo()
    stream.acknowledge(1)
    waiting = stream.send_in_background()
    waiting.join(0.02)
    assert waiting.is_alive()
    stream.acknowledge(PACED_MESSAGES)
    waiting.join(5)


def test_the_impatient_never_wait(stream: Stream) -> None:
    assert all(stream.send(PACED_MESSAGES * 3, patient=False))


@pytest.mark.parametrize(("count", "size"), [(MOST_MESSAGES, 10), (8, MOST_BYTES // 8)])
def test_more_than_fits_into_memory_is_dropped(
    stream: Stream, count: int, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert stream.send(count + 3, size, patient=False) == [True] * count + [False] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "The MQTT broker at broker:1883 takes no data: what is streamed is dropped"
    ]
    stream.acknowledge(1)
    assert stream.send(1, size, patient=False) == [True]
    assert caplog.records[-1].getMessage() == (
        "The MQTT broker at broker:1883 takes data again: 3 messages were dropped"
    )


def test_a_message_larger_than_all_that_may_wait_is_published_when_none_does(stream: Stream) -> None:
    assert stream.send(2, MOST_BYTES + 1, patient=False) == [True, False]


def test_a_message_that_the_connection_refuses_is_not_waited_for(stream: Stream) -> None:
    for _ in range(3 * PACED_MESSAGES):
        assert not stream.outgoing.send(lambda: None, 10, patient=True)


def test_several_threads_stream_at_once(stream: Stream) -> None:
    threads = [stream.send_in_background(PACED_MESSAGES) for _ in range(4)]
    wait_until(lambda: acknowledged_all(stream, threads))
    assert not any(thread.is_alive() for thread in threads)


def acknowledged_all(stream: Stream, threads: list[threading.Thread]) -> bool:
    stream.acknowledge(len(stream.published))
    return not any(thread.is_alive() for thread in threads)
