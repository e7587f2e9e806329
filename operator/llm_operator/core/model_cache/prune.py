"""May a claim be pruned now, and of what? Pure; called by steps/model_cache.py when there is nothing else to do.

    everybody who names the claim wants it (cache.prune: Unused)    ─┐
    every record in the namespace can be read                        ├─► a Job deletes what no record is pinned to
    what is declared runs and is good, nothing is being fetched     ─┘

A Job deletes the models that no recorded revision needs; the operator itself touches no file. In doubt nothing is
deleted: everybody who names the claim must agree, every record must be readable, and nothing may be on its way. What
is pinned between this decision and the deletion was fetched within the grace period, and the Job leaves that alone.
"""

import hashlib
import json
from datetime import timedelta
from functools import lru_cache
from re import fullmatch

from pydantic import ValidationError

from llm_operator.api.types import CLAIM_NAME, Cache, LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.actions import Action, Create, Patch
from llm_operator.core.cached_model import decode
from llm_operator.core.children.cache_containers import prune_container
from llm_operator.core.children.rollout import is_rolled_out
from llm_operator.core.live import is_deleting
from llm_operator.core.model_cache.job import KEPT_SECONDS, build_job, has, is_finished, works_on
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Neighbourhood, Observation, Parent, Settings
from llm_operator.core.revisions.revision import is_readable, parse_revision
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.target import RevisionTarget, own_deployment
from llm_operator.core.times import timestamp

COMPONENT = "model-prune"
DEADLINE_SECONDS = 600
# A Job that was suspended, or had no controller, must not begin with a list as old as this.
LIST_SECONDS = 3600
GRACE_SECONDS = 86400
# Last words of a fetch can be read, and its model be pinned, for as long as its Job is kept.
assert KEPT_SECONDS + LIST_SECONDS + DEADLINE_SECONDS < GRACE_SECONDS
# More would not fit into an environment.
MOST_MODELS = 500
MODEL = r"[A-Za-z0-9][A-Za-z0-9._-]*--[A-Za-z0-9][A-Za-z0-9._-]*/[0-9a-f]{40}"
PATH = "/metadata/annotations/" + names.PRUNED.replace("/", "~1")


def prune_actions(
    observation: Observation, spec: LLMDeploymentSpec, target: RevisionTarget, settings: Settings
) -> list[Action]:
    """The Job that prunes the claim, or the note that it has ended; nothing while anything is in doubt."""
    around, claim, cache = observation.neighbourhood, observation.claim, spec.used_cache
    if around is None or claim is None or cache is None or not may_be_pruned(cache, claim):
        return []
    if not _is_at_rest(observation, target):
        return []
    keep = models_to_keep(around, cache)
    if isinstance(keep, str):
        return []
    digest = _digest(claim, keep)
    annotations = claim["metadata"].get("annotations")
    if (annotations or {}).get(names.PRUNED) == digest:
        return []
    name = f"prune-{digest}"
    jobs = [job for job in around.jobs if works_on(job, cache.claim_name)]
    done = next((job for job in jobs if job["metadata"]["name"] == name and is_finished(job)), None)
    if done is not None:
        return [_noted(claim, digest, done)]
    if not all(map(is_finished, jobs)) or not all(map(_is_settled, around.revisions)):
        return []
    return [Create(build_prune(observation, spec, cache, name, keep, settings), optional=True)]


def may_be_pruned(cache: Cache, claim: Manifest) -> bool:
    """Whether it is declared, and the claim is one that was made for it and has its volume."""
    is_bound = claim.get("status", {}).get("phase") == "Bound"
    return cache.prune == "Unused" and names.is_managed(claim) and is_bound and not is_deleting(claim)


def models_to_keep(around: Neighbourhood, cache: Cache) -> frozenset[str] | str:
    """The models that revisions are pinned to, as folders below the cache, whatever became of the revisions.

    A text, for people, where that is not known for sure: why nothing is deleted until somebody changes something.
    """
    if not all(_agrees(other, cache.claim_name) for other in around.specs):
        return "another LLMDeployment names the claim without `cache.prune: Unused`"
    if not all(map(_is_valid, around.specs)):
        return "the spec of another LLMDeployment in the namespace is not valid, so what it needs is not known"
    keep = set()
    for one in around.revisions:
        pin = one["metadata"].get("annotations", {}).get(names.MODEL)
        folder = "" if pin is None else _folder(pin)
        if not is_readable(one) or folder is None:
            return f"ControllerRevision {one['metadata']['name']} cannot be read, so what it needs is not known"
        if folder:
            keep.add(folder)
    if not 0 < len(keep) <= MOST_MODELS:
        return f"{len(keep)} models are needed, and not 1 to {MOST_MODELS}"
    return frozenset(keep)


