"""Writes of claims and Jobs by the real client: conflicts, what is gone, refusals, and a process that dies between."""

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from llm_operator.act import Actor, Outcome, depends
from llm_operator.api.conditions import Reason
from llm_operator.core import names
from llm_operator.core.actions import (
    Action,
    Apply,
    Create,
    CreateRevision,
    Delete,
    DeleteRevision,
    Patch,
    SetAdmitted,
    SetVerdict,
)
from llm_operator.core.children.admission import encode
from llm_operator.core.children.service import build_service
from llm_operator.core.model_cache.claim import build_claim
from llm_operator.core.model_cache.fetch_job import build_fetch, fetch_name
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation
from llm_operator.core.ownership import adoption, controls
from llm_operator.core.planner import Plan
from llm_operator.core.revisions.state import State
from llm_operator.kube import CLAIMS, JOBS, ApiError, Kube
from llm_operator.reconcile import Reconciler
from llm_operator.watch_cache import KINDS, WatchCache
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.builders import (
    SETTINGS,
    UID,
    a_cached_spec,
    a_fetch_pod,
    a_manifest,
    a_parent,
    a_revision,
    a_spec,
    an_observation,
    as_stored,
    read,
    running,
)

SPEC = a_cached_spec()
CACHE = SPEC.used_cache
assert CACHE is not None
LABELS = [{"op": "add", "path": "/metadata/labels/seen", "value": "yes"}]


def a_new_claim() -> Manifest:
    assert CACHE is not None
    return build_claim(a_parent(), CACHE, kept_for_others=False)


def a_new_job(name: str = "fetch-1") -> Manifest:
    assert CACHE is not None
    return build_fetch(a_parent(), SPEC, CACHE, name, SETTINGS)


async def carried_out(kube: Kube, watched: WatchCache, observation: Observation, *actions: Any) -> Outcome:
    return await Actor(kube, watched).carry_out(observation, Plan(actions=actions))


async def failure(kube: Kube, observation: Observation, *actions: Any) -> ApiError:
    outcome = await carried_out(kube, WatchCache(), observation, *actions)
    assert outcome.failure is not None
    assert outcome.obstacle is None
    return outcome.failure.error


def seeing(**over: Any) -> Observation:
    return replace(an_observation(parent=a_parent(spec=SPEC)), **over)


async def test_what_is_made_is_known_at_once(server: ApiServer, kube: Kube) -> None:
    watched = WatchCache()
    outcome = await carried_out(kube, watched, seeing(), Create(a_new_claim()), Create(a_new_job()))
    assert outcome.obstacle is None
    assert watched.get(CLAIMS, "clinic", "model-cache") is not None
    assert watched.get(JOBS, "clinic", "fetch-1") is not None
    assert outcome.observation.claim == server.objects["persistentvolumeclaims", "model-cache"]
    assert outcome.observation.fetch == server.objects["jobs", "fetch-1"]


@pytest.mark.parametrize("manifest", [a_new_claim(), a_new_job()], ids=["claim", "job"])
async def test_what_somebody_else_made_meanwhile_is_left_and_looked_at_again(
    server: ApiServer, kube: Kube, manifest: Manifest
) -> None:
    theirs = server.put({**manifest, "metadata": {**manifest["metadata"], "labels": {"whose": "theirs"}}})
    error = await failure(kube, seeing(), Create(manifest), Create(a_new_job("fetch-2")))
    assert (error.status, error.reason) == (409, "AlreadyExists")
    assert list(server.objects.values()) == [theirs], "and nothing after it is done"


@pytest.mark.parametrize("manifest", [a_new_claim(), a_new_job()], ids=["claim", "job"])
async def test_a_change_of_what_has_changed_since_is_a_conflict(
    server: ApiServer, kube: Kube, manifest: Manifest
) -> None:
    old = server.put(manifest)
    new = server.put(old)
    for action in (Patch(old, tuple(LABELS)), Delete(old)):
        assert (await failure(kube, seeing(), action)).status == 409
    assert list(server.objects.values()) == [new]


async def test_a_change_of_what_is_gone_is_looked_at_again_and_its_end_is_no_news(
    server: ApiServer, kube: Kube
) -> None:
    job = server.put(a_new_job())
    server.objects.clear()
    assert (await failure(kube, seeing(fetch=job), Patch(job, tuple(LABELS)))).status == 404
    outcome = await carried_out(kube, WatchCache(), seeing(fetch=job), Delete(job))
    assert (outcome.obstacle, outcome.observation.fetch) == (None, None)


