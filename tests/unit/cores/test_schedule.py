"""When engines are due, and in which order, against the plain telling of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nrp_simserver.cores.embedded.schedule import Schedule


def told_plainly(steps: list[int], iterations: int) -> list[tuple[int, tuple[int, ...]]]:
    """(time, who is due) of the first iterations: whoever started a step first ends it first, then as configured."""
    now, started = 0, [0] * len(steps)
    told = []
    for _ in range(iterations):
        due = [index for index, step in enumerate(steps) if now == 0 or started[index] + step == now]
        told.append((now, tuple(sorted(due, key=lambda index: started[index]))))
        for index in due:
            started[index] = now
        now = min(start + step for start, step in zip(started, steps, strict=True))
    return told


def scheduled(schedule: Schedule, iterations: int) -> list[tuple[int, tuple[int, ...]]]:
    now, told = 0, []
    for _ in range(iterations):
        due, until_next = schedule.at(now)
        told.append((now, due))
        now += until_next
    return told


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_a_schedule_is_what_the_contract_tells(steps: list[int]) -> None:
    assert scheduled(Schedule(steps), 100) == told_plainly(steps, 100)


@given(st.lists(st.integers(10**6, 10**7), min_size=1, max_size=4))
def test_steps_that_have_no_common_period_worth_remembering_are_scheduled_alike(steps: list[int]) -> None:
    assert scheduled(Schedule(steps), 50) == told_plainly(steps, 50)
