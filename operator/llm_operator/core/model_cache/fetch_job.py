"""The Job that fetches a model into a claim: its manifest, and what it and its pods say. Pure.

One Job for all LLMDeployments that need the same model: its name is a hash of what decides how the fetch ends. Called
by fetch_verdict.py (what to do about it) and conditions.py (what to tell).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from llm_operator.api.conditions import Cause, Reason
from llm_operator.api.types import Cache, LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.cached_model import CachedModel, parse_record
from llm_operator.core.children.cache_containers import ca_volumes, fetch_container, way_out
from llm_operator.core.diagnosis.fault import Fault
from llm_operator.core.diagnosis.fetch_messages import FINAL_CODES, fetch_reason
from llm_operator.core.diagnosis.messages import detail, gives_a_reason, last_words
from llm_operator.core.diagnosis.pods import EXPLAINED_CRASHES, UNEXPLAINED_CRASHES, diagnose
from llm_operator.core.diagnosis.refusals import pods_of_job_refused
from llm_operator.core.live import has_ended, is_deleting
from llm_operator.core.model_cache.job import build_job, has, is_finished
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation, Parent, Progress, Settings

# A Job has its pod at once, unless that is refused, of which no watch tells.
NO_POD_SECONDS = 3.0
COMPONENT = "model-fetch"
# Each pause between two pods is twice as long as the one before, up to six minutes.
RETRIES = 30
KILLED = "OOMKilled"
JOB_UID = "batch.kubernetes.io/controller-uid"


@dataclass(frozen=True, slots=True)
class Fetch:
    """How a fetch stands: `model` once it is there, `failed` once it is given up, with the reason in `cause`.

    `fault` is what keeps its pods from working, `pod` the one that is at work, on a node that answers. `held_since` is
    when the fetch ended of a Job that something else in its pod keeps open. `failed_before` is why an earlier try
    failed.
    """

    cause: Cause
    model: CachedModel | None = None
    failed: bool = False
    fault: Fault | None = None
    pod: str | None = None
    held_since: datetime | None = None
    failed_before: Cause | None = None


def fetch_name(spec: LLMDeploymentSpec, claim: Manifest, settings: Settings) -> str:
    """The Job's name. It is another one for a claim made anew, or for another token, mirror, image, proxy or share."""
    model = spec.wanted_model
    share = model.fetch_resources
    identity = [
        claim["metadata"]["name"],
        claim["metadata"]["uid"],
        model.repository,
        model.revision,
        model.endpoint,
        model.token_secret_ref.model_dump(),
        spec.image or settings.server_image,
        # Only where they are set: a new version of the operator fetches nothing anew.
        *way_out(settings),
        *ca_volumes(settings),
        *([] if share is None else [share.model_dump(exclude_none=True)]),
    ]
    return f"fetch-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}"


def build_fetch(parent: Parent, spec: LLMDeploymentSpec, cache: Cache, name: str, settings: Settings) -> Manifest:
    """The Job: one pod at a time, again after what may pass, until it is done or cannot be."""
    return build_job(
        parent,
        spec,
        cache,
        name=name,
        labels={**names.shared_labels(COMPONENT), names.FETCH: name},
        container=fetch_container(spec, settings),
        volumes=ca_volumes(settings),
        limits={"backoffLimit": RETRIES},
    )


def read_fetch(
    job: Manifest | None, pods: Iterable[Manifest], claim: Manifest | None, events: Iterable[Manifest] = ()
) -> Fetch | None:
    """How a fetch stands; None where there is none. `events` are those of the Job, where it has no pod."""
    if job is None or claim is None:
        return None
    own = pods_of_job(job, pods)
    held = None if is_finished(job) else _held_open_since(own)
    refused = None if own else pods_of_job_refused(job, events)
    return replace(_read(job, own, claim["metadata"]["uid"], refused), held_since=held)


def pods_of_job(job: Manifest, pods: Iterable[Manifest]) -> list[Manifest]:
    """Its pods. Those of an earlier Job of the same name may still be there."""
    uid = job["metadata"]["uid"]
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get(JOB_UID, uid) == uid]


