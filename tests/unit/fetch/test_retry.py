"""When a failed transfer is tried again."""

from datetime import UTC, datetime

import pytest

from inference_server.fetch.failures import Context, Fault, FaultKind, FetchError, classify
from inference_server.fetch.retry import RetryPolicy, parse_retry_after, pause_before_retry

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
PATIENCE = RetryPolicy(tries=6, longest_wait=300)


def an_error(kind: FaultKind, status: int = 0, retry_after: float | None = None) -> FetchError:
    fault = Fault(kind, status=status, retry_after=retry_after)
    return classify(fault, Context("a/b", "main", "https://h", "/m", has_token=False))


BROKEN = an_error(FaultKind.NETWORK)


def pause(error: FetchError, tried: int, jitter: float = 1.0, policy: RetryPolicy = PATIENCE) -> float | None:
    return pause_before_retry(error, tried, policy, lambda: jitter)


def test_pauses_grow_and_then_it_gives_up() -> None:
    assert [pause(BROKEN, tried) for tried in range(1, 7)] == [0.5, 1, 2, 4, 8, None]
    assert pause(BROKEN, 50, policy=RetryPolicy(100, 300)) == 60


def test_chance_takes_up_to_half_of_a_pause_away() -> None:
    assert (pause(BROKEN, 3, 0.0), pause(BROKEN, 3, 0.5)) == (1, 1.5)


def test_a_servers_wish_is_obeyed_up_to_a_limit() -> None:
    limited = an_error(FaultKind.HTTP, 429, 120)
    assert (pause(limited, 1, 0.0), pause(limited, 5, 1.0)) == (120, 121)
    assert pause(an_error(FaultKind.HTTP, 429, 301), 1) is None
    assert pause(an_error(FaultKind.HTTP, 503, 7), 1, 0.0) == 7


def test_what_waiting_cannot_change_is_not_tried_again() -> None:
    assert pause(an_error(FaultKind.HTTP, 404), 1) is None


def test_a_kill_is_tried_twice() -> None:
    assert [pause(an_error(FaultKind.MEMORY), tried) for tried in (1, 2)] == [0.5, None]


def test_damage_is_tried_three_times() -> None:
    damaged = an_error(FaultKind.CHECKSUM)
    assert [pause(damaged, tried) for tried in (1, 2, 3)] == [0.5, 1, None]
    assert pause(damaged, 1, policy=RetryPolicy(1, 300)) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("1.5", 1.5),
        ("-3", 0),
        ("Sat, 31 Jan 2026 12:02:00 GMT", 120),
        ("Sat, 31 Jan 2026 12:02:00", 120),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        (None, None),
    ],
)
def test_both_forms_of_the_header_are_understood(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds
