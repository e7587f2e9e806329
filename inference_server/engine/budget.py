"""How much of an answer may be reasoning, by tokens and by time, so that there is an answer.

Pure; asked by `tracked_engine` for every request, whatever engine answers.
"""

from inference_server.engine.protocol import MAX_TOKENS, EngineInfo, EngineStats

# What the prompt of this package allows (120 words), in most languages of Europe.
ANSWER_TOKENS = 256
# Of a short time, or of a small limit, so much is kept for the answer.
_LEAST_SHARE = 0.5


def tokens_per_second(info: EngineInfo, stats: EngineStats) -> float | None:
    """Of one more answer beside those that run; None where nothing was measured.

    At least its share of what one alone would have: while prompts are computed hardly a token is measured.
    """
    if not info.predicted_tokens_per_second:
        return None
    if not stats.active_requests or not stats.tokens_per_second:
        return info.predicted_tokens_per_second
    measured = stats.tokens_per_second / stats.active_requests
    return max(measured, info.predicted_tokens_per_second / (info.concurrent_requests or 1))


def thinking_budget(
    asked: int | None, *, max_new_tokens: int, deadline_seconds: float | None, tokens_per_second: float | None
) -> int:
    """Tokens of reasoning: at most what was asked for, and what leaves room and time for the answer."""
    most = _beside_the_answer(max_new_tokens)
    if deadline_seconds is not None and tokens_per_second is not None:
        most = min(most, _beside_the_answer(int(min(deadline_seconds * tokens_per_second, MAX_TOKENS))))
    return most if asked is None else min(asked, most)


def _beside_the_answer(tokens: int) -> int:
    return max(tokens - min(ANSWER_TOKENS, int(tokens * _LEAST_SHARE) or 1), 0)
