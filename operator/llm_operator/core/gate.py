"""May a revision start, as far as its model goes? Pure; called by plan.py before anything of it is applied.

A fetch that ended badly condemns the revision with its own reason, one that can pass has until the deadline, which
moves on as long as bytes come. While a fetch works and nobody can tell whether bytes come it is not condemned: it ends
by itself when none do. A model that does not fit into the declared memory is refused. What serves is touched by none
of this.

What counts is how the fetch ended, not its Job: a container that somebody injected into the pod may keep that open for
ever. Then the operator deletes it, once the result is recorded, or to try again.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from llm_operator.api.conditions import FETCH_REASONS, FINE, ConditionType, Finding, Reason
from llm_operator.api.types import Cache, LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.cache_job import is_finished
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.children import shared_reference
from llm_operator.core.claim import add_owner, is_pending, problem, remove_owner
from llm_operator.core.declaration import declaration
from llm_operator.core.diagnosis import Proof, is_going
from llm_operator.core.fetch import Fetch, build_fetch, fetch_name, lost_its_pod, pods_of_job, read_fetch
from llm_operator.core.history import History
from llm_operator.core.judge import (
    Judgement,
    allowed_seconds,
    deadline_of,
    rejected,
    stopped,
    suspicion_of,
    trusted_from,
)
from llm_operator.core.memory import too_small
from llm_operator.core.model import Action, Amend, Discard, Make, Observation, Settings
from llm_operator.core.names import Manifest
from llm_operator.core.revision import Revision, State, Verdict, name_of
from llm_operator.core.words import with_note

# Every so often the fetch's log is read.
PROGRESS_SECONDS = 5.0
# A Job has its pod at once, unless that is refused, of which no watch tells.
NO_POD_SECONDS = 3.0
# A fetch of which nothing is heard is given up after this, should it fail to end by itself.
UNHEARD_LIMIT = timedelta(days=1)
# A try that cannot reach the Hub ends sooner.
FAILS_WITHIN = timedelta(minutes=10)
TRIED_AGAIN = "It is tried again."
# So long the kubelet has to end a pod whose fetch has ended, before something else is said to keep it open.
HELD_OPEN_SECONDS = 10.0
# As Kubernetes does between two pods of a Job.
LONGEST_PAUSE_SECONDS = 360.0


def current_fetch(observation: Observation) -> Fetch | None:
    """How the fetch of the declared model stands."""
    return read_fetch(observation.fetch, observation.fetch_pods, observation.claim, observation.fetch_events)


def may_be_refused(job: Manifest, pods: Iterable[Manifest], now: datetime) -> bool:
    """Whether a Job has no pod although it had the time to: then its events are asked why."""
    made = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    return not is_finished(job) and not pods_of_job(job, pods) and (now - made).total_seconds() >= NO_POD_SECONDS


def fetch_actions(
    observation: Observation,
    spec: LLMDeploymentSpec,
    cache: Cache,
    revision: Revision,
    history: History,
    settings: Settings,
) -> list[Action]:
    """What has to be written so that the model of a revision is fetched: its Job, or our share in it."""
    claim, job = observation.claim, observation.fetch
    if claim is None or problem(cache.claim_name, claim) is not None or revision.state is State.REJECTED:
        return []
    if remembered(history, spec, claim) is not None:
        return []
    if job is None:
        name = fetch_name(spec, claim, settings)
        return [Make(build_fetch(observation.parent, spec, cache, name, settings))]
    if is_going(job):
        return []
    fetch = current_fetch(observation)
    of_an_earlier_try = fetch is not None and fetch.failed and _is_older(job, revision.verdict)
    is_due = (again := try_again_at(fetch, revision.verdict)) is not None and observation.now >= again
    if of_an_earlier_try or is_due or lost_its_pod(job, observation.fetch_pods):
        return [Discard(job)]
    if is_finished(job) or observation.parent.uid in _owners(job):
        return []
    return [Amend(job, (add_owner(job, shared_reference(observation.parent)),))]


def try_again_at(fetch: Fetch | None, verdict: Verdict) -> datetime | None:
    """When a fetch that failed in passing is to be made anew, because its Job is kept open and will not do it.

    Each pause is as long as the attempt has lasted, so that the pauses grow, whoever was restarted meanwhile.
    """
    if fetch is None or fetch.held_since is None or fetch.failed or fetch.model is not None:
        return None
    began = verdict.started_at or verdict.decided_at or fetch.held_since
    lasted = (fetch.held_since - began).total_seconds()
    return fetch.held_since + timedelta(seconds=min(max(HELD_OPEN_SECONDS, lasted), LONGEST_PAUSE_SECONDS))


def refilled(spec: LLMDeploymentSpec, history: History, claim: Manifest | None) -> LLMDeploymentSpec:
    """The spec that a fetch goes by: a claim that was made anew gets what is pinned, not what the branch means now."""
    declared = history.get(name_of(declaration(spec), history.revisions))
    if declared is None or declared.model is None or not is_elsewhere(declared, claim):
        return spec
    pinned = {"repository": declared.model.repository, "revision": declared.model.commit}
    model = spec.wanted_model.model_copy(update=pinned)
    return spec.model_copy(update={"model": model})


def is_elsewhere(revision: Revision, claim: Manifest | None) -> bool:
    """Whether a revision's model was fetched into another claim of the same name than there is now."""
    return revision.model is not None and claim is not None and revision.model.claim != claim["metadata"]["uid"]


