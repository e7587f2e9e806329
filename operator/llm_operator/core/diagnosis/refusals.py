"""Why pods cannot be created, read from the API server's words. Pure; used by pods.py.

A clear no of a policy is a proof: only an edit can mend it. What failed (a webhook, the API server itself), what may
still come (a ServiceAccount, a PriorityClass) and what others may free (a quota) is a doubt; so are unknown words.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llm_operator.api.conditions import Cause, Reason
from llm_operator.core import quantity
from llm_operator.core.diagnosis.fault import Fault, Proof
from llm_operator.core.diagnosis.messages import detail
from llm_operator.core.names import Manifest

NOT_CREATED = "FailedCreate"
# The reader is told by its own words what "pods "…" is forbidden" and the like would only repeat.
PREFIX = re.compile(r'^(pods?|Pod) "[^"]*" is (forbidden|invalid): ')
RANDOM_SUFFIX = r"-[bcdfghjklmnpqrstvwxz2456789]{5}\b"
WEBHOOK_FAILED = re.compile(
    r'failed calling webhook "(?P<name>[^"]+)"|failed to call webhook|(received invalid|expected) webhook response'
)
# A webhook or a policy that could not decide: it asked somebody who did not answer, or its own expression failed.
COULD_NOT_DECIDE = re.compile(
    r"i/o timeout|deadline exceeded|timed out|did not complete within|connection re(fused|set)|no such host"
    r"|no route to host|network is unreachable|TLS handshake|x509:|no endpoints available|\bEOF\b"
    r"|Internal error occurred|resulted in error|failed to configure (policy|binding)|no params found"
    r"|too ?many ?requests|5\d\d (Internal Server Error|Bad Gateway|Service Unavailable|Gateway Time-?out)",
    re.IGNORECASE,
)
POLICY = re.compile(
    r"(?P<kind>admission webhook|ValidatingAdmissionPolicy) ['\"](?P<name>[^'\"]+)['\"].*? denied (the )?request"
)
MISSING: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r'serviceaccount "(?P<name>[^"]+)" not found', re.IGNORECASE), "ServiceAccount"),
    (re.compile(r"no PriorityClass with name (?P<name>\S+) was found"), "PriorityClass"),
    (re.compile(r'RuntimeClass(\.node\.k8s\.io)? "(?P<name>[^"]+)" not found', re.IGNORECASE), "RuntimeClass"),
)
QUOTA = re.compile(
    r"exceeded quota: (?P<name>[^,]+), requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)"
)
UNDECLARED = re.compile(r"failed quota: (?P<name>\S+): must specify (?P<what>.+)")
BESIDE_THE_OLD = "; if there is no room beside the old pods, set spec.rollout.strategy Recreate"
LIMIT_RANGE = re.compile(r"(maximum|minimum) \S+ usage per \S+ is |max limit to request ratio per ")
# What other admission plugins, and the validation of the API server itself, say for good.
CLEAR_NO = re.compile(
    r"Invalid value|Unsupported value|Required value|Forbidden: |denied one or more images|denied (the )?request"
    r"|unable to validate against any security context constraint|conflicts? with its namespace"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why pods are not created, whether only an edit can mend it, and for which reason."""

    cause: Cause
    is_final: bool


def read_refusal(message: str, owner: str, *, of_fetch: bool = False) -> Refusal:
    """What the API server's words mean; `owner` is the name that the names of the pods begin with."""
    words = re.sub(rf"\b{re.escape(owner)}{RANDOM_SUFFIX}", owner, message)
    words = PREFIX.sub("", words)
    reason, text, is_final = next((found for found in (read(words) for read in READERS) if found is not None), UNKNOWN)
    if of_fetch:
        text = _about_a_fetch(text)
    return Refusal(Cause(reason, f"{text}{detail(words)}"), is_final)


def _about_a_fetch(text: str) -> str:
    """The same about pods that fetch a model, which have a share of their own and replace nobody."""
    text = text.replace(BESIDE_THE_OLD, "").replace("spec.resources", "spec.model.fetchResources")
    return f"The model is not fetched. {text}"


_Read = tuple[Reason, str, bool]


def _webhook_failed(words: str) -> _Read | None:
    match = WEBHOOK_FAILED.search(words)
    if match is None:
        return None
    who = f"The admission webhook {match['name']}" if match["name"] else "An admission webhook"
    return (
        Reason.WEBHOOK_UNAVAILABLE,
        f"{who} does not work, so no pod can be created; see to the pods and the certificate of its service.",
        False,
    )


def _pod_security(words: str) -> _Read | None:
    if "violates PodSecurity" not in words:
        return None
    return (
        Reason.POD_SECURITY_VIOLATION,
        "The namespace's Pod Security level refuses the pods, which meet `restricted` unless something changes them; "
        "see which admission webhook does, or lower the label pod-security.kubernetes.io/enforce.",
        True,
    )


