"""The Job of a fetch: who shares it, how its pods look, and what they say."""

import json
from dataclasses import replace
from typing import Any

import pytest

from llm_operator.api.conditions import FETCH_REASONS, Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.cached_model import CachedModel, decode, encode, parse_record
from llm_operator.core.children.pod_template import build_pod_template
from llm_operator.core.diagnosis.fault import Proof
from llm_operator.core.diagnosis.fetch_messages import FINAL_CODES
from llm_operator.core.diagnosis.pods import diagnose
from llm_operator.core.diagnosis.remedies import REMEDIES
from llm_operator.core.model_cache.fetch_job import build_fetch, fetch_name, parse_progress, read_fetch
from llm_operator.core.observation import Progress, Settings
from llm_operator.core.planner import plan
from llm_operator.core.revisions.state import State
from tests.unit.operator.builders import (
    COMMIT,
    FACTS,
    SETTINGS,
    WEIGHTS,
    a_cached_spec,
    a_claim,
    a_fetch,
    a_fetch_pod,
    a_parent,
    a_pod,
    a_revision,
    a_spec,
    ago,
    died,
    last_words_of,
    running,
)

BEHIND_A_PROXY = replace(
    SETTINGS,
    fetch_https_proxy="http://proxy.example.com:3128",
    fetch_no_proxy="hub.example.com,.svc",
    fetch_ca_config_map="company-ca",
)


def name_of(claim: Any = None, settings: Settings = SETTINGS, **over: Any) -> str:
    return fetch_name(a_cached_spec(**over), claim or a_claim(), settings)


@pytest.mark.parametrize(
    "other",
    [
        {"replicas": 0},
        {"resources": {"limits": {"memory": "16Gi"}}},
        {"nodeSelector": {"disk": "ssd"}},
        {"cache": {"size": "40Gi"}},
        {"model": {}},
        {"model": {"memoryCheck": "Skip"}},
    ],
)
def test_who_needs_the_same_model_shares_one_fetch(other: dict[str, Any]) -> None:
    assert name_of(**other) == name_of()


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"repository": "a/b"}},
        {"model": {"revision": "v2"}},
        {"model": {"endpoint": "https://hub.example.com"}},
        {"model": {"tokenSecretRef": {"name": "other"}}},
        {"image": "registry.example.com/other:1"},
        {"claim": a_claim(uid="uid-of-one-made-later")},
        {"claim": a_claim(name="other")},
        {"settings": replace(SETTINGS, server_image="registry.example.com/server:2")},
        {"settings": replace(SETTINGS, fetch_https_proxy="http://proxy.example.com:3128")},
        {"settings": replace(SETTINGS, fetch_no_proxy="hub.example.com")},
        {"settings": replace(SETTINGS, fetch_ca_config_map="company-ca")},
    ],
)
def test_what_may_end_otherwise_is_another_fetch(other: dict[str, Any]) -> None:
    assert name_of(**other) != name_of()


