"""Gathers all that one decision looks at. Called by reconcile.py; writes nothing to the cluster.

Usually from the watch cache, that is from what the watches delivered. Live where it must be the newest: before a
revision is condemned or an edit undone, and after a conflict has shown that the watch cache is behind.
"""

import asyncio
from dataclasses import dataclass

from pydantic import ValidationError

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.diagnosis.messages import secrets_not_found
from llm_operator.core.diagnosis.pods import denied_with_secrets
from llm_operator.core.model_cache.fetch_job import fetch_name, may_be_refused
from llm_operator.core.model_cache.known_models import pin_to_recorded_commit
from llm_operator.core.model_cache.prune import may_be_pruned
from llm_operator.core.names import Manifest
from llm_operator.core.observation import InvalidSpec, Neighbourhood, Observation, Parent, Settings, Suspicion
from llm_operator.core.ownership import is_controlled_by, is_pod_of
from llm_operator.core.revisions.history import read_history
from llm_operator.kube import (
    CLAIMS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    LLMDEPLOYMENTS,
    PODS,
    REPLICA_SETS,
    SERVICES,
    ApiError,
    Kube,
    Resource,
)
from llm_operator.watch_cache import WatchCache

# A kubelet's event: it pulls without the Secret, and the registry's no says nothing of that.
NO_PULL_SECRET = "FailedToRetrieveImagePullSecret"  # noqa: S105 - a reason, not a secret
# What a claim may be needed by.
NEIGHBOURS = (LLMDEPLOYMENTS, CONTROLLER_REVISIONS, JOBS)
OUTDATED = "Outdated"


async def observe(
    kube: Kube,
    watched: WatchCache,
    namespace: str,
    name: str,
    *,
    settings: Settings,
    live: bool,
    suspicion: Suspicion | None = None,
) -> Observation | None:
    """The world around one LLMDeployment; None when it does not exist. Raises ApiError."""
    if live:
        parent, deployment, service, pods, revisions = await _read_live(kube, watched, namespace, name)
    else:
        parent = watched.get(LLMDEPLOYMENTS, namespace, name)
        if parent is None:
            return None
        deployment, service = await asyncio.gather(
            _known(kube, watched, DEPLOYMENTS, namespace, name, reader=name),
            _known(kube, watched, SERVICES, namespace, name, reader=name),
        )
        pods, revisions = (watched.children(resource, namespace, name) for resource in (PODS, CONTROLLER_REVISIONS))
    if parent is None:
        return None
    read = parse_parent(parent)
    model = await _model(kube, watched, read, revisions, settings, live=live)
    own_pods = tuple(pod for pod in pods if is_pod_of(name, pod))
    events = await _events_of_fetch(kube, model)
    return Observation(
        parent=read,
        deployment=deployment,
        service=service,
        pods=own_pods,
        revisions=tuple(revisions),
        replica_sets=tuple(await _replica_sets(kube, namespace, name, deployment)),
        missing_secrets=await _missing_secrets(kube, namespace, denied_with_secrets(own_pods)),
        now=kube.api_clock.now(),
        contact_since=kube.api_clock.since,
        suspicion=suspicion,
        claim=model.claim,
        others_keep_claim=model.others_keep_claim,
        fetch=model.fetch,
        fetch_pods=model.pods,
        fetch_events=tuple(events),
        other_fetches=_other_fetches(watched, read, model.fetch),
        neighbourhood=await _neighbourhood(kube, watched, read, model.claim, live=live),
    )


def _other_fetches(watched: WatchCache, parent: Parent, declared: Manifest | None) -> tuple[Manifest, ...]:
    """Jobs of the parent besides the one that it declares now. Old news do no harm: a write of them fails."""
    return tuple(
        job
        for job in watched.children(JOBS, parent.namespace, parent.uid)
        if names.FETCH in job["metadata"].get("labels", {})
        and (declared is None or job["metadata"]["uid"] != declared["metadata"]["uid"])
    )


@dataclass(frozen=True, slots=True)
class _Model:
    claim: Manifest | None = None
    others_keep_claim: bool = False
    fetch: Manifest | None = None
    pods: tuple[Manifest, ...] = ()


