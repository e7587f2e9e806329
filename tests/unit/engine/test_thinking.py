import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.engine.qwen.thinking import Course, Marks, Part, limits, opens_thinking

END, OPEN, CLOSE, WORD = 1, 2, 3, 10
MARKS = Marks(frozenset({END}), open=OPEN, close=CLOSE, closing_words=(11, 12, CLOSE, 13))
PLAIN = Marks(frozenset({END}))

tokens = st.sampled_from([END, OPEN, CLOSE, WORD])


def walk(course: Course, chosen: list[int]) -> tuple[list[Part | None], str | None, int]:
    """Parts of the tokens that the model chose, the end, and how often the engine put something in."""
    parts, forced = [], int(bool(course.begin()))
    for token in chosen:
        verdict = course.take(token)
        parts.append(verdict.part)
        forced += bool(verdict.forced)
        if verdict.end:
            return parts, verdict.end, forced
    return parts, None, forced


@given(
    limit=st.integers(1, 80), budget=st.none() | st.integers(0, 100), chosen=st.lists(tokens, min_size=90, max_size=90)
)
def test_every_course_ends_within_its_limit_and_leaves_room_for_an_answer(
    limit: int, budget: int | None, chosen: list[int]
) -> None:
    shares = limits(MARKS, tokens=limit, budget=budget)
    course = Course(MARKS, shares, thinking=True)
    parts, end, forced = walk(course, chosen)
    assert end in ("stop", "length")
    # With room for the shortest close and a token of the answer.
    assert course.tokens <= max(limit, 2)
    assert course.reasoning_tokens <= course.tokens
    assert forced <= 1
    assert parts.count(Part.REASONING) <= shares.reasoning
    assert course.truncated == bool(forced)
    if end == "length":
        assert course.tokens - course.reasoning_tokens >= 1


@given(limit=st.integers(1, 600), budget=st.none() | st.integers(0, 700))
def test_a_reasoning_without_end_leaves_half_the_limit_or_a_whole_answer(limit: int, budget: int | None) -> None:
    course = Course(MARKS, limits(MARKS, tokens=limit, budget=budget), thinking=True)
    parts, end, _ = walk(course, [WORD] * 700)
    assert (end, course.truncated) == ("length", True)
    assert parts.count(Part.ANSWER) >= min(160, max(limit // 2, 1))


def test_a_small_limit_is_closed_briefly_and_a_large_one_in_words() -> None:
    assert limits(MARKS, tokens=4, budget=None).closing == (CLOSE,)
    assert limits(MARKS, tokens=512, budget=None).closing == MARKS.closing_words


def test_the_budget_closes_the_reasoning_once() -> None:
    course = Course(MARKS, limits(MARKS, tokens=100, budget=2), thinking=True)
    assert course.take(WORD).forced == ()
    assert course.take(WORD).forced == MARKS.closing_words
    assert course.take(WORD).part is Part.ANSWER
    assert (course.tokens, course.reasoning_tokens) == (7, 6)


def test_an_end_in_the_middle_of_the_reasoning_is_replaced() -> None:
    course = Course(MARKS, limits(MARKS, tokens=100, budget=None), thinking=True)
    verdict = course.take(END)
    assert (verdict.forced, verdict.replaced, verdict.end) == (MARKS.closing_words, True, None)
    assert course.take(END).end == "stop"


def test_a_reasoning_that_the_model_closes_is_not_truncated() -> None:
    course = Course(MARKS, limits(MARKS, tokens=100, budget=None), thinking=True)
    assert walk(course, [WORD, CLOSE, WORD, END]) == ([Part.REASONING, None, Part.ANSWER, None], "stop", 0)
    assert not course.truncated


@pytest.mark.parametrize(("budget", "closed"), [(None, ()), (0, MARKS.closing_words)])
def test_a_model_that_may_think_says_so_first(budget: int | None, closed: tuple[int, ...]) -> None:
    course = Course(MARKS, limits(MARKS, tokens=100, budget=budget), thinking=False)
    verdict = course.take(OPEN)
    assert (verdict.part, verdict.forced) == (None, closed)
    assert course.thinking == (budget is None)


@given(chosen=st.lists(tokens, min_size=30, max_size=30))
def test_a_model_without_thinking_has_only_answers(chosen: list[int]) -> None:
    course = Course(PLAIN, limits(PLAIN, tokens=20, budget=None), thinking=False)
    parts, end, forced = walk(course, chosen)
    assert (forced, course.reasoning_tokens) == (0, 0)
    assert Part.REASONING not in parts
    assert end == ("stop" if END in chosen[:20] else "length")


@pytest.mark.parametrize(
    ("prompt", "open_"),
    [
        pytest.param([WORD, OPEN, 13], True, id="the template begins the reasoning"),
        pytest.param([OPEN, 13, CLOSE, 13], False, id="the template closes it again"),
        pytest.param([WORD], False, id="nothing of it"),
    ],
)
def test_the_prompt_tells_whether_the_model_thinks(prompt: list[int], open_: bool) -> None:
    assert opens_thinking(MARKS, prompt) == open_