async def test_a_job_of_the_same_name_made_since_is_not_discarded(server: ApiServer, kube: Kube) -> None:
    old = server.put(a_new_job())
    server.put({**a_new_job(), "metadata": {**a_new_job()["metadata"], "uid": "uid-another"}})
    assert (await failure(kube, seeing(fetch=old), Delete(old))).status == 409
    assert server.objects["jobs", "fetch-1"]["metadata"]["uid"] == "uid-another"


async def test_only_the_declared_fetch_is_seen_as_such(server: ApiServer, kube: Kube) -> None:
    declared, other = server.put(a_new_job()), server.put(a_new_job("fetch-2"))
    watched = WatchCache()
    observation = seeing(fetch=declared, fetch_pods=(a_fetch_pod(),), other_fetches=(other,))
    outcome = await carried_out(kube, watched, observation, Patch(other, tuple(LABELS)))
    assert outcome.observation.fetch is declared
    other = server.objects["jobs", "fetch-2"]
    outcome = await carried_out(kube, watched, observation, Delete(other))
    assert (outcome.observation.fetch, len(outcome.observation.fetch_pods)) == (declared, 1)
    assert watched.get(JOBS, "clinic", "fetch-2") is None
    outcome = await carried_out(kube, watched, observation, Patch(declared, tuple(LABELS)))
    assert outcome.observation.fetch == server.objects["jobs", "fetch-1"]
    outcome = await carried_out(kube, watched, outcome.observation, Delete(outcome.observation.fetch))
    assert (outcome.observation.fetch, outcome.observation.fetch_pods) == (None, ())


async def test_a_job_that_prunes_is_not_taken_for_the_fetch(server: ApiServer, kube: Kube) -> None:
    job = a_new_job("prune-1")
    job["metadata"]["labels"] = {names.PRUNE: "prune-1"}
    outcome = await carried_out(kube, WatchCache(), seeing(), Create(job, optional=True))
    assert outcome.observation.fetch is None
    assert ("jobs", "prune-1") in server.objects


@pytest.mark.parametrize("status", [400, 403, 422])
@pytest.mark.parametrize("what", ["make", "amend", "discard"])
async def test_a_refusal_is_told_with_the_object(server: ApiServer, kube: Kube, status: int, what: str) -> None:
    job = server.put(a_new_job())
    server.fails = lambda method, _: status if method != "GET" else None
    action = {"make": Create(a_new_job("fetch-2")), "amend": Patch(job, tuple(LABELS)), "discard": Delete(job)}[what]
    outcome = await carried_out(kube, WatchCache(), seeing(), action, Create(a_new_claim()))
    assert outcome.obstacle is not None
    assert outcome.obstacle.reason is Reason.APPLY_REFUSED
    assert ("fetch-2" if what == "make" else "fetch-1") in outcome.obstacle.message
    # Where an old Job could not be discarded, none takes its place.
    assert (outcome.done, len(server.writes())) == ((), 1 if what == "discard" else 2)


async def test_what_is_optional_may_be_refused(server: ApiServer, kube: Kube, caplog: pytest.LogCaptureFixture) -> None:
    server.fails = lambda _, resource: 403 if resource == "jobs" else None
    with caplog.at_level(logging.WARNING):
        outcome = await carried_out(
            kube, WatchCache(), seeing(), Create(a_new_job(), optional=True), Create(a_new_claim())
        )
    assert outcome.obstacle is None
    assert [one.manifest["kind"] for one in outcome.done] == ["PersistentVolumeClaim"]
    assert "fetch-1" in caplog.text


