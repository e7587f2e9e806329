"""The API server's clock, and since when it has answered."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_operator.api_clock import OUTAGE_SECONDS, ApiClock
from tests.unit.operator.builders import NOW


class Clock:
    """This machine's monotonic clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api_clock(clock: Clock) -> ApiClock:
    api_clock = ApiClock(clock)
    api_clock.answered(date(NOW))
    return api_clock


def test_the_time_is_that_of_the_api_server(api_clock: ApiClock, clock: Clock) -> None:
    assert api_clock.now() == NOW
    clock.now += 90
    assert api_clock.now() == NOW + timedelta(seconds=90)


def test_before_the_first_answer_it_is_this_machines_time() -> None:
    before = datetime.now(UTC)
    assert before <= ApiClock().now() <= datetime.now(UTC)


@pytest.mark.parametrize("late", [-2, -1, 0, 1, 2])
def test_answers_that_are_on_their_way_for_a_moment_do_not_move_the_time(
    api_clock: ApiClock, clock: Clock, late: int
) -> None:
    clock.now += 60
    api_clock.answered(date(NOW + timedelta(seconds=60 + late)))
    assert api_clock.now() == NOW + timedelta(seconds=60)


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1), timedelta(seconds=3)])
def test_a_clock_that_is_set_is_followed(api_clock: ApiClock, jump: timedelta) -> None:
    api_clock.answered(date(NOW + jump))
    assert api_clock.now() == NOW + jump


def test_a_machine_that_slept_learns_the_time_from_the_next_answer(api_clock: ApiClock) -> None:
    api_clock.answered(date(NOW + timedelta(hours=8)))
    assert api_clock.now() == NOW + timedelta(hours=8)


@pytest.mark.parametrize("header", [None, "", "now", "Fri, 99 Foo 2026 03:04:05 GMT", "Fri, 02 Jan 2026 03:04:99 GMT"])
def test_a_date_that_is_none_changes_nothing(api_clock: ApiClock, header: str | None) -> None:
    api_clock.answered(header)
    assert api_clock.now() == NOW


def test_without_any_outage_it_has_answered_since_the_process_began(api_clock: ApiClock, clock: Clock) -> None:
    """The whole cluster may have been without power until then."""
    clock.now += 3600
    api_clock.answered(date(NOW + timedelta(hours=1)))
    assert api_clock.since == NOW


def test_a_clock_that_is_set_does_not_begin_it_anew(api_clock: ApiClock) -> None:
    api_clock.answered(date(NOW + timedelta(hours=8)))
    assert api_clock.since == NOW


def test_without_a_date_it_begins_with_the_first_answer_by_this_machines_time() -> None:
    api_clock, before = ApiClock(), datetime.now(UTC)
    api_clock.answered(None)
    assert before <= api_clock.since <= datetime.now(UTC)


@pytest.mark.parametrize(("seconds", "is_outage"), [(OUTAGE_SECONDS - 1, False), (OUTAGE_SECONDS, True), (600, True)])
def test_only_a_long_time_without_an_answer_is_an_outage(
    api_clock: ApiClock, clock: Clock, seconds: float, is_outage: bool
) -> None:
    api_clock.failed()
    clock.now += seconds
    api_clock.failed()
    api_clock.answered(date(NOW + timedelta(seconds=seconds)))
    assert api_clock.since == (NOW + timedelta(seconds=seconds) if is_outage else NOW)


def test_a_failure_among_answers_is_no_outage(api_clock: ApiClock, clock: Clock) -> None:
    for _ in range(10):
        api_clock.failed()
        clock.now += OUTAGE_SECONDS / 2
        api_clock.answered(None)
    assert api_clock.since == NOW


def test_silence_is_no_outage_while_nobody_asks(api_clock: ApiClock, clock: Clock) -> None:
    clock.now += 3600
    api_clock.answered(None)
    assert api_clock.since == NOW


def test_the_second_outage_counts_from_its_own_end(api_clock: ApiClock, clock: Clock) -> None:
    for _ in range(2):
        api_clock.failed()
        clock.now += OUTAGE_SECONDS
        api_clock.answered(None)
        clock.now += 100
    assert api_clock.since == NOW + timedelta(seconds=2 * OUTAGE_SECONDS + 100)


def test_an_outage_before_the_first_answer_counts_from_that_answer(clock: Clock) -> None:
    api_clock = ApiClock(clock)
    api_clock.failed()
    clock.now += OUTAGE_SECONDS
    api_clock.answered(date(NOW))
    assert api_clock.since == NOW
