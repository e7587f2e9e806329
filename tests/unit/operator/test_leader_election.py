"""Leader election: the rules alone, then several operators against one store in virtual time.

The store stands for the API server: resourceVersions that must match, requests that take time, fail or hang.
"""

import asyncio
import copy
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_operator.core.leadership import Candidate, Sighting, acquisition, held_by_another, release, sight
from llm_operator.kube import ApiError
from llm_operator.leader_election import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    RETRY_SECONDS,
    Leadership,
    LeadershipLost,
    own_identity,
    own_namespace,
    seconds_since_boot,
)
from tests.unit.operator.virtual_time import virtual_time

Lease = dict[str, Any]
US = Candidate("operators", "llm-operator", "us", 15)
DATE = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
WRITTEN = "2026-01-02T03:04:05.000006Z"


def a_lease(holder: str | None, **spec: object) -> Lease:
    return {
        "metadata": {"name": "llm-operator", "resourceVersion": "7"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "acquireTime": "then", **spec},
    }


def claimed(lease: Lease | None, *, seen_for: float = 0) -> Lease | None:
    return acquisition(lease, sight(lease, None, 100 - seen_for), US, now=100, date=DATE)


def test_where_there_is_no_lease_one_is_created() -> None:
    assert claimed(None) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": "operators", "name": "llm-operator"},
        "spec": {
            "holderIdentity": "us",
            "leaseDurationSeconds": 15,
            "acquireTime": WRITTEN,
            "renewTime": WRITTEN,
            "leaseTransitions": 0,
        },
    }


def test_our_own_lease_is_renewed_and_stays_acquired_when_it_was() -> None:
    renewed = claimed(a_lease("us", leaseTransitions=3, strategy="kept"))
    assert renewed == {
        "metadata": {"name": "llm-operator", "resourceVersion": "7"},
        "spec": {
            "holderIdentity": "us",
            "leaseDurationSeconds": 15,
            "acquireTime": "then",
            "renewTime": WRITTEN,
            "leaseTransitions": 3,
            "strategy": "kept",
        },
    }


@pytest.mark.parametrize("holder", ["", None])
def test_a_released_lease_is_taken_at_once(holder: str | None) -> None:
    taken = claimed(a_lease(holder, leaseTransitions=3))
    assert taken is not None
    assert taken["metadata"]["resourceVersion"] == "7"
    assert taken["spec"]["holderIdentity"] == "us"
    assert (taken["spec"]["acquireTime"], taken["spec"]["leaseTransitions"]) == (WRITTEN, 4)


def test_a_lease_without_a_record_is_taken() -> None:
    taken = claimed({"metadata": {"resourceVersion": "7"}})
    assert taken is not None
    assert taken["spec"]["leaseTransitions"] == 0


@pytest.mark.parametrize(("seen_for", "free"), [(0, False), (14.9, False), (15, True)])
def test_another_holder_is_waited_for_from_when_we_saw_it(seen_for: float, free: bool) -> None:
    # The times in the record are decades off either way, and do not matter.
    for renewed in ("1990-01-01T00:00:00.000000Z", "2090-01-01T00:00:00.000000Z"):
        assert (claimed(a_lease("other", renewTime=renewed), seen_for=seen_for) is not None) is free


def test_the_holders_own_duration_counts_and_ours_where_it_names_none() -> None:
    assert claimed(a_lease("other", leaseDurationSeconds=60), seen_for=59) is None
    assert claimed(a_lease("other", leaseDurationSeconds=60), seen_for=60) is not None
    assert claimed(a_lease("other", leaseDurationSeconds=None), seen_for=14) is None
    assert claimed(a_lease("other", leaseDurationSeconds=None), seen_for=15) is not None


