"""Writes that fail in passing: what a pass did before is known, and the user is told in the API server's words."""

from typing import Any

import pytest

from llm_operator.api.conditions import Cause
from llm_operator.core.revisions.state import State
from llm_operator.kube import SERVICES, ApiError, Kube
from llm_operator.reconcile import Reconciler, Result
from llm_operator.watch_cache import KINDS, WatchCache
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.builders import SETTINGS, UID, a_manifest, a_revision, a_spec, as_stored, rolled_out
from tests.unit.operator.virtual_time import Clock

KEY = ("clinic", "triage")


class World:
    """A revision that answers and is not judged yet, without its Service: a verdict and a write are due."""

    def __init__(self, server: ApiServer, kube: Kube) -> None:
        self.server = server
        self.verdicts: list[str] = []
        self._kube = kube
        spec = a_spec()
        wire = spec.model_dump(by_alias=True, exclude_none=True)
        metadata = {"name": "triage", "namespace": "clinic", "uid": UID, "generation": 2}
        ready = [{"type": "Ready", "status": "True", "reason": "AllReplicasReady", "message": "", **SINCE}]
        status = {"observedGeneration": 1, "conditions": ready}
        server.put({"kind": "LLMDeployment", "metadata": metadata, "spec": wire, "status": status})
        revision = a_revision(State.CANDIDATE, spec=spec)
        server.put(revision.live)
        server.put(as_stored(a_manifest(spec, revision), **rolled_out(spec.replicas)))
        self.reconciler = self.begun()

    def begun(self) -> Reconciler:
        """A process that begins."""
        self.watched = WatchCache()
        for (plural, _), live in self.server.objects.items():
            for resource in KINDS:
                if resource.plural == plural:
                    self.watched.put(resource, live)
        return Reconciler(self._kube, self.watched, SETTINGS, on_verdict=self._judged)

    def _judged(self, outcome: Cause, *_: bool) -> None:
        self.verdicts.append(outcome.reason)

    async def looked(self) -> Result | int:
        """One pass: its result, or the status that it failed with."""
        try:
            return await self.reconciler.reconcile(KEY)
        except ApiError as error:
            return error.status

    def status(self) -> Any:
        return self.server.objects["llmdeployments", "triage"]["status"]

    def conditions(self) -> dict[str, tuple[str, str]]:
        return {one["type"]: (one["status"], one["reason"]) for one in self.status()["conditions"]}

    def events(self) -> list[str]:
        return [one["reason"] for (plural, _), one in self.server.objects.items() if plural == "events"]


SINCE = {"observedGeneration": 1, "lastTransitionTime": "2026-01-02T03:04:05Z"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("llm_operator.reconcile.time", clock)
    return clock


@pytest.fixture
def world(server: ApiServer, kube: Kube) -> World:
    return World(server, kube)


def fail(world: World, fate: int | str, *resources: str) -> None:
    world.server.fails = lambda method, resource: fate if method != "GET" and resource in resources else None


@pytest.mark.parametrize("fate", [500, 503, 429, "before"])
async def test_a_write_that_goes_on_failing_is_told_once_with_its_event(
    world: World, clock: Clock, fate: int | str
) -> None:
    fail(world, fate, "services")
    assert await world.looked() in (fate, 0)
    assert world.events() == [], "it may be over in a moment"
    for _ in range(5):
        clock.now += 2
        assert await world.looked() in (fate, 0)
    assert world.conditions()["Ready"] == ("False", "ApplyFailing")
    assert world.conditions()["Reconciling"] == ("True", "ApplyFailing")
    assert "Stalled" not in world.conditions()
    assert world.status()["observedGeneration"] == 2
    assert world.events() == ["ApplyFailing"]
    told = [one for one in world.server.writes() if one[1] == "llmdeployments"]
    assert len(told) == 1, "what has been told is not written again"


async def test_when_it_is_over_the_status_says_so(world: World, clock: Clock) -> None:
    fail(world, 500, "services")
    await world.looked()
    clock.now += 2
    await world.looked()
    fail(world, 500)
    assert isinstance(await world.looked(), Result)
    assert world.conditions()["Ready"] == ("True", "AllReplicasReady")
    fail(world, 500, "deployments")
    assert isinstance(await world.looked(), Result), "nothing is to be written"


async def test_what_fails_for_a_moment_only_is_not_told_and_counts_anew(world: World, clock: Clock) -> None:
    for _ in range(3):
        fail(world, 500, "services")
        await world.looked()
        world.server.fails = lambda *_: None
        assert isinstance(await world.looked(), Result)
        clock.now += 60
        world.watched.remove(SERVICES, world.server.objects.pop(("services", "triage")))
    assert "ApplyFailing" not in world.events()


async def test_a_write_that_hangs_for_long_is_told_when_it_fails_for_the_first_time(world: World, clock: Clock) -> None:
    def hangs(method: str, resource: str) -> int | None:
        if (method, resource) != ("POST", "services"):
            return None
        clock.now += 10
        return 504

    world.server.fails = hangs
    await world.looked()
    assert world.conditions()["Ready"] == ("False", "ApplyFailing")


async def test_a_conflict_is_no_failure_to_tell(world: World, clock: Clock) -> None:
    fail(world, 409, "services")
    for _ in range(5):
        clock.now += 10
        assert await world.looked() == 409
    assert (world.conditions()["Ready"], world.events()) == (("True", "AllReplicasReady"), [])


async def test_a_verdict_counts_even_if_what_follows_fails(world: World, clock: Clock) -> None:
    fail(world, 503, "services", "llmdeployments")
    for _ in range(4):
        clock.now += 2
        await world.looked()
    assert world.verdicts == ["AllReplicasReady"], "once"


async def test_a_status_that_cannot_be_written_is_written_later(world: World, clock: Clock) -> None:
    """Also by a process that knows nothing of the failure, and without a second event."""
    fail(world, 503, "services", "llmdeployments")
    for _ in range(2):
        clock.now += 2
        assert await world.looked() == 503
    assert world.status()["observedGeneration"] == 1
    fail(world, 503, "services")
    world.reconciler = world.begun()
    for _ in range(2):
        assert await world.looked() == 503
        clock.now += 2
    assert world.conditions()["Ready"] == ("False", "ApplyFailing")
    assert world.events() == ["ApplyFailing"]


async def test_a_status_that_somebody_else_was_faster_with_is_a_conflict(world: World, clock: Clock) -> None:
    fail(world, 500, "services")
    await world.looked()
    clock.now += 2
    world.server.fails = lambda method, resource: (
        {"services": 500, "llmdeployments": 409}.get(resource) if method != "GET" else None
    )
    assert await world.looked() == 409, "looked at again at once"
