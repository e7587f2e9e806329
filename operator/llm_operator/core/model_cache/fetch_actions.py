"""What has to be written so that a model is fetched, tried again, or fetched no longer. Pure; used by planner.py."""

from datetime import datetime, timedelta

from llm_operator.api.types import Cache, LLMDeploymentSpec
from llm_operator.core.actions import Action, Create, Delete, Patch
from llm_operator.core.live import is_deleting
from llm_operator.core.model_cache.claim import add_owner, problem, remove_owner
from llm_operator.core.model_cache.fetch_job import Fetch, build_fetch, fetch_name, lost_its_pod
from llm_operator.core.model_cache.job import is_finished
from llm_operator.core.model_cache.known_models import find_cached_model
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation, Settings
from llm_operator.core.ownership import shared_reference
from llm_operator.core.revisions.history import History
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State, Verdict

# So long the kubelet has to end a pod whose fetch has ended, before something else is said to keep it open.
HELD_OPEN_SECONDS = 10.0
# As Kubernetes does between two pods of a Job.
LONGEST_PAUSE_SECONDS = 360.0


def fetch_actions(
    observation: Observation,
    fetch: Fetch | None,
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
    if find_cached_model(history, spec, claim) is not None:
        return []
    if job is None:
        name = fetch_name(spec, claim, settings)
        return [Create(build_fetch(observation.parent, spec, cache, name, settings))]
    if is_deleting(job):
        return []
    of_an_earlier_try = fetch is not None and fetch.failed and is_older(job, revision.verdict)
    is_due = (again := try_again_at(fetch, revision.verdict)) is not None and observation.now >= again
    if of_an_earlier_try or is_due or lost_its_pod(job, observation.fetch_pods):
        return [Delete(job)]
    if is_finished(job) or observation.parent.uid in _owners(job):
        return []
    return [Patch(job, (add_owner(job, shared_reference(observation.parent)),))]


def try_again_at(fetch: Fetch | None, verdict: Verdict) -> datetime | None:
    """When a fetch that failed in passing is to be made anew, because its Job is kept open and will not do it.

    Each pause is as long as the attempt has lasted, so that the pauses grow, whoever was restarted meanwhile.
    """
    if fetch is None or fetch.held_since is None or fetch.failed or fetch.model is not None:
        return None
    began = verdict.started_at or verdict.decided_at or fetch.held_since
    lasted = (fetch.held_since - began).total_seconds()
    return fetch.held_since + timedelta(seconds=min(max(HELD_OPEN_SECONDS, lasted), LONGEST_PAUSE_SECONDS))


def cancel_unneeded_fetches(
    observation: Observation, fetch: Fetch | None, *, given_up: bool, is_recorded: bool
) -> list[Action]:
    """What has to be written so that models which are not declared, or were `given_up`, are not fetched to their end,
    and that nothing keeps the Job open of a fetch whose result `is_recorded`.

    What came so far stays on the volume for a day, and is used if the model is declared or tried again.
    """
    jobs, ours = list(observation.other_fetches), observation.fetch
    if ours is not None and (given_up or (is_recorded and _is_held_open(observation, fetch))):
        jobs += [ours] if observation.parent.uid in _owners(ours) else []
    actions: list[Action] = []
    for job in jobs:
        if is_finished(job) or is_deleting(job):
            continue
        shared = len(job["metadata"]["ownerReferences"]) > 1
        actions.append(Patch(job, tuple(remove_owner(observation.parent, job))) if shared else Delete(job))
    return actions


def held_open_for(observation: Observation, fetch: Fetch | None) -> float | None:
    """Seconds until the Job of a fetch that is done is said to be kept open; None where it is not open, or is."""
    if fetch is None or fetch.held_since is None:
        return None
    left = HELD_OPEN_SECONDS - (observation.now - fetch.held_since).total_seconds()
    return left if left > 0 else None


def _is_held_open(observation: Observation, fetch: Fetch | None) -> bool:
    return fetch is not None and fetch.held_since is not None and held_open_for(observation, fetch) is None


def _owners(job: Manifest) -> set[str]:
    return {one["uid"] for one in job["metadata"].get("ownerReferences", [])}


def is_older(job: Manifest | None, verdict: Verdict) -> bool:
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
