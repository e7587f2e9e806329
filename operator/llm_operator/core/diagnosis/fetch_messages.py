"""The last words of a fetch that failed: its own reason, and whether trying again can help. Pure.

Used by fetch_job.py, for the Job of a cache, and by pods.py, for the pods that fetch for themselves.
"""

import json

from llm_operator.api.conditions import FETCH_REASONS, Reason
from llm_operator.core.diagnosis.remedies import in_fields

# Exit codes after which nothing changes until somebody acts: docs/model-cache.md.
FINAL_CODES = (2, *range(20, 40), 78)
# The same fetch may succeed later, whatever it says: also for a reason that this operator does not know yet.
TRANSIENT_CODES = range(40, 60)


def fetch_reason(message: str) -> tuple[Reason, str] | None:
    """Reason, and message with remedy; None where the words are not those of a fetch."""
    try:
        record = json.loads(message)
        reason = Reason(record["reason"])
        words = in_fields(reason, str(record.get("message", "")), str(record.get("remedy", "")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return (reason, words) if reason in FETCH_REASONS else None
