"""The condition ModelCached and status.cache: is the declared model in the claim, and how far is it? Pure."""

from dataclasses import replace

from llm_operator.api.conditions import Cause, Reason
from llm_operator.core.model_cache import prune
from llm_operator.core.model_cache.claim import not_grown, problem
from llm_operator.core.model_cache.known_models import is_in_replaced_claim
from llm_operator.core.names import Manifest
from llm_operator.core.status.view import View


def model_cached(view: View) -> Cause | None:
    """Whether the declared model is in the claim, as far as is known."""
    if view.spec is None or view.spec.used_cache is None or view.target is None:
        return None
    cache = view.spec.used_cache
    declared, claim = view.declared, view.observation.claim
    if declared is not None and declared.model is not None:
        lost = problem(cache.claim_name, claim)
        if lost is not None:
            return lost
        if is_in_replaced_claim(declared, claim):
            return view.why_not_cached or Cause(
                Reason.CLAIM_LOST,
                f"PersistentVolumeClaim {cache.claim_name} is not the one that the model was fetched into; it is "
                "fetched again.",
            )
        model, around = declared.model, view.observation.neighbourhood
        needed = None if around is None else prune.models_to_keep(around, cache)
        return Cause(
            Reason.MODEL_READY,
            f"{model.repository} at {model.commit} is in PersistentVolumeClaim {cache.claim_name}."
            + (f" Models that nobody needs are kept: {needed}." if isinstance(needed, str) else ""),
        )
    rejected = view.rejected
    if rejected is not None:
        if rejected.verdict.reason == Reason.MEMORY_LIMIT_TOO_SMALL:
            # That is known only of a model that is there.
            name = view.spec.wanted_model.repository
            return Cause(Reason.MODEL_READY, f"{name} is in PersistentVolumeClaim {cache.claim_name}.")
        return Cause(rejected.verdict.reason, rejected.verdict.message)
    return view.why_not_cached or Cause(Reason.MODEL_FETCHING, "The fetch of the model has not started yet.")


def with_the_size(view: View, cached: Cause) -> Cause:
    """The cause, and that the claim is not as large as declared."""
    cache = None if view.spec is None else view.spec.used_cache
    words = "" if cache is None else not_grown(cache, view.observation.claim)
    return replace(cached, message=cached.message + words)


def cache_status(view: View) -> Manifest | None:
    """How far the declared model is in the claim."""
    cached = model_cached(view)
    if cached is None:
        return None
    if cached.reason is Reason.MODEL_READY:
        return {"phase": "Ready", "progress": "100%", "percent": 100}
    if view.rejected is not None:
        return {"phase": "Failed", "progress": "Failed"}
    progress = view.observation.fetch_progress
    phase = "Fetching" if cached.reason is Reason.MODEL_FETCHING else "Pending"
    if progress is None:
        return {"phase": phase, "progress": phase}
    told = {"phase": phase, "progress": f"{progress.percent}%"}
    return {**told, "bytesDone": progress.done, "bytesTotal": progress.total, "percent": progress.percent}
