"""The note that a process leaves when it is killed."""

import json
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from inference_server.oom_note import OomNote, memory_bytes
from tests.unit.server.running import PATIENCE_SECONDS, ServerProcess


class Use:
    """How much memory is used, as the test says."""

    def __init__(self, used: int | None) -> None:
        self.used = used

    def __call__(self) -> int | None:
        return self.used


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = tmp_path / "termination-log"
    log.write_text("from an earlier run, and longer than what follows" * 99)
    return log


def wait_for(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def noted(log: Path) -> Any:
    return json.loads(log.read_text())


def test_the_note_tells_use_phase_and_time(log: Path) -> None:
    note = OomNote(str(log), measure=Use(53_248_000))
    note.start()
    told = noted(log)
    note.stop()
    assert set(told) == {"memoryBytes", "phase", "at"}
    assert (told["memoryBytes"], told["phase"]) == (53_248_000, "loading")
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(told["at"]) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("used", "told"), [(1_049_999, 1_000_000), (1_050_000, 1_050_000), (900_000, 1_000_000), (None, 1_000_000)]
)
def test_only_growth_is_written(log: Path, used: int | None, told: int) -> None:
    use = Use(1_000_000)
    note = OomNote(str(log), measure=use)
    note.start()
    use.used = used
    note.look()
    assert noted(log)["memoryBytes"] == told
    note.stop()


def test_a_new_phase_is_written(log: Path) -> None:
    use = Use(1_000_000)
    note = OomNote(str(log), measure=use)
    note.start()
    use.used = 900_000
    note.is_serving = lambda: True
    note.look()
    assert (noted(log)["memoryBytes"], noted(log)["phase"]) == (900_000, "serving")
    note.stop()


def test_growth_is_seen_in_the_background_and_every_note_has_one_length(log: Path) -> None:
    use = Use(10)
    note = OomNote(str(log), measure=use)
    note.start()
    length = log.stat().st_size
    use.used = 10**15
    wait_for(lambda: noted(log)["memoryBytes"] == 10**15)
    assert log.stat().st_size == length
    note.stop()


def test_a_stopped_note_is_gone_and_leaves_what_others_write(log: Path) -> None:
    note = OomNote(str(log), measure=Use(10))
    note.start()
    note.stop()
    assert log.read_text() == ""
    log.write_text("the failure")
    note.stop()
    assert log.read_text() == "the failure"


@pytest.mark.parametrize("path", ["missing/file", "."], ids=["no such file", "a folder"])
def test_without_a_termination_log_nothing_is_written(tmp_path: Path, path: str) -> None:
    note = OomNote(str(tmp_path / path))
    note.start()
    note.stop()
    assert list(tmp_path.iterdir()) == []


def test_where_nobody_tells_the_use_nothing_is_noted(log: Path) -> None:
    note = OomNote(str(log), measure=Use(None))
    note.start()
    assert log.read_text() == ""
    note.stop()


def test_the_containers_use_is_preferred_to_that_of_the_process(tmp_path: Path) -> None:
    second, first, status = (tmp_path / name for name in ("memory.current", "usage_in_bytes", "status"))
    assert memory_bytes((second, first), status) is None
    status.write_text("VmPeak:\t   9 kB\nVmRSS:\t    2048 kB\n")
    assert memory_bytes((second, first), status) == 2048 * 1024
    first.write_text("3000000\n")
    assert memory_bytes((second, first), status) == 3_000_000
    second.write_text("4000000\n")
    assert memory_bytes((second, first), status) == 4_000_000
    second.write_text("max")
    assert memory_bytes((second, first), status) == 3_000_000


def test_a_process_without_that_line_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\n")
    assert memory_bytes((), tmp_path / "status") is None


@pytest.mark.parametrize(("ended_by", "leaves"), [(signal.SIGKILL, "serving"), (signal.SIGINT, None)])
def test_the_note_outlives_only_a_process_that_is_killed(
    log: Path, ended_by: signal.Signals, leaves: str | None
) -> None:
    server = ServerProcess(log.parent, TERMINATION_LOG_PATH=str(log), LISTEN_PORT="0")
    try:
        server.wait_ready()
        wait_for(lambda: noted(log)["phase"] == "serving")
        assert noted(log)["memoryBytes"] > 1_000_000
        server.signal(ended_by)
        server.wait_exit()
    finally:
        server.close()
    assert (noted(log)["phase"] if leaves else log.read_text() or None) == leaves
