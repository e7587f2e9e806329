from hypothesis import given
from hypothesis import strategies as st

from inference_server.engine.qwen.admission import retry_after, seconds_until_start
from inference_server.engine.qwen.scheduler import Scheduler, Sequence


@given(
    slots=st.integers(1, 4),
    piece=st.integers(1, 8),
    prompts=st.lists(st.integers(1, 20), max_size=10),
    leave=st.lists(st.integers(0, 9), max_size=4),
)
def test_everybody_is_served_in_turn_and_no_slot_is_lost(
    slots: int, piece: int, prompts: list[int], leave: list[int]
) -> None:
    scheduler: Scheduler[Sequence] = Scheduler(slots=slots, piece_tokens=piece)
    everyone = [Sequence(number, [0] * size) for number, size in enumerate(prompts)]
    left = {one.id: 3 for one in everyone}
    admitted: list[int] = []
    for one in everyone:
        scheduler.add(one)
    steps = 0
    while scheduler.running or scheduler.waiting:
        steps += 1
        assert steps < 500
        if steps % 3 == 0 and leave:
            gone = scheduler.find(leave.pop())
            if gone is not None:
                scheduler.remove(gone)
        admitted += [one.id for one in scheduler.admit()]
        assert len({one.slot for one in scheduler.running}) == len(scheduler.running) <= slots
        plan = scheduler.plan()
        if plan.fill is not None:
            assert 0 < plan.piece <= piece
            plan.fill.pending = plan.fill.pending[plan.piece :] or [0]
        for one in plan.advance:
            left[one.id] -= 1
            if not left[one.id]:
                scheduler.remove(one)
    assert admitted == sorted(admitted)


def test_a_running_answer_advances_while_a_long_prompt_is_filled() -> None:
    scheduler: Scheduler[Sequence] = Scheduler(slots=2, piece_tokens=4)
    running, long = Sequence(1, [0]), Sequence(2, [0] * 10)
    scheduler.add(running)
    scheduler.add(long)
    scheduler.admit()
    plan = scheduler.plan()
    assert (plan.fill, plan.piece, plan.advance) == (long, 4, (running,))


def test_deadlines_are_of_those_who_wait_too() -> None:
    scheduler: Scheduler[Sequence] = Scheduler(slots=1, piece_tokens=4)
    late, patient, waiting = Sequence(1, [0], deadline=5), Sequence(2, [0]), Sequence(3, [0], deadline=4)
    for one in (late, patient, waiting):
        scheduler.add(one)
    scheduler.admit()
    assert scheduler.expired(3) == []
    assert scheduler.expired(5) == [late, waiting]
    scheduler.remove(waiting)
    scheduler.remove(waiting)
    assert scheduler.waiting == (patient,)


def test_the_wait_follows_from_what_is_ahead() -> None:
    assert seconds_until_start([], slots=2, tokens_per_second=10) == 0
    assert seconds_until_start([100], slots=2, tokens_per_second=10) == 0
    assert seconds_until_start([100, 50, 20], slots=2, tokens_per_second=10) == 7
    assert seconds_until_start([100, 50], slots=1, tokens_per_second=0) == 0
    assert retry_after([100, 50], tokens_per_second=10) == 5
    assert retry_after([100, 1], tokens_per_second=10) == 1
    assert retry_after([10**9], tokens_per_second=10) == 600
    assert retry_after([], tokens_per_second=10) == 1
