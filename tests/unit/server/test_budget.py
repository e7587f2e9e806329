import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.engine.budget import ANSWER_TOKENS, thinking_budget, tokens_per_second
from inference_server.engine.protocol import MAX_TOKENS, EngineInfo, EngineStats
from inference_server.settings import Settings
from inference_server.system_prompt import system_prompt

ONE = EngineInfo("qwen", "m", None, concurrent_requests=4, predicted_tokens_per_second=8.0)


@pytest.mark.parametrize(
    ("info", "stats", "speed"),
    [
        pytest.param(EngineInfo("mock", "mock", None), EngineStats(0), None, id="nothing was measured"),
        pytest.param(ONE, EngineStats(0), 8.0, id="alone"),
        pytest.param(ONE, EngineStats(2, tokens_per_second=10.0), 5.0, id="beside others"),
        pytest.param(ONE, EngineStats(2, tokens_per_second=0.1), 2.0, id="while prompts are computed"),
        pytest.param(ONE, EngineStats(2), 8.0, id="not measured yet"),
    ],
)
def test_the_speed_of_one_more_answer(info: EngineInfo, stats: EngineStats, speed: float | None) -> None:
    assert tokens_per_second(info, stats) == speed


@given(
    asked=st.none() | st.integers(0, MAX_TOKENS),
    tokens=st.integers(1, MAX_TOKENS),
    seconds=st.none() | st.floats(0.001, 3600),
    speed=st.none() | st.floats(0.001, 10_000),
)
def test_there_is_room_and_time_for_an_answer(
    asked: int | None, tokens: int, seconds: float | None, speed: float | None
) -> None:
    budget = thinking_budget(asked, max_new_tokens=tokens, deadline_seconds=seconds, tokens_per_second=speed)
    assert 0 <= budget <= (tokens if asked is None else asked)
    assert tokens - budget >= min(ANSWER_TOKENS, tokens // 2)
    if seconds is not None and speed is not None:
        assert budget <= seconds * speed / 2 + 1 or budget <= seconds * speed - ANSWER_TOKENS


def test_the_default_limits_leave_room_for_what_the_prompt_allows() -> None:
    allowed = re.search(r"at most (\d+) words", system_prompt(Settings()))
    assert allowed is not None
    tokens = Settings().max_new_tokens
    budget = thinking_budget(None, max_new_tokens=tokens, deadline_seconds=None, tokens_per_second=None)
    # Two tokens a word: more than most languages of Europe need.
    assert tokens - budget >= 2 * int(allowed[1])