def let_go(observation: Observation, *, given_up: bool, is_recorded: bool) -> list[Action]:
    """What has to be written so that models which are not declared, or were `given_up`, are not fetched to their end,
    and that nothing keeps the Job open of a fetch whose result `is_recorded`.

    What came so far stays on the volume for a day, and is used if the model is declared or tried again.
    """
    jobs, ours = list(observation.other_fetches), observation.fetch
    if ours is not None and (given_up or (is_recorded and _is_held_open(observation))):
        jobs += [ours] if observation.parent.uid in _owners(ours) else []
    actions: list[Action] = []
    for job in jobs:
        if is_finished(job) or is_going(job):
            continue
        shared = len(job["metadata"]["ownerReferences"]) > 1
        actions.append(Amend(job, tuple(remove_owner(observation.parent, job))) if shared else Discard(job))
    return actions


def held_open_for(observation: Observation) -> float | None:
    """Seconds until the Job of a fetch that is done is said to be kept open; None where it is not open, or is."""
    fetch = current_fetch(observation)
    if fetch is None or fetch.held_since is None:
        return None
    left = HELD_OPEN_SECONDS - (observation.now - fetch.held_since).total_seconds()
    return left if left > 0 else None


def _is_held_open(observation: Observation) -> bool:
    fetch = current_fetch(observation)
    return fetch is not None and fetch.held_since is not None and held_open_for(observation) is None


def _owners(job: Manifest) -> set[str]:
    return {one["uid"] for one in job["metadata"].get("ownerReferences", [])}


def judge_fetch(
    observation: Observation, spec: LLMDeploymentSpec, revision: Revision, history: History, settings: Settings
) -> Judgement:
    """Judge the model of a revision that waits for it: pinned once it is there, rejected when that is hopeless."""
    fetch = current_fetch(observation)
    model = remembered(history, spec, observation.claim) or (None if fetch is None else fetch.model)
    if model is not None:
        return _judge_fit(observation, spec, revision, model)
    verdict, now = revision.verdict, observation.now
    if verdict.state is not State.CANDIDATE or verdict.started_at is None or verdict.progress_at is None:
        return Judgement()
    if spec.replicas == 0:
        return Judgement(stopped(verdict))
    suspicion = None if fetch is None else suspicion_of(observation, revision, fetch.fault)
    final = fetch is not None and fetch.failed and not _is_older(observation.fetch, verdict)
    proved: datetime | None = trusted_from(observation) if final else None
    if fetch is not None and fetch.fault is not None and suspicion is not None:
        lasts = settings.confirm_seconds if fetch.fault.proof is Proof.STANDING else 0.0
        proved = max(suspicion.since + timedelta(seconds=lasts), trusted_from(observation))
    due = deadline_of(observation, spec, verdict)
    if fetch is not None and proved is not None and now >= proved:
        return _refused(observation, spec, revision, fetch.finding)
    moved = _moved(observation, spec, verdict)
    if now >= due and moved is None and not _may_be_at_work(observation, verdict, fetch):
        return _refused(observation, spec, revision, _too_late(observation, spec))
    times = (due, proved, try_again_at(fetch, verdict))
    waits = [(when - now).total_seconds() for when in times if when is not None and when > now]
    has_no_pod = observation.fetch is not None and not pods_of_job(observation.fetch, observation.fetch_pods)
    if has_no_pod or (fetch is not None and fetch.pod is not None):
        waits.append(PROGRESS_SECONDS)
    return Judgement(moved, suspicion=suspicion, look_again_after=min(waits, default=PROGRESS_SECONDS))


def remembered(history: History, spec: LLMDeploymentSpec, claim: Manifest | None) -> CachedModel | None:
    """The model of an earlier revision that declared the same: it is in the claim, and nobody need be asked."""
    if claim is None:
        return None
    wanted = _which(declaration(spec).values)
    found = [
        one.model
        for one in history.revisions
        if one.model is not None and one.model.claim == claim["metadata"]["uid"] and _which(one.values) == wanted
    ]
    return found[-1] if found else None


def waiting(observation: Observation, cache: Cache) -> Finding | None:
    """What to tell of a model that is waited for."""
    claim = observation.claim
    obstacle = problem(cache.claim_name, claim)
    fetch = current_fetch(observation)
    if obstacle is not None or fetch is None:
        return obstacle
    if is_pending(claim) and fetch.finding.reason is Reason.UNSCHEDULABLE:
        return Finding(
            Reason.CLAIM_PENDING,
            f"PersistentVolumeClaim {cache.claim_name} has no volume; see `kubectl describe pvc {cache.claim_name}`. "
            f"{fetch.finding.message}",
        )
    return _still_failing(observation, fetch) or fetch.finding


