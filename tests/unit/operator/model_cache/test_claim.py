"""The claim of a cache: made, grown, kept; and what a memory limit must hold."""

from typing import Any

import pytest

from llm_operator.api.conditions import Reason
from llm_operator.api.types import Cache
from llm_operator.core.actions import Create, Patch
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.model_cache.claim import build_claim, claim_patch, is_pending, not_grown, problem
from llm_operator.core.model_cache.memory import needed_bytes, too_small
from llm_operator.core.observation import Neighbourhood
from llm_operator.core.ownership import shared_reference
from llm_operator.core.planner import plan
from llm_operator.core.revisions.state import State
from llm_operator.core.status.conditions import build_status
from tests.unit.operator.builders import (
    FACTS,
    SETTINGS,
    UID,
    WEIGHTS,
    a_cached_spec,
    a_claim,
    a_parent,
    a_revision,
    a_spec,
    running,
)

OWNER = {"apiVersion": "llm.carepath.ai/v1alpha1", "kind": "LLMDeployment", "name": "other", "uid": "other"}


def a_cache(**over: Any) -> Cache:
    return Cache.model_validate(over)


def operations(live: Any, *, kept: bool = False, **over: Any) -> list[Any]:
    change = claim_patch(a_parent(), a_cache(**over), live, kept_for_others=kept)
    return [] if change is None else [(one["op"], one["path"], one.get("value")) for one in change.operations]


def test_a_claim_is_made_as_declared_and_outlives_everybody() -> None:
    cache = a_cache(claimName="models", size="9Gi", storageClassName="efs-sc", accessModes=["ReadWriteOnce"])
    claim = build_claim(a_parent(), cache, kept_for_others=False)
    assert claim["metadata"]["name"] == "models"
    assert "ownerReferences" not in claim["metadata"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "9Gi"}},
        "storageClassName": "efs-sc",
    }


def test_a_claim_goes_with_its_owner_only_where_that_is_declared_and_nobody_else_wants_it() -> None:
    cache = a_cache(deletionPolicy="Delete")
    alone, shared = (build_claim(a_parent(), cache, kept_for_others=kept)["metadata"] for kept in (False, True))
    assert alone["ownerReferences"] == [shared_reference(a_parent())]
    assert "ownerReferences" not in shared
    assert "storageClassName" not in build_claim(a_parent(), cache, kept_for_others=True)["spec"]


def test_a_claim_as_declared_is_left_alone() -> None:
    assert operations(a_claim()) == []
    assert operations(a_claim(), size="20480Mi") == []


def test_an_empty_storage_class_asks_for_a_volume_made_by_hand() -> None:
    claim = build_claim(a_parent(), a_cache(storageClassName=""), kept_for_others=False)
    assert claim["spec"]["storageClassName"] == "", "not the default class"


def test_growth_is_written_through_and_shrinking_never() -> None:
    assert operations(a_claim(), size="30Gi") == [("replace", "/spec/resources/requests/storage", "30Gi")]
    assert operations(a_claim(size="40Gi"), size="30Gi") == []


def test_nobody_may_change_the_size_of_a_claim_that_waits_for_its_volume() -> None:
    for phase in ("Pending", "Lost"):
        assert operations(a_claim(phase=phase), size="30Gi") == []
    waits = a_claim(phase="Pending")
    del waits["status"]
    assert operations(waits, size="30Gi") == []


def test_owners_come_first_and_growth_which_may_be_refused_after_that() -> None:
    assert [path for _, path, _ in operations(a_claim(), size="30Gi", deletionPolicy="Delete")] == [
        "/metadata/ownerReferences"
    ]
    growth = claim_patch(a_parent(), a_cache(size="30Gi"), a_claim(), kept_for_others=False)
    assert growth is not None
    assert growth.optional
    owner = claim_patch(a_parent(), a_cache(deletionPolicy="Delete"), a_claim(), kept_for_others=False)
    assert owner is not None
    assert not owner.optional