async def _model(
    kube: Kube, watched: WatchCache, parent: Parent, revisions: list[Manifest], settings: Settings, *, live: bool
) -> _Model:
    """The claim of the declared cache, and the fetch into it."""
    spec, namespace = parent.spec, parent.namespace
    cache = None if isinstance(spec, InvalidSpec) else spec.used_cache
    if isinstance(spec, InvalidSpec) or cache is None or parent.deleting:
        return _Model()
    read = _get if live else _known
    claim = await read(kube, watched, CLAIMS, namespace, cache.claim_name, reader=parent.name)
    kept = cache.deletion_policy == "Delete" and _others_keep(watched, parent, cache.claim_name)
    if claim is None:
        return _Model(others_keep_claim=kept)
    name = fetch_name(pin_to_recorded_commit(spec, read_history(parent, revisions), claim), claim, settings)
    group, selector = names.group_of_fetch(name), f"{names.FETCH}={name}"
    if not live:
        found = watched.get(JOBS, namespace, name), watched.children(PODS, namespace, group)
    else:
        job, pods = await asyncio.gather(
            _get(kube, watched, JOBS, namespace, name, reader=parent.name),
            _find(kube, watched, PODS, namespace, group, selector, reader=parent.name),
        )
        found = job, pods
    return _Model(claim, kept, found[0], tuple(found[1]))


async def _events_of_fetch(kube: Kube, model: _Model) -> list[Manifest]:
    """Why a Job has no pods stands nowhere else: it is asked only where that is so."""
    job = model.fetch
    if job is None or not may_be_refused(job, model.pods, kube.api_clock.now()):
        return []
    try:
        about = f"regarding.uid={job['metadata']['uid']}"
        return await kube.find(EVENTS, job["metadata"]["namespace"], field_selector=about)
    except ApiError:
        # An operator with the rights of an earlier version, for one, goes on without: nothing but words depends on it.
        return []


def _others_keep(watched: WatchCache, parent: Parent, claim: str) -> bool:
    """Whether another LLMDeployment names the claim and wants it kept."""
    for other in watched.every(LLMDEPLOYMENTS):
        metadata, cache = other["metadata"], other.get("spec", {}).get("cache")
        if metadata["namespace"] != parent.namespace or metadata["uid"] == parent.uid or cache is None:
            continue
        if cache.get("claimName") == claim and cache.get("deletionPolicy") == "Retain":
            return True
    return False


async def _neighbourhood(
    kube: Kube, watched: WatchCache, parent: Parent, claim: Manifest | None, *, live: bool
) -> Neighbourhood | None:
    """All that a claim may be used for, where it may be pruned; for most there is nothing to do."""
    cache = None if isinstance(parent.spec, InvalidSpec) else parent.spec.used_cache
    if cache is None or claim is None or not may_be_pruned(cache, claim):
        return None
    everything = await asyncio.gather(
        *(_everything(kube, watched, one, parent.namespace, live=live) for one in NEIGHBOURS)
    )
    llmdeployments, revisions, jobs = everything
    specs = tuple(one.get("spec", {}) for one in llmdeployments if one["metadata"]["uid"] != parent.uid)
    return Neighbourhood(specs, tuple(revisions), tuple(jobs))


async def _everything(
    kube: Kube, watched: WatchCache, resource: Resource, namespace: str, *, live: bool
) -> list[Manifest]:
    """All objects of a kind that are watched in a namespace."""
    if not live:
        return [one for one in watched.every(resource) if one["metadata"]["namespace"] == namespace]
    selector = "" if resource is LLMDEPLOYMENTS else names.MANAGED_SELECTOR
    found = await kube.find(resource, namespace, label_selector=selector)
    for one in found:
        # Also what is its own is news to it: the rest was read before.
        watched.put(resource, one)
    return found