def build_prune(
    observation: Observation,
    spec: LLMDeploymentSpec,
    cache: Cache,
    name: str,
    keep: frozenset[str],
    settings: Settings,
) -> Manifest:
    """The Job, confined and placed like a fetch."""
    parent: Parent = observation.parent
    variables = {
        "MODEL_CACHE_DIR": names.MODELS_FOLDER,
        "KEEP_MODELS": json.dumps(sorted(keep)),
        "KEEP_MODELS_UNTIL": timestamp(observation.now + timedelta(seconds=LIST_SECONDS)),
        "PRUNE_GRACE_SECONDS": str(GRACE_SECONDS),
    }
    return build_job(
        parent,
        spec,
        cache,
        name=name,
        labels={**names.shared_labels(COMPONENT), names.PRUNE: name},
        container=prune_container(spec, settings, variables),
        volumes=[],
        limits={"backoffLimit": 2, "activeDeadlineSeconds": DEADLINE_SECONDS},
    )


def _is_at_rest(observation: Observation, target: RevisionTarget) -> bool:
    """Whether what is declared runs and was proved good, with a model that is where it should be."""
    declared, deployment = target.history.get(target.desired), own_deployment(observation)
    if declared is None or declared.model is None or declared.state is not State.GOOD:
        return False
    return target.active == target.desired and deployment is not None and is_rolled_out(deployment)


def _agrees(spec: Manifest, claim: str) -> bool:
    """Whether another LLMDeployment has nothing against it: by its stored spec, valid or not."""
    cache = spec.get("cache")
    if cache is None:
        return True
    if not isinstance(cache, dict):
        return False
    return cache.get("claimName", CLAIM_NAME) != claim or cache.get("prune") == "Unused"


def _is_valid(spec: Manifest) -> bool:
    return _is_valid_text(json.dumps(spec))


@lru_cache(maxsize=4096)
def _is_valid_text(spec: str) -> bool:
    """Remembered: in each pass over each object all the others of its namespace are asked."""
    try:
        LLMDeploymentSpec.model_validate_json(spec)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=4096)
def _folder(pin: str) -> str | None:
    """The model's folder below the cache."""
    model = decode(pin)
    folder = "" if model is None else model.path.removeprefix(f"{names.MODELS_FOLDER}/")
    return folder if fullmatch(MODEL, folder) else None


def _is_settled(live: Manifest) -> bool:
    """Whether a revision can be read, and is not about to be pinned to what a fetch has brought."""
    if names.MODEL in live["metadata"].get("annotations", {}):
        return True
    revision = parse_revision(live)
    return revision is not None and not (revision.needs_model and revision.state is State.CANDIDATE)


def _digest(claim: Manifest, keep: frozenset[str]) -> str:
    identity = [claim["metadata"]["name"], claim["metadata"]["uid"], *sorted(keep)]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _noted(claim: Manifest, digest: str, job: Manifest) -> Patch:
    """One that failed is noted as well: it would fail again. The next change of a model has it tried anew."""
    operation: Manifest = {"op": "add", "path": PATH, "value": digest}
    if claim["metadata"].get("annotations") is None:
        operation = {"op": "add", "path": "/metadata/annotations", "value": {names.PRUNED: digest}}
    return Patch(claim, (operation,), optional=True, warning=_why_failed(job) if has(job, "Failed") else None)


def _why_failed(job: Manifest) -> str:
    """What somebody should look at: one whose pods are refused, or are kept open, ends at its deadline."""
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    if any(one.get("reason") == "DeadlineExceeded" for one in job["status"]["conditions"]):
        return (
            f"Job {name} did not end within {DEADLINE_SECONDS} s: its pods are refused, or a container that somebody "
            f"injected does not end; see `kubectl describe job -n {namespace} {name}`"
        )
    return f"Job {name} failed; see `kubectl logs -n {namespace} job/{name}`"