def _still_failing(observation: Observation, fetch: Fetch) -> Finding | None:
    """Why the last try failed, until bytes come: that the next one has begun shows nothing."""
    if fetch.finding.reason is not Reason.MODEL_FETCHING or observation.fetch_progress is not None:
        return None
    if not observation.fetch_is_heard and _works_for_long(observation, fetch):
        return None
    last = fetch.failed_before
    return _told_before(observation) if last is None else Finding(last.reason, with_note(last.message, TRIED_AGAIN))


def _told_before(observation: Observation) -> Finding | None:
    """What was told of a try whose pod is gone, as its Job was made anew."""
    parent = observation.parent
    for one in parent.status.get("conditions", []):
        is_of_now = one.get("type") == ConditionType.MODEL_CACHED and one.get("observedGeneration") == parent.generation
        if (
            is_of_now
            and one.get("reason") in FETCH_REASONS
            and parent.status.get("cache", {}).get("phase") == "Pending"
        ):
            return Finding(one["reason"], one["message"])
    return None


def _works_for_long(observation: Observation, fetch: Fetch) -> bool:
    """Whether a try has lasted longer than one does in which nothing comes."""
    pods = [pod for pod in observation.fetch_pods if pod["metadata"]["name"] == fetch.pod]
    began = [
        one["state"]["running"].get("startedAt")
        for pod in pods
        for one in pod.get("status", {}).get("containerStatuses", [])
        if one["name"] == names.FETCH_CONTAINER
    ]
    return any(one and observation.now - datetime.fromisoformat(one) > FAILS_WITHIN for one in began)


def _judge_fit(observation: Observation, spec: LLMDeploymentSpec, revision: Revision, model: CachedModel) -> Judgement:
    misfit = too_small(spec, model)
    if misfit is None:
        # The servers have all their time from now on.
        since = observation.now if revision.verdict.started_at is not None else None
        begun = replace(revision.verdict, started_at=since, progress=0, progress_at=since, extended=False)
        kept = begun if revision.state is State.CANDIDATE else revision.verdict
        return Judgement(kept, model=model, look_again_after=allowed_seconds(spec))
    if revision.state is not State.CANDIDATE or spec.replicas == 0:
        return Judgement()
    wait = (trusted_from(observation) - observation.now).total_seconds()
    return _refused(observation, spec, revision, misfit) if wait <= 0 else Judgement(look_again_after=wait)


def _refused(observation: Observation, spec: LLMDeploymentSpec, revision: Revision, finding: Finding) -> Judgement:
    """Nothing of it ever ran, so nothing is rolled back and no budget is used."""
    return rejected(observation, spec, revision, None, finding)


def _moved(observation: Observation, spec: LLMDeploymentSpec, verdict: Verdict) -> Verdict | None:
    """The verdict with the bytes that have come, once in a while: that moves the deadline."""
    progress, since = observation.fetch_progress, verdict.progress_at
    if progress is None or since is None or progress.done <= verdict.progress:
        return None
    if (observation.now - since).total_seconds() < allowed_seconds(spec) / 4:
        return None
    return replace(verdict, progress=progress.done, progress_at=observation.now)


def _may_be_at_work(observation: Observation, verdict: Verdict, fetch: Fetch | None) -> bool:
    """Whether a fetch works of which nothing is heard: no news is no proof. One that stands still ends by itself."""
    if fetch is None or fetch.pod is None or observation.fetch_is_heard or verdict.progress_at is None:
        return False
    return observation.now < verdict.progress_at + UNHEARD_LIMIT


def _is_older(job: Manifest | None, verdict: Verdict) -> bool:
    """Whether the Job was made before this attempt began: what became of it is no answer to the attempt.

    Times are whole seconds. Of a second attempt's own second it is not known, and then it is fetched once more.
    """
    if job is None or verdict.started_at is None:
        return False
    made, began = (
        datetime.fromisoformat(job["metadata"]["creationTimestamp"]),
        verdict.started_at.replace(microsecond=0),
    )
    return made < began or (made == began and verdict.attempt > 1)


def _too_late(observation: Observation, spec: LLMDeploymentSpec) -> Finding:
    late = (
        "The model was not fetched: no progress for "
        f"{spec.rollout.progress_deadline_seconds} s (rollout.progressDeadlineSeconds)."
    )
    cache = spec.used_cache
    assert cache is not None, "it waits for a fetch"
    known = waiting(observation, cache)
    reason = Reason.PROGRESS_DEADLINE_EXCEEDED if known is None or known.reason in FINE else known.reason
    return Finding(reason, late if known is None else f"{late} {known.message}")


def _which(values: Manifest) -> tuple[object, ...]:
    """Which model is meant. Not from which address: what a repository holds is the same everywhere."""
    model = values.get("model", {})
    return (values.get("cache"), *(model.get(key) for key in ("repository", "revision")))
