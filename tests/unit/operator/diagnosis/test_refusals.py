"""Words of the API server about pods that are not created: what they mean, and whether that can pass."""

import pytest

from llm_operator.api.conditions import Reason
from llm_operator.core.diagnosis.refusals import read_refusal

REFUSED, FAILED, WEBHOOK = Reason.POD_CREATION_REFUSED, Reason.POD_CREATION_FAILED, Reason.WEBHOOK_UNAVAILABLE
QUOTA, SECURITY = Reason.QUOTA_EXCEEDED, Reason.POD_SECURITY_VIOLATION
FORBIDDEN = 'pods "triage-5d8f-x2bqz" is forbidden: '
CALLING = 'Internal error occurred: failed calling webhook "inject.mesh.example.com": failed to call webhook: '

# Only somebody's edit makes these go away.
FINAL: dict[str, tuple[Reason, str, str]] = {
    "Pod Security": (
        SECURITY,
        f'{FORBIDDEN}violates PodSecurity "restricted:latest": hostNetwork (pod must not set hostNetwork=true)',
        "pod-security.kubernetes.io/enforce",
    ),
    "a policy of the API server": (
        REFUSED,
        f"{FORBIDDEN}ValidatingAdmissionPolicy 'no-latest' with binding 'no-latest' denied request: failed expression: "
        "object.spec.containers.all(one, !one.image.endsWith('latest'))",
        "ValidatingAdmissionPolicy no-latest",
    ),
    "a webhook that says no": (
        REFUSED,
        'admission webhook "policy.example.com" denied the request: every pod needs a cost centre',
        "Admission webhook policy.example.com refuses",
    ),
    "Gatekeeper": (
        REFUSED,
        'admission webhook "validation.gatekeeper.sh" denied the request: [must-have-owner] you must provide labels: '
        '{"owner"}',
        "validation.gatekeeper.sh",
    ),
    "Kyverno": (
        REFUSED,
        'admission webhook "validate.kyverno.svc-fail" denied the request: \n\nresource Pod/clinic/triage-5d8f-x2bqz '
        "was blocked due to the following policies\n\nrequire-probes:\n  timeouts: 'validation error: set a timeout'",
        "validate.kyverno.svc-fail",
    ),
    "a limit range, too much": (
        REFUSED,
        f"{FORBIDDEN}maximum memory usage per Container is 1Gi, but limit is 6Gi",
        "LimitRange",
    ),
    "a limit range, too little": (
        REFUSED,
        f"{FORBIDDEN}[minimum cpu usage per Container is 100m, but request is 50m, maximum cpu usage per Pod is 1, but "
        "limit is 2]",
        "LimitRange",
    ),
    "a limit range, a ratio": (
        REFUSED,
        f"{FORBIDDEN}cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
        "LimitRange",
    ),
    "a quota that wants what is not declared": (
        REFUSED,
        f"{FORBIDDEN}failed quota: team: must specify limits.cpu for: server; limits.memory for: server",
        "spec.resources",
    ),
    "more than the whole quota": (
        QUOTA,
        f"{FORBIDDEN}exceeded quota: team, requested: limits.memory=6Gi,pods=1, used: limits.memory=0,pods=0, limited: "
        "limits.memory=4Gi,pods=9",
        "limits.memory 6Gi of 4Gi",
    ),
    "the image policy of the API server": (
        REFUSED,
        f"{FORBIDDEN}image policy webhook backend denied one or more images: unsigned",
        "correct the spec",
    ),
    "security context constraints": (
        REFUSED,
        f"{FORBIDDEN}unable to validate against any security context constraint: [provider restricted-v2]",
        "correct the spec",
    ),
    "selectors that a namespace forbids": (
        REFUSED,
        f"{FORBIDDEN}pod node label selector conflicts with its namespace node label selector",
        "correct the spec",
    ),
    "a pod that is not valid": (
        REFUSED,
        'Pod "triage-5d8f-x2bqz" is invalid: spec.containers[0].image: Invalid value: " x": must not have whitespace',
        "correct the spec",
    ),
}
# These pass by themselves, or by what somebody does elsewhere.
PASSING: dict[str, tuple[Reason, str, str]] = {
    "a webhook nobody listens for": (
        WEBHOOK,
        f'{CALLING}Post "https://mesh.istio-system.svc/inject": dial tcp 10.96.3.7:443: connect: connection refused',
        "inject.mesh.example.com",
    ),
    "a webhook that is late": (
        WEBHOOK,
        f'{CALLING}Post "https://mesh.istio-system.svc:443/inject?timeout=10s": context deadline exceeded',
        "inject.mesh.example.com",
    ),
    "a webhook without pods": (
        WEBHOOK,
        f'{CALLING}no endpoints available for service "mesh"',
        "inject.mesh.example.com",
    ),
    "a webhook whose certificate ended": (
        WEBHOOK,
        f"{CALLING}tls: failed to verify certificate: x509: certificate has expired or is not yet valid",
        "certificate",
    ),
    "a webhook that answers nonsense": (
        WEBHOOK,
        "Internal error occurred: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=",
        "An admission webhook",
    ),
    "a policy engine whose registry is away": (
        WEBHOOK,
        'admission webhook "mutate.kyverno.svc-fail" denied the request: \n\nresource Pod/clinic/triage-5d8f- was '
        "blocked due to the following policies\n\nverify-images:\n  signed: 'failed to verify image ghcr.io/t/s:1: Get "
        '"https://ghcr.io/v2/": dial tcp: lookup ghcr.io: no such host\'',
        "mutate.kyverno.svc-fail",
    ),
    "a policy whose expression fails": (
        WEBHOOK,
        f"{FORBIDDEN}ValidatingAdmissionPolicy 'labels' with binding 'labels' denied request: expression "
        "'object.metadata.labels.owner != \"\"' resulted in error: no such key: owner",
        "ValidatingAdmissionPolicy labels",
    ),
    "room that others use": (
        QUOTA,
        f"{FORBIDDEN}exceeded quota: pods, requested: pods=1, used: pods=1, limited: pods=1",
        "Recreate",
    ),
    "a quota with numbers nobody can read": (
        QUOTA,
        f"{FORBIDDEN}exceeded quota: team, requested: cpu=many,pods=1, used: cpu=1, limited: cpu=1",
        "raise the quota",
    ),
    "a quota in other words": (QUOTA, f"{FORBIDDEN}exceeded quota: compute", "raise the quota"),
    "no service account yet": (
        FAILED,
        f'{FORBIDDEN}error looking up service account clinic/robot: serviceaccount "robot" not found',
        "There is no ServiceAccount robot",
    ),
    "no priority class yet": (
        FAILED,
        f"{FORBIDDEN}no PriorityClass with name high was found",
        "spec.priorityClassName",
    ),
    "no runtime class yet": (
        FAILED,
        f'{FORBIDDEN}pod rejected: RuntimeClass "gvisor" not found',
        "There is no RuntimeClass gvisor",
    ),
    "etcd": (FAILED, "etcdserver: request timed out", "tried again"),
    "an API server that is busy": (FAILED, "Timeout: request did not complete within requested timeout 34s", "again"),
    "an API server that cannot": (
        FAILED,
        "Internal error occurred: resource quota evaluation timed out",
        "tried again",
    ),
    "a namespace that goes": (
        FAILED,
        f"{FORBIDDEN}unable to create new content in namespace clinic because it is being terminated",
        "tried again",
    ),
    "a quota that was not counted yet": (
        FAILED,
        f"{FORBIDDEN}status unknown for quota: team, resources: pods",
        "again",
    ),
    "no words": (FAILED, "", "tried again"),
}


@pytest.mark.parametrize(("reason", "words", "told"), FINAL.values(), ids=FINAL)
def test_a_clear_no_is_final_and_names_who_says_it(reason: Reason, words: str, told: str) -> None:
    found = read_refusal(words, "triage-5d8f")
    assert (found.cause.reason, found.is_final) == (reason, True)
    assert told in found.cause.message


@pytest.mark.parametrize(("reason", "words", "told"), PASSING.values(), ids=PASSING)
def test_what_can_pass_is_not_final_and_names_what_fails(reason: Reason, words: str, told: str) -> None:
    found = read_refusal(words, "triage-5d8f")
    assert (found.cause.reason, found.is_final) == (reason, False)
    assert told in found.cause.message


@pytest.mark.parametrize("words", [one for _, one, _ in [*FINAL.values(), *PASSING.values()]])
def test_a_refusal_is_told_without_the_random_name_of_the_pod(words: str) -> None:
    message = read_refusal(words, "triage-5d8f").cause.message
    assert "x2bqz" not in message
    assert message == read_refusal(words.replace("x2bqz", "h7kdw"), "triage-5d8f").cause.message