async def test_a_warning_of_a_change_is_in_the_log(
    server: ApiServer, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    claim = server.put(a_new_claim())
    with caplog.at_level(logging.WARNING):
        await carried_out(kube, WatchCache(), seeing(claim=claim), Patch(claim, tuple(LABELS), warning="Job x failed"))
    assert "Job x failed" in caplog.text


@pytest.mark.parametrize("status", [404, 409, 429, 500, 503])
async def test_what_may_pass_is_left_to_another_attempt(server: ApiServer, kube: Kube, status: int) -> None:
    server.fails = lambda method, _: status if method == "POST" else None
    outcome = await carried_out(kube, WatchCache(), seeing(), Create(a_new_job(), optional=True))
    assert outcome.failure is not None
    assert (outcome.failure.error.status, outcome.failure.cause) == (status, None), "nobody needs to see to that"


@pytest.mark.parametrize(("status", "told"), [(404, False), (409, False), (429, True), (500, True), ("before", True)])
async def test_what_was_done_before_a_failure_is_known_and_the_failure_is_told_in_the_servers_words(
    server: ApiServer, kube: Kube, status: int | str, told: bool
) -> None:
    job = server.put(a_new_job("fetch-old"))
    server.fails = lambda method, resource: status if (method, resource) == ("POST", "jobs") else None
    plan = (Create(a_new_claim()), Create(a_new_job()), Delete(job))
    outcome = await carried_out(kube, WatchCache(), seeing(), *plan)
    assert (outcome.done, outcome.obstacle) == (plan[:1], None)
    assert outcome.observation.claim == server.objects["persistentvolumeclaims", "model-cache"]
    assert ("jobs", "fetch-old") in server.objects, "what follows may depend on it"
    assert outcome.failure is not None
    cause = outcome.failure.cause
    assert (cause is not None) is told
    if cause is not None:
        assert cause.reason is Reason.APPLY_FAILING
        assert cause.message.startswith("Job fetch-1 could not be written")
        assert ("as the test wants it" if isinstance(status, int) else "Server") in cause.message


# A process that dies between two writes, or before it hears of one.


class Deaths:
    """The n-th write is the last: its connection breaks before or after it is stored."""

    def __init__(self, number: int, when: str) -> None:
        self.left, self.when = number, when

    def __call__(self, method: str, resource: str) -> str | None:
        if method == "GET" or resource == "events":
            return None
        self.left -= 1
        return self.when if self.left == 0 else None


async def passes(server: ApiServer, kube: Kube, count: int = 8) -> None:
    """What one process does, from its beginning: it lists everything, and looks until it is at rest."""
    watched = WatchCache()
    for (plural, _), live in server.objects.items():
        resource = next((one for one in KINDS if one.plural == plural), None)
        if resource is not None:
            watched.put(resource, live)
    reconciler = Reconciler(kube, watched, SETTINGS)
    for _ in range(count):
        await reconciler.reconcile(("clinic", "triage"))


def declared(server: ApiServer) -> None:
    spec = {"mode": "qwen", "cache": {}, "replicas": 1}
    metadata = {"name": "triage", "namespace": "clinic", "uid": UID}
    server.put({"kind": "LLMDeployment", "metadata": metadata, "spec": spec, "status": {"observedGeneration": -1}})


def made(server: ApiServer) -> set[tuple[str, str]]:
    return {key for key in server.objects if key[0] != "events"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 5))
async def test_whenever_it_dies_the_next_one_ends_with_the_same_objects(
    server: ApiServer, kube: Kube, number: int, when: str
) -> None:
    declared(server)
    server.fails = Deaths(number, when)
    with suppress(ApiError):
        await passes(server, kube)
    assert server.fails.left <= 0, "it died"
    server.fails = lambda *_: None
    await passes(server, kube)
    fetch = fetch_name(SPEC, server.objects["persistentvolumeclaims", "model-cache"], SETTINGS)
    records = [name for resource, name in made(server) if resource == "controllerrevisions"]
    assert len(records) == 1
    assert made(server) == {
        ("llmdeployments", "triage"),
        ("services", "triage"),
        ("persistentvolumeclaims", "model-cache"),
        ("controllerrevisions", records[0]),
        ("jobs", fetch),
    }
    before = len(server.writes())
    await passes(server, kube)
    assert [one for one in server.writes()[before:] if one[1] != "events"] == []


# A refused child holds up only what depends on it.


