"""`kubectl rollout restart` across changes of the revision: a good template comes back as it was, then is restarted."""

import copy
from typing import Any

import pytest

from llm_operator.core import names
from llm_operator.core.actions import Apply
from llm_operator.core.children.drift import change, compare
from llm_operator.core.names import Manifest
from llm_operator.core.planner import plan
from llm_operator.core.revisions.restarts import with_restarts
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State
from tests.unit.operator.builders import (
    SETTINGS,
    a_manifest,
    a_revision,
    a_spec,
    as_stored,
    rolled_out,
    running,
)
from tests.unit.operator.simulated_api import patched

GOOD = a_revision(State.GOOD, number=1)
BAD = a_revision(State.REJECTED, number=2, spec=a_spec(image="bad:1"))
KNOWN = {GOOD.hash: State.GOOD, BAD.hash: State.REJECTED}


def at(deployment: Manifest) -> Any:
    return deployment["spec"]["template"]["metadata"]["annotations"].get(names.RESTARTED_AT)


def restarted(deployment: Manifest, when: str) -> Manifest:
    """What `kubectl rollout restart` makes of it."""
    changed = copy.deepcopy(deployment)
    changed["spec"]["template"]["metadata"]["annotations"][names.RESTARTED_AT] = when
    return changed


def written(live: Manifest, target: Revision, known: dict[str, State] = KNOWN) -> Manifest:
    """What is there after the operator has brought the target."""
    desired = with_restarts(a_manifest(revision=target), live, target, known)
    return patched(live, list(change(live, compare(desired, live).put_right)))


def served(revision: Revision) -> Manifest:
    return as_stored(a_manifest(revision=revision), **rolled_out(1))


def test_without_a_restart_nothing_is_noted() -> None:
    assert with_restarts(a_manifest(), None, GOOD, KNOWN) == a_manifest()
    back = written(written(served(GOOD), BAD), GOOD)
    assert names.RESTARTS not in back["metadata"]["annotations"]
    assert back["spec"]["template"] == GOOD.template


def test_a_good_template_comes_back_with_the_restart_that_it_ran_with() -> None:
    before = restarted(served(GOOD), "monday")
    bad = written(before, BAD)
    assert at(bad) is None
    back = written(bad, GOOD)
    assert back["spec"]["template"] == restarted(a_manifest(revision=GOOD), "monday")["spec"]["template"]
    assert written(back, GOOD) == back, "nothing is owed"


def test_a_restart_asked_for_during_a_bad_roll_out_is_done_once_after_the_good_one_is_back() -> None:
    bad = restarted(written(restarted(served(GOOD), "monday"), BAD), "tuesday")
    back = written(bad, GOOD)
    assert at(back) == "monday", "the pods that serve go on"
    waiting = {**back, "status": {"observedGeneration": 0}}
    assert at(written(waiting, GOOD)) == "monday"
    done = written({**back, "status": {"observedGeneration": 9, **rolled_out(1, 9)}}, GOOD)
    assert at(done) == "tuesday"
    assert written(done, GOOD) == done
    again = restarted(done, "wednesday")
    assert written(again, GOOD) == again, "and another one is let through"


def test_a_revision_that_comes_back_a_second_time_asks_for_no_restart_again() -> None:
    bad = restarted(written(served(GOOD), BAD), "monday")
    back = written(bad, GOOD)
    done = written({**back, "status": {"observedGeneration": 9, **rolled_out(1, 9)}}, GOOD)
    second = written(done, BAD)
    assert at(second) == "monday", "as it ran"
    assert at(written(second, GOOD)) == "monday"


@pytest.mark.parametrize("known", [{**KNOWN, BAD.hash: State.GOOD}, {GOOD.hash: State.GOOD}])
def test_what_left_for_a_new_revision_owes_nothing(known: dict[str, State]) -> None:
    live = restarted(served(BAD), "monday")
    fresh = written(live, a_revision(State.CANDIDATE, number=3, spec=a_spec(image="new:1")), known)
    assert at(fresh) is None
    assert "owed" not in fresh["metadata"]["annotations"].get(names.RESTARTS, "").replace('"owed": {}', "")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ran": 3}', '{"ran": {}, "owed": []}'])
def test_a_note_that_somebody_spoiled_is_none(text: str) -> None:
    live = served(BAD)
    live["metadata"]["annotations"][names.RESTARTS] = text
    back = written(live, GOOD)
    assert back["spec"]["template"] == GOOD.template
    assert back["metadata"]["annotations"][names.RESTARTS] == '{"owed": {}, "ran": {}}'


def test_a_template_without_a_revision_leaves_no_note() -> None:
    live = restarted(served(BAD), "monday")
    del live["spec"]["template"]["metadata"]["annotations"][names.REVISION]
    assert at(written(live, GOOD)) is None


def test_a_record_that_is_made_anew_does_not_undo_the_next_restart() -> None:
    observation = running(a_spec(), GOOD, revisions=())
    assert observation.deployment is not None
    observation.deployment["spec"]["template"]["metadata"]["annotations"][names.RESTARTED_AT] = "monday"
    decided = plan(observation, SETTINGS)
    assert not [one for one in decided.actions if isinstance(one, Apply)], "nothing restarts"
    (record,) = decided.actions
    assert names.RESTARTED_AT not in str(record)
