"""How far a fetch is, as reconcile.py reads it from the log: seldom, for all at once, and never in the way."""

from dataclasses import replace

import pytest

from llm_operator.core.model import Observation, Progress
from llm_operator.kube import Kube
from llm_operator.reconcile import FORGET_FETCH_SECONDS, PROGRESS_SECONDS, Reconciler
from llm_operator.store import Store
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.builders import (
    SETTINGS,
    a_cached_spec,
    a_claim,
    a_fetch,
    a_fetch_pod,
    a_parent,
    an_observation,
)


class Clock:
    """The process's own time, as far as the reconciler sees it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("llm_operator.reconcile.time", clock)
    return clock


def a_line(done: int) -> str:
    return f'{{"event": "progress", "bytesDone": {done}, "bytesTotal": 100}}\n'


def fetching(*, job: str = "uid-job", pod: str = "fetch-1", **over: object) -> Observation:
    fetch = a_fetch()
    fetch["metadata"]["uid"] = job
    observation = an_observation(
        parent=a_parent(spec=a_cached_spec()), claim=a_claim(), fetch=fetch, fetch_pods=(a_fetch_pod(name=pod),)
    )
    return replace(observation, **over)  # type: ignore[arg-type]


def reads(server: ApiServer) -> int:
    return len([one for one in server.requests if one[1] == "pods"])


@pytest.fixture
def reconciler(kube: Kube) -> Reconciler:
    return Reconciler(kube, Store(), SETTINGS)


async def test_the_last_line_that_tells_it_counts(server: ApiServer, reconciler: Reconciler, clock: Clock) -> None:
    server.logs["fetch-1"] = a_line(10) + a_line(40) + "not JSON\n"
    assert await reconciler._progress(fetching()) == Progress(40, 100)
    assert server.requests == [("GET", "pods", "fetch-1")]


async def test_the_log_is_read_once_in_a_while(server: ApiServer, reconciler: Reconciler, clock: Clock) -> None:
    server.logs["fetch-1"] = a_line(10)
    for _ in range(5):
        assert await reconciler._progress(fetching()) == Progress(10, 100)
    server.logs["fetch-1"] = a_line(50)
    clock.now += PROGRESS_SECONDS / 2
    assert await reconciler._progress(fetching()) == Progress(10, 100)
    assert reads(server) == 1
    clock.now += PROGRESS_SECONDS / 2
    assert await reconciler._progress(fetching()) == Progress(50, 100)
    assert reads(server) == 2


async def test_all_that_wait_for_the_same_fetch_are_told_by_one_read(
    server: ApiServer, reconciler: Reconciler, clock: Clock
) -> None:
    server.logs |= {"fetch-1": a_line(10), "other-1": a_line(70)}
    other = fetching(parent=a_parent(name="other", uid="uid-other", spec=a_cached_spec()))
    assert [await reconciler._progress(one) for one in (fetching(), other)] == [Progress(10, 100)] * 2
    assert await reconciler._progress(fetching(job="uid-other", pod="other-1")) == Progress(70, 100)
    assert reads(server) == 2


async def test_a_log_that_cannot_be_read_leaves_what_was_known(
    server: ApiServer, reconciler: Reconciler, clock: Clock
) -> None:
    assert await reconciler._progress(fetching()) is None, "the container starts"
    clock.now += PROGRESS_SECONDS
    server.logs["fetch-1"] = a_line(10)
    assert await reconciler._progress(fetching()) == Progress(10, 100)
    for fate in (404, 500, 502, "before", "after"):
        clock.now += PROGRESS_SECONDS
        server.fails = lambda *_, fate=fate: fate  # type: ignore[misc]
        assert await reconciler._progress(fetching()) == Progress(10, 100), fate
    server.fails = lambda *_: None
    for text in ("", "no progress\n", a_line(-1), '{"bytesDone": 1}\n', "[" * 100_000):
        clock.now += PROGRESS_SECONDS
        server.logs["fetch-1"] = text
        assert await reconciler._progress(fetching()) == Progress(10, 100), text[:20]


async def test_a_node_that_does_not_answer_is_no_outage_of_the_api_server(
    server: ApiServer, reconciler: Reconciler, kube: Kube, clock: Clock
) -> None:
    server.logs["fetch-1"] = a_line(10)
    await reconciler._progress(fetching())
    since = kube.contact.since
    for fate in (500, "before"):
        clock.now += PROGRESS_SECONDS
        server.fails = lambda *_, fate=fate: fate  # type: ignore[misc]
        await reconciler._progress(fetching())
    server.fails = lambda *_: None
    clock.now += PROGRESS_SECONDS
    await reconciler._progress(fetching())
    assert kube.contact.since == since


@pytest.mark.parametrize(
    "over", [{"fetch": None}, {"fetch_pods": ()}, {"fetch_pods": (a_fetch_pod(1),)}, {"claim": None}]
)
async def test_where_no_pod_works_nothing_is_read(
    server: ApiServer, reconciler: Reconciler, clock: Clock, over: dict[str, object]
) -> None:
    assert await reconciler._progress(fetching(**over)) is None
    assert server.requests == []


async def test_fetches_that_are_over_are_forgotten(server: ApiServer, reconciler: Reconciler, clock: Clock) -> None:
    server.logs["fetch-1"] = a_line(10)
    for number in range(20):
        await reconciler._progress(fetching(job=f"uid-{number}"))
    assert len(reconciler._fetches) == 20
    clock.now += FORGET_FETCH_SECONDS
    await reconciler._progress(fetching(job="uid-new"))
    assert reconciler._fetches.keys() == {"uid-new"}
