"""Single stories of the walk's kind, told on purpose: what exactly comes of one change amid one trouble.

On the same simulated namespace as the walks (test_walk.py), so that a promise is held at every step here too.
"""

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.operator_at_work import Hands
from tests.unit.operator.simulated_pods import BEHAVIOURS, GOOD
from tests.unit.operator.simulation import NORMALISE
from tests.unit.operator.walker import DEADLINE, FIRST, MODELS, Walker


def room_is_short(walker: Walker) -> None:
    walker.cluster.capacity = len(walker.pods())


def the_quota_is_full(walker: Walker) -> None:
    walker.cluster.quota = len(walker.pods())


def the_sidecar_fails(walker: Walker) -> None:
    walker.cluster.injects, walker.cluster.away = True, ((walker.cluster.now, 1e9),)


def pods_meet_a_webhook_that_is_away(walker: Walker) -> None:
    walker.cluster.refuse("pods", "webhook away", 1e9)


def writes_meet_a_webhook_that_is_away(walker: Walker) -> None:
    walker.cluster.refuse("deployments", "webhook away", 1e9)


def a_policy_refuses_the_change(walker: Walker) -> None:
    walker.cluster.forbidden_images = frozenset(["b:1"])


def the_operator_may_write_nothing(walker: Walker) -> None:
    walker.cluster.refuse("deployments", "forbidden", 1e9)


PASSING_TROUBLES = (
    room_is_short,
    the_quota_is_full,
    the_sidecar_fails,
    pods_meet_a_webhook_that_is_away,
    writes_meet_a_webhook_that_is_away,
    a_policy_refuses_the_change,
    the_operator_may_write_nothing,
)


@pytest.mark.parametrize("trouble", PASSING_TROUBLES, ids=lambda one: one.__name__)
@settings(max_examples=15, deadline=None)
@given(replicas=st.integers(1, 3), lasts=st.sampled_from([1.0, 15.0, 25.0, DEADLINE - 25.0]), noticed=st.booleans())
def test_what_passes_before_the_deadline_condemns_no_good_change(
    hands: Hands, trouble: Callable[[Walker], None], replicas: int, lasts: float, noticed: bool
) -> None:
    walker = Walker(hands, {"a:1": "good", "b:1": "good"})
    walker.cluster.edit(FIRST, replicas=replicas)
    walker.pass_time(200)
    pods = walker.pods()
    trouble(walker)
    walker.pass_time(5.0 if noticed else 0.0)
    walker.cluster.edit(FIRST, image="b:1")
    walker.pass_time(lasts)
    assert pods <= walker.pods(), "what serves is there all the time"
    walker.lift_what_can_pass()
    walker.pass_time(600)
    assert walker.conditions()["Ready"]["status"] == "True"
    assert walker.status()["rejected"] == []
    assert not pods & walker.pods(), "the change is there"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.integers(1, 3), st.integers(0, 120))
def test_a_model_that_cannot_be_fetched_never_touches_what_serves(
    hands: Hands, model: str, replicas: int, edited_at: float
) -> None:
    walker = Walker(hands, {"a:1": "good"})
    walker.cluster.edit(FIRST, replicas=replicas)
    walker.pass_time(200 + edited_at)
    pods, deployment = walker.pods(), walker.cluster.api.get("deployments", FIRST)
    assert walker.triage.steady == replicas
    walker.cluster.edit(FIRST, mode="qwen", cache={}, model={"revision": model})
    walker.pass_time(DEADLINE * 4.0)
    ready = walker.conditions()["Ready"]
    if MODELS[model] in ("brings", "slow", "too slow", "flaky"):
        assert ready["status"] == "True"
        assert walker.status()["cache"] == {"phase": "Ready", "progress": "100%", "percent": 100}
        return
    assert (ready["status"], ready["reason"]) == ("False", "RolledBack")
    assert walker.pods() == pods
    assert walker.cluster.api.get("deployments", FIRST) == deployment, "not a single write"
    assert walker.status()["cache"]["phase"] == "Failed"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(set(BEHAVIOURS) - set(GOOD))), st.integers(1, 3), st.integers(0, 120))
def test_a_bad_change_is_always_rolled_back_and_costs_no_pod_that_serves(
    hands: Hands, behaviour: str, replicas: int, edited_at: float
) -> None:
    walker = Walker(hands, {"a:1": "good", "b:1": behaviour})
    walker.cluster.edit(FIRST, replicas=replicas)
    walker.pass_time(200 + edited_at)
    assert walker.triage.steady == replicas
    pods = walker.pods()
    walker.cluster.edit(FIRST, image="b:1")
    walker.pass_time(DEADLINE * 4.0)
    assert walker.pods() == pods, "the good pods are the very same"
    status = {kind: (one["status"], one["reason"]) for kind, one in walker.conditions().items()}
    assert status["Ready"] == ("False", "RolledBack")
    assert status["Stalled"] == ("True", "RolledBack")
    assert status["Available"][0] == "True"
    assert [one["attempts"] for one in walker.status()["rejected"]] == [1]
    walker.cluster.edit(FIRST, image="a:1")
    walker.act()
    assert walker.conditions()["Ready"]["status"] == "True", "the good spec is Ready at once"
    assert walker.pods() == pods, "and restarts nothing"


def test_a_flapping_server_is_rejected_at_the_deadline_and_not_later(hands: Hands) -> None:
    walker = Walker(hands, {"a:1": "good", "b:1": "flap"})
    walker.pass_time(100)
    walker.cluster.edit(FIRST, image="b:1")
    walker.pass_time(DEADLINE + 1)
    assert walker.status()["rejected"][0]["reason"] in ("ProgressDeadlineExceeded", "ProbeTimeout")


def test_the_clock_stands_still_for_what_was_left_aside(hands: Hands) -> None:
    walker = Walker(hands, {"a:1": "good", "b:1": "slow"})
    walker.pass_time(100)
    walker.cluster.edit(FIRST, image="b:1")
    walker.act()
    walker.cluster.edit(FIRST, image="a:1")
    walker.pass_time(timedelta(hours=5).total_seconds())
    walker.cluster.edit(FIRST, image="b:1")
    walker.pass_time(50)
    assert walker.conditions()["Ready"]["status"] == "True"


@pytest.mark.parametrize("admission", sorted(NORMALISE))
@settings(max_examples=5, deadline=None)
@given(behaviour=st.sampled_from(sorted(set(BEHAVIOURS) - {"flap", "late"})), early=st.booleans())
def test_a_change_is_judged_whatever_admission_makes_of_it(
    hands: Hands, admission: str, behaviour: str, early: bool
) -> None:
    walker = Walker(hands, {"a:1": "good", "b:1": behaviour})
    walker.cluster.normalises = admission if early else None
    walker.pass_time(200)
    walker.cluster.normalises = admission
    pods = walker.pods()
    walker.cluster.edit(FIRST, image="b:1")
    walker.pass_time(DEADLINE * 4.0)
    assert sum(walker.look(name) for name in walker.known) == 0, "nobody fights"
    if behaviour in GOOD:
        assert walker.conditions()["Ready"]["status"] == "True"
        return
    assert walker.conditions()["Ready"]["reason"] == "RolledBack"
    if early:
        assert walker.pods() == pods, "the good pods are the very same"
