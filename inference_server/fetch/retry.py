"""When to try again after a failure. Asked by `fetcher`; waits nowhere itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from inference_server.fetch.failures import FetchError, FetchReason

_FIRST_SECONDS = 0.5
_LONGEST_SECONDS = 60.0
# One bad transfer is bad luck; the third in a row is not, and each costs the whole file.
# A kill may have been meant for another process of the node.
_TRIES = {FetchReason.CHECKSUM_MISMATCH: 3, FetchReason.OUT_OF_MEMORY: 2}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`tries` in a row without any progress; `longest_wait`: seconds that a server may ask for."""

    tries: int
    longest_wait: float


def pause_before_retry(error: FetchError, tried: int, policy: RetryPolicy, jitter: Callable[[], float]) -> float | None:
    """Seconds until the next try, or None to give up. `tried`: failures in a row; `jitter`: from 0 to 1."""
    limit = _TRIES.get(error.fetch_reason, policy.tries)
    if not error.worth_another_try or tried >= min(limit, policy.tries):
        return None
    if error.retry_after is not None:
        # Earlier than asked would be refused again, and may prolong the refusal.
        return error.retry_after + jitter() if error.retry_after <= policy.longest_wait else None
    pause: float = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** (tried - 1))
    return pause * (0.5 + 0.5 * jitter())


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds, from a Retry-After header in either of its forms; None where there is none that can be read."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    return max(0.0, seconds) if math.isfinite(seconds) else None
