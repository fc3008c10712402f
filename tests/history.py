"""What clients of an installation were told, and what its bus said; and whether all of it can be true at once.

states only along allowed transitions     an acknowledged command took effect
`seq` without regression                  a command that was refused, or not answered, takes no effect afterwards
final is final                            an answer never falls behind an earlier one
one incarnation a simulation              ids are never given twice
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import requests

from nrp_common.lifecycle import SOURCES, SimulationEvent
from tests.simulation_servers import Seen

LATE_S = 1.0
"""How long after the answer to a command its transition may bear its time: clocks, and answers that overtake."""

FINAL = ("stopped", "failed")


@dataclass(frozen=True)
class Answer:
    """One REST call. `status` is 0 when the connection broke before there was an answer; times are of `time.time`."""

    gateway: str
    method: str
    path: str
    asked: dict[str, Any] | None
    status: int
    body: Any
    asked_at: float
    answered_at: float

    @property
    def simulation_id(self) -> int | None:
        if self.method == "POST":
            return self.body.get("simulationID") if self.status == 201 else None
        parts = self.path.strip("/").split("/")
        return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else None

    @property
    def state(self) -> str | None:
        """The simulation's state that the answer tells."""
        return self.body.get("state") if self.status in (200, 201) and isinstance(self.body, dict) else None


class Client:
    """Calls one gateway, and has every answer recorded."""

    def __init__(self, name: str, url: str, history: History, token: str) -> None:
        self.name = name
        self.url = url
        self._history = history
        self._headers = {"Authorization": f"Bearer {token}"}

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        asked_at = time.time()
        try:
            # A session each: none outlives a gateway that is killed.
            response = requests.request(method, self.url + path, json=body, headers=self._headers, timeout=60)
            status, said = response.status_code, response.json() if response.content else None
        except (requests.ConnectionError, requests.ReadTimeout, requests.exceptions.JSONDecodeError) as error:
            status, said = 0, str(error)
        answer = Answer(self.name, method, path, body, status, said, asked_at, time.time())
        self._history.answers.append(answer)
        return answer

    def launch(self, experiment: str, **fields: Any) -> Answer:
        return self.call("POST", "/simulation", {"experimentID": experiment, **fields})

    def state(self, simulation_id: int) -> str | None:
        return self.call("GET", f"/simulation/{simulation_id}/state").state

    def ask(self, simulation_id: int, state: str) -> Answer:
        return self.call("PUT", f"/simulation/{simulation_id}/state", {"state": state})