def test_a_renewal_starts_the_wait_anew_and_an_annotation_does_not() -> None:
    first = sight(a_lease("other", renewTime="1"), None, 0)
    annotated = {**a_lease("other", renewTime="1"), "metadata": {"resourceVersion": "8", "annotations": {"a": "b"}}}
    assert sight(annotated, first, 5) == first
    assert sight(a_lease("other", renewTime="2"), first, 5) == Sighting(a_lease("other", renewTime="2")["spec"], 5)


def test_a_deleted_lease_does_not_end_the_wait_for_its_holder() -> None:
    seen = sight(None, sight(a_lease("other"), None, 0), 3)
    assert held_by_another(seen, US, 14)
    assert acquisition(None, seen, US, now=14, date=DATE) is None
    assert acquisition(None, seen, US, now=15, date=DATE) is not None


def test_only_the_holder_releases() -> None:
    given_up = release(a_lease("us", leaseTransitions=3), US, date=DATE)
    assert given_up == {
        "metadata": {"name": "llm-operator", "resourceVersion": "7"},
        "spec": {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "acquireTime": "then",
            "renewTime": WRITTEN,
            "leaseTransitions": 3,
        },
    }
    assert release(a_lease("other"), US, date=DATE) is None
    assert release({"metadata": {}}, US, date=DATE) is None
    assert release(None, US, date=DATE) is None


