import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_operator.workqueue import FAIR_SHARE, Pace, QueueClosed, WorkQueue
from tests.unit.operator.virtual_time import virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_key_added_many_times_comes_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(1000):
        queue.add("a")
    assert queue.depth() == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert queue.depth() == 0


async def test_a_key_added_while_worked_on_comes_again_but_never_to_two_workers() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.add("a")
    assert queue.depth() == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert queue.depth() == 0


async def test_a_delayed_key_comes_at_the_earliest_of_its_times() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 60)
    queue.add_after("a", 0.01)
    queue.add_after("a", 60)
    assert await asyncio.wait_for(queue.get(), 5) == "a"
    queue.close()


QUICK, SLOW = Pace(first=0.01, longest=60), Pace(first=1, longest=60)


@virtual_time
async def test_a_retry_waits_as_long_as_it_has_failed_up_to_the_longest_until_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waited = []
    for _ in range(12):
        began = now()
        delay = queue.retry("a", SLOW)
        assert await queue.get() == "a"
        queue.done("a")
        waited.append(now() - began)
        assert waited[-1] == pytest.approx(delay)
    assert waited[0] <= 1.2
    # Doubled, and with jitter of a fifth to either side in both: at most (1 + 0.8) * 1.2 / 0.8.
    assert all(later < 2.71 * earlier for earlier, later in pairwise(waited[1:])), "it grows as time goes on"
    assert all(0.8 * 60 <= one <= 1.2 * 60 for one in waited[-3:])
    queue.forget("a")
    assert queue.retry("a", SLOW) <= 1.2
    assert queue.retry("b", SLOW, at_least=100) == 100


@virtual_time
async def test_events_that_bring_a_failing_key_again_and_again_do_not_make_it_wait_longer() -> None:
    """After 50 failures within half a second it is tried again as soon as after one."""
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(50):
        delay = queue.retry("a", SLOW)
        queue.add("a")
        await queue.get()
        queue.done("a")
        await asyncio.sleep(0.01)
    assert delay <= 1.2
    assert await queue.get() == "a", "and at the time that was set first"
    assert now() <= 1.2


@virtual_time
async def test_each_kind_of_failure_has_its_own_pace() -> None:
    """A conflict after a long outage of a webhook is cured by another look; conflicts for a minute are not."""
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(60):
        assert queue.retry("a", QUICK) <= 0.012
        queue.retry("a", SLOW)
        await asyncio.sleep(1)
    assert queue.retry("a", SLOW) >= 0.8 * 60, "a conflict between does not end the series"
    assert queue.retry("b", QUICK) <= 0.012
    await asyncio.sleep(60)
    assert queue.retry("b", QUICK) >= 0.8 * 60, "what does not heal waits longer, too"


async def test_a_closed_queue_sends_every_worker_home_and_lets_running_work_finish() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("b")
    assert await queue.get() == "a"
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    queue.add_after("a", 0)
    queue.done("a")
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(one == "b" or isinstance(one, QueueClosed) for one in results)
    with pytest.raises(QueueClosed):
        await queue.get()


async def test_stuck_is_a_key_that_never_ends_or_keys_that_nobody_takes() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert queue.stuck_seconds() == 0
    queue.add("a")
    queue.add("b")
    await asyncio.sleep(0.05)
    assert queue.stuck_seconds() >= 0.05, "nobody takes them"
    await queue.get()
    assert queue.stuck_seconds() < 0.05, "one was taken, so the workers move"
    await asyncio.sleep(0.05)
    assert queue.stuck_seconds() >= 0.05, "it does not end"
    queue.done("a")
    await queue.get()
    queue.done("b")
    assert queue.stuck_seconds() == 0


@given(st.lists(st.sampled_from(["add a", "add b", "work", "done"]), max_size=60))
def test_no_addition_is_ever_lost(steps: list[str]) -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        working: list[str] = []
        owed: set[str] = set()
        for step in steps:
            if step.startswith("add"):
                queue.add(step[-1])
                owed.add(step[-1])
            elif step == "work" and queue.depth():
                key = await queue.get()
                assert key not in working
                working.append(key)
                owed.discard(key)
            elif step == "done" and working:
                queue.done(working.pop(0))
        while working:
            queue.done(working.pop())
        while queue.depth():
            key = await queue.get()
            owed.discard(key)
            queue.done(key)
        assert not owed

    asyncio.run(run())


async def taken(queue: WorkQueue[str], number: int) -> list[str]:
    found = []
    for _ in range(number):
        found.append(await queue.get())
        queue.done(found[-1])
    return found


async def test_who_is_under_way_comes_before_those_that_can_wait() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for number in range(3):
        queue.add(f"new-{number}", can_wait=True)
    queue.add("under-way")
    assert queue.depth() == 4
    assert await taken(queue, 4) == ["under-way", "new-0", "new-1", "new-2"]


async def test_those_that_can_wait_have_their_share_whatever_else_comes() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for number in range(3):
        queue.add(f"new-{number}", can_wait=True)
    found = []
    for _ in range(3 * FAIR_SHARE):
        queue.add("busy-1")
        queue.add("busy-2")
        found += await taken(queue, 1)
    assert [one for one in found if one.startswith("new")] == ["new-0", "new-1", "new-2"]
    assert {index % FAIR_SHARE for index, one in enumerate(found) if one.startswith("new")} == {FAIR_SHARE - 1}


async def test_a_key_that_can_wait_does_not_any_more_once_something_happens_to_it() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "c"):
        queue.add(key, can_wait=True)
    queue.add("c")
    queue.add("c", can_wait=True)
    assert queue.depth() == 3
    assert await taken(queue, 3) == ["c", "a", "b"]


@pytest.mark.parametrize(("added", "can_wait"), [([True], True), ([False, True], False), ([True, False], False)])
async def test_what_is_added_while_worked_on_waits_only_if_all_of_it_can(added: list[bool], can_wait: bool) -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    for one in added:
        queue.add("a", can_wait=one)
    queue.add("b")
    queue.done("a")
    queue.add("c")
    assert await taken(queue, 3) == (["b", "c", "a"] if can_wait else ["b", "a", "c"])


@virtual_time
async def test_the_oldest_is_found_among_both() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", can_wait=True)
    await asyncio.sleep(5)
    queue.add("b")
    assert queue.oldest_age() == queue.stuck_seconds() == 5
    assert await queue.get() == "b"
    await asyncio.sleep(2)
    assert queue.oldest_age() == 7
    assert queue.stuck_seconds() == 2, "one was taken just now"