async def _read_live(
    kube: Kube, watched: WatchCache, namespace: str, name: str
) -> tuple[Manifest | None, Manifest | None, Manifest | None, list[Manifest], list[Manifest]]:
    """Ask the API server, and let the watch cache know."""
    selector = names.selector_string(name)
    parent, deployment, service, pods, revisions = await asyncio.gather(
        _get(kube, watched, LLMDEPLOYMENTS, namespace, name, reader=name),
        _get(kube, watched, DEPLOYMENTS, namespace, name, reader=name),
        _get(kube, watched, SERVICES, namespace, name, reader=name),
        _find(kube, watched, PODS, namespace, name, selector, reader=name),
        _find(kube, watched, CONTROLLER_REVISIONS, namespace, name, selector, reader=name),
    )
    return parent, deployment, service, pods, revisions


async def _known(
    kube: Kube, watched: WatchCache, resource: Resource, namespace: str, name: str, *, reader: str
) -> Manifest | None:
    """From the watch cache; what is not there may be somebody else's, whose objects are not watched."""
    return watched.get(resource, namespace, name) or await _get(kube, watched, resource, namespace, name, reader=reader)


async def _get(
    kube: Kube, watched: WatchCache, resource: Resource, namespace: str, name: str, *, reader: str
) -> Manifest | None:
    known = watched.get(resource, namespace, name)
    live = await kube.get(resource, namespace, name)
    if live is None and known is not None:
        watched.remove(resource, known)
    if live is not None and watched.knows_newer(resource, live):
        # From a server that lags, or the watch was faster than this answer: decided by it, the news would be lost.
        raise ApiError(409, OUTDATED, f"{resource.plural} {namespace}/{name} was read older than it is known to be")
    # Of the others only those that a watch will also tell of.
    if live is not None and (resource is LLMDEPLOYMENTS or names.is_managed(live)):
        watched.put(resource, live, reader=(namespace, reader))
    return live


async def _find(
    kube: Kube, watched: WatchCache, resource: Resource, namespace: str, name: str, selector: str, *, reader: str
) -> list[Manifest]:
    known = watched.children(resource, namespace, name)
    found = await kube.find(resource, namespace, label_selector=selector)
    for live in found:
        watched.put(resource, live, reader=(namespace, reader))
    uids = {live["metadata"]["uid"] for live in found}
    for old in known:
        if old["metadata"]["uid"] not in uids:
            watched.remove(resource, old)
    return found


async def _replica_sets(kube: Kube, namespace: str, name: str, deployment: Manifest | None) -> list[Manifest]:
    """Only they know which revision's pods are refused; no event tells of them, and they are rarely needed."""
    conditions = (deployment or {}).get("status", {}).get("conditions", [])
    if not any(one["type"] == "ReplicaFailure" and one["status"] == "True" for one in conditions):
        return []
    found = await kube.find(REPLICA_SETS, namespace, label_selector=names.selector_string(name))
    return [one for one in found if deployment is not None and is_controlled_by(one, deployment)]


async def _missing_secrets(kube: Kube, namespace: str, pods: set[str]) -> tuple[str, ...]:
    """What only the kubelet's events say: we may read no Secret. Without the right to list events it is left open."""
    if not pods:
        return ()
    try:
        events = await kube.find(EVENTS, namespace, field_selector=f"reason={NO_PULL_SECRET}")
    except ApiError:
        return ()
    told = [one.get("note", "") for one in events if one.get("regarding", {}).get("name") in pods]
    return tuple(sorted({secret for note in told for secret in secrets_not_found(note)}))


def parse_parent(live: Manifest) -> Parent:
    """The LLMDeployment as a value; a spec that cannot be read becomes an `InvalidSpec`, never an exception."""
    metadata = live["metadata"]
    return Parent(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        spec=parse_spec(live.get("spec", {})),
        status=live.get("status", {}),
        deleting="deletionTimestamp" in metadata,
        adopts=metadata.get("annotations", {}).get(names.ADOPT) == "true",
    )


def parse_spec(spec: object) -> LLMDeploymentSpec | InvalidSpec:
    """The spec as a value. The API server's schema refuses nearly all that would fail here."""
    try:
        return LLMDeploymentSpec.model_validate(spec)
    except ValidationError as error:
        return InvalidSpec(
            tuple(
                f"`{'.'.join(['spec', *map(str, one['loc'])])}`: {one['msg']}."
                for one in error.errors(include_input=False, include_url=False)
            )
        )
