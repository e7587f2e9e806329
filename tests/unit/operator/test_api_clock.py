"""The API server's clock, and since when it has answered."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_operator.api_clock import OUTAGE_SECONDS, Contact
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
def contact(clock: Clock) -> Contact:
    contact = Contact(clock)
    contact.answered(date(NOW))
    return contact


def test_the_time_is_that_of_the_api_server(contact: Contact, clock: Clock) -> None:
    assert contact.now() == NOW
    clock.now += 90
    assert contact.now() == NOW + timedelta(seconds=90)


def test_before_the_first_answer_it_is_this_machines_time() -> None:
    before = datetime.now(UTC)
    assert before <= Contact().now() <= datetime.now(UTC)


@pytest.mark.parametrize("late", [-2, -1, 0, 1, 2])
def test_answers_that_are_on_their_way_for_a_moment_do_not_move_the_time(
    contact: Contact, clock: Clock, late: int
) -> None:
    clock.now += 60
    contact.answered(date(NOW + timedelta(seconds=60 + late)))
    assert contact.now() == NOW + timedelta(seconds=60)


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1), timedelta(seconds=3)])
def test_a_clock_that_is_set_is_followed(contact: Contact, jump: timedelta) -> None:
    contact.answered(date(NOW + jump))
    assert contact.now() == NOW + jump


def test_a_machine_that_slept_learns_the_time_from_the_next_answer(contact: Contact) -> None:
    contact.answered(date(NOW + timedelta(hours=8)))
    assert contact.now() == NOW + timedelta(hours=8)


@pytest.mark.parametrize("header", [None, "", "now", "Fri, 99 Foo 2026 03:04:05 GMT", "Fri, 02 Jan 2026 03:04:99 GMT"])
def test_a_date_that_is_none_changes_nothing(contact: Contact, header: str | None) -> None:
    contact.answered(header)
    assert contact.now() == NOW


def test_without_any_outage_it_has_answered_since_the_process_began(contact: Contact, clock: Clock) -> None:
    """The whole cluster may have been without power until then."""
    clock.now += 3600
    contact.answered(date(NOW + timedelta(hours=1)))
    assert contact.since == NOW


def test_a_clock_that_is_set_does_not_begin_it_anew(contact: Contact) -> None:
    contact.answered(date(NOW + timedelta(hours=8)))
    assert contact.since == NOW


def test_without_a_date_it_begins_with_the_first_answer_by_this_machines_time() -> None:
    contact, before = Contact(), datetime.now(UTC)
    contact.answered(None)
    assert before <= contact.since <= datetime.now(UTC)


@pytest.mark.parametrize(("seconds", "is_outage"), [(OUTAGE_SECONDS - 1, False), (OUTAGE_SECONDS, True), (600, True)])
def test_only_a_long_time_without_an_answer_is_an_outage(
    contact: Contact, clock: Clock, seconds: float, is_outage: bool
) -> None:
    contact.failed()
    clock.now += seconds
    contact.failed()
    contact.answered(date(NOW + timedelta(seconds=seconds)))
    assert contact.since == (NOW + timedelta(seconds=seconds) if is_outage else NOW)


def test_a_failure_among_answers_is_no_outage(contact: Contact, clock: Clock) -> None:
    for _ in range(10):
        contact.failed()
        clock.now += OUTAGE_SECONDS / 2
        contact.answered(None)
    assert contact.since == NOW


def test_silence_is_no_outage_while_nobody_asks(contact: Contact, clock: Clock) -> None:
    clock.now += 3600
    contact.answered(None)
    assert contact.since == NOW


def test_the_second_outage_counts_from_its_own_end(contact: Contact, clock: Clock) -> None:
    for _ in range(2):
        contact.failed()
        clock.now += OUTAGE_SECONDS
        contact.answered(None)
        clock.now += 100
    assert contact.since == NOW + timedelta(seconds=2 * OUTAGE_SECONDS + 100)


def test_an_outage_before_the_first_answer_counts_from_that_answer(clock: Clock) -> None:
    contact = Contact(clock)
    contact.failed()
    clock.now += OUTAGE_SECONDS
    contact.answered(date(NOW))
    assert contact.since == NOW
