"""What the recorded revisions say together."""

from datetime import timedelta
from typing import Any

import pytest

from llm_operator.core.revisions.history import BUDGET_WINDOW, KEPT, History, read_history
from llm_operator.core.revisions.revision import Revision, is_fresh
from llm_operator.core.revisions.state import State, Verdict
from tests.unit.operator.builders import NOW, a_parent, a_revision, a_spec, ago, going


def one(state: State, number: int, **over: Any) -> Revision:
    return a_revision(state, number=number, spec=a_spec(image=f"server:{number}"), **over)


def history(*revisions: Revision) -> History:
    return read_history(a_parent(), (revision.live for revision in revisions))


def test_revisions_are_read_in_the_order_of_their_numbers() -> None:
    found = history(one(State.GOOD, 3), one(State.GOOD, 1), one(State.GOOD, 2))
    assert [revision.number for revision in found.revisions] == [1, 2, 3]


def test_what_is_anothers_or_on_its_way_out_or_no_revision_does_not_count() -> None:
    foreign, gone, broken = one(State.GOOD, 1).live, going(one(State.GOOD, 2).live), one(State.GOOD, 3).live
    foreign = {**foreign, "metadata": {**foreign["metadata"], "ownerReferences": []}}
    assert read_history(a_parent(), [foreign, gone, {**broken, "data": None}]).revisions == ()
    assert read_history(a_parent(uid="another"), [one(State.GOOD, 1).live]).revisions == ()


def test_a_revision_is_found_by_its_name() -> None:
    first = one(State.GOOD, 1)
    assert history(first).get(first.hash) == first
    assert history(first).get("another") is None
    assert history(first).get(None) is None


@pytest.mark.parametrize(
    ("revisions", "number"),
    [
        ([], None),
        ([one(State.REJECTED, 1), one(State.CANDIDATE, 2), one(State.FALLBACK, 3)], None),
        ([one(State.GOOD, 1, decided_at=ago(5)), one(State.GOOD, 2, decided_at=ago(9))], 1),
        ([one(State.GOOD, 1, decided_at=ago(5)), one(State.GOOD, 2, decided_at=ago(5))], 2),
        ([one(State.GOOD, 1, decided_at=ago(5)), one(State.GOOD, 2, decided_at=None)], 1),
    ],
    ids=[
        "there is none",
        "none is good",
        "by when it was decided",
        "then by its number",
        "an unknown time is long ago",
    ],
)
def test_the_last_good_one_is_the_one_that_was_proved_last(revisions: list[Revision], number: int | None) -> None:
    good = history(*revisions).last_good()
    assert (None if good is None else good.number) == number


def test_rejected_ones_are_told_the_newest_first() -> None:
    found = history(
        one(State.REJECTED, 1, decided_at=ago(1)),
        one(State.REJECTED, 2, decided_at=ago(9)),
        one(State.REJECTED, 3, decided_at=ago(9)),
        one(State.GOOD, 4),
        one(State.REJECTED, 5, decided_at=None),
    ).rejected()
    assert [revision.number for revision in found] == [1, 3, 2, 5]


def test_the_next_number_is_the_highest() -> None:
    assert history().next_number() == 1
    assert history(one(State.GOOD, 8), one(State.GOOD, 3)).next_number() == 9


def test_rollbacks_of_the_last_hour_count_whatever_became_of_the_revision() -> None:
    found = history(
        one(State.REJECTED, 1, rollbacks=(ago(3601), ago(3600), ago(3599))),
        one(State.GOOD, 2, rollbacks=(ago(3000), ago(1))),
        one(State.CANDIDATE, 3, rollbacks=(ago(60),)),
    )
    assert found.rollbacks(NOW) == [ago(3599), ago(3000), ago(60), ago(1)]
    assert found.rollbacks(NOW + BUDGET_WINDOW) == []
    assert found.rollbacks(NOW + BUDGET_WINDOW - timedelta(seconds=2)) == [ago(1)]


def test_only_the_oldest_beyond_the_few_that_are_kept_are_superfluous() -> None:
    revisions = [one(State.REJECTED, number) for number in range(1, KEPT + 4)]
    found = history(*revisions)
    assert [revision.number for revision in found.superfluous((), NOW)] == [1, 2, 3]
    needed = (revisions[0].hash, None, revisions[2].hash)
    assert [revision.number for revision in found.superfluous(needed, NOW)] == [2]


@pytest.mark.parametrize(
    ("token", "known", "fresh"),
    [(None, None, False), (None, "1", False), ("1", "1", False), ("1", None, True), ("2", "1", True)],
)
def test_a_token_is_fresh_unless_the_verdict_knows_it(token: str | None, known: str | None, fresh: bool) -> None:
    assert is_fresh(token, Verdict(State.REJECTED, retry_token=known)) is fresh