def _read(job: Manifest, pods: list[Manifest], claim: str, refused: Fault | None) -> Fetch:
    where = f"Job {job['metadata']['name']}"
    logs = f"see `kubectl logs -n {job['metadata']['namespace']} job/{job['metadata']['name']}`"
    ends = _ends(pods)
    for _, code, message in ends:
        model = parse_record(message, claim) if code == 0 else None
        if model is not None:
            return Fetch(Cause(Reason.MODEL_READY, f"{model.repository} at {model.commit} is at {model.path}."), model)
    failure = next((_failure(where, logs, code, message) for _, code, message in ends if code != 0), None)
    # A Job whose pod something else keeps open never says that it is complete.
    if has(job, "Complete") or (ends and ends[0][1] == 0):
        words = "left no record of the model; use an image of the operator's version" if ends else "has lost its pod"
        return Fetch(Cause(Reason.FETCH_FAILED, f"{where} {words}."), failed=bool(ends))
    if has(job, "Failed") or _is_hopeless(ends):
        return Fetch(failure or Cause(Reason.FETCH_FAILED, f"{where} failed; {logs}."), failed=True)
    waiting = [pod for pod in pods if not has_ended(pod) and not is_deleting(pod) and not _ends([pod])]
    fault = refused or diagnose(waiting)
    at_work = next((pod["metadata"]["name"] for pod in waiting if _is_at_work(pod)), None)
    going = Cause(Reason.MODEL_FETCHING, f"{where} fetches the model; {logs}.")
    if not pods and fault is None:
        going = Cause(Reason.MODEL_FETCHING, f"{where} has no pod yet.")
    told = fault.cause if fault is not None else going if at_work or failure is None else failure
    return Fetch(told, fault=fault, pod=at_work, failed_before=failure)


def lost_its_pod(job: Manifest, pods: Iterable[Manifest]) -> bool:
    """Whether the fetch is done and nobody is left to say what it brought: it has to be asked again."""
    return has(job, "Complete") and not _ends(pods)


def parse_progress(log: str) -> Progress | None:
    """How far a fetch is, by the last line of its log that says so."""
    for line in reversed(log.splitlines()):
        try:
            record = json.loads(line)
            done, total = int(record["bytesDone"]), int(record["bytesTotal"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
        if 0 <= done <= total and total > 0:
            return Progress(done, total)
    return None


def _ends(pods: Iterable[Manifest]) -> list[tuple[str, int, str]]:
    """How the pods' fetches ended, the newest first: when, exit code, last words."""
    found = []
    for pod in pods:
        for one in pod.get("status", {}).get("containerStatuses", []):
            ended = one.get("state", {}).get("terminated")
            if ended is not None and one["name"] == names.FETCH_CONTAINER:
                message = KILLED if ended.get("reason") == KILLED else ended.get("message", "")
                found.append((ended.get("finishedAt") or "", ended.get("exitCode", 1), message))
    return sorted(found, reverse=True)


def _held_open_since(pods: Iterable[Manifest]) -> datetime | None:
    """When the fetch ended of a pod that is still there, as a container that somebody injected does not end."""
    open_ones = [pod for pod in pods if not has_ended(pod) and not is_deleting(pod)]
    times = [when for when, _, _ in _ends(open_ones) if when]
    return datetime.fromisoformat(times[0]) if times else None


def _is_at_work(pod: Manifest) -> bool:
    """Whether the fetch runs, as far as its node can tell."""
    states = pod.get("status", {}).get("containerStatuses", [])
    runs = any(one["name"] == names.FETCH_CONTAINER and "running" in one.get("state", {}) for one in states)
    return runs and not _is_out_of_reach(pod)


def _is_out_of_reach(pod: Manifest) -> bool:
    """Whether the pod's node does not answer: then not the kubelet says that the pod is not ready."""
    found = {one["type"]: one for one in pod.get("status", {}).get("conditions", [])}
    ready, containers = found.get("Ready", {}), found.get("ContainersReady", {})
    if ready.get("status") == "Unknown":
        return True
    told_by_kubelet = ready.get("reason") or containers.get("status") != "True"
    return ready.get("status") == "False" and not told_by_kubelet


def _is_hopeless(ends: list[tuple[str, int, str]]) -> bool:
    """Whether another try would end in the same way: it says so itself, or ended too often for no reason of its own."""
    if ends and ends[0][1] in FINAL_CODES:
        return True
    killed = sum(1 for _, _, message in ends if message == KILLED)
    unexplained = sum(1 for _, code, message in ends if code != 0 and message != KILLED and not gives_a_reason(message))
    return killed >= EXPLAINED_CRASHES or unexplained >= UNEXPLAINED_CRASHES


def _failure(where: str, logs: str, code: int, message: str) -> Cause:
    """The fetch's own reason, where it is one that we know."""
    if message == KILLED:
        return Cause(Reason.OUT_OF_MEMORY, f"{where} was killed for its memory; {logs}.")
    reason, words = fetch_reason(message) or (Reason.FETCH_FAILED, last_words(message))
    return Cause(reason, f"{where} exited with code {code}; {logs}.{detail(words)}")


def current_fetch(observation: Observation) -> Fetch | None:
    """How the fetch of the declared model stands."""
    return read_fetch(observation.fetch, observation.fetch_pods, observation.claim, observation.fetch_events)


def may_be_refused(job: Manifest, pods: Iterable[Manifest], now: datetime) -> bool:
    """Whether a Job has no pod although it had the time to: then its events are asked why."""
    made = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    return not is_finished(job) and not pods_of_job(job, pods) and (now - made).total_seconds() >= NO_POD_SECONDS
