"""The Job that fetches a model into a claim: its manifest, and what it and its pods say. Pure.

One Job for all LLMDeployments that need the same model: its name is a hash of what decides how the fetch ends. Called
by gate.py (what to do about it) and status.py (what to tell).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from llm_operator.api.conditions import Finding, Reason
from llm_operator.api.types import Cache, LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.cache_job import build_job, has
from llm_operator.core.cached_model import CachedModel, parse_record
from llm_operator.core.children import ca_volumes, fetch_container, way_out
from llm_operator.core.diagnosis import (
    EXPLAINED_CRASHES,
    UNEXPLAINED_CRASHES,
    Fault,
    diagnose,
    is_going,
    is_over,
)
from llm_operator.core.fetch_words import fetch_reason
from llm_operator.core.model import Parent, Progress, Settings
from llm_operator.core.names import Manifest
from llm_operator.core.words import detail, gives_a_reason, last_words

COMPONENT = "model-fetch"
# Each pause between two pods is twice as long as the one before, up to six minutes.
RETRIES = 30
KILLED = "OOMKilled"
JOB_UID = "batch.kubernetes.io/controller-uid"


@dataclass(frozen=True, slots=True)
class Fetch:
    """How a fetch stands: `model` once it is there, `failed` once it is given up, with the reason in `finding`.

    `fault` is what keeps its pods from working, `pod` the one that is at work.
    """

    finding: Finding
    model: CachedModel | None = None
    failed: bool = False
    fault: Fault | None = None
    pod: str | None = None


def fetch_name(spec: LLMDeploymentSpec, claim: Manifest, settings: Settings) -> str:
    """The Job's name. It is another one for a claim made anew, and for a corrected token, mirror, image or proxy."""
    model = spec.wanted_model
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


def read_fetch(job: Manifest | None, pods: Iterable[Manifest], claim: Manifest | None) -> Fetch | None:
    """How a fetch stands; None where there is none."""
    if job is None or claim is None:
        return None
    uid = job["metadata"]["uid"]
    # Those of an earlier Job of the same name may still be there.
    pods = [pod for pod in pods if pod["metadata"].get("labels", {}).get(JOB_UID, uid) == uid]
    where = f"Job {job['metadata']['name']}"
    logs = f"see `kubectl logs -n {job['metadata']['namespace']} job/{job['metadata']['name']}`"
    ends = _ends(pods)
    for _, code, message in ends:
        model = parse_record(message, claim["metadata"]["uid"]) if code == 0 else None
        if model is not None:
            return Fetch(
                Finding(Reason.MODEL_READY, f"{model.repository} at {model.commit} is at {model.path}."), model
            )
    failure = next((_failure(where, logs, code, message) for _, code, message in ends if code != 0), None)
    if has(job, "Complete"):
        words = "left no record of the model; use an image of the operator's version" if ends else "has lost its pod"
        return Fetch(Finding(Reason.FETCH_FAILED, f"{where} {words}."), failed=bool(ends))
    if has(job, "Failed") or _is_hopeless(ends):
        return Fetch(failure or Finding(Reason.FETCH_FAILED, f"{where} failed; {logs}."), failed=True)
    # A pod whose fetch has ended, its Job judges.
    at_work = [pod for pod in pods if not is_over(pod) and not is_going(pod) and not _ends([pod])]
    fault = diagnose(at_work)
    running = next(
        (pod["metadata"]["name"] for pod in at_work if pod.get("status", {}).get("phase") == "Running"), None
    )
    going = Finding(Reason.MODEL_FETCHING, f"{where} fetches the model; {logs}.")
    told = fault.finding if fault is not None else going if running or failure is None else failure
    return Fetch(told, fault=fault, pod=running)


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


def _is_hopeless(ends: list[tuple[str, int, str]]) -> bool:
    """Whether it ended so often for no reason of its own that another try would end in the same way."""
    killed = sum(1 for _, _, message in ends if message == KILLED)
    unexplained = sum(1 for _, code, message in ends if code != 0 and message != KILLED and not gives_a_reason(message))
    return killed >= EXPLAINED_CRASHES or unexplained >= UNEXPLAINED_CRASHES


def _failure(where: str, logs: str, code: int, message: str) -> Finding:
    """The fetch's own reason, where it is one that we know."""
    if message == KILLED:
        return Finding(Reason.OUT_OF_MEMORY, f"{where} was killed for its memory; {logs}.")
    reason, words = fetch_reason(message) or (Reason.FETCH_FAILED, last_words(message))
    return Finding(reason, f"{where} exited with code {code}; {logs}.{detail(words)}")
