import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_operator.workqueue import QueueClosed, WorkQueue


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


async def test_retries_wait_longer_each_time_up_to_the_longest_until_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(first_retry=1, longest_retry=8)
    delays = [queue.retry("a") for _ in range(60)]
    for delay, base in zip(delays, [1, 2, 4, 8, *[8] * 56], strict=True):
        assert 0.8 * base <= delay <= 1.2 * base
    queue.forget("a")
    assert queue.retry("a") <= 1.2
    assert queue.retry("b", at_least=100) == 100
    assert queue.retry("c", first=0.01) <= 0.012
    assert queue.retry("c", first=0.01) >= 0.016, "what does not heal waits longer, too"
    queue.close()


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
