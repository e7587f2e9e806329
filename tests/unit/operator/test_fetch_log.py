"""How far a fetch is, from its log: read seldom, for all at once, and never in anybody's way."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from llm_operator import fetch_log
from llm_operator.core.model_cache.fetch_verdict import PROGRESS_SECONDS
from llm_operator.core.observation import Progress
from llm_operator.fetch_log import FORBIDDEN_SECONDS, FORGET_SECONDS, READS_AT_ONCE, FetchLogs
from llm_operator.kube import Kube
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.virtual_time import Clock

ONE, TWO = ("clinic", "one"), ("clinic", "two")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("llm_operator.fetch_log.time", clock)
    return clock


@pytest.fixture
def woken() -> list[tuple[str, str]]:
    return []


@pytest.fixture
async def logs(kube: Kube, woken: list[tuple[str, str]]) -> AsyncIterator[FetchLogs]:
    logs = FetchLogs(kube, woken.append)
    yield logs
    await logs.stop()
    assert not being_read()


def a_line(done: int) -> str:
    return f'{{"event": "progress", "bytesDone": {done}, "bytesTotal": 100}}\n'


def being_read() -> list[asyncio.Task[None]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("log of ")]


async def read(logs: FetchLogs, *, uid: str = "uid-job", pod: str = "fetch-1") -> Progress | None:
    """What is known once the log has been read, if it is time to read it."""
    logs.progress(ONE, uid, pod)
    await asyncio.gather(*being_read())
    return logs.progress(ONE, uid, pod)


def reads(server: ApiServer) -> int:
    return len([one for one in server.requests if one[1] == "pods"])


async def test_the_last_line_that_tells_it_counts(server: ApiServer, logs: FetchLogs, clock: Clock) -> None:
    server.logs["fetch-1"] = a_line(10) + a_line(40) + "not JSON\n"
    assert await read(logs) == Progress(40, 100)
    assert server.requests == [("GET", "pods", "fetch-1")]


async def test_nobody_waits_for_it_and_who_asked_is_told(
    server: ApiServer, logs: FetchLogs, clock: Clock, woken: list[tuple[str, str]]
) -> None:
    server.logs["fetch-1"] = a_line(10)
    assert [logs.progress(one, "uid-job", "fetch-1") for one in (ONE, TWO, ONE)] == [None] * 3
    await asyncio.gather(*being_read())
    assert sorted(woken) == [ONE, TWO]
    assert logs.progress(TWO, "uid-job", "fetch-1") == Progress(10, 100)
    clock.now += PROGRESS_SECONDS
    woken.clear()
    assert await read(logs) == Progress(10, 100)
    assert woken == [], "nothing is new"


async def test_the_log_is_read_once_in_a_while(server: ApiServer, logs: FetchLogs, clock: Clock) -> None:
    server.logs["fetch-1"] = a_line(10)
    for _ in range(5):
        assert await read(logs) == Progress(10, 100)
    server.logs["fetch-1"] = a_line(50)
    clock.now += PROGRESS_SECONDS / 2
    assert await read(logs) == Progress(10, 100)
    assert reads(server) == 1
    clock.now += PROGRESS_SECONDS / 2
    assert await read(logs) == Progress(50, 100)
    assert reads(server) == 2


async def test_each_fetch_has_its_own(server: ApiServer, logs: FetchLogs, clock: Clock) -> None:
    server.logs |= {"fetch-1": a_line(10), "other-1": a_line(70)}
    assert await read(logs) == Progress(10, 100)
    assert await read(logs, uid="uid-other", pod="other-1") == Progress(70, 100)
    assert reads(server) == 2


async def test_a_log_that_cannot_be_read_leaves_what_was_known(
    server: ApiServer, logs: FetchLogs, clock: Clock
) -> None:
    assert await read(logs) is None, "the container starts"
    clock.now += PROGRESS_SECONDS
    server.logs["fetch-1"] = a_line(10)
    assert await read(logs) == Progress(10, 100)
    for fate in (404, 500, 502, "before", "after"):
        clock.now += PROGRESS_SECONDS
        server.fails = lambda *_, fate=fate: fate  # type: ignore[misc]
        assert await read(logs) == Progress(10, 100), fate
    server.fails = lambda *_: None
    for text in ("", "no progress\n", a_line(-1), '{"bytesDone": 1}\n', "[" * 100_000):
        clock.now += PROGRESS_SECONDS
        server.logs["fetch-1"] = text
        assert await read(logs) == Progress(10, 100), text[:20]


async def test_a_node_that_does_not_answer_is_no_outage_of_the_api_server(
    server: ApiServer, logs: FetchLogs, kube: Kube, clock: Clock
) -> None:
    server.logs["fetch-1"] = a_line(10)
    await read(logs)
    since = kube.api_clock.since
    for fate in (500, "before"):
        clock.now += PROGRESS_SECONDS
        server.fails = lambda *_, fate=fate: fate  # type: ignore[misc]
        await read(logs)
    server.fails = lambda *_: None
    clock.now += PROGRESS_SECONDS
    await read(logs)
    assert kube.api_clock.since == since


async def test_nodes_that_never_answer_are_given_up_and_asked_a_few_at_a_time(
    server: ApiServer, logs: FetchLogs, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_log, "READ_SECONDS", 0.2)
    server.logs["alive"] = a_line(10)
    server.hangs = lambda _, resource, name: resource == "pods" and name.startswith("dead")
    for number in range(2 * READS_AT_ONCE):
        logs.progress(ONE, f"uid-{number}", f"dead-{number}")
    logs.progress(TWO, "uid-alive", "alive")
    await asyncio.gather(*being_read())
    assert logs.progress(TWO, "uid-alive", "alive") == Progress(10, 100)
    assert server.most_at_once <= READS_AT_ONCE


async def test_what_is_being_read_is_given_up_at_the_end(server: ApiServer, logs: FetchLogs, clock: Clock) -> None:
    server.hangs = lambda *_: True
    logs.progress(ONE, "uid-job", "fetch-1")
    await asyncio.wait_for(server.asked.wait(), 30)
    await logs.stop()
    assert not being_read()


async def test_fetches_that_are_over_are_forgotten(server: ApiServer, logs: FetchLogs, clock: Clock) -> None:
    server.logs["fetch-1"] = a_line(10)
    for number in range(20):
        await read(logs, uid=f"uid-{number}")
    clock.now += FORGET_SECONDS
    await read(logs, uid="uid-new")
    server.logs.clear()
    assert await read(logs, uid="uid-0") is None


async def test_it_is_heard_while_it_can_be_read(server: ApiServer, logs: FetchLogs, clock: Clock) -> None:
    assert not logs.is_heard("uid-job")
    server.logs["fetch-1"] = a_line(10)
    await read(logs)
    assert logs.is_heard("uid-job")
    del server.logs["fetch-1"]
    clock.now += PROGRESS_SECONDS
    assert await read(logs) == Progress(10, 100)
    assert not logs.is_heard("uid-job")


async def test_who_may_not_read_logs_seldom_asks(
    server: ApiServer, logs: FetchLogs, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.logs["fetch-1"] = a_line(10)
    server.fails = lambda *_: 403
    for uid in ("one", "two", "one"):
        assert await read(logs, uid=uid) is None
        assert not logs.is_heard(uid)
        clock.now += PROGRESS_SECONDS
    assert reads(server) == 1
    clock.now += FORBIDDEN_SECONDS
    await read(logs)
    assert reads(server) == 2
    assert len(caplog.records) == 1
    server.fails = lambda *_: None
    clock.now += FORBIDDEN_SECONDS
    assert await read(logs) == Progress(10, 100)
