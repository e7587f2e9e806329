"""When a claim is pruned, and of what: in doubt of nothing."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_operator.core import names
from llm_operator.core.actions import Create, Patch
from llm_operator.core.cached_model import CachedModel, encode
from llm_operator.core.model_cache.prune import DEADLINE_SECONDS, GRACE_SECONDS, MOST_MODELS
from llm_operator.core.observation import Neighbourhood, Observation
from llm_operator.core.planner import plan
from llm_operator.core.revisions.state import State
from llm_operator.core.status.conditions import build_status
from tests.unit.operator.builders import (
    COMMIT,
    NOW,
    SETTINGS,
    WEIGHTS,
    a_cached_spec,
    a_claim,
    a_fetch,
    a_parent,
    a_revision,
    a_spec,
    after,
    amended,
    going,
    running,
)

PRUNING = a_cached_spec(cache={"prune": "Unused"})
MINE = f"Qwen--Qwen3-4B-Thinking-2507/{COMMIT}"
THEIRS = f"tiny--qwen3/{'d' * 40}"
OTHER: dict[str, Any] = {"mode": "qwen", "cache": {"claimName": "model-cache", "prune": "Unused"}}


def pinned(folder: str = MINE, state: State = State.GOOD, *, number: int = 1, **over: Any) -> Any:
    """The ControllerRevision of a revision whose model is in that folder."""
    repository, commit = folder.split("/")
    model = CachedModel(repository, commit, f"/models/{folder}", WEIGHTS, {}, "uid-claim")
    revision = a_revision(state, number=number, spec=over.pop("spec", PRUNING))
    return revision.judged(revision.verdict, model)


def at_rest(
    *revisions: Any, specs: tuple[Any, ...] = (), jobs: tuple[Any, ...] = (), own: Any = None, **over: Any
) -> Observation:
    """A model serves from a claim that may be pruned; `revisions` are those of others."""
    own = own or pinned()
    spec = over.pop("spec", PRUNING)
    everything = (own.live, *(getattr(one, "live", one) for one in revisions))
    values: dict[str, Any] = {
        "claim": a_claim(),
        "neighbourhood": Neighbourhood(specs, everything, jobs),
        "parent": a_parent(spec=spec, status={"conditions": []}),
    }
    return running(spec, own, **{**values, **over})


def job_of(observation: Observation) -> Any:
    """The Job that is made, if one is."""
    actions = plan(observation, SETTINGS).actions
    assert all(isinstance(one, Create) for one in actions), actions
    found: Any = actions[0] if actions else None
    return None if found is None else found.manifest


def kept(job: Any) -> set[str]:
    return set(json.loads(variables(job)["KEEP_MODELS"]))


def variables(job: Any) -> dict[str, str]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in container["env"]}


def ended(job: Any, condition: str) -> Any:
    metadata = {**job["metadata"], "uid": "uid-prune", "resourceVersion": "1"}
    return {**job, "metadata": metadata, "status": {"conditions": [{"type": condition, "status": "True"}]}}


def test_at_rest_a_job_deletes_what_no_revision_is_pinned_to() -> None:
    observation = at_rest(pinned(THEIRS, State.REJECTED, number=2), specs=(OTHER,))
    job = job_of(observation)
    assert kept(job) == {MINE, THEIRS}
    assert plan(observation, SETTINGS).is_delicate(observation.parent), "decided by live reads"


def test_the_job_is_confined_like_a_fetch_and_ends_long_before_the_grace_period() -> None:
    job, fetch = job_of(at_rest()), a_fetch()
    pod, like = (one["spec"]["template"]["spec"] for one in (job, fetch))
    same = ("restartPolicy", "automountServiceAccountToken", "enableServiceLinks", "securityContext", "volumes")
    assert {key: pod[key] for key in same} == {key: like[key] for key in same}
    (container,), (fetches,) = pod["containers"], like["containers"]
    for key in ("image", "resources", "securityContext", "volumeMounts", "terminationMessagePath"):
        assert container[key] == fetches[key]
    assert container["command"] == ["python", "-m", "inference_server", "prune"]
    assert job["spec"]["activeDeadlineSeconds"] == DEADLINE_SECONDS < GRACE_SECONDS
    assert job["metadata"]["ownerReferences"] == fetch["metadata"]["ownerReferences"]
    assert job["metadata"]["labels"][names.MANAGED_BY] == names.FIELD_MANAGER
    assert names.FETCH not in job["metadata"]["labels"]
    until = datetime.fromisoformat(variables(job)["KEEP_MODELS_UNTIL"])
    assert NOW < until < NOW + timedelta(seconds=GRACE_SECONDS) / 2


@pytest.mark.parametrize(
    "over",
    [
        {"spec": a_cached_spec(), "own": pinned(spec=a_cached_spec())},
        {"claim": a_claim(ours=False)},
        {"claim": a_claim(phase="Pending")},
        {"claim": a_claim(phase="Lost")},
        {"neighbourhood": None},
        {"own": pinned(state=State.CANDIDATE), "now": NOW},
        {"jobs": (a_fetch(),)},
        {"specs": ({"mode": "qwen", "cache": {"claimName": "model-cache"}},)},
        {"specs": ({"mode": "qwen", "cache": {}},)},
        {"specs": ({"mode": "mock", "cache": {"claimName": "model-cache", "prune": "Never"}},)},
        {"specs": (OTHER, {"mode": "qwen", "cache": "model-cache"})},
        {"specs": ({**OTHER, "replicas": "many"},)},
        {"specs": ({},)},
    ],
    ids=[
        "not declared", "not our claim", "no volume", "volume lost", "nothing is known", "not proved good",
        "a fetch works", "another says nothing", "another says nothing of the default claim", "a mock says never",
        "a cache that is no object", "a spec that cannot be read", "no spec",
    ],
)  # fmt: skip
def test_in_doubt_nothing_is_pruned(over: dict[str, Any]) -> None:
    observation = at_rest(**over)
    assert not [one for one in plan(observation, SETTINGS).actions if isinstance(one, Create)]


def test_a_claim_that_goes_is_not_pruned() -> None:
    assert job_of(at_rest(claim=going(a_claim()))) is None


@pytest.mark.parametrize(
    "specs",
    [
        (),
        (OTHER,),
        ({"mode": "mock"},),
        ({"mode": "qwen", "cache": {"claimName": "other"}},),
        ({"mode": "mock", **OTHER},),
    ],
)
def test_others_that_agree_or_use_another_claim_are_no_obstacle(specs: tuple[Any, ...]) -> None:
    assert kept(job_of(at_rest(specs=specs))) == {MINE}
    assert "kept" not in told(at_rest(specs=specs))


def told(observation: Observation) -> str:
    """The message of ModelCached."""
    conditions = build_status(observation, None)["conditions"]
    return next(str(one["message"]) for one in conditions if one["type"] == "ModelCached")


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"specs": ({"mode": "qwen", "cache": {"claimName": "model-cache"}},)}, "without `cache.prune: Unused`"),
        ({"specs": ({**OTHER, "replicas": "many"},)}, "is not valid"),
    ],
)
def test_what_keeps_old_models_for_good_is_told(over: dict[str, Any], words: str) -> None:
    assert words in told(at_rest(**over))


def test_while_a_revision_is_on_its_way_nothing_is_pruned() -> None:
    rolling = {"replicas": 1, "updatedReplicas": 0, "readyReplicas": 1, "availableReplicas": 1}
    for own in (pinned(), pinned(state=State.CANDIDATE)):
        observation = at_rest(own=own, counts=rolling)
        assert not [one for one in plan(observation, SETTINGS).actions if isinstance(one, Create)]
    behind = at_rest(spec=a_cached_spec(cache={"prune": "Unused"}, model={"revision": "v2"}))
    made = [one.manifest for one in plan(behind, SETTINGS).actions if isinstance(one, Create)]
    assert not [one for one in made if names.PRUNE in one["metadata"]["labels"]]


def test_a_revision_of_another_that_waits_for_its_model_is_waited_for() -> None:
    assert job_of(at_rest(a_revision(number=2, spec=a_cached_spec(image="x:1")))) is None
    rejected = a_revision(State.REJECTED, number=2, spec=a_cached_spec(image="x:1"))
    assert job_of(at_rest(rejected)) is not None


@pytest.mark.parametrize(
    "harm",
    [
        lambda live: live["metadata"]["annotations"].update({names.MODEL: "{"}),
        lambda live: live["metadata"]["annotations"].update(
            {names.MODEL: encode(CachedModel("a/b", COMMIT, "/models/elsewhere", 1))}
        ),
        lambda live: live["metadata"]["annotations"].pop(names.REVISION),
        lambda live: live.pop("data"),
    ],
    ids=["a pin that cannot be read", "a pin out of the layout", "no name", "no content"],
)
def test_a_record_that_cannot_be_read_keeps_everything(harm: Any) -> None:
    live = json.loads(json.dumps(pinned(THEIRS, number=2).live))
    harm(live)
    assert job_of(at_rest(live)) is None
    assert f"ControllerRevision {live['metadata']['name']} cannot be read" in told(at_rest(live))


def test_too_many_models_for_one_list_are_all_kept() -> None:
    many = [pinned(f"a--b/{number:040x}").live for number in range(MOST_MODELS + 1)]
    assert f"not 1 to {MOST_MODELS}" in told(at_rest(*many))
    assert job_of(at_rest(*many)) is None
    # One more is its own.
    assert len(kept(job_of(at_rest(*many[2:])))) == MOST_MODELS


def test_where_no_model_is_known_to_be_needed_nothing_is_pruned() -> None:
    observation = at_rest(neighbourhood=Neighbourhood((), (), ()))
    assert job_of(observation) is None
    assert "0 models are needed" in told(observation)


# Once for each set of models.


def test_once_it_is_done_the_claim_says_so_and_nothing_more_is_made() -> None:
    observation = at_rest()
    job = job_of(observation)
    running_now = replace(observation, neighbourhood=Neighbourhood((), (pinned().live,), (job,)))
    assert plan(running_now, SETTINGS).actions == ()
    done = replace(observation, neighbourhood=Neighbourhood((), (pinned().live,), (ended(job, "Complete"),)))
    (amend,) = plan(done, SETTINGS).actions
    assert isinstance(amend, Patch)
    assert amend.warning is None
    after_it = after(done, plan(done, SETTINGS))
    assert plan(after_it, SETTINGS).actions == ()
    without_job = replace(after_it, neighbourhood=Neighbourhood((), (pinned().live,), ()))
    assert plan(without_job, SETTINGS).actions == ()


def test_what_stands_on_the_claim_besides_is_kept() -> None:
    observation = at_rest(claim=a_claim(annotations={"pv.kubernetes.io/bind-completed": "yes"}))
    job = ended(job_of(observation), "Complete")
    done = replace(observation, neighbourhood=Neighbourhood((), (pinned().live,), (job,)))
    (amend,) = plan(done, SETTINGS).actions
    assert isinstance(amend, Patch)
    annotations = amended(amend.live, amend)["metadata"]["annotations"]
    assert annotations.keys() == {"pv.kubernetes.io/bind-completed", names.PRUNED}


def test_a_failure_is_told_and_not_tried_again_until_the_models_are_others() -> None:
    observation = at_rest()
    job = ended(job_of(observation), "Failed")
    failed = replace(observation, neighbourhood=Neighbourhood((), (pinned().live,), (job,)))
    (amend,) = plan(failed, SETTINGS).actions
    assert isinstance(amend, Patch)
    assert amend.warning is not None
    assert job["metadata"]["name"] in amend.warning
    assert "kubectl logs" in amend.warning
    job["status"]["conditions"][0]["reason"] = "DeadlineExceeded"
    (amend,) = plan(failed, SETTINGS).actions
    assert isinstance(amend, Patch)
    assert "kubectl describe job" in str(amend.warning), "its pods may never have been made"
    noted = after(failed, plan(failed, SETTINGS))
    assert plan(noted, SETTINGS).actions == ()
    another = (pinned().live, pinned(THEIRS, number=2).live)
    again = job_of(replace(noted, neighbourhood=Neighbourhood((), another, (job,))))
    assert kept(again) == {MINE, THEIRS}
    assert again["metadata"]["name"] != job["metadata"]["name"]


def test_a_claim_made_anew_is_pruned_anew() -> None:
    one, other = (at_rest(claim=a_claim(uid=uid), own=pinned()) for uid in ("uid-claim", "uid-claim"))
    assert job_of(one)["metadata"]["name"] == job_of(other)["metadata"]["name"]
    elsewhere = replace(pinned().model, claim="uid-2")  # type: ignore[type-var]
    moved = pinned().judged(pinned().verdict, elsewhere)
    assert job_of(at_rest(claim=a_claim(uid="uid-2"), own=moved))["metadata"]["name"] != job_of(one)["metadata"]["name"]


def test_an_earlier_prune_that_still_works_is_waited_for_and_one_of_another_claim_is_not() -> None:
    earlier = {**job_of(at_rest(pinned(THEIRS, number=2))), "status": {}}
    assert job_of(at_rest(jobs=(earlier,))) is None
    elsewhere = {**earlier, "metadata": {**earlier["metadata"], "annotations": {names.CLAIM: "other"}}}
    assert job_of(at_rest(jobs=(elsewhere,))) is not None
    unknown = {**earlier, "metadata": {**earlier["metadata"], "annotations": {}}}
    assert job_of(at_rest(jobs=(unknown,))) is None


def test_a_mock_prunes_nothing() -> None:
    spec = a_spec(cache={"prune": "Unused"})
    own = a_revision(State.GOOD, spec=spec)
    observation = running(spec, own, neighbourhood=Neighbourhood((), (own.live,), ()), claim=a_claim())
    assert plan(observation, SETTINGS).actions == ()


FOLDERS = [f"a--{name}/{digit * 40}" for name in "xyz" for digit in "123"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(State)), max_size=12), st.booleans())
def test_a_pinned_model_of_any_recorded_revision_is_always_kept(others: list[tuple[str, State]], agree: bool) -> None:
    revisions = [pinned(folder, state, number=number) for number, (folder, state) in enumerate(others, start=2)]
    specs = (OTHER if agree else {**OTHER, "cache": {"prune": "Never"}},)
    job = job_of(at_rest(*revisions, specs=specs))
    assert (job is not None) is agree
    if job is not None:
        assert kept(job) == {MINE, *(folder for folder, _ in others)}
