"""Revisions: the same spec is the same revision for ever, and whatever stands in an annotation is survived."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from llm_operator.api.conditions import Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.names import Manifest
from llm_operator.core.revisions.declaration import DIGEST_LENGTH, UNREVISIONED, declaration
from llm_operator.core.revisions.revision import name_of, new_revision, parse_revision
from llm_operator.core.revisions.state import MESSAGE_LIMIT, RolloutTerms, State, Verdict, decode, encode
from llm_operator.core.times import timestamp
from tests.unit.operator.builders import NOW, SETTINGS, a_cached_spec, a_parent, a_revision, a_spec, a_verdict, read

FULL: dict[str, Any] = {
    "mode": "Qwen3-4B-Thinking-2507",
    "image": "registry.example.com/team/server:1.2",
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": 1}},
    "nodeSelector": {"kubernetes.io/arch": "amd64", "disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "kubernetes.io/hostname"}
            ]
        }
    },
    "priorityClassName": "clinic-high",
}


def named(**fields: Any) -> str:
    return name_of(declaration(a_spec(**fields)), ())


# Another hash for the same spec would restart every server at the next upgrade of the operator.
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "1f2bfcd4d8"),
        (FULL, "371d558f42"),
        ({"generation": {"maxNewTokens": 512, "temperature": "0.7", "doSample": True}}, "5a3f96f1b3"),
    ],
    ids=["minimal", "full", "generation"],
)
def test_the_name_of_a_spec_never_changes(fields: dict[str, Any], name: str) -> None:
    assert named(**fields) == name
    assert len(name) == DIGEST_LENGTH


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a default written out": ({"imagePullPolicy": "IfNotPresent"}, {}),
    "null": ({"image": None, "nodeSelector": None, "resources": {"limits": None}}, {}),
    "nothing in it": ({"nodeSelector": {}, "tolerations": [], "affinity": {}, "resources": {}, "generation": {}}, {}),
    "nothing in a part of it": ({"resources": {"limits": {}, "requests": {}}}, {}),
    "the other name of the mode": ({"mode": "qwen"}, {"mode": "Qwen3-4B-Thinking-2507"}),
    "thousandths": ({"resources": {"limits": {"cpu": "1000m"}}}, {"resources": {"limits": {"cpu": "1"}}}),
    "a number": ({"resources": {"limits": {"cpu": 1}}}, {"resources": {"limits": {"cpu": "1"}}}),
    "another unit": ({"resources": {"requests": {"memory": "1Gi"}}}, {"resources": {"requests": {"memory": "1024Mi"}}}),
    "a decimal": (
        {"generation": {"temperature": "0.70", "topP": "1.00"}},
        {"generation": {"temperature": "0.7", "topP": "1"}},
    ),
    "the order of keys": ({"nodeSelector": {"a": "1", "b": "2"}}, {"nodeSelector": {"b": "2", "a": "1"}}),
    "replicas": ({"replicas": 5}, {}),
    "the roll-out": ({"rollout": {"soakSeconds": 3, "strategy": "Recreate"}}, {}),
    "the rollback": ({"rollback": {"enabled": False, "retryToken": "2"}}, {}),
}
GENERATION: dict[str, Any] = {
    "maxNewTokens": 512,
    "thinkingBudget": 0,
    "temperature": "0",
    "topP": "1",
    "topK": 0,
    "doSample": False,
}
OTHER: dict[str, dict[str, Any]] = {
    **{key: {key: value} for key, value in FULL.items()},
    **{key: {"generation": {key: value}} for key, value in GENERATION.items()},
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_it_is_the_same_revision_whatever_differs_but_the_pods(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert named(**one) == named(**other)


@pytest.mark.parametrize("fields", OTHER.values(), ids=OTHER)
def test_it_is_another_revision_with_another(fields: dict[str, Any]) -> None:
    assert named(**fields) != named()


def test_every_field_of_the_spec_either_makes_a_revision_or_does_not() -> None:
    assert {to_camel(name) for name in LLMDeploymentSpec.model_fields} == FULL.keys() | {"generation"} | UNREVISIONED


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({}, "1f2bfcd4d8"),
        ({"model": {"repository": "a/b"}, "cache": {}}, "1f2bfcd4d8"),
        ({"mode": "qwen"}, "8fbc0328ad"),
        ({"mode": "qwen", "model": {"tokenSecretRef": {}, "revision": "main"}}, "8fbc0328ad"),
    ],
)
def test_names_from_before_there_were_models_stay(spec: dict[str, Any], name: str) -> None:
    assert named(**spec) == name, "another name would restart every pod"


def test_of_the_cache_only_its_claim_makes_a_revision_and_only_where_a_model_is_fetched() -> None:
    cached = named(mode="qwen", cache={})
    assert cached != named(mode="qwen")
    assert cached == named(mode="qwen", cache={"size": "90Gi", "deletionPolicy": "Delete", "storageClassName": "x"})
    assert cached != named(mode="qwen", cache={"claimName": "other"})
    image = {"mode": "qwen", "model": {"source": "image"}}
    assert named(**image) == named(**image, cache={})


def test_a_pinned_model_is_in_the_template_and_not_in_the_data() -> None:
    model = CachedModel("a/b", "c" * 40, "/models/a--b/c", 1, {}, "uid-claim")
    waiting = a_revision(spec=a_cached_spec())
    assert waiting.needs_model
    there = read(waiting.judged(waiting.verdict, model).live)
    assert not there.needs_model
    assert there.model == model
    assert "/models/a--b/c" in str(there.template)
    assert there.live["data"] == waiting.live["data"], "it can never change"


def test_a_field_that_a_later_operator_adds_changes_no_name() -> None:
    assert declaration(a_spec()).fields == {"mode": "mock"}, "what is not declared is not in it"
    defaults = {name: field.default for name, field in LLMDeploymentSpec.model_fields.items()}
    assert declaration(a_spec(**{**defaults, "mode": "mock"})).fields == {"mode": "mock"}


@pytest.mark.parametrize("label", ["limits", "requests", "resources"])
def test_a_label_may_be_called_like_a_part_of_the_resources(label: str) -> None:
    fields = declaration(a_spec(nodeSelector={label: "1000m"})).fields
    assert fields == {"mode": "mock", "nodeSelector": {label: "1000m"}}


def test_a_tolerations_order_and_number_mean_something() -> None:
    one, other = {"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}
    assert named(tolerations=[one, other]) != named(tolerations=[other, one])


# Collisions.


def test_a_different_revision_of_the_same_name_gives_way() -> None:
    said, another = declaration(a_spec()), declaration(a_spec(image="another:1"))
    taken = replace(a_revision(), fields=another.fields, values=another.values)
    name = name_of(said, [taken])
    assert name != taken.hash
    own = replace(taken, hash=name, fields=said.fields, values=said.values)
    assert name_of(said, [taken, own]) == name, "and finds its own again"
    assert name_of(said, [taken, replace(taken, hash=name)]) not in (name, taken.hash)


def test_a_revision_whose_fields_are_not_known_is_taken_for_the_one_of_its_name() -> None:
    assert name_of(declaration(a_spec()), [replace(a_revision(), fields={}, values={})]) == a_revision().hash


# Records.


def test_a_new_revision_reads_as_it_was_made() -> None:
    spec, verdict = a_spec(image="a:1"), a_verdict()
    made = new_revision(a_parent(), spec, SETTINGS, name="abc", number=3, verdict=verdict)
    assert read(made.live) == made
    assert (made.number, made.verdict, made.fields) == (3, verdict, {"mode": "mock", "image": "a:1"})
    metadata = made.live["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("triage-abc", "clinic")
    assert metadata["labels"] == names.labels("triage")
    assert metadata["ownerReferences"][0]["uid"] == a_parent().uid
    assert made.template["metadata"]["annotations"] == {names.REVISION: "abc"}


def test_another_verdict_changes_nothing_but_the_annotation() -> None:
    revision = a_revision()
    judged = revision.judged(a_verdict(State.GOOD))
    assert judged.state is State.GOOD
    assert read(judged.live) == judged
    assert judged.live["metadata"]["annotations"][names.REVISION] == revision.hash
    assert revision.live["metadata"]["annotations"] != judged.live["metadata"]["annotations"]


def damaged(**over: Any) -> Manifest:
    return {**a_revision().live, **over}


@pytest.mark.parametrize(
    "live",
    [
        damaged(metadata={"name": "x"}),
        damaged(metadata={"name": "x", "annotations": {}}),
        damaged(data=None),
        damaged(data=[]),
        damaged(data={"fields": {}}),
        damaged(data={"template": "none"}),
    ],
    ids=["no annotations", "another's", "no data", "other data", "no template", "a template that is none"],
)
def test_what_cannot_be_a_revision_of_ours_is_none(live: Manifest) -> None:
    assert parse_revision(live) is None


def test_a_record_without_fields_and_number_is_still_one() -> None:
    live = damaged(data={"template": {"spec": {}}, "fields": "none"})
    del live["revision"]
    assert (read(live).fields, read(live).values, read(live).number) == ({}, {}, 0)


WRONG: list[dict[str, Any]] = [
    {"attempt": "many"},
    {"attempt": None},
    {"attempt": -3},
    {"attempt": 2**31},
    {"progress": -1},
    {"progress": 10**30},
    {"progress": []},
    {"startedAt": "yesterday"},
    {"startedAt": 5},
    {"startedAt": "0001-01-01T00:00:00+14:00"},
    {"decidedAt": "9999-12-31T23:59:59Z"},
    {"rollbacks": "often"},
    {"rollbacks": 3},
    {"rollbacks": [None]},
    {"rollbacks": ["9000-01-01T00:00:00Z"]},
]
CORRUPT = [
    None,
    "",
    "{",
    "null",
    "[]",
    "3",
    '"Good"',
    "{}",
    "[" * 100_000,
    '{"state": ["Good"]}',
    '{"state": "Good", "attempt": Infinity}',
    '{"state": "Good", "attempt": 1e999}',
    '{"state": "Good", "attempt": NaN}',
    '{"state": ""}',
    *(json.dumps({"state": "Good", **wrong}) for wrong in WRONG),
]


@pytest.mark.parametrize("annotation", CORRUPT, ids=lambda text: str(text)[:50])
def test_a_verdict_that_cannot_be_read_is_an_attempt_that_began_with_the_record(annotation: str | None) -> None:
    assert decode(annotation) is None
    live = a_revision(State.GOOD).live
    live = {**live, "metadata": {**live["metadata"], "annotations": {names.REVISION: "abc"}}}
    if annotation is not None:
        live["metadata"]["annotations"][names.VERDICT] = annotation
    made = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
    assert read(live).verdict == Verdict(State.CANDIDATE, started_at=made)
    del live["metadata"]["creationTimestamp"]
    assert read(live).verdict == Verdict(State.CANDIDATE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "state",
    "attempt",
    "startedAt",
    "progress",
    "progressAt",
    "decidedAt",
    "reason",
    "message",
    "retryToken",
    "terms",
)
ALMOST = st.fixed_dictionaries(
    {"state": st.sampled_from(State)},
    optional=dict.fromkeys((*KEYS[1:], "rollbacks", "suffices", "rollout"), JSON),
)


@settings(deadline=None)
@given(st.text() | JSON.map(json.dumps) | ALMOST.map(json.dumps))
@example('{"state": "Good", "unknown": 1}')
@example('{"state": "0", "retryToken": ""}')
@example('{"state": "Good", "retryToken": [], "terms": {}}')
def test_whatever_the_annotation_holds_reading_it_never_fails(annotation: str) -> None:
    verdict = decode(annotation)
    assert verdict is None or decode(encode(verdict)) == verdict


MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1)).map(
    lambda one: one.replace(microsecond=0, tzinfo=UTC)
)
VERDICTS = st.builds(
    Verdict,
    state=st.sampled_from([state for state in State if state is not State.REJECTED]),
    attempt=st.integers(1, 1000),
    started_at=st.none() | MOMENTS,
    progress=st.integers(0, 100),
    progress_at=st.none() | MOMENTS,
    decided_at=st.none() | MOMENTS,
    extended=st.booleans(),
    message=st.text(max_size=100),
    retry_token=st.none() | st.text(min_size=1, max_size=63),
    rollbacks=st.lists(MOMENTS, max_size=3).map(tuple),
    terms=st.none() | st.text(min_size=1, max_size=10),
    suffices=st.none() | st.integers(1, 1000),
    rollout=st.none() | st.builds(RolloutTerms, st.text(max_size=9), st.integers(0, 9999), st.integers(0, 9999)),
)


@settings(deadline=None)
@given(VERDICTS, st.sampled_from(Reason))
def test_a_verdict_survives_being_written(verdict: Verdict, reason: Reason) -> None:
    assert decode(encode(verdict)) == verdict
    rejected = replace(verdict, state=State.REJECTED, reason=str(reason))
    assert decode(encode(rejected)) == rejected


REASONS = {
    "Whim": "Whim",
    "ImageNotFound": "ImageNotFound",
    "not a word": "RejectedEarlier",
    "": "RejectedEarlier",
    None: "RejectedEarlier",
    7: "RejectedEarlier",
    "x" * 129: "RejectedEarlier",
}


@pytest.mark.parametrize(("recorded", "told"), REASONS.items(), ids=lambda one: str(one)[:20])
@pytest.mark.parametrize("state", ["Rejected", "Forbidden"])
def test_what_a_newer_operator_rejected_stays_so_with_its_words(state: str, recorded: object, told: str) -> None:
    verdict = decode(json.dumps({"state": state, "attempt": 2, "reason": recorded, "message": "In its own words."}))
    assert verdict == Verdict(State.REJECTED, attempt=2, reason=told, message="In its own words.")


def test_a_verdict_says_nothing_that_goes_without_saying() -> None:
    assert json.loads(encode(Verdict(State.CANDIDATE))) == {"state": "Candidate", "attempt": 1}


def test_a_verdict_of_an_earlier_operator_says_neither_how_many_suffice_nor_on_which_terms() -> None:
    verdict = decode('{"state": "Rejected", "reason": "CrashLoop"}')
    assert verdict is not None
    assert (verdict.suffices, verdict.rollout) == (None, None)


@pytest.mark.parametrize(
    "terms", ['"x"', "[1]", '{"strategy": "Recreate"}', '{"strategy": "", "deadline": -1, "soak": 0}']
)
def test_a_verdict_on_terms_that_cannot_be_read_cannot_be_read(terms: str) -> None:
    assert decode(f'{{"state": "Good", "rollout": {terms}}}') is None


def test_a_very_long_message_is_cut() -> None:
    verdict = decode(encode(a_verdict(State.REJECTED, message="x" * 100_000)))
    assert verdict is not None
    assert len(verdict.message) == MESSAGE_LIMIT


def test_times_are_written_in_utc_to_the_second() -> None:
    assert timestamp(datetime.fromisoformat("2026-01-02T05:04:05.9+02:00")) == "2026-01-02T03:04:05Z"
    there = decode('{"state": "Good", "decidedAt": "2026-01-02T05:04:05+02:00"}')
    naive = decode('{"state": "Good", "decidedAt": "2026-01-02T03:04:05"}')
    assert there == naive == Verdict(State.GOOD, decided_at=NOW)


def test_only_a_rejection_has_a_reason() -> None:
    assert decode('{"state": "Good", "reason": "Whim"}') == Verdict(State.GOOD)