class Server:
    """What all operators talk to."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.requests: list[str] = []
        self._versions = itertools.count(1)

    def store(self, lease: Lease) -> Lease:
        version = str(next(self._versions))
        self.lease = {**copy.deepcopy(lease), "metadata": {**lease["metadata"], "resourceVersion": version}}
        return copy.deepcopy(self.lease)

    @property
    def holder(self) -> str | None:
        return None if self.lease is None else self.lease["spec"]["holderIdentity"]


class Connection:
    """One operator's way to the server: slow, faulty or cut as a test wants it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.on_the_way: Callable[[], float] = lambda: 0.01
        self.fault: Callable[[], ApiError | None] = lambda: None

    def fail(self, status: int, reason: str = "Failed") -> None:
        self.fault = lambda: ApiError(status, reason, "told by the test")

    def heal(self) -> None:
        self.fault = lambda: None

    async def read(self) -> Lease | None:
        await self._send("read")
        lease = copy.deepcopy(self._server.lease)
        await self._receive()
        return lease

    async def create(self, lease: Lease) -> Lease:
        await self._send("create")
        if self._server.lease is not None:
            raise ApiError(409, "AlreadyExists", "it is there")
        stored = self._server.store(lease)
        await self._receive()
        return stored

    async def replace(self, lease: Lease) -> Lease:
        await self._send("replace")
        if self._server.lease is None:
            raise ApiError(404, "NotFound", "it is not there")
        if self._server.lease["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "it has changed")
        stored = self._server.store(lease)
        await self._receive()
        return stored

    async def _send(self, request: str) -> None:
        self._server.requests.append(request)
        await self._receive()

    async def _receive(self) -> None:
        await asyncio.sleep(self.on_the_way())
        error = self.fault()
        if error is not None:
            raise error


class Operator:
    """One process: its clock may be off from all others, and jumps when it was stopped."""

    def __init__(self, server: Server, name: str, *, clock_offset: float = 0.0) -> None:
        self.connection = Connection(server)
        self.stopped_for = clock_offset
        self.leadership = Leadership(
            self.connection,
            namespace="operators",
            identity=name,
            clock=lambda: asyncio.get_running_loop().time() + self.stopped_for,
        )

    async def run(self) -> None:
        await self.leadership.acquire()
        await self.leadership.renew()


@asynccontextmanager
async def running(*operators: Operator) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Each operator does what a process does; at the end they are killed."""
    tasks = [asyncio.create_task(operator.run()) for operator in operators]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def until(true: Callable[[], bool], seconds: float = 60) -> float:
    """Wait for it, and return the seconds that took."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while not true():
        assert loop.time() < start + seconds
        await asyncio.sleep(0.05)
    return loop.time() - start


@virtual_time
async def test_one_of_two_leads_and_the_other_stands_by() -> None:
    server = Server()
    first, second = Operator(server, "first"), Operator(server, "second")
    async with running(first, second):
        await asyncio.sleep(5 * 60)
        assert sorted([first.leadership.valid(), second.leadership.valid()]) == [False, True]
        assert sorted([first.leadership.standing_by(), second.leadership.standing_by()]) == [False, True]


@virtual_time
async def test_a_lease_at_rest_costs_the_leader_one_request_per_period() -> None:
    server = Server()
    async with running(Operator(server, "only")):
        await asyncio.sleep(60)
    assert server.requests[:2] == ["read", "create"]
    assert set(server.requests[2:]) == {"replace"}
    assert len(server.requests) <= 2 + 60 / RETRY_SECONDS


@virtual_time
async def test_after_a_crash_the_standby_waits_for_the_lease_to_run_out() -> None:
    server = Server()
    first, second = Operator(server, "first"), Operator(server, "second")
    async with running(first) as (life,):
        await until(first.leadership.valid)
        async with running(second):
            await asyncio.sleep(10)
            life.cancel()
            waited = await until(second.leadership.valid)
    assert LEASE_SECONDS - RETRY_SECONDS - 1 < waited < LEASE_SECONDS + 2 * RETRY_SECONDS
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


@virtual_time
async def test_a_container_started_again_takes_its_pods_lease_back_at_once() -> None:
    server = Server()
    crashed = Operator(server, "pod-1")
    async with running(crashed):
        await until(crashed.leadership.valid)
    again = Operator(server, "pod-1", clock_offset=-1000)
    async with running(again):
        assert await until(again.leadership.valid) < 1


@virtual_time
async def test_after_a_release_the_standby_leads_at_its_next_look() -> None:
    server = Server()
    first, second = Operator(server, "first"), Operator(server, "second")
    async with running(first) as (life,):
        await until(first.leadership.valid)
        async with running(second):
            await asyncio.sleep(7)
            life.cancel()
            await first.leadership.release()
            assert not first.leadership.valid()
            assert server.holder == ""
            assert await until(second.leadership.valid) < 1.5 * RETRY_SECONDS


@virtual_time
async def test_a_standby_that_ends_leaves_the_lease_and_the_api_server_alone() -> None:
    server = Server()
    first, second = Operator(server, "first"), Operator(server, "second")
    async with running(first):
        await until(first.leadership.valid)
        async with running(second):
            await until(second.leadership.standing_by)
        requests = len(server.requests)
        await second.leadership.release()
        assert len(server.requests) == requests
        await asyncio.sleep(30)
        assert first.leadership.valid()


@virtual_time
async def test_what_was_written_although_no_answer_came_is_released_too() -> None:
    server = Server()
    operator = Operator(server, "only")
    answers = iter([0, 0, 0, 3600])
    operator.connection.on_the_way = lambda: next(answers)
    async with running(operator):
        await until(lambda: server.holder == "only")
    operator.connection.on_the_way = lambda: 0
    await operator.leadership.release()
    assert server.holder == ""


@virtual_time
async def test_a_release_that_cannot_be_told_does_not_hold_up_the_end() -> None:
    server = Server()
    operator = Operator(server, "only")
    async with running(operator):
        await until(operator.leadership.valid)
    operator.connection.on_the_way = lambda: 3600
    await asyncio.wait_for(operator.leadership.release(), 10)
    assert not operator.leadership.valid()


@virtual_time
async def test_a_conflict_is_followed_by_a_look_and_a_renewal() -> None:
    server = Server()
    operator = Operator(server, "only")
    async with running(operator):
        await until(operator.leadership.valid)
        for _ in range(5):
            assert server.lease is not None
            server.store({**server.lease, "metadata": {**server.lease["metadata"], "annotations": {"a": "b"}}})
            await asyncio.sleep(7)
            assert operator.leadership.valid()
        assert server.lease["metadata"]["annotations"] == {"a": "b"}


@virtual_time
async def test_a_deleted_lease_is_made_again_by_its_holder() -> None:
    server = Server()
    first, second = Operator(server, "first"), Operator(server, "second")
    async with running(first):
        await until(first.leadership.valid)
        async with running(second):
            await until(second.leadership.standing_by)
            server.lease = None
            await asyncio.sleep(30)
    assert server.holder == "first"


@virtual_time
async def test_a_leader_that_cannot_renew_ends_before_the_standby_begins() -> None:
    server = Server()
    first, second = Operator(server, "first"), Operator(server, "second")
    async with running(first) as (life,):
        await until(first.leadership.valid)
        async with running(second):
            await asyncio.sleep(10)
            first.connection.fail(503)
            assert await until(lambda: not first.leadership.valid()) <= RENEW_SECONDS
            await until(life.done, 1)
            assert isinstance(life.exception(), LeadershipLost)
            assert not second.leadership.valid()
            await until(second.leadership.valid, LEASE_SECONDS)


@virtual_time
async def test_short_faults_and_single_answers_that_never_come_cost_nothing() -> None:
    server = Server()
    operator = Operator(server, "only")
    async with running(operator):
        await until(operator.leadership.valid)
        for _ in range(5):
            operator.connection.fail(500)
            await asyncio.sleep(RENEW_SECONDS / 2)
            operator.connection.heal()
            await asyncio.sleep(3 * RETRY_SECONDS)
            assert operator.leadership.valid()
        delays = iter([3600.0])
        operator.connection.on_the_way = lambda: next(delays, 0.01)
        await asyncio.sleep(3 * RENEW_SECONDS)
        assert operator.leadership.valid()


@virtual_time
async def test_somebody_elses_name_in_the_lease_ends_the_leader_at_once() -> None:
    server = Server()
    operator = Operator(server, "only")
    async with running(operator) as (life,):
        await until(operator.leadership.valid)
        assert server.lease is not None
        server.store({**server.lease, "spec": {**server.lease["spec"], "holderIdentity": "thief"}})
        await until(life.done, 3 * RETRY_SECONDS)
        assert isinstance(life.exception(), LeadershipLost)
        assert not operator.leadership.valid()
    assert server.holder == "thief"


@virtual_time
async def test_a_stopped_process_knows_at_once_that_it_was_stopped_too_long() -> None:
    server = Server()
    operator = Operator(server, "only")
    async with running(operator) as (life,):
        await until(operator.leadership.valid)
        await asyncio.sleep(5)
        requests = len(server.requests)
        operator.stopped_for += RENEW_SECONDS
        assert not operator.leadership.valid()
        await until(life.done, RETRY_SECONDS + 0.1)
        assert isinstance(life.exception(), LeadershipLost)
        assert len(server.requests) == requests


@virtual_time
async def test_a_renewal_counts_from_its_start_and_not_from_its_answer() -> None:
    server = Server()
    operator = Operator(server, "only")
    async with running(operator) as (life,):
        await until(operator.leadership.valid)

        def stopped_on_the_way() -> float:
            operator.stopped_for += 60
            return 0.01

        operator.connection.on_the_way = stopped_on_the_way
        await until(life.done, 2 * RETRY_SECONDS)
        assert isinstance(life.exception(), LeadershipLost)
    assert server.requests[-1] == "replace"


@virtual_time
async def test_a_lease_that_was_had_too_late_is_not_believed_in() -> None:
    server = Server()
    operator = Operator(server, "only")
    stops = iter([60.0, 0, 0, 0])

    def on_the_way() -> float:
        operator.stopped_for += next(stops, 0)
        return 0.01

    operator.connection.on_the_way = on_the_way
    async with running(operator):
        await until(lambda: server.holder == "only")
        await asyncio.sleep(0.1)
        assert not operator.leadership.valid()
        await until(operator.leadership.valid, 2 * RETRY_SECONDS)


@virtual_time
async def test_missing_rights_are_told_once_with_the_remedy_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    operator = Operator(server, "only")
    operator.connection.fail(403, "Forbidden")
    async with running(operator):
        await asyncio.sleep(60)
        assert not operator.leadership.valid()
        assert not operator.leadership.standing_by()
        (told,) = (record for record in caplog.records if record.levelname == "WARNING")
        assert "LLMOP_LEASE_NAMESPACE" in told.getMessage()
        operator.connection.heal()
        await until(operator.leadership.valid, 2 * RETRY_SECONDS)


@virtual_time
async def test_a_standby_that_hears_nothing_is_no_standby() -> None:
    server = Server()
    first, second = Operator(server, "first"), Operator(server, "second")
    async with running(first):
        await until(first.leadership.valid)
        async with running(second):
            await until(second.leadership.standing_by)
            second.connection.on_the_way = lambda: 3600
            await until(lambda: not second.leadership.standing_by(), LEASE_SECONDS + 1)


@given(seed=st.integers(0, 2**32), operators=st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_whatever_happens_no_two_lead_and_in_the_end_one_does(seed: int, operators: int) -> None:
    """Slow and lost answers, errors, stops, crashes and releases in any order; every clock has a zero of its own."""
    virtual_time(_random_history)(random.Random(seed), operators)


async def _random_history(chance: random.Random, count: int) -> None:
    server = Server()
    alive: dict[asyncio.Task[None], Operator] = {}
    names = itertools.count()

    def start() -> None:
        operator = Operator(server, f"pod-{next(names)}", clock_offset=chance.uniform(-1e6, 1e6))
        operator.connection.on_the_way = lambda: chance.choice([0.01, 0.5, chance.expovariate(0.3), 30])
        alive[asyncio.create_task(operator.run())] = operator

    for _ in range(count):
        start()
    for step in range(1200):
        await asyncio.sleep(0.1)
        assert sum(operator.leadership.valid() for operator in alive.values()) <= 1
        for task in [task for task in alive if task.done()]:
            assert isinstance(task.exception(), LeadershipLost)
            del alive[task]
            start()
        if step % 20 == 0:
            await _disturb(chance, alive)
            while len(alive) < count:
                start()
    for operator in alive.values():
        operator.connection.heal()
        operator.connection.on_the_way = lambda: 0.01
    # Those that were lost meanwhile count as ended: at least one is left, or a new one comes.
    start()
    await until(lambda: any(one.leadership.valid() for task, one in alive.items() if not task.done()), 60)
    for task in alive:
        task.cancel()
    await asyncio.wait(alive)


async def _disturb(chance: random.Random, alive: dict[asyncio.Task[None], Operator]) -> None:
    task, operator = chance.choice(list(alive.items()))
    match chance.randrange(5):
        case 0:
            operator.connection.fail(chance.choice([0, 403, 404, 409, 429, 500, 503]))
        case 1:
            operator.connection.heal()
        case 2 if operator.leadership.valid():
            # Only for who leads: a standby's clock would run ahead of the leader's, which no stop can bring about.
            operator.stopped_for += chance.expovariate(0.1)
        case 3:
            task.cancel()
            del alive[task]
        case 4:
            task.cancel()
            del alive[task]
            await operator.leadership.release()


def test_a_pod_is_known_by_its_name_and_any_other_process_by_one_of_its_own() -> None:
    assert own_identity({"POD_NAME": "llm-operator-1"}) == "llm-operator-1"
    assert own_identity({}) != own_identity({"POD_NAME": ""})


def test_the_namespace_is_the_pods_own_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "namespace"
    assert own_namespace(file) == "llm-operator-system"
    file.write_text("clinic\n")
    assert own_namespace(file) == "clinic"


def test_the_clock_does_not_run_backwards() -> None:
    assert seconds_since_boot() <= seconds_since_boot()
