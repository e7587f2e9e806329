"""The API server's clock, and since when it has answered without a long break. Kept by kube.py, read by reconcile.py.

Times in decisions are the API server's, so that a wrong or jumping clock on this machine rejects nothing; and
after an outage nothing is judged at once by what was true before it. What was before this process nobody knows: it may
have started together with the whole cluster. So its first answer is the end of an outage.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# `Date` has whole seconds, and an answer may be on its way for a moment.
TOLERANCE = timedelta(seconds=2)
OUTAGE_SECONDS = 15.0
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class ApiClock:
    """Fed with every answer and every failure."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._offset: timedelta | None = None
        self._failing_since: float | None = None
        self._has_answered = False
        self.since = LONG_AGO

    def now(self) -> datetime:
        """The API server's time; this machine's until there was an answer."""
        return datetime.now(UTC) if self._offset is None else LONG_AGO + self._monotonic() + self._offset

    def answered(self, date: str | None) -> None:
        """There was an answer; `date` is its header."""
        told = _parse(date)
        if told is not None:
            offset = told - LONG_AGO - self._monotonic()
            if self._offset is None or abs(offset - self._offset) > TOLERANCE:
                self._offset = offset
        was_away = self._failing_since is not None and self._clock() - self._failing_since >= OUTAGE_SECONDS
        if was_away or not self._has_answered:
            self.since = self.now()
        self._failing_since, self._has_answered = None, True

    def failed(self) -> None:
        """There was no answer, or one that says that the API server is in trouble."""
        if self._failing_since is None:
            self._failing_since = self._clock()

    def _monotonic(self) -> timedelta:
        return timedelta(seconds=self._clock())


def _parse(date: str | None) -> datetime | None:
    try:
        return None if date is None else parsedate_to_datetime(date).astimezone(UTC)
    except ValueError:
        return None
