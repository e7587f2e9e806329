"""What is told of a model that is waited for. Pure; used by the status."""

from datetime import datetime, timedelta

from llm_operator.api.conditions import FETCH_REASONS, Cause, ConditionType, Reason
from llm_operator.api.types import Cache
from llm_operator.core import names
from llm_operator.core.diagnosis.messages import with_note
from llm_operator.core.model_cache.claim import is_pending, problem
from llm_operator.core.model_cache.fetch_job import Fetch
from llm_operator.core.observation import Observation

# A try that cannot reach the Hub ends sooner.
FAILS_WITHIN = timedelta(minutes=10)

TRIED_AGAIN = "It is tried again."


def why_not_cached(observation: Observation, fetch: Fetch | None, cache: Cache) -> Cause | None:
    """What to tell of a model that is waited for."""
    claim = observation.claim
    obstacle = problem(cache.claim_name, claim)
    if obstacle is not None or fetch is None:
        return obstacle
    if is_pending(claim) and fetch.cause.reason is Reason.UNSCHEDULABLE:
        return Cause(
            Reason.CLAIM_PENDING,
            f"PersistentVolumeClaim {cache.claim_name} has no volume; see `kubectl describe pvc {cache.claim_name}`. "
            f"{fetch.cause.message}",
        )
    return _still_failing(observation, fetch) or fetch.cause


def _still_failing(observation: Observation, fetch: Fetch) -> Cause | None:
    """Why the last try failed, until bytes come: that the next one has begun shows nothing."""
    if fetch.cause.reason is not Reason.MODEL_FETCHING or observation.fetch_progress is not None:
        return None
    if not observation.fetch_is_heard and _works_for_long(observation, fetch):
        return None
    last = fetch.failed_before
    return _told_before(observation) if last is None else Cause(last.reason, with_note(last.message, TRIED_AGAIN))


def _told_before(observation: Observation) -> Cause | None:
    """What was told of a try whose pod is gone, as its Job was made anew."""
    parent = observation.parent
    for one in parent.status.get("conditions", []):
        is_of_now = one.get("type") == ConditionType.MODEL_CACHED and one.get("observedGeneration") == parent.generation
        if (
            is_of_now
            and one.get("reason") in FETCH_REASONS
            and parent.status.get("cache", {}).get("phase") == "Pending"
        ):
            return Cause(one["reason"], one["message"])
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
