"""How long a new request would wait, from the speed that was measured. Pure; asked by `host` before it takes one."""

import heapq
from collections.abc import Sequence

_SHORTEST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 600.0


def seconds_until_start(remaining: Sequence[int], *, slots: int, tokens_per_second: float) -> float:
    """`remaining`: the tokens that each earlier request may still generate, the oldest first. The speed is that of one
    answer beside the others. Answers end earlier than their limit, so this is an upper bound.
    """
    if tokens_per_second <= 0:
        return 0.0
    busy = [0.0] * slots
    for tokens in remaining:
        heapq.heappush(busy, heapq.heappop(busy) + tokens / tokens_per_second)
    return busy[0]


def retry_after(remaining: Sequence[int], *, tokens_per_second: float) -> float:
    """Seconds until the first of the earlier requests ends, and so a place in the queue is free."""
    if not remaining or tokens_per_second <= 0:
        return _SHORTEST_WAIT_SECONDS
    return min(max(min(remaining) / tokens_per_second, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)