def _quota(words: str) -> _Read | None:
    if "exceeded quota" not in words:
        return None
    match = QUOTA.search(words)
    alone = [] if match is None else _more_than_all(match["requested"], match["limited"])
    if match is not None and alone:
        return (
            Reason.QUOTA_EXCEEDED,
            f"One pod alone asks for more than ResourceQuota {match['name']} allows ({', '.join(alone)}); lower "
            "spec.resources, or raise the quota.",
            True,
        )
    return (
        Reason.QUOTA_EXCEEDED,
        "A ResourceQuota leaves no room for the pods; raise the quota or free some of it, or lower spec.resources"
        f"{BESIDE_THE_OLD}.",
        False,
    )


def _more_than_all(requested: str, limited: str) -> list[str]:
    """What is asked for by more than the whole quota: nobody else can free that."""
    wanted, allowed = _amounts(requested), _amounts(limited)
    return [
        f"{name} {amount} of {allowed[name]}"
        for name, amount in wanted.items()
        if name in allowed and _is_more(amount, allowed[name])
    ]


def _is_more(amount: str, limit: str) -> bool:
    try:
        return quantity.parse(amount) > quantity.parse(limit)
    except ValueError:
        return False


def _amounts(listed: str) -> dict[str, str]:
    return {name: amount for name, _, amount in (one.partition("=") for one in listed.split(","))}


def _undeclared(words: str) -> _Read | None:
    match = UNDECLARED.search(words)
    if match is None:
        return None
    return (
        Reason.POD_CREATION_REFUSED,
        f"ResourceQuota {match['name']} wants every container to declare its share; set spec.resources requests and "
        "limits for what it names, or create a LimitRange with defaults.",
        True,
    )


def _limit_range(words: str) -> _Read | None:
    if LIMIT_RANGE.search(words) is None:
        return None
    return (
        Reason.POD_CREATION_REFUSED,
        "A LimitRange of the namespace refuses the pods; keep spec.resources within it, or change it.",
        True,
    )


def _missing(words: str) -> _Read | None:
    for pattern, kind in MISSING:
        match = pattern.search(words)
        if match is not None:
            correct = "; create it, or correct spec.priorityClassName" if kind == "PriorityClass" else "; create it"
            return (
                Reason.POD_CREATION_FAILED,
                f"There is no {kind} {match['name']}, which the pods name{correct}.",
                False,
            )
    return None


def _policy(words: str) -> _Read | None:
    match = POLICY.search(words)
    if match is None:
        return None
    who = f"{match['kind'][0].upper()}{match['kind'][1:]} {match['name']}"
    if COULD_NOT_DECIDE.search(words[match.end() :]):
        return (
            Reason.WEBHOOK_UNAVAILABLE,
            f"{who} refuses the pods because it could not decide; see to what it asks.",
            False,
        )
    return (
        Reason.POD_CREATION_REFUSED,
        f"{who} refuses the pods; change the spec as it asks, or have the policy changed.",
        True,
    )


def _passing(words: str) -> _Read | None:
    if COULD_NOT_DECIDE.search(words) is None:
        return None
    return Reason.POD_CREATION_FAILED, "The API server fails to create the pods; it is tried again.", False


def _clear_no(words: str) -> _Read | None:
    if CLEAR_NO.search(words) is None:
        return None
    return Reason.POD_CREATION_REFUSED, "The API server refuses the pods; correct the spec.", True


UNKNOWN: _Read = (Reason.POD_CREATION_FAILED, "The pods cannot be created now; it is tried again.", False)
READERS: tuple[Callable[[str], _Read | None], ...] = (
    _webhook_failed,
    _pod_security,
    _quota,
    _undeclared,
    _limit_range,
    _missing,
    _policy,
    _passing,
    _clear_no,
)


def pods_refused(live: Manifest) -> Fault | None:
    """Why the pods of a ReplicaSet are not created."""
    for condition in live.get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            refusal = read_refusal(condition.get("message", ""), live["metadata"]["name"])
            return Fault(refusal.cause, Proof.STANDING if refusal.is_final else Proof.DOUBT)
    return None


def pods_of_job_refused(job: Manifest, events: Iterable[Manifest]) -> Fault | None:
    """Why the pods of a Job are not created, by its events: its status does not tell."""
    told = [one for one in events if one.get("reason") in (NOT_CREATED, "SuccessfulCreate")]
    newest = max(told, key=lambda one: one.get("deprecatedLastTimestamp") or one.get("eventTime") or "", default=None)
    if newest is None or newest["reason"] != NOT_CREATED:
        return None
    words = newest.get("note", "").removeprefix("Error creating: ")
    refusal = read_refusal(words, job["metadata"]["name"], of_fetch=True)
    return Fault(refusal.cause, Proof.STANDING if refusal.is_final else Proof.DOUBT)