def test_the_job_tries_again_what_may_pass_and_nothing_else() -> None:
    spec = a_fetch()["spec"]
    fails, ignores = spec["podFailurePolicy"]["rules"]
    assert fails["action"] == "FailJob"
    assert fails["onExitCodes"]["values"] == sorted(FINAL_CODES)
    assert not {0, 1, 40, 46, 59, 137} & set(FINAL_CODES)
    assert ignores["action"] == "Ignore"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_the_pod_of_a_fetch_meets_pod_security_restricted_and_writes_to_the_claim_alone() -> None:
    spec = a_cached_spec(
        image="registry.example.com/own:1",
        imagePullSecrets=[{"name": "registry"}],
        nodeSelector={"disk": "ssd"},
        tolerations=[{"operator": "Exists"}],
        model={"repository": "a/b", "revision": "v1", "endpoint": "https://hub.example.com"},
    )
    assert spec.used_cache is not None
    job = build_fetch(a_parent(), spec, spec.used_cache, "fetch-1", SETTINGS)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["image"] == "registry.example.com/own:1"
    assert container["command"] == ["python", "-m", "inference_server", "fetch"]
    assert pod["volumes"][1] == {"name": "models", "persistentVolumeClaim": {"claimName": "model-cache"}}
    assert (pod["nodeSelector"], pod["imagePullSecrets"]) == ({"disk": "ssd"}, [{"name": "registry"}])
    env = {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
    assert env == {
        "MODEL_CACHE_DIR": "/models",
        "MODEL_REPOSITORY": "a/b",
        "MODEL_REVISION": "v1",
        "HF_ENDPOINT": "https://hub.example.com",
        "FETCH_FOR_MODE": "qwen",
        "HUGGINGFACE_TOKEN": {"secretKeyRef": {"name": "huggingface-token", "key": "token", "optional": True}},
    }


@pytest.mark.parametrize(("modes", "beside"), [(["ReadWriteMany"], False), (["ReadWriteOnce"], True)])
def test_a_volume_of_one_node_is_written_to_on_the_node_of_who_serves(modes: list[str], beside: bool) -> None:
    spec = a_cached_spec(cache={"accessModes": modes}, rollout={"strategy": "Recreate"})
    assert spec.used_cache is not None
    pod = build_fetch(a_parent(), spec, spec.used_cache, "fetch-1", SETTINGS)["spec"]["template"]["spec"]
    assert ("affinity" in pod) is beside


def test_a_fetch_behind_a_proxy_is_told_the_way_out_and_whom_to_trust() -> None:
    spec = a_cached_spec()
    assert spec.used_cache is not None
    pod = build_fetch(a_parent(), spec, spec.used_cache, "fetch-1", BEHIND_A_PROXY)["spec"]["template"]["spec"]
    template = build_pod_template("triage", a_spec(mode="qwen"), BEHIND_A_PROXY, revision="abc")["spec"]
    for found, container in ((pod, pod["containers"][0]), (template, template["initContainers"][0])):
        env = {one["name"]: one.get("value") for one in container["env"]}
        assert env["HTTPS_PROXY"] == "http://proxy.example.com:3128"
        assert env["NO_PROXY"] == "hub.example.com,.svc"
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert env["SSL_CERT_FILE"] == f"{mounts['ca']}/ca.crt"
        volumes = {one["name"]: one for one in found["volumes"]}
        assert volumes["ca"] == {"name": "ca", "configMap": {"name": "company-ca", "optional": True}}
        assert volumes.keys() == mounts.keys()
    assert {one["name"] for one in template["containers"][0]["volumeMounts"]} == {"tmp", "models"}


@pytest.mark.parametrize("spec", [a_spec(), a_cached_spec(), a_spec(mode="qwen", model={"source": "image"})])
def test_servers_that_fetch_nothing_do_not_depend_on_the_way_out(spec: LLMDeploymentSpec) -> None:
    one, other = (build_pod_template("triage", spec, settings, revision="a") for settings in (SETTINGS, BEHIND_A_PROXY))
    assert one == other


def test_another_way_out_restarts_no_server() -> None:
    spec = a_spec(mode="qwen")
    observation = running(spec, a_revision(State.GOOD, spec=spec))
    assert plan(observation, BEHIND_A_PROXY) == plan(observation, SETTINGS)
    assert not plan(observation, BEHIND_A_PROXY).actions


def test_its_owners_do_not_control_it_and_its_pods_are_nobodys_servers() -> None:
    job = a_fetch()
    (owner,) = job["metadata"]["ownerReferences"]
    assert "controller" not in owner
    assert names.is_managed(job)
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels[names.FETCH] == job["metadata"]["name"]
    assert names.INSTANCE not in labels
    assert names.group_of(labels) == names.group_of_fetch(job["metadata"]["name"])


MODEL = CachedModel(
    "Qwen/Qwen3-4B-Thinking-2507", COMMIT, f"/models/Qwen--Qwen3-4B-Thinking-2507/{COMMIT}", WEIGHTS, FACTS, "uid-claim"
)


def test_no_fetch_is_no_answer() -> None:
    assert read_fetch(None, [], a_claim()) is None
    assert read_fetch(a_fetch(), [], None) is None


@pytest.mark.parametrize("condition", [None, "Complete"])
def test_a_pod_that_succeeded_says_what_it_brought(condition: str | None) -> None:
    found = read_fetch(
        a_fetch(condition),
        [a_fetch_pod(40, last_words_of(40, "RateLimited")), a_fetch_pod(0, last_words_of())],
        a_claim(),
    )
    assert found is not None
    assert (found.model, found.failed, found.cause.reason) == (MODEL, False, Reason.MODEL_READY)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "{}",
        "[]",
        "no",
        last_words_of(path="/etc"),
        last_words_of(path="/models/../etc"),
        last_words_of(weightsBytes="x"),
    ],
)
def test_an_image_that_leaves_no_record_is_at_fault(words: str) -> None:
    found = read_fetch(a_fetch("Complete"), [a_fetch_pod(0, words)], a_claim())
    assert found is not None
    assert (found.model, found.failed, found.cause.reason) == (None, True, Reason.FETCH_FAILED)
    assert "left no record" in found.cause.message


@pytest.mark.parametrize("reason", sorted(FETCH_REASONS))
def test_the_reason_of_a_failure_is_the_fetchs_own(reason: Reason) -> None:
    found = read_fetch(a_fetch("Failed"), [a_fetch_pod(20, last_words_of(20, reason))], a_claim())
    assert found is not None
    assert (found.failed, found.cause.reason) == (True, reason)
    assert "It went wrong. " in found.cause.message
    assert "Put it right." not in found.cause.message or reason not in REMEDIES


@pytest.mark.parametrize("words", ["", "Traceback", '{"reason": "RolledBack"}', '{"reason": "Nonsense"}', "[]"])
def test_a_reason_that_no_fetch_gives_is_not_believed(words: str) -> None:
    found = read_fetch(a_fetch("Failed"), [a_fetch_pod(1, words)], a_claim())
    assert found is not None
    assert (found.failed, found.cause.reason) == (True, Reason.FETCH_FAILED)


