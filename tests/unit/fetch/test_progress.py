"""Speed, remaining time, the bar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.fetch.progress import Meter, Snapshot, bar, size


def test_speed_and_remaining_time_are_those_of_the_last_seconds() -> None:
    meter = Meter(1000)
    meter.begin(200, 0)
    assert meter.look(200, 0, "a").eta is None
    slow = meter.look(300, 10, "a")
    assert (slow.done, slow.percent, slow.per_second, slow.eta) == (300, 30, 10, 70)
    for second in range(11, 41):
        slow = meter.look(300 + 20 * (second - 10), second, "a")
    assert (slow.per_second, slow.eta) == (20, 5)


def test_a_download_that_stands_still_has_no_remaining_time_and_a_finished_one_has_none_left() -> None:
    meter = Meter(100)
    meter.begin(0, 0)
    meter.look(50, 1, "a")
    for second in range(2, 40):
        still = meter.look(50, second, "a")
    assert (still.per_second, still.eta) == (0, None)
    assert (meter.look(100, 41, "a").eta, meter.done) == (0, 100)


@given(st.lists(st.integers(0, 200)))
def test_progress_never_goes_back_and_never_beyond_the_whole(seen: list[int]) -> None:
    meter = Meter(100)
    meter.begin(0, 0)
    told = [meter.look(done, second, "a").done for second, done in enumerate(seen)]
    assert told == sorted(told)
    assert all(done <= 100 for done in told)


def test_a_hundred_percent_are_all_bytes() -> None:
    assert Snapshot(999, 1000, 0, None, "").percent == 99
    assert Snapshot(1000, 1000, 0, None, "").percent == 100
    assert Snapshot(0, 0, 0, None, "").percent == 100


def test_the_fields_of_a_line() -> None:
    assert Snapshot(1, 4, 2, 2, "a").as_json() == {
        "bytesDone": 1,
        "bytesTotal": 4,
        "percent": 25,
        "bytesPerSecond": 2,
        "etaSeconds": 2,
        "file": "a",
    }


def test_the_bar() -> None:
    line = bar(Snapshot(4_020_000_000, 8_040_000_000, 95_000_000, 42, "model.safetensors"), 200)
    assert line == f"[{'#' * 15}{'-' * 15}]  50 %  4.0 GB of 8.0 GB  ETA 0:42  95.0 MB/s  model.safetensors"
    assert bar(Snapshot(1, 2, 3, None, "x" * 300), 80) == f"[{'#' * 15}{'-' * 15}]  50 %  1 B of 2 B  ETA -:--  3 B/s"
    assert "ETA -:--" in bar(Snapshot(1, 2, 3, None, ""), 200)
    assert "ETA 2:00:05" in bar(Snapshot(1, 2, 3, 7205, ""), 200)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (80, 5),
        (55, 4),
        (40, 3),
        (25, 2),
        (5, 1),
    ],
)
def test_where_there_is_little_room_the_first_numbers_are_shown_whole(columns: int, shown: int) -> None:
    line = bar(Snapshot(4_020_000_000, 8_040_000_000, 95_000_000, 42, "m.safetensors"), columns)
    assert len(line) <= columns
    numbers = ["50 %", "4.0 GB of 8.0 GB", "ETA 0:42", "95.0 MB/s", "m.safetensors"]
    assert [number for number in numbers if number in line] == numbers[:shown]
    assert bar(Snapshot(1, 2, 3, None, ""), 1) == " "


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (2_100_000, "2.1 MB"), (8_040_000_000, "8.0 GB"), (3e12, "3.0 TB")],
)
def test_sizes_for_people(count: int, shown: str) -> None:
    assert size(count) == shown