def test_growth_that_was_refused_is_told_and_holds_nothing_up() -> None:
    spec = a_cached_spec(cache={"size": "30Gi", "prune": "Unused"})
    model = CachedModel("a/b", "c" * 40, f"/models/a--b/{'c' * 40}", WEIGHTS, FACTS, "uid-claim")
    revision = a_revision(State.GOOD, spec=spec)
    own = revision.judged(revision.verdict, model)
    claim = a_claim()
    claim["spec"]["storageClassName"] = "slow"
    observation = running(spec, own, claim=claim, neighbourhood=Neighbourhood((), (own.live,), ()))
    growth, prune = sorted(plan(observation, SETTINGS).actions, key=lambda one: isinstance(one, Create))
    assert isinstance(growth, Patch)
    assert isinstance(prune, Create)
    told = {one["type"]: one for one in build_status(observation, None)["conditions"]}
    assert told["Ready"]["status"] == told["ModelCached"]["status"] == "True"
    assert "has 20Gi and could not be made larger so far, to 30Gi" in told["ModelCached"]["message"]
    assert "StorageClass slow says allowVolumeExpansion: true" in told["ModelCached"]["message"]
    assert not_grown(a_cache(size="30Gi"), a_claim(ours=False)) == not_grown(a_cache(), None) == ""


def test_somebody_elses_claim_is_never_written_to() -> None:
    assert operations(a_claim(ours=False), size="30Gi", deletionPolicy="Delete") == []
    assert operations(a_claim(deletionTimestamp="2026-01-02T03:04:05Z"), size="30Gi") == []


def test_owners_come_and_go_with_the_policy() -> None:
    me = shared_reference(a_parent())
    path = "/metadata/ownerReferences"
    assert operations(a_claim(), deletionPolicy="Delete") == [("add", path, [me])]
    assert operations(a_claim(ownerReferences=[OWNER]), deletionPolicy="Delete") == [("add", f"{path}/-", me)]
    assert operations(a_claim(ownerReferences=[OWNER, me]), deletionPolicy="Delete") == []
    assert operations(a_claim(ownerReferences=[OWNER, me])) == [("remove", f"{path}/1", None)]
    assert operations(a_claim(ownerReferences=[me]), deletionPolicy="Delete", kept=True) == [
        ("remove", f"{path}/0", None)
    ]
    assert me["uid"] == UID


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (None, Reason.CLAIM_PENDING),
        (a_claim(deletionTimestamp="2026-01-02T03:04:05Z"), Reason.CLAIM_LOST),
        (a_claim(phase="Lost"), Reason.CLAIM_LOST),
        (a_claim(phase="Pending"), None),
        (a_claim(), None),
    ],
)
def test_what_is_wrong_with_a_claim_is_told(claim: Any, reason: Reason | None) -> None:
    found = problem("model-cache", claim)
    assert (None if found is None else found.reason) == reason


def test_a_claim_without_a_volume_is_pending() -> None:
    assert [is_pending(one) for one in (None, a_claim(), a_claim(phase="Pending"))] == [False, False, True]


# Does the model fit?


def a_model(**over: Any) -> CachedModel:
    values: dict[str, Any] = {
        "repository": "a/b",
        "commit": "c",
        "path": "/models/x",
        "weights_bytes": WEIGHTS,
        "facts": FACTS,
    }
    return CachedModel(**{**values, **over})


def limited(memory: Any, **model: Any) -> Any:
    return a_cached_spec(resources={"limits": {"memory": memory}}, model=model)


def test_the_number_that_would_do_does() -> None:
    found = too_small(limited("4Gi"), a_model())
    assert found is not None
    assert found.reason is Reason.MEMORY_LIMIT_TOO_SMALL
    needed = needed_bytes(a_model())
    assert f"Set {needed // 2**20}Mi or more" in found.message
    assert too_small(limited(f"{needed // 2**20}Mi"), a_model()) is None
    assert too_small(limited(f"{needed // 2**20 - 1}Mi"), a_model()) is not None


def test_weights_and_one_request_and_the_server_are_reckoned_with() -> None:
    keys_and_values = 2 * 4 * 36 * 8 * 128 * 4096
    assert 0 <= needed_bytes(a_model()) - (WEIGHTS // 2 + keys_and_values + 768 * 2**20) < 256 * 2**20
    assert needed_bytes(a_model(facts={**FACTS, "dtype": "float32"})) < needed_bytes(a_model())
    assert needed_bytes(a_model(facts={**FACTS, "contextTokens": 10})) < needed_bytes(a_model())
    assert needed_bytes(a_model(facts={**FACTS, "contextTokens": None})) == needed_bytes(a_model())
    assert needed_bytes(a_model(facts={})) < needed_bytes(a_model())


def test_without_a_limit_or_with_the_override_nothing_is_refused() -> None:
    for spec in (
        a_spec(mode="qwen"),
        a_cached_spec(resources={"requests": {"cpu": 1}}),
        limited("1Mi", memoryCheck="Skip"),
        a_cached_spec(resources={"limits": {"memory": "1Mi", "nvidia.com/gpu": "1"}}),
    ):
        assert too_small(spec, a_model()) is None
