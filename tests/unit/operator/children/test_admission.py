"""What admission makes of our writes is learned from their answers, accepted, recorded, and judged all the same."""

from dataclasses import replace
from typing import Any

import pytest

from llm_operator.core import names
from llm_operator.core.actions import Adopt, Apply, SetAdmitted, SetVerdict
from llm_operator.core.children.admission import decode, encode, learned
from llm_operator.core.children.drift import ANY, compare
from llm_operator.core.children.service import build_service
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Admitted, Observation
from llm_operator.core.planner import Plan, plan
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State
from tests.unit.operator.builders import (
    SETTINGS,
    a_manifest,
    a_parent,
    a_pod,
    a_revision,
    a_spec,
    ago,
    an_observation,
    as_stored,
    read,
    rolled_out,
    running,
    waiting,
)

PULL = "spec.template.spec.containers[server].imagePullPolicy"
DESIRED = a_manifest()


def of_kind(decided: Plan, kind: type) -> list[Any]:
    return [one for one in decided.actions if isinstance(one, kind)]


def changed(policy: str, revision: Revision | None = None) -> Manifest:
    stored = as_stored(a_manifest(revision=revision), **rolled_out(1))
    stored["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = policy
    return stored


def test_nothing_is_learned_where_the_answer_is_what_was_sent() -> None:
    revision = names.revision_of(DESIRED)
    assert learned(DESIRED, as_stored(DESIRED), {}) == Admitted(revision, {})


def test_what_is_learned_is_no_drift_and_a_third_value_is() -> None:
    known = learned(DESIRED, changed("Always"), {}).accepted
    assert compare(DESIRED, changed("Always"), known).differences == ()
    assert compare(DESIRED, changed("Never"), known).path == PULL
    other = a_manifest(a_spec(imagePullPolicy="Never"))
    assert compare(other, {**changed("Always")}, known).path is not None, "only of exactly what was sent"


def test_a_value_that_is_another_one_at_each_write_may_be_any() -> None:
    first = learned(DESIRED, changed("Always"), {}).accepted
    second = learned(DESIRED, changed("Never"), first).accepted
    assert second[PULL][1] == ANY
    assert learned(DESIRED, changed("Always"), second).accepted == second, "and stays so"


def test_what_a_webhook_does_no_more_is_forgotten() -> None:
    known = learned(DESIRED, changed("Always"), {}).accepted
    assert learned(DESIRED, as_stored(DESIRED), known).accepted == {}


def test_an_annotation_holds_it() -> None:
    known = learned(DESIRED, changed("Always"), {}).accepted
    assert decode(encode(known)) == known


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3", '{"a": 1}', '{"a": ["b"]}'])
def test_an_annotation_that_cannot_be_read_accepts_nothing(text: str | None) -> None:
    assert decode(text) == {}


def with_record(revision: Revision, live: Manifest) -> Revision:
    """The revision, with what admission makes of its Deployment recorded."""
    known = learned(a_manifest(revision=revision), live, {}).accepted
    annotations = {**revision.live["metadata"]["annotations"], names.ADMITTED: encode(known)}
    return read({**revision.live, "metadata": {**revision.live["metadata"], "annotations": annotations}})


def test_what_this_process_learned_is_recorded_and_nothing_else_is_written() -> None:
    good = a_revision(State.GOOD)
    live = changed("Always", good)
    known = learned(a_manifest(revision=good), live, {})
    observation = replace(running(a_spec(), good), deployment=live, admitted={"Deployment": known})
    (action,) = plan(observation, SETTINGS).actions
    assert action == SetAdmitted(good.live, encode(known.accepted))
    recorded = with_record(good, live)
    assert plan(replace(observation, revisions=(recorded.live,)), SETTINGS).actions == ()
    assert plan(replace(observation, revisions=(recorded.live,), admitted={}), SETTINGS).actions == ()


def test_what_is_known_of_another_revision_accepts_nothing() -> None:
    good = a_revision(State.GOOD)
    live = changed("Always", good)
    other = Admitted("other", learned(a_manifest(revision=good), live, {}).accepted)
    observation = replace(running(a_spec(), good), deployment=live, admitted={"Deployment": other})
    (repair,) = plan(observation, SETTINGS).actions
    assert isinstance(repair, Apply)
    assert repair.path == PULL


def test_what_admission_makes_of_the_service_is_known_by_this_process() -> None:
    good = a_revision(State.GOOD)
    service = as_stored(build_service(a_parent()))
    service["metadata"]["labels"]["app.kubernetes.io/part-of"] = "platform"
    observation = replace(running(a_spec(), good), service=service)
    assert len(of_kind(plan(observation, SETTINGS), Apply)) == 1
    known = learned(build_service(a_parent()), service, {})
    assert plan(replace(observation, admitted={"Service": known}), SETTINGS).actions == ()


def failing(candidate: Revision, good: Revision, live: Manifest) -> Observation:
    """The candidate's pod cannot get its image, as long as it may take."""
    observation = running(a_spec(image="bad:1"), candidate, good, counts={"updatedReplicas": 1, "replicas": 2})
    deployment = {**live, "status": (observation.deployment or {})["status"]}
    pod = a_pod(of=candidate, containerStatuses=waiting("ImagePullBackOff", "not found"))
    return replace(observation, deployment=deployment, pods=(pod,))


def test_pods_that_fail_reject_a_revision_whatever_drifts_and_both_are_told() -> None:
    good = a_revision(State.GOOD)
    candidate = a_revision(number=2, spec=a_spec(image="bad:1"), started_at=ago(9999), progress_at=ago(9999))
    decided = plan(failing(candidate, good, changed("Always", candidate)), SETTINGS)
    (judged,) = of_kind(decided, SetVerdict)
    assert judged.rejects
    assert judged.outcome is not None
    assert judged.outcome.reason == "ImageNotFound"
    assert PULL in judged.outcome.message
    (back,) = of_kind(decided, Apply)
    assert names.revision_of(back.manifest) == good.hash


def test_nothing_that_drifts_is_proved_good_but_what_admission_set_may_be() -> None:
    candidate = a_revision()
    live = changed("Always", candidate)
    observation = replace(running(a_spec(), candidate), deployment=live)
    decided = plan(observation, SETTINGS)
    assert of_kind(decided, SetVerdict) == []
    assert len(of_kind(decided, Apply)) == 1
    recorded = with_record(candidate, live)
    (judged,) = of_kind(plan(replace(observation, revisions=(recorded.live,)), SETTINGS), SetVerdict)
    assert '"Good"' in judged.annotation


def test_progress_counts_whatever_drifts() -> None:
    candidate = a_revision(spec=a_spec(replicas=3), suffices=3)
    counts = {"replicas": 3, "updatedReplicas": 3, "availableReplicas": 1}
    observation = running(a_spec(replicas=3), candidate, counts=counts)
    assert observation.deployment is not None
    observation.deployment["spec"]["paused"] = True
    (judged,) = of_kind(plan(observation, SETTINGS), SetVerdict)
    assert '"progress": 1' in judged.annotation


# What an earlier LLMDeployment of the name left behind.


def orphaned(live: Manifest | None) -> Manifest:
    assert live is not None
    metadata = {key: value for key, value in live["metadata"].items() if key != "ownerReferences"}
    return {**live, "metadata": metadata}


def left_behind(*, adopts: bool = True, **over: Any) -> Observation:
    old = running(a_spec(), a_revision(State.GOOD))
    children = {"deployment": orphaned(old.deployment), "service": orphaned(old.service)}
    revisions = tuple(orphaned(one) for one in old.revisions)
    parent = a_parent(uid="another", adopts=adopts)
    return an_observation(**{"parent": parent, "revisions": revisions, **children, **over})


def test_orphans_are_left_alone_until_that_is_asked_for() -> None:
    decided = plan(left_behind(adopts=False), SETTINGS)
    assert decided.actions == ()
    assert decided.obstacle is not None
    assert f"kubectl annotate llmdeployment triage {names.ADOPT}=true" in decided.obstacle.message


def test_orphans_are_adopted_the_records_first_and_nothing_else_is_done_yet() -> None:
    observation = left_behind()
    decided = plan(observation, SETTINGS)
    adopted = of_kind(decided, Adopt)
    assert len(decided.actions) == len(adopted)
    assert [one.live["kind"] for one in adopted] == ["ControllerRevision", "Service", "Deployment"]
    (operation,) = adopted[0].operations
    assert [one["uid"] for one in operation["value"]] == ["another"]
    assert decided.obstacle is None
    assert decided.look_again_after is not None
    assert decided.is_delicate(observation.parent)


def with_labels(live: Manifest | None, **labels: str) -> Manifest:
    found = orphaned(live)
    return {**found, "metadata": {**found["metadata"], "labels": {**found["metadata"]["labels"], **labels}}}


def test_what_is_not_our_own_orphan_is_never_adopted() -> None:
    old = running(a_spec(), a_revision(State.GOOD))
    assert old.deployment is not None
    foreign = with_labels(old.service, **{names.MANAGED_BY: "helm"})
    other = orphaned({**old.deployment, "spec": {**old.deployment["spec"], "selector": {"matchLabels": {"a": "b"}}}})
    going = orphaned(old.service)
    going["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    for over in ({"service": foreign}, {"deployment": other}, {"service": old.service}, {"service": going}):
        kinds = [one.live["kind"] for one in of_kind(plan(left_behind(**over), SETTINGS), Adopt)]
        assert next(iter(over)).capitalize() not in kinds