def test_a_job_that_failed_without_any_pod_is_told() -> None:
    found = read_fetch(a_fetch("Failed"), [], a_claim())
    assert found is not None
    assert (found.failed, found.cause.reason) == (True, Reason.FETCH_FAILED)


def test_while_it_is_tried_again_the_last_failure_is_told() -> None:
    failed = [
        a_fetch_pod(40, last_words_of(40, "RateLimited"), at=ago(9)),
        a_fetch_pod(41, last_words_of(41, "NetworkUnreachable"), at=ago(3)),
    ]
    between = read_fetch(a_fetch(), failed, a_claim())
    again = read_fetch(a_fetch(), [*failed, a_fetch_pod(name="fetch-2")], a_claim())
    assert between is not None
    assert (between.failed, between.cause.reason, between.pod) == (False, Reason.NETWORK_UNREACHABLE, None)
    assert again is not None
    assert (again.cause.reason, again.pod) == (Reason.MODEL_FETCHING, "fetch-2")


def test_what_keeps_its_pod_from_starting_is_told() -> None:
    waiting = [
        {"name": "fetch", "image": "x:1", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    ]
    pod = a_fetch_pod(phase="Pending", containerStatuses=waiting)
    found = read_fetch(a_fetch(), [pod], a_claim())
    assert found is not None
    assert (found.cause.reason, found.failed) == (Reason.IMAGE_NOT_FOUND, False)
    assert found.fault is not None


def test_what_ends_again_and_again_without_a_reason_is_given_up() -> None:
    killed = a_fetch_pod(137)
    killed["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    for pods, reason in (([killed] * 2, Reason.OUT_OF_MEMORY), ([a_fetch_pod(1)] * 3, Reason.FETCH_FAILED)):
        once = read_fetch(a_fetch(), pods[1:], a_claim())
        often = read_fetch(a_fetch(), pods, a_claim())
        assert once is not None
        assert often is not None
        assert (once.failed, often.failed, often.cause.reason) == (False, True, reason)


def test_pods_of_an_earlier_job_of_the_name_say_nothing() -> None:
    pod = a_fetch_pod(0, last_words_of())
    pod["metadata"]["labels"] = {"batch.kubernetes.io/controller-uid": "another"}
    found = read_fetch(a_fetch(), [pod], a_claim())
    assert found is not None
    assert found.model is None


def test_a_model_is_pinned_as_it_was_read() -> None:
    assert decode(encode(MODEL)) == MODEL
    assert parse_record(encode(MODEL), "uid-2") == CachedModel(
        *(getattr(MODEL, one) for one in ("repository", "commit", "path", "weights_bytes", "facts")), "uid-2"
    )
    assert decode(None) is None
    odd = decode(json.dumps({**json.loads(encode(MODEL)), "model": 7}))
    assert odd is not None
    assert odd.facts == {}


@pytest.mark.parametrize(
    ("log", "progress"),
    [
        ("", None),
        ('{"bytesDone": 1, "bytesTotal": 4}', Progress(1, 4)),
        ('{"bytesDone": 1, "bytesTotal": 4}\n{"event": "retrying"}\n{"bytesDone', Progress(1, 4)),
        ('{"bytesDone": 1, "bytesTotal": 4}\n{"bytesDone": 3, "bytesTotal": 4}', Progress(3, 4)),
        ('{"bytesDone": 0, "bytesTotal": 0}', None),
        ('{"bytesDone": 9, "bytesTotal": 4}', None),
        ("[]\n7\nnull", None),
    ],
)
def test_progress_is_the_last_line_that_tells_it(log: str, progress: Progress | None) -> None:
    assert parse_progress(log) == progress


def test_a_hundred_percent_is_the_end() -> None:
    assert [Progress(done, 1000).percent for done in (0, 9, 999, 1000)] == [0, 0, 99, 100]


@pytest.mark.parametrize(
    ("code", "words", "reason", "proof"),
    [
        (22, last_words_of(22, "RepositoryGated"), Reason.REPOSITORY_GATED, Proof.COUNTED),
        (40, last_words_of(40, "RateLimited"), Reason.RATE_LIMITED, Proof.DOUBT),
        # A newer image knows reasons that this operator does not.
        (48, last_words_of(48, "MirrorIsBusy"), Reason.FETCH_FAILED, Proof.DOUBT),
        (35, last_words_of(35, "LicenceNotAccepted"), Reason.CRASH_LOOP, Proof.COUNTED),
        (1, "Traceback", Reason.CRASH_LOOP, Proof.COUNTED),
    ],
)
def test_a_pod_that_fetches_for_itself_says_why_it_cannot(code: int, words: str, reason: Reason, proof: Proof) -> None:
    (status,) = died(code, message=words, crashes=4)
    pod = a_pod(initContainerStatuses=[{**status, "name": "fetch"}])
    found = diagnose([pod])
    assert found is not None
    assert (found.cause.reason, found.proof) == (reason, proof)
