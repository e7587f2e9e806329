"""The gate: nothing of a revision is applied before its model is in the cache."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from llm_operator.api.conditions import ConditionType, Reason
from llm_operator.api.types import LLMDeploymentStatus
from llm_operator.core import names
from llm_operator.core.actions import Apply, Create, CreateRevision, Delete, Patch, SetVerdict
from llm_operator.core.cached_model import COMMIT_MARK, PATH_MARK, CachedModel, encode, needs_model, pinned
from llm_operator.core.children.service import build_service
from llm_operator.core.model_cache.fetch_actions import HELD_OPEN_SECONDS, LONGEST_PAUSE_SECONDS
from llm_operator.core.model_cache.fetch_job import NO_POD_SECONDS, may_be_refused
from llm_operator.core.model_cache.fetch_progress import FAILS_WITHIN
from llm_operator.core.model_cache.fetch_verdict import PROGRESS_SECONDS, UNHEARD_LIMIT
from llm_operator.core.observation import Observation, Progress
from llm_operator.core.planner import Plan, plan
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.target import choose_target
from llm_operator.core.status.conditions import build_status, is_news
from tests.unit.operator.builders import (
    COMMIT,
    NOW,
    SETTINGS,
    UID,
    WEIGHTS,
    a_cached_spec,
    a_claim,
    a_fetch,
    a_fetch_pod,
    a_parent,
    a_revision,
    a_spec,
    after,
    ago,
    an_observation,
    as_stored,
    last_words_of,
    read,
    running,
)
from tests.unit.operator.next_version import NextSpec

PATH = f"/models/Qwen--Qwen3-4B-Thinking-2507/{COMMIT}"
MODEL = CachedModel("Qwen/Qwen3-4B-Thinking-2507", COMMIT, PATH, WEIGHTS, {}, "uid-claim")


def planned(observation: Observation) -> Plan:
    return plan(observation, SETTINGS)


def of_kind(decided: Plan, kind: type) -> list[Any]:
    return [one for one in decided.actions if isinstance(one, kind)]


def verdicts(decided: Plan) -> list[Revision]:
    found = []
    for one in of_kind(decided, SetVerdict):
        annotations = {**one.live["metadata"]["annotations"], names.VERDICT: one.annotation}
        annotations |= {names.MODEL: one.model} if one.model else {}
        found.append(read({**one.live, "metadata": {**one.live["metadata"], "annotations": annotations}}))
    return found


def fetching(
    job: Any = None, *pods: Any, spec: Any = None, state: State = State.CANDIDATE, verdict: Any = None, **over: Any
) -> Observation:
    """A mock serves; a real model was declared a minute ago and is being fetched."""
    spec = spec or a_cached_spec()
    good = a_revision(State.GOOD)
    candidate = a_revision(state, number=2, spec=spec, **(verdict or {}))
    status = {"desiredRevision": candidate.hash, "conditions": []}
    values: dict[str, Any] = {
        "parent": a_parent(spec=spec, status=status),
        "claim": a_claim(),
        "fetch": a_fetch() if job is None else job,
        "fetch_pods": pods,
    }
    return replace(running(a_spec(), good, candidate), **{**values, **over})


def told(observation: Observation) -> dict[str, tuple[str, str]]:
    status = build_status(observation, None)
    LLMDeploymentStatus.model_validate(status, extra="forbid")
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def test_a_new_object_gets_its_claim_first_then_its_fetch_and_no_deployment() -> None:
    first = an_observation(parent=a_parent(spec=a_cached_spec()))
    decided = planned(first)
    assert [one.manifest["kind"] for one in of_kind(decided, Create)] == ["PersistentVolumeClaim"]
    second = after(first, decided)
    assert [one.manifest["kind"] for one in of_kind(planned(second), Create)] == ["Job"]
    assert [one.manifest["kind"] for one in of_kind(decided, Apply)] == ["Service"]
    third = after(second, planned(second))
    assert planned(third).actions == ()
    assert told(third)["Ready"] == ("False", "ModelFetching")
    assert told(third)["ModelCached"] == ("False", "ModelFetching")


def test_what_serves_is_not_touched_while_a_model_is_fetched() -> None:
    observation = fetching(None, a_fetch_pod())
    assert planned(observation).actions == ()
    assert planned(observation).look_again_after == PROGRESS_SECONDS
    assert told(observation)["Available"] == ("True", "ReplicasAvailable")


def test_what_serves_is_scaled_and_repaired_while_a_model_is_fetched() -> None:
    observation = fetching(spec=a_cached_spec(replicas=3))
    (action,) = of_kind(planned(observation), Apply)
    assert action.manifest["spec"]["replicas"] == 3
    assert names.revision_of(action.manifest) == names.revision_of(observation.deployment)


def test_a_model_that_is_there_is_pinned_and_only_then_applied() -> None:
    observation = fetching(None, a_fetch_pod(0, last_words_of()))
    decided = planned(observation)
    (verdict,) = verdicts(decided)
    assert verdict.model is not None
    assert (verdict.model.path, verdict.model.claim) == (PATH, "uid-claim")
    assert verdict.verdict.started_at == NOW, "the servers have all their time"
    (action,) = of_kind(decided, Apply)
    template = action.manifest["spec"]["template"]
    assert not needs_model(template)
    env = {one["name"]: one["value"] for one in template["spec"]["containers"][0]["env"]}
    assert env == {"LLM_MODE": "qwen", "MODEL_PATH": PATH, "HF_HUB_OFFLINE": "1"}
    assert template["metadata"]["annotations"][names.MODEL_COMMIT] == COMMIT
    assert template["spec"]["volumes"][1]["persistentVolumeClaim"] == {"claimName": "model-cache", "readOnly": True}
    assert [type(one) for one in decided.actions].index(SetVerdict) < [type(one) for one in decided.actions].index(
        Apply
    )
    then = after(observation, decided)
    assert planned(then).actions == ()
    assert told(then)["ModelCached"] == ("True", "ModelReady")
    status = build_status(then, None)
    assert status["cache"] == {"phase": "Ready", "progress": "100%", "percent": 100}
    assert status["model"] == {"repository": MODEL.repository, "revision": "main", "commit": COMMIT}


def test_a_newer_operator_and_a_job_that_is_gone_change_nothing() -> None:
    then = after(observation := fetching(None, a_fetch_pod(0, last_words_of())), planned(observation))
    newer = replace(SETTINGS, server_image="registry.example.com/server:2")
    assert plan(replace(then, fetch=None, fetch_pods=()), newer).actions == ()


def test_a_fetch_that_failed_for_good_rejects_with_its_own_reason_and_touches_nothing() -> None:
    observation = fetching(a_fetch("Failed"), a_fetch_pod(22, last_words_of(22, "RepositoryGated")))
    decided = planned(observation)
    (verdict,) = verdicts(decided)
    assert (verdict.state, verdict.verdict.reason) == (State.REJECTED, "RepositoryGated")
    assert verdict.verdict.rollbacks == (), "nothing was rolled back"
    assert decided.is_delicate(observation.parent)
    assert of_kind(decided, Apply) == []
    then = after(observation, decided)
    assert planned(then).actions == ()
    conditions = told(then)
    assert conditions["Ready"] == ("False", "RolledBack")
    assert conditions["RolledBack"] == ("True", "RepositoryGated")
    assert conditions["ModelCached"] == ("False", "RepositoryGated")
    assert build_status(then, None)["cache"] == {"phase": "Failed", "progress": "Failed"}


def test_a_first_install_that_fails_to_fetch_is_stalled_and_starts_nothing() -> None:
    spec = a_cached_spec()
    rejected = a_revision(State.REJECTED, spec=spec, reason="RevisionNotFound")
    observation = an_observation(
        parent=a_parent(spec=spec, status={"conditions": []}),
        revisions=(rejected.live,),
        service=as_stored(build_service(a_parent())),
        claim=a_claim(),
        fetch=a_fetch("Failed"),
    )
    assert planned(observation).actions == ()
    conditions = told(observation)
    assert conditions["Ready"] == ("False", "RevisionNotFound")
    assert conditions["Stalled"] == ("True", "NoKnownGoodRevision")


def test_nobody_is_condemned_right_after_an_outage() -> None:
    job, pod = a_fetch("Failed"), a_fetch_pod(22, last_words_of(22, "RepositoryGated"))
    for spec, pods in (
        (None, (job, pod)),
        (a_cached_spec(resources={"limits": {"memory": "1Gi"}}), (None, a_fetch_pod(0, last_words_of()))),
    ):
        observation = fetching(*pods, spec=spec, contact_since=ago(5))
        assert verdicts(planned(observation)) == []
        assert planned(observation).look_again_after == 25


def test_what_can_pass_has_until_the_deadline() -> None:
    pod = a_fetch_pod(40, last_words_of(40, "RateLimited"))
    observation = fetching(None, pod)
    assert planned(observation).actions == ()
    assert told(observation)["Ready"] == ("False", "RateLimited")
    (verdict,) = verdicts(planned(replace(observation, now=NOW + timedelta(seconds=900))))
    assert (verdict.state, verdict.verdict.reason) == (State.REJECTED, "RateLimited")
    assert "900 s" in verdict.verdict.message


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({}, "ProgressDeadlineExceeded"),
        ({"claim": a_claim(phase="Lost")}, "ClaimLost"),
        ({"fetch": None, "claim": None}, "ClaimPending"),
    ],
)
def test_a_fetch_that_never_ends_is_rejected_at_the_deadline(over: dict[str, Any], reason: str) -> None:
    late = fetching(None, a_fetch_pod(), now=NOW + timedelta(seconds=900), fetch_is_heard=True, **over)
    (verdict,) = verdicts(planned(late))
    assert verdict.verdict.reason == reason


def test_bytes_that_come_move_the_deadline_once_in_a_while() -> None:
    def at(seconds: float, done: int) -> Plan:
        later = NOW + timedelta(seconds=seconds)
        return planned(
            fetching(None, a_fetch_pod(), now=later, fetch_progress=Progress(done, WEIGHTS), fetch_is_heard=True)
        )

    assert at(10, 50).actions == ()
    assert at(500, 0).actions == ()
    for seconds in (500, 901):
        # Far less than a percent of the model.
        (verdict,) = verdicts(at(seconds, 50))
        assert (verdict.state, verdict.verdict.progress) == (State.CANDIDATE, 50)
        assert verdict.verdict.progress_at == NOW + timedelta(seconds=seconds)


def test_a_fetch_at_work_of_which_nothing_is_heard_is_not_condemned_by_the_deadline() -> None:
    def at(time: timedelta, pod: Any) -> list[Revision]:
        return verdicts(planned(fetching(None, pod, now=NOW + time)))

    hours = timedelta(hours=3)
    assert at(hours, a_fetch_pod()) == []
    unready = [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]
    assert at(hours, a_fetch_pod(conditions=unready)) == [], "an injected container is not ready"
    (verdict,) = at(UNHEARD_LIMIT, a_fetch_pod())
    assert verdict.state is State.REJECTED


LOST_NODE = [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "False"}]
PULLING = [{"name": names.FETCH_CONTAINER, "state": {"waiting": {"reason": "ContainerCreating"}}}]


@pytest.mark.parametrize(
    "over",
    [
        {"conditions": LOST_NODE},
        {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        {"containerStatuses": PULLING},
        {"containerStatuses": [*PULLING, {"name": "istio-proxy", "state": {"running": {}}}]},
    ],
    ids=["its node is gone", "so it is", "it does not run yet", "only something else does"],
)
def test_a_fetch_that_is_not_at_work_keeps_the_deadline(over: Any) -> None:
    late = fetching(None, a_fetch_pod(**over), now=NOW + timedelta(seconds=900))
    (verdict,) = verdicts(planned(late))
    assert verdict.state is State.REJECTED


def test_the_reason_of_the_last_try_stays_until_bytes_come() -> None:
    failed = a_fetch_pod(42, last_words_of(42, "HostNotFound"), name="fetch-0")
    again = a_fetch_pod()
    again["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": f"{ago(60):%FT%TZ}"}}
    observation = fetching(None, failed, again)
    assert told(observation)["Ready"] == ("False", "HostNotFound")
    message = next(one["message"] for one in build_status(observation, None)["conditions"] if one["type"] == "Ready")
    assert "It is tried again." in message
    assert build_status(observation, None)["cache"] == {"phase": "Pending", "progress": "Pending"}
    for over in ({"fetch_progress": Progress(0, 10)}, {"now": NOW + FAILS_WITHIN}):
        assert told(replace(observation, **over))["Ready"] == ("False", "ModelFetching")


def test_it_stays_also_where_the_job_was_made_anew() -> None:
    status = build_status(fetching(None, a_fetch_pod(42, last_words_of(42, "HostNotFound"))), None)
    parent = fetching().parent
    observation = fetching(None, parent=replace(parent, status={**parent.status, **status}))
    assert told(observation)["ModelCached"] == ("False", "HostNotFound")
    assert build_status(observation, None)["conditions"] == status["conditions"], "nothing is written"
    edited = replace(observation.parent, generation=parent.generation + 1)
    assert told(replace(observation, parent=edited))["ModelCached"] == ("False", "ModelFetching")


# The pods of a fetch are refused, which an event about its Job tells.

FORBIDDEN = 'Error creating: pods "fetch-1-x2bqz" is forbidden: '
TOO_MUCH = f"{FORBIDDEN}maximum cpu usage per Container is 50m, but limit is 2"
NO_ROOM = f"{FORBIDDEN}exceeded quota: team, requested: limits.cpu=2, used: limits.cpu=9, limited: limits.cpu=10"


def an_event(message: str, *, reason: str = "FailedCreate", at: float = 0) -> Any:
    return {"reason": reason, "note": message, "deprecatedLastTimestamp": f"{ago(at):%FT%TZ}"}


def test_a_clear_no_to_the_pods_of_a_fetch_is_a_proof_and_names_the_field_to_set() -> None:
    observation = fetching(fetch_events=(an_event(TOO_MUCH),))
    assert told(observation)["Ready"] == ("False", "PodCreationRefused")
    message = build_status(observation, None)["conditions"][0]["message"]
    assert planned(observation).suspicion is not None
    later = replace(observation, suspicion=planned(observation).suspicion, now=NOW + timedelta(seconds=10))
    (verdict,) = verdicts(planned(later))
    assert verdict.verdict.reason == "PodCreationRefused"
    assert "spec.model.fetchResources" in verdict.verdict.message
    assert "spec.resources" not in verdict.verdict.message + message
    assert "maximum cpu usage per Container is 50m" in verdict.verdict.message


def test_a_quota_that_others_use_up_is_waited_for_and_told_at_the_deadline() -> None:
    observation = fetching(fetch_events=(an_event(NO_ROOM),))
    assert planned(observation).actions == ()
    assert told(observation)["Ready"] == ("False", "QuotaExceeded")
    assert planned(observation).look_again_after == PROGRESS_SECONDS
    (verdict,) = verdicts(planned(replace(observation, now=NOW + timedelta(seconds=900))))
    assert verdict.verdict.reason == "QuotaExceeded"
    assert "Recreate" not in verdict.verdict.message, "that would make no room for a fetch"


def test_an_old_refusal_says_nothing_once_pods_are_made() -> None:
    made = an_event("Created pod: fetch-1-abcde", reason="SuccessfulCreate", at=5)
    old = an_event(TOO_MUCH, at=60)
    assert told(fetching(fetch_events=(made, old)))["Ready"] == ("False", "ModelFetching")
    assert told(fetching(None, a_fetch_pod(), fetch_events=(old,)))["Ready"] == ("False", "ModelFetching")


def test_events_are_asked_for_only_where_a_job_has_no_pod_for_a_while() -> None:
    later = NOW + timedelta(seconds=NO_POD_SECONDS)
    assert may_be_refused(a_fetch(), (), later)
    assert not may_be_refused(a_fetch(), (), NOW)
    assert not may_be_refused(a_fetch("Failed"), (), later)
    assert not may_be_refused(a_fetch(), (a_fetch_pod(),), later)


def test_what_a_fetch_may_use_is_declared_and_makes_another_job_but_no_other_pods() -> None:
    share = {"limits": {"cpu": "50m", "memory": "512Mi"}}
    spec = a_cached_spec(model={"fetchResources": share})
    container = a_fetch(of=spec)["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == share
    usual = a_fetch()["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert usual["requests"].keys() == usual["limits"].keys() == {"cpu", "memory"}, "as a quota may ask for"
    assert a_fetch(of=spec)["metadata"]["name"] != a_fetch()["metadata"]["name"]
    assert planned(remembering(spec)).actions == (), "the servers have their model"


# Something else in the pod keeps the Job open.


def held_open(code: int, message: str, *, seconds: float, **over: Any) -> Observation:
    """The fetch has ended so many seconds ago, and a container that somebody injected runs on."""
    pod = a_fetch_pod(code, message, at=ago(seconds), phase="Running")
    pod["status"]["containerStatuses"].append({"name": "istio-proxy", "ready": True, "state": {"running": {}}})
    return fetching(None, pod, **over)


@pytest.mark.parametrize("code", [24, 0])
def test_a_fetch_that_failed_for_good_is_rejected_though_its_job_is_open(code: int) -> None:
    observation = held_open(code, last_words_of(code, "RepositoryNotFound" if code else "") if code else "", seconds=0)
    decided = planned(observation)
    (verdict,) = verdicts(decided)
    assert verdict.state is State.REJECTED
    assert verdict.verdict.reason == ("RepositoryNotFound" if code else "FetchFailed")
    assert [type(one) for one in decided.actions] == [SetVerdict, Delete], "it would never end"
    assert planned(after(observation, decided)).actions == ()


def test_where_nothing_good_was_there_the_job_of_a_rejected_fetch_goes_too() -> None:
    spec = a_cached_spec()
    rejected = a_revision(State.REJECTED, spec=spec, reason="RepositoryNotFound")
    observation = replace(
        held_open(24, last_words_of(24, "RepositoryNotFound"), seconds=1),
        deployment=None,
        revisions=(rejected.live,),
    )
    assert planned(observation).actions == ()
    assert (planned(observation).look_again_after or 1e9) <= HELD_OPEN_SECONDS
    later = replace(observation, now=NOW + timedelta(seconds=HELD_OPEN_SECONDS))
    assert [type(one) for one in planned(later).actions] == [Delete]
    assert planned(after(later, planned(later))).actions == (), "and is not made anew"


def test_a_model_that_is_there_is_pinned_though_its_job_is_open_and_then_the_job_goes() -> None:
    observation = held_open(0, last_words_of(), seconds=0)
    first = planned(observation)
    (verdict,) = verdicts(first)
    assert verdict.model is not None
    assert of_kind(first, Delete) == [], "usually it ends a moment later"
    then = after(observation, first)
    assert planned(then).actions == ()
    assert (planned(then).look_again_after or 1e9) <= HELD_OPEN_SECONDS
    later = replace(then, now=NOW + timedelta(seconds=HELD_OPEN_SECONDS))
    assert [type(one) for one in planned(later).actions] == [Delete]
    assert planned(after(later, planned(later))).actions == ()


def test_a_fetch_that_may_be_tried_again_is_made_anew_where_its_job_would_not_do_it() -> None:
    words = last_words_of(40, "RateLimited")
    early = held_open(40, words, seconds=1, verdict={"started_at": ago(60), "progress_at": ago(60)})
    assert planned(early).actions == ()
    assert planned(early).look_again_after == 58, "the pause is as long as the attempt has lasted"
    due = replace(early, now=NOW + timedelta(seconds=58))
    assert [type(one) for one in planned(due).actions] == [Delete]
    then = after(due, planned(due))
    assert [one.manifest["kind"] for one in of_kind(planned(then), Create)] == ["Job"]
    long_ago = held_open(40, words, seconds=0, verdict={"started_at": ago(800), "progress_at": ago(10)})
    assert planned(long_ago).look_again_after == LONGEST_PAUSE_SECONDS


def test_a_retry_token_does_not_meet_the_job_that_is_held_open() -> None:
    spec = a_cached_spec(rollback={"retryToken": "again"})
    open_one = held_open(24, last_words_of(24, "RepositoryNotFound"), seconds=50, spec=spec, state=State.REJECTED)
    observation = replace(open_one, fetch=a_fetch(made=ago(100)))
    decided = planned(observation)
    (verdict,) = verdicts(decided)
    assert (verdict.state, verdict.verdict.attempt) == (State.CANDIDATE, 2)
    assert of_kind(decided, Delete)


def test_a_secret_that_is_missing_is_a_proof_once_it_lasts() -> None:
    state = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "ca" not found'}}
    waiting = [{"name": "fetch", "state": state}]
    observation = fetching(None, a_fetch_pod(phase="Pending", containerStatuses=waiting))
    first = planned(observation)
    assert (first.actions, first.look_again_after) == ((), SETTINGS.confirm_seconds)
    assert first.suspicion is not None
    later = replace(observation, suspicion=first.suspicion, now=NOW + timedelta(seconds=10))
    (verdict,) = verdicts(planned(later))
    assert verdict.verdict.reason == "ContainerConfigError"


def test_a_failure_from_before_the_attempt_is_cleared_away_and_tried_again() -> None:
    old = a_fetch("Failed", made=ago(3600))
    observation = fetching(old, a_fetch_pod(22, last_words_of(22, "RepositoryGated")))
    assert [type(one) for one in planned(observation).actions] == [Delete]
    then = after(observation, planned(observation))
    assert [one.manifest["kind"] for one in of_kind(planned(then), Create)] == ["Job"]


def test_a_fetch_whose_pod_is_gone_is_asked_again() -> None:
    assert [type(one) for one in planned(fetching(a_fetch("Complete"))).actions] == [Delete]


def test_a_job_on_its_way_out_is_left_to_go_first() -> None:
    job = a_fetch()
    job["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    assert planned(fetching(job)).actions == ()


def test_who_shares_a_fetch_becomes_an_owner_of_it() -> None:
    observation = fetching(a_fetch(owner="another"))
    (action,) = planned(observation).actions
    assert isinstance(action, Patch)
    owners = after(observation, planned(observation)).fetch
    assert owners is not None
    assert [one["uid"] for one in owners["metadata"]["ownerReferences"]] == ["another", a_parent().uid]
    assert planned(after(observation, planned(observation))).actions == ()
    assert (
        of_kind(planned(fetching(a_fetch("Complete", owner="another"), a_fetch_pod(0, last_words_of()))), Patch) == []
    )


@pytest.mark.parametrize("seconds", [100, 0])
def test_a_retry_token_has_a_rejected_fetch_tried_once_more(seconds: int) -> None:
    spec = a_cached_spec(rollback={"retryToken": "again"})
    observation = fetching(
        a_fetch("Failed", made=ago(seconds)), spec=spec, state=State.REJECTED, verdict={"reason": "TokenInvalid"}
    )
    decided = planned(observation)
    (verdict,) = verdicts(decided)
    assert (verdict.state, verdict.verdict.attempt) == (State.CANDIDATE, 2)
    assert of_kind(decided, Delete)


def test_an_attempt_that_was_left_aside_begins_anew() -> None:
    observation = fetching()
    aside = replace(observation.parent, status={"desiredRevision": "another", "conditions": []})
    (verdict,) = verdicts(planned(replace(observation, parent=aside)))
    assert verdict.verdict.started_at == NOW


# Memory.


def test_a_limit_that_cannot_hold_the_model_is_refused_before_any_pod_starts() -> None:
    spec = a_cached_spec(resources={"limits": {"memory": "4Gi"}})
    observation = fetching(None, a_fetch_pod(0, last_words_of()), spec=spec)
    decided = planned(observation)
    (verdict,) = verdicts(decided)
    assert (verdict.state, verdict.verdict.reason) == (State.REJECTED, "MemoryLimitTooSmall")
    assert of_kind(decided, Apply) == []
    assert planned(after(observation, decided)).actions == ()


def remembering(spec: Any) -> Observation:
    """A real model serves, and its Job is long gone."""
    old = a_cached_spec()
    good = a_revision(State.GOOD, spec=old).judged(a_revision(State.GOOD, spec=old).verdict, MODEL)
    return replace(
        running(old, read(good.live)), parent=a_parent(spec=spec, status={"conditions": []}), claim=a_claim()
    )


def test_an_edit_of_something_else_fetches_nothing_and_keeps_the_commit() -> None:
    decided = planned(remembering(a_cached_spec(nodeSelector={"disk": "ssd"})))
    (record,) = of_kind(decided, CreateRevision)
    assert record.manifest["metadata"]["annotations"][names.MODEL] == encode(MODEL)
    assert [type(one) for one in decided.actions] == [CreateRevision, Apply]
    assert PATH in str(of_kind(decided, Apply)[0].manifest)


def test_a_remembered_model_that_does_not_fit_is_refused_without_a_fetch() -> None:
    observation = remembering(a_cached_spec(resources={"limits": {"memory": "1Gi"}}))
    decided = planned(observation)
    assert [type(one) for one in decided.actions] == [CreateRevision]
    (verdict,) = verdicts(planned(after(observation, decided)))
    assert verdict.verdict.reason == "MemoryLimitTooSmall"


@pytest.mark.parametrize(
    "over", [{"claim": a_claim(uid="another")}, {"parent": a_parent(spec=a_cached_spec(model={"revision": "v2"}))}]
)
def test_another_claim_or_model_is_fetched(over: dict[str, Any]) -> None:
    observation = replace(remembering(a_cached_spec(nodeSelector={"disk": "ssd"})), **over)
    assert [one.manifest["kind"] for one in of_kind(planned(observation), Create)] == ["Job"]


# Odd worlds.


def test_a_model_that_comes_after_all_is_applied_where_nothing_good_was_there() -> None:
    spec = a_cached_spec()
    rejected = a_revision(State.REJECTED, spec=spec, reason="RateLimited")
    observation = an_observation(
        parent=a_parent(spec=spec, status={"conditions": []}),
        revisions=(rejected.live,),
        service=as_stored(build_service(a_parent())),
        claim=a_claim(),
        fetch=a_fetch("Complete"),
        fetch_pods=(a_fetch_pod(0, last_words_of()),),
    )
    decided = planned(observation)
    assert verdicts(decided)[0].state is State.REJECTED
    assert len(of_kind(decided, Apply)) == 1
    small = a_cached_spec(resources={"limits": {"memory": "1Gi"}})
    rejected = a_revision(State.REJECTED, spec=small, reason="MemoryLimitTooSmall")
    observation = replace(
        observation, parent=a_parent(spec=small, status={"conditions": []}), revisions=(rejected.live,)
    )
    assert planned(observation).actions == ()


def test_with_no_replicas_the_model_is_fetched_and_no_time_passes() -> None:
    spec = a_cached_spec(replicas=0)
    late = fetching(None, a_fetch_pod(), spec=spec, now=NOW + timedelta(days=1))
    (verdict,) = verdicts(planned(late))
    assert (verdict.state, verdict.verdict.started_at) == (State.CANDIDATE, None)
    assert verdicts(planned(after(late, planned(late)))) == []
    there = after(late, planned(late))
    there = replace(there, fetch_pods=(a_fetch_pod(0, last_words_of()),))
    (verdict,) = verdicts(planned(there))
    assert verdict.verdict.started_at is None
    assert verdict.model is not None


def test_a_good_revision_that_lost_its_pin_is_fetched_again_and_never_blamed() -> None:
    spec = a_cached_spec()
    good = a_revision(State.GOOD, spec=spec)
    observation = replace(running(spec, good), claim=a_claim(), fetch=a_fetch("Failed"), now=NOW + timedelta(days=9))
    assert verdicts(planned(observation)) == []
    assert of_kind(planned(observation), Apply) == []
    assert of_kind(planned(replace(observation, fetch=None)), Create)
    (verdict,) = verdicts(planned(replace(observation, fetch=a_fetch(), fetch_pods=(a_fetch_pod(0, last_words_of()),))))
    assert verdict.state is State.GOOD


def test_while_nothing_can_be_fetched_the_claim_is_blamed() -> None:
    unbound = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "unbound claims"}
    pod = a_fetch_pod(phase="Pending", containerStatuses=[], conditions=[unbound])
    assert told(fetching(None, pod, claim=a_claim(phase="Pending")))["Ready"] == ("False", "ClaimPending")
    assert told(fetching(None, pod))["Ready"] == ("False", "Unschedulable")
    lost = fetching(claim=a_claim(phase="Lost"), fetch=None)
    assert planned(lost).actions == ()
    assert told(lost)["Ready"] == ("False", "ClaimLost")


def test_a_claim_that_is_not_ours_is_looked_at_from_time_to_time() -> None:
    observation = replace(fetching(claim=a_claim(ours=False)), fetch=None)
    assert planned(observation).look_again_after == 30


def test_a_cache_that_is_lost_under_a_good_revision_is_told() -> None:
    observation = remembering(a_cached_spec())
    assert told(observation)["ModelCached"] == ("True", "ModelReady")
    anew = replace(observation, claim=a_claim(uid="another"))
    assert told(anew)["ModelCached"] == ("False", "ClaimLost")
    assert told(replace(anew, fetch=a_fetch()))["ModelCached"] == ("False", "ModelFetching")
    assert told(replace(observation, claim=a_claim(phase="Lost")))["ModelCached"] == ("False", "ClaimLost")
    assert build_status(replace(observation, claim=a_claim(phase="Lost")), None)["cache"]["phase"] == "Pending"


def test_growth_comes_last_so_that_a_refusal_of_it_holds_up_nothing() -> None:
    observation = remembering(a_cached_spec(nodeSelector={"disk": "ssd"}, cache={"size": "40Gi"}))
    assert isinstance(planned(observation).actions[-1], Patch)


def test_progress_is_no_news_and_a_phase_is() -> None:
    one, two = (build_status(fetching(None, a_fetch_pod(), fetch_progress=Progress(done, 10)), None) for done in (1, 9))
    assert one["cache"] == {"phase": "Fetching", "progress": "10%", "bytesDone": 1, "bytesTotal": 10, "percent": 10}
    assert not is_news(one, two)
    assert is_news(one, {**one, "cache": {"phase": "Ready"}})


def test_a_mock_has_neither_model_nor_cache() -> None:
    status = build_status(running(a_spec(cache={}), a_revision(State.GOOD)), None)
    assert not {"model", "cache"} & status.keys()
    assert ConditionType.MODEL_CACHED not in {one["type"] for one in status["conditions"]}


def test_of_a_revision_whose_fields_are_not_known_no_model_is_told() -> None:
    assert "model" not in build_status(running(a_cached_spec(), a_revision(State.GOOD)), None)


def test_an_edit_during_a_fetch_leaves_the_first_candidate_running() -> None:
    first = a_revision(spec=a_spec(image="b:1"))
    waiting = a_revision(number=2, spec=a_cached_spec())
    observation = replace(
        running(a_spec(image="b:1"), first, waiting),
        parent=a_parent(spec=a_cached_spec(), status={"desiredRevision": waiting.hash, "conditions": []}),
        claim=a_claim(),
        fetch=a_fetch(),
    )
    target = choose_target(observation, a_cached_spec())
    assert target.revision is not None
    assert (target.revision.hash, target.fetches) == (first.hash, read(waiting.live))
    assert planned(observation).actions == ()


def test_marks_are_replaced_wherever_they_stand() -> None:
    template = {"a": [PATH_MARK, {"b": COMMIT_MARK}], "c": 1, "d": f"x{PATH_MARK}"}
    assert pinned(template, MODEL) == {"a": [PATH, {"b": COMMIT}], "c": 1, "d": f"x{PATH_MARK}"}
    assert needs_model(template)
    assert not needs_model(pinned(template, MODEL))
    assert not needs_model({"a": f'"{PATH_MARK}"', "b": f'\\"{COMMIT_MARK}"'}), "one that is quoted is no mark"
    assert Reason.MODEL_READY


# Models that are not declared any more.


def test_a_fetch_that_nobody_needs_any_more_is_ended() -> None:
    observation = replace(running(a_spec(), a_revision(State.GOOD)), other_fetches=(a_fetch(),))
    assert [type(one) for one in planned(observation).actions] == [Delete]
    assert planned(after(observation, planned(observation))).actions == ()


def test_a_fetch_that_others_need_goes_on_without_us() -> None:
    job = a_fetch()
    job["metadata"]["ownerReferences"].insert(0, {**job["metadata"]["ownerReferences"][0], "uid": "another"})
    observation = replace(running(a_spec(), a_revision(State.GOOD)), other_fetches=(job,))
    (action,) = planned(observation).actions
    assert isinstance(action, Patch)
    assert action.operations == ({"op": "remove", "path": "/metadata/ownerReferences/1"},)
    assert planned(after(observation, planned(observation))).actions == ()


def test_a_fetch_that_has_ended_is_left_to_its_time() -> None:
    leaving = a_fetch()
    leaving["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    others = (a_fetch("Complete"), a_fetch("Failed"), leaving)
    assert planned(replace(running(a_spec(), a_revision(State.GOOD)), other_fetches=others)).actions == ()


@pytest.mark.parametrize(("owner", "ended"), [(UID, True), ("another", False)])
def test_a_fetch_is_ended_when_its_revision_is_given_up(owner: str, ended: bool) -> None:
    spec = a_cached_spec()
    observation = replace(
        running(a_spec(), a_revision(State.GOOD), a_revision(State.REJECTED, spec=spec, number=2)),
        parent=a_parent(spec=spec, status={"conditions": []}),
        claim=a_claim(),
        fetch=a_fetch(owner=owner),
    )
    assert [type(one) for one in planned(observation).actions] == ([Delete] if ended else [])
    assert planned(after(observation, planned(observation))).actions == ()


# A claim that was lost.


def test_a_claim_that_was_made_anew_is_filled_with_the_very_same_commit() -> None:
    observation = replace(remembering(a_cached_spec()), claim=a_claim(uid="another"))
    decided = planned(observation)
    (made,) = of_kind(decided, Create)
    env = {one["name"]: one.get("value") for one in made.manifest["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["MODEL_REVISION"] == COMMIT
    then = after(observation, decided)
    assert planned(then).actions == ()
    there = replace(then, fetch_pods=(a_fetch_pod(0, last_words_of()),))
    (verdict,) = verdicts(planned(there))
    assert verdict.model is not None
    assert (verdict.state, verdict.model.claim) == (State.GOOD, "another")
    assert planned(after(there, planned(there))).actions == ()
    other = replace(then, fetch_pods=(a_fetch_pod(0, last_words_of(commit="d" * 40)),))
    assert verdicts(planned(other)) == [], "the template has the commit that was pinned"


def test_that_is_the_same_repository_too_when_the_default_is_another_by_now() -> None:
    later = NextSpec.model_validate({"mode": "qwen", "cache": {}})
    observation = remembering(a_cached_spec())
    observation = replace(observation, parent=a_parent(spec=later), claim=a_claim(uid="another"))
    (made,) = of_kind(planned(observation), Create)
    env = {one["name"]: one.get("value") for one in made.manifest["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert (env["MODEL_REPOSITORY"], env["MODEL_REVISION"]) == ("Qwen/Qwen3-4B-Thinking-2507", COMMIT)


def test_a_model_that_is_too_large_is_there_all_the_same() -> None:
    spec = a_cached_spec(resources={"limits": {"memory": "1Gi"}})
    rejected = a_revision(State.REJECTED, spec=spec, number=2, reason="MemoryLimitTooSmall")
    observation = replace(
        running(a_spec(), a_revision(State.GOOD), rejected),
        parent=a_parent(spec=spec, status={"conditions": []}),
        claim=a_claim(),
    )
    assert told(observation)["ModelCached"] == ("True", "ModelReady")
    assert build_status(observation, None)["cache"] == {"phase": "Ready", "progress": "100%", "percent": 100}


def test_for_a_rejected_revision_nothing_is_fetched_again() -> None:
    old = a_cached_spec()
    rejected = a_revision(State.REJECTED, spec=old, number=2)
    pinned_one = read(rejected.judged(rejected.verdict, MODEL).live)
    observation = replace(
        running(a_spec(), a_revision(State.GOOD), pinned_one),
        parent=a_parent(spec=old, status={"conditions": []}),
        claim=a_claim(uid="another"),
    )
    assert planned(observation).actions == ()
