"""Which specs are the same revision, also for an operator of another version than the one that recorded it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.actions import CreateRevision, SetVerdict
from llm_operator.core.cached_model import parse_record
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation
from llm_operator.core.planner import plan
from llm_operator.core.revisions.declaration import Declaration, declaration, says_the_same, terms_in, values_in
from llm_operator.core.revisions.revision import Revision, name_of
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.target import choose_target
from tests.unit.operator.builders import (
    SETTINGS,
    a_cached_spec,
    a_claim,
    a_parent,
    a_revision,
    a_spec,
    last_words_of,
    read,
    running,
)
from tests.unit.operator.next_version import NextSpec

FIRST_RECORDS = [
    json.loads(line) for line in (Path(__file__).parent / "golden" / "first-records.jsonl").read_text().splitlines()
]
PINNED = parse_record(last_words_of(), "uid-claim")


def stored(spec: LLMDeploymentSpec) -> Manifest:
    """A spec as the API server stores it: with the defaults of the CRD of that time."""
    return spec.model_dump(by_alias=True, exclude_none=True)


def read_later(spec: Manifest) -> NextSpec:
    """What the API server of the next version makes of a stored spec: new fields have their defaults."""
    return NextSpec.model_validate(stored(NextSpec.model_validate(spec)))


def under(spec: LLMDeploymentSpec, revision: Revision) -> Observation:
    claim = {} if spec.used_cache is None else {"claim": a_claim()}
    return replace(running(spec, revision), parent=a_parent(spec=spec), **claim)


def good(spec: LLMDeploymentSpec) -> Revision:
    revision = a_revision(State.GOOD, spec=spec)
    return read(revision.judged(revision.verdict, PINNED).live) if revision.needs_model else revision


def edits(observation: Observation) -> list[Any]:
    return [one for one in plan(observation, SETTINGS).actions if isinstance(one, (CreateRevision, SetVerdict))]


SPECS: dict[str, dict[str, Any]] = {
    "nothing but the mode": {},
    "the default": {"imagePullPolicy": "IfNotPresent"},
    "what will be the default": {"imagePullPolicy": "Always"},
    "neither": {"imagePullPolicy": "Never", "image": "a:1"},
    "a model": {"mode": "qwen"},
    "a model in a claim": {"mode": "qwen", "cache": {}},
    "the default of a model": {"mode": "qwen", "cache": {}, "model": {}},
    "another model": {"mode": "qwen", "cache": {}, "model": {"repository": "a/b"}},
    "what will be the default model": {"mode": "qwen", "cache": {}, "model": {"repository": "Qwen/Qwen4-4B"}},
    "tolerations": {"tolerations": [{"key": "gpu", "operator": "Exists"}], "resources": {"limits": {"cpu": "1"}}},
}


# The next version.


@pytest.mark.parametrize("fields", SPECS.values(), ids=SPECS)
def test_an_upgrade_with_other_defaults_and_new_fields_makes_nothing_a_candidate(fields: dict[str, Any]) -> None:
    revision, spec = good(a_spec(**fields)), read_later(stored(a_spec(**fields)))
    observation = under(spec, revision)
    assert choose_target(observation, spec).desired == revision.hash
    assert edits(observation) == []


@pytest.mark.parametrize("fields", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize(
    "edit",
    [{"image": "edited:1"}, {"runtimeClassName": "nvidia"}, {"tracing": {"level": "on"}}, {"schedulerName": "x"}],
    ids=str,
)
def test_after_that_upgrade_an_edit_is_one(fields: dict[str, Any], edit: dict[str, Any]) -> None:
    revision, spec = good(a_spec(**fields)), read_later({**stored(a_spec(**fields)), **edit})
    assert choose_target(under(spec, revision), spec).desired != revision.hash


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"imagePullPolicy": "IfNotPresent"}, {"imagePullPolicy": "Always"}),
        ({"imagePullPolicy": "Always"}, {"imagePullPolicy": "IfNotPresent"}),
        ({"mode": "qwen", "model": {}}, {"mode": "qwen", "model": {"repository": "Qwen/Qwen4-4B"}}),
        ({"mode": "qwen", "model": {"repository": "a/b"}}, {"mode": "qwen"}),
        ({"image": "a:1"}, {}),
    ],
)
def test_after_that_upgrade_the_new_default_is_another_revision_where_the_old_one_was_meant(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    recorded, spec = good(a_spec(**before)), NextSpec.model_validate({"mode": "mock", **after})
    name = choose_target(under(spec, recorded), spec).desired
    assert name != recorded.hash
    own = replace(recorded, hash=name, fields=declaration(spec).fields, values=declaration(spec).values)
    assert name_of(declaration(spec), [recorded, own]) == name, "and it finds its own again"


def test_in_the_next_version_its_own_default_written_out_is_the_same_revision() -> None:
    plain = NextSpec.model_validate({"mode": "qwen", "cache": {}})
    said = declaration(plain)
    for written in ({"imagePullPolicy": "Always"}, {"model": {}}, {"model": {"repository": "Qwen/Qwen4-4B"}}):
        other = declaration(NextSpec.model_validate({"mode": "qwen", "cache": {}, **written}))
        assert says_the_same(other, said.fields, said.values)
        assert says_the_same(said, other.fields, other.values)


def test_a_default_that_changes_twice_while_nobody_writes_the_object_makes_no_candidate() -> None:
    class ThirdSpec(NextSpec):
        runtime_class_name: str = "gvisor"

    revision = good(a_spec())
    third = ThirdSpec.model_validate(stored(ThirdSpec.model_validate(stored(a_spec()))))
    assert choose_target(under(third, revision), third).desired == revision.hash


# The first version's records.


@pytest.mark.parametrize("one", FIRST_RECORDS, ids=lambda one: one["case"])
@pytest.mark.parametrize("kind", [LLMDeploymentSpec, NextSpec], ids=["this version", "the next"])
def test_records_of_the_first_version_are_recognised(one: dict[str, Any], kind: type[LLMDeploymentSpec]) -> None:
    revision = read(one["record"])
    spec = kind.model_validate(one["spec"] if kind is LLMDeploymentSpec else stored(a_spec(**one["spec"])))
    revision = read(revision.judged(revision.verdict, PINNED).live) if revision.needs_model else revision
    observation = under(spec, revision)
    assert choose_target(observation, spec).desired == revision.hash
    assert edits(observation) == []


@pytest.mark.parametrize("one", FIRST_RECORDS, ids=lambda one: one["case"])
def test_an_edit_of_what_the_first_version_recorded_is_another_revision(one: dict[str, Any]) -> None:
    revision = read(one["record"])
    assert name_of(declaration(a_spec(**{**one["spec"], "image": "edited:1"})), [revision]) != revision.hash
    assert name_of(declaration(a_spec(**{**one["spec"], "imagePullPolicy": "Never"})), [revision]) != revision.hash


def test_of_two_first_records_that_differ_in_the_terms_alone_the_one_that_serves_is_meant() -> None:
    terms = {"tokenSecretRef": {"name": "huggingface-token", "key": "token"}, "memoryCheck": "Enforce"}
    fields = {"mode": "qwen", "cache": {"claimName": "model-cache"}}
    other = {**fields, "model": {"endpoint": "https://hub.example.com"}}
    serves = replace(good(a_cached_spec()), fields=fields, values=values_in(fields))
    waits = replace(a_revision(number=2, spec=a_cached_spec()), hash="abc", fields=other, values=values_in(other))
    assert values_in(fields)["model"] | terms == values_in(fields)["model"]
    for spec in (a_cached_spec(), a_cached_spec(model={"endpoint": "https://hub.example.com"})):
        assert name_of(declaration(spec), [waits, serves]) == serves.hash


def test_of_a_record_without_fields_nothing_is_known() -> None:
    assert values_in({}) == {}
    assert not says_the_same(declaration(a_spec()), {}, {})
    assert values_in({"mode": "mock"}) == {"mode": "mock", "imagePullPolicy": "IfNotPresent"}


# Terms: how a model is fetched.

TERMS: dict[str, dict[str, Any]] = {
    "another token": {"tokenSecretRef": {"name": "team"}},
    "another key": {"tokenSecretRef": {"key": "hf"}},
    "a mirror": {"endpoint": "https://hub.example.com"},
    "no check": {"memoryCheck": "Skip"},
}


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_other_terms_for_a_model_that_is_there_change_nothing(terms: dict[str, Any]) -> None:
    revision, spec = good(a_cached_spec()), a_cached_spec(model=terms)
    observation = under(spec, revision)
    assert plan(observation, SETTINGS).actions == ()
    assert choose_target(observation, spec).desired == revision.hash


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_terms_are_told_apart(terms: dict[str, Any]) -> None:
    assert declaration(a_cached_spec(model=terms)).terms != declaration(a_cached_spec()).terms
    assert declaration(a_cached_spec(model=terms)).terms == terms_in(stored(a_cached_spec(model=terms)))
    assert declaration(a_spec(mode="qwen", model=terms)).terms is None, "without a claim there is no fetch to be tried"


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_without_a_claim_each_pod_is_told_the_terms_of_its_fetch(terms: dict[str, Any]) -> None:
    revision, spec = good(a_spec(mode="qwen")), a_spec(mode="qwen", model=terms)
    is_the_same = choose_target(under(spec, revision), spec).desired == revision.hash
    assert is_the_same is ("memoryCheck" in terms), "only an init container needs token and mirror"


def test_a_model_in_the_image_is_fetched_on_no_terms() -> None:
    revision = good(a_spec(mode="qwen", model={"source": "image"}))
    for terms in TERMS.values():
        spec = a_spec(mode="qwen", model={"source": "image", **terms})
        assert choose_target(under(spec, revision), spec).desired == revision.hash


def test_the_model_that_is_meant_is_another_revision_on_any_terms() -> None:
    revision = good(a_cached_spec())
    for model in ({"repository": "a/b"}, {"revision": "v1"}, {"revision": "v1", **TERMS["a mirror"]}):
        spec = a_cached_spec(model=model)
        assert choose_target(under(spec, revision), spec).desired != revision.hash


@pytest.mark.parametrize("empty", [{"podAntiAffinity": {}}, {"podAffinity": {}}], ids=str)
def test_an_empty_rule_is_not_the_same_as_none(empty: dict[str, Any]) -> None:
    some, none = a_spec(affinity=empty), a_spec()
    assert choose_target(under(none, good(some)), none).desired != good(some).hash
    assert choose_target(under(some, good(none)), some).desired != good(none).hash


# Whatever is written.

TOLERATIONS = st.lists(
    st.fixed_dictionaries({"key": st.sampled_from("ab"), "operator": st.just("Exists")}), max_size=2, unique_by=str
)
ANY_SPEC = st.fixed_dictionaries(
    {"mode": st.sampled_from(["mock", "qwen", "Qwen3-4B-Thinking-2507"])},
    optional={
        "image": st.sampled_from(["a:1", "b:1"]),
        "imagePullPolicy": st.sampled_from(["Always", "IfNotPresent"]),
        "nodeSelector": st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2),
        "tolerations": TOLERATIONS,
        "resources": st.sampled_from([{}, {"limits": {"cpu": "1"}}, {"limits": {"cpu": "1000m"}}]),
        "generation": st.sampled_from([{}, {"temperature": "0.7"}, {"temperature": "0.70"}]),
        "cache": st.sampled_from([{}, {"claimName": "other"}]),
        "model": st.fixed_dictionaries(
            {},
            optional={
                "repository": st.sampled_from(["Qwen/Qwen3-4B-Thinking-2507", "a/b"]),
                "source": st.sampled_from(["hub", "image"]),
                "endpoint": st.just("https://hub.example.com"),
            },
        ),
    },
)


def said_by(spec: dict[str, Any]) -> Declaration:
    return declaration(LLMDeploymentSpec.model_validate(spec))


@settings(deadline=None)
@given(ANY_SPEC, ANY_SPEC)
def test_two_specs_are_the_same_revision_if_and_only_if_they_have_the_same_name(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = said_by(one), said_by(other)
    same = name_of(first, ()) == name_of(second, ())
    assert says_the_same(first, second.fields, second.values) is same
    assert says_the_same(second, first.fields, first.values) is same


@settings(deadline=None)
@given(ANY_SPEC)
def test_no_spec_becomes_a_candidate_by_an_upgrade(spec: dict[str, Any]) -> None:
    said = said_by(spec)
    later = declaration(read_later(stored(LLMDeploymentSpec.model_validate(spec))))
    assert says_the_same(later, said.fields, said.values)