def a_plan(live: Observation) -> dict[str, Action]:
    """One action of each kind, the safest first; the verdict is about what runs."""
    good, bad = a_revision(State.GOOD, number=1), a_revision(number=2, spec=a_spec(image="b:1"))
    assert live.deployment is not None
    new = a_revision(number=3, spec=a_spec(image="c:1")).live
    return {
        "record": CreateRevision({**new, "metadata": {**new["metadata"], "name": "triage-new"}}),
        "judge": SetVerdict(bad.live, "{}", rejects=True),
        "change": Apply(a_manifest(a_spec(), good), live.deployment, "spec.template", (LABELS[0],), is_change=True),
        "service": Apply(build_service(a_parent()), None),
        "claim": Create(a_new_claim()),
        "job": Create(a_new_job()),
        "discard": Delete(a_new_job("fetch-old")),
        "forget": DeleteRevision(good.live),
    }


@pytest.mark.parametrize(
    ("refused", "held_up"),
    [
        ("controllerrevisions", {"record", "judge", "change", "job", "discard", "forget"}),
        ("deployments", {"change"}),
        ("services", {"service"}),
        ("persistentvolumeclaims", {"claim"}),
        ("jobs", {"job", "discard"}),
    ],
)
async def test_a_refused_child_holds_up_only_what_depends_on_it(
    server: ApiServer, kube: Kube, refused: str, held_up: set[str]
) -> None:
    bad = a_revision(number=2, spec=a_spec(image="b:1"))
    observation = running(a_spec(), bad)
    assert observation.deployment is not None
    actions = a_plan(replace(observation, deployment=server.put(observation.deployment)))
    for name in ("judge", "forget", "discard"):
        one = actions[name]
        assert isinstance(one, (SetVerdict, DeleteRevision, Delete))
        actions[name] = replace(one, live=server.put(one.live))
    server.fails = lambda method, resource: 403 if method != "GET" and resource == refused else None
    outcome = await carried_out(kube, WatchCache(), observation, *actions.values())
    assert outcome.failure is None
    assert outcome.obstacle is not None
    assert outcome.obstacle.reason is Reason.APPLY_REFUSED
    assert {name for name, one in actions.items() if one not in outcome.done} == held_up


async def test_a_repair_of_what_runs_does_not_wait_for_a_verdict(server: ApiServer, kube: Kube) -> None:
    observation = running(a_spec(), a_revision())
    assert observation.deployment is not None
    live = server.put(observation.deployment)
    repair = Apply(a_manifest(), live, "spec.paused", (LABELS[0],))
    server.fails = lambda method, resource: 403 if resource == "controllerrevisions" and method != "GET" else None
    outcome = await carried_out(kube, WatchCache(), observation, a_plan(observation)["record"], repair)
    assert outcome.done == (repair,)
    assert depends(Apply(a_manifest(), None), a_plan(observation)["record"]), "but nothing starts unrecorded"


async def test_what_admission_made_of_a_write_is_known_told_once_and_recorded(server: ApiServer, kube: Kube) -> None:
    desired = a_manifest()
    changed = as_stored(desired)
    changed["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    live = server.put(changed)
    # Its patch changes nothing: so the answer is what a webhook made of it.
    write = Apply(desired, live, "spec", (LABELS[0],))
    outcome = await carried_out(kube, WatchCache(), an_observation(), write)
    known = outcome.observation.admitted["Deployment"]
    assert list(known.accepted) == ["spec.template.spec.containers[server].imagePullPolicy"]
    (event,) = [one for (kind, _), one in server.objects.items() if kind == "events"]
    assert event["reason"] == Reason.CHANGED_BY_ADMISSION
    assert "containers[server].imagePullPolicy of Deployment triage" in event["note"]
    again = replace(write, live=server.objects["deployments", "triage"], accepted=known.accepted)
    await carried_out(kube, WatchCache(), outcome.observation, again)
    assert len([one for one in server.writes() if one[1] == "events"]) == 1
    record = server.put(a_revision().live)
    outcome = await carried_out(kube, WatchCache(), outcome.observation, SetAdmitted(record, encode(known.accepted)))
    assert read(server.objects["controllerrevisions", record["metadata"]["name"]]).admitted == known.accepted


async def test_an_orphan_gets_its_new_owner(server: ApiServer, kube: Kube) -> None:
    orphan = as_stored(build_service(a_parent()))
    orphan["metadata"]["ownerReferences"] = []
    outcome = await carried_out(kube, WatchCache(), an_observation(), adoption(a_parent(), server.put(orphan)))
    assert outcome.obstacle is None
    assert controls(a_parent(), server.objects["services", "triage"])