@dataclass
class History:
    """Everything that was said. `seen` has to be what a subscriber to all topics got.

    Attributes:
        answers: the REST calls, in the order of their answers.
        seen: the messages on the bus, in order.
    """

    seen: list[Seen]
    answers: list[Answer] = field(default_factory=list)

    def violations(self) -> list[str]:
        """What cannot be true, in words."""
        found: list[str] = []
        for check in (self._ids, self._chains, self._order, self._tellings, self._causes):
            found += check()
        return found

    # -- the bus -------------------------------------------------------------------------------------------------------

    def lifecycle(self) -> dict[int, list[tuple[dict[str, Any], bool]]]:
        """By simulation the lifecycle messages in the order in which they were seen, and whether they were retained."""
        messages: dict[int, list[tuple[dict[str, Any], bool]]] = {}
        for seen in list(self.seen):
            parts = seen.topic.split("/")
            if parts[-1] == "lifecycle" and seen.payload:
                messages.setdefault(int(parts[-2]), []).append((seen.json, seen.retain))
        return messages

    def chain(self, simulation_id: int) -> list[str]:
        """The states that a simulation went through, `created` first."""
        told = {message["seq"]: message for message, _ in self.lifecycle().get(simulation_id, [])}
        states = ["created"]
        for seq in sorted(told):
            if told[seq]["source_state"] != states[-1]:  # a transition was told before the subscriber was back, too
                states.append(told[seq]["source_state"])
            states.append(told[seq]["target_state"])
        return states

    def _chains(self) -> Iterator[str]:
        for simulation_id, messages in self.lifecycle().items():
            by_seq: dict[int, dict[str, Any]] = {}
            for message, _ in messages:
                known = by_seq.setdefault(message["seq"], message)
                if known["target_state"] != message["target_state"]:
                    yield f"{simulation_id}: seq {message['seq']} is both {_told(known)} and {_told(message)}"
            incarnations = {message["incarnation"] for message in by_seq.values() if message["incarnation"]}
            if len(incarnations) > 1:
                yield f"{simulation_id}: has had {len(incarnations)} incarnations"
            previous: dict[str, Any] | None = None
            for seq in sorted(by_seq):
                message = by_seq[seq]
                event = SimulationEvent(message["event"])
                if message["source_state"] not in SOURCES[event] or message["target_state"] != event.target:
                    yield f"{simulation_id}: {_told(message)} is no allowed transition"
                if previous is not None:
                    if previous["target_state"] in FINAL:
                        yield f"{simulation_id}: {_told(message)} after {_told(previous)}, which is final"
                    elif seq == previous["seq"] + 1 and message["source_state"] != previous["target_state"]:
                        yield f"{simulation_id}: {_told(message)} does not follow {_told(previous)}"
                previous = message

    def _order(self) -> Iterator[str]:
        for simulation_id, messages in self.lifecycle().items():
            newest = 0
            for message, retained in messages:
                if not retained and message["seq"] < newest:
                    yield f"{simulation_id}: {_told(message)} was said after seq {newest}"
                newest = max(newest, message["seq"])

    # -- the answers ---------------------------------------------------------------------------------------------------

    def _ids(self) -> Iterator[str]:
        ids = [answer.simulation_id for answer in self.answers if answer.method == "POST" and answer.status == 201]
        yield from (f"id {each} was given twice" for each in sorted({each for each in ids if ids.count(each) > 1}))

    def _tellings(self) -> Iterator[str]:
        """Every state that was told was reached, and no answer falls behind one that was there before it was asked."""
        told: dict[int, list[tuple[Answer, int]]] = {}
        chains = {simulation_id: self.chain(simulation_id) for simulation_id in self.lifecycle()}
        for answer in sorted(self.answers, key=lambda each: each.answered_at):
            simulation_id, state = answer.simulation_id, answer.state
            if simulation_id is None or state is None:
                continue
            chain = chains.get(simulation_id, ["created"])
            earlier = told.setdefault(simulation_id, [])
            least = max((index for before, index in earlier if before.answered_at < answer.asked_at), default=0)
            index = next((index for index, each in enumerate(chain) if index >= least and each == state), None)
            if index is None:
                went = " ".join(chain)
                yield f"{simulation_id}: {_call(answer)} told {state!r} after {chain[least]!r}; it went {went}"
            else:
                earlier.append((answer, index))

    def _causes(self) -> Iterator[str]:
        """What only clients can cause was asked for, at that time."""
        asked: dict[int, list[Answer]] = {}
        for answer in self.answers:
            if answer.method == "PUT" and answer.simulation_id is not None:
                asked.setdefault(answer.simulation_id, []).append(answer)
        for simulation_id, messages in self.lifecycle().items():
            for message in {message["seq"]: message for message, _ in messages}.values():
                if message["event"] in ("started", "paused") and not any(
                    _could_cause(answer, message) for answer in asked.get(simulation_id, [])
                ):
                    yield f"{simulation_id}: {_told(message)} at {message['time']} was not asked for then"


def _could_cause(answer: Answer, message: dict[str, Any]) -> bool:
    assert answer.asked is not None
    at = message["time"]
    return answer.asked["state"] == message["event"] and answer.asked_at - LATE_S <= at <= answer.answered_at + LATE_S


def _told(message: dict[str, Any]) -> str:
    return (
        f"seq {message['seq']} ({message['source_state']} -> {message['target_state']} by {message['event']},"
        f" says {message['source_node']})"
    )


def _call(answer: Answer) -> str:
    return f"{answer.method} {answer.path} at {answer.gateway}"
