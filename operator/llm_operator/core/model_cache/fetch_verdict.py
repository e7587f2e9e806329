"""May a revision start, as far as its model goes? Pure; called by steps/model_cache.py before any of it is applied.

    how the fetch stands                                     verdict
    --------------------                                     -------
    the model is there, and fits into the memory limit       pinned: the revision may start
    it is there, and does not fit                            Rejected
    the fetch ended, and only an edit can help               Rejected, for its own reason
    the fetch ended for what can pass                        tried again, until the deadline
    bytes come                                               the deadline moves on
    nobody can tell whether bytes come                       waits: a fetch that stalls ends by itself

A fetch that ended badly condemns the revision with its own reason, one that can pass has until the deadline, which
moves on as long as bytes come. While a fetch works and nobody can tell whether bytes come it is not condemned: it ends
by itself when none do. A model that does not fit into the declared memory is refused. What serves is touched by none
of this.

What counts is how the fetch ended, not its Job: a container that somebody injected into the pod may keep that open for
ever. Then the operator deletes it, once the result is recorded, or to try again.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from llm_operator.api.conditions import FINE, Cause, Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.diagnosis.fault import Proof
from llm_operator.core.model_cache.fetch_actions import is_older, try_again_at
from llm_operator.core.model_cache.fetch_job import Fetch, pods_of_job
from llm_operator.core.model_cache.fetch_progress import why_not_cached
from llm_operator.core.model_cache.known_models import find_cached_model
from llm_operator.core.model_cache.memory import too_small
from llm_operator.core.observation import Observation, Settings
from llm_operator.core.revisions.history import History
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State, Verdict
from llm_operator.core.revisions.verdict import (
    Judgement,
    allowed_seconds,
    deadline_of,
    rejected,
    stopped,
    suspicion_of,
    trusted_from,
)

# Every so often the fetch's log is read.
PROGRESS_SECONDS = 5.0
# A fetch of which nothing is heard is given up after this, should it fail to end by itself.
UNHEARD_LIMIT = timedelta(days=1)


def judge_fetch(
    observation: Observation,
    fetch: Fetch | None,
    spec: LLMDeploymentSpec,
    revision: Revision,
    history: History,
    settings: Settings,
) -> Judgement:
    """Judge the model of a revision that waits for it: pinned once it is there, rejected when that is hopeless."""
    model = find_cached_model(history, spec, observation.claim) or (None if fetch is None else fetch.model)
    if model is not None:
        return _judge_fit(observation, spec, revision, model)
    verdict, now = revision.verdict, observation.now
    if verdict.state is not State.CANDIDATE or verdict.started_at is None or verdict.progress_at is None:
        return Judgement()
    if spec.replicas == 0:
        return Judgement(stopped(verdict))
    suspicion = None if fetch is None else suspicion_of(observation, revision, fetch.fault)
    final = fetch is not None and fetch.failed and not is_older(observation.fetch, verdict)
    proved: datetime | None = trusted_from(observation) if final else None
    if fetch is not None and fetch.fault is not None and suspicion is not None:
        lasts = settings.confirm_seconds if fetch.fault.proof is Proof.STANDING else 0.0
        proved = max(suspicion.since + timedelta(seconds=lasts), trusted_from(observation))
    due = deadline_of(observation, spec, verdict)
    if fetch is not None and proved is not None and now >= proved:
        return _refused(observation, spec, revision, fetch.cause)
    moved = _moved(observation, spec, verdict)
    if now >= due and moved is None and not _may_be_at_work(observation, verdict, fetch):
        return _refused(observation, spec, revision, _too_late(observation, fetch, spec))
    times = (due, proved, try_again_at(fetch, verdict))
    waits = [(when - now).total_seconds() for when in times if when is not None and when > now]
    has_no_pod = observation.fetch is not None and not pods_of_job(observation.fetch, observation.fetch_pods)
    if has_no_pod or (fetch is not None and fetch.pod is not None):
        waits.append(PROGRESS_SECONDS)
    return Judgement(moved, suspicion=suspicion, look_again_after=min(waits, default=PROGRESS_SECONDS))


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


def _refused(observation: Observation, spec: LLMDeploymentSpec, revision: Revision, cause: Cause) -> Judgement:
    """Nothing of it ever ran, so nothing is rolled back and no budget is used."""
    return rejected(observation, spec, revision, None, cause)


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


def _too_late(observation: Observation, fetch: Fetch | None, spec: LLMDeploymentSpec) -> Cause:
    late = (
        "The model was not fetched: no progress for "
        f"{spec.rollout.progress_deadline_seconds} s (rollout.progressDeadlineSeconds)."
    )
    cache = spec.used_cache
    assert cache is not None, "it waits for a fetch"
    known = why_not_cached(observation, fetch, cache)
    reason = Reason.PROGRESS_DEADLINE_EXCEEDED if known is None or known.reason in FINE else known.reason
    return Cause(reason, late if known is None else f"{late} {known.message}")
