"""Who computes next: requests join and leave between two steps.

One step advances every running answer by a token, and at most one prompt by a piece: so a long prompt does not stop
the answers that run. Pure; called by `batch`.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(eq=False)
class Sequence:
    """The tokens of one request. `pending` are to be computed; `stored` of them are in the cache, at `slot`."""

    id: int
    pending: list[int]
    deadline: float | None = None
    slot: int = -1
    stored: int = 0


SequenceT = TypeVar("SequenceT", bound=Sequence)


@dataclass(frozen=True, slots=True)
class Plan(Generic[SequenceT]):
    """`fill`: its next `piece` tokens are computed at once. `advance`: one token each, in one batch."""

    fill: SequenceT | None
    piece: int
    advance: tuple[SequenceT, ...]


class Scheduler(Generic[SequenceT]):
    def __init__(self, *, slots: int, piece_tokens: int) -> None:
        self.piece_tokens = piece_tokens
        self._waiting: deque[SequenceT] = deque()
        self._running: list[SequenceT] = []
        self._free = list(range(slots - 1, -1, -1))

    @property
    def running(self) -> tuple[SequenceT, ...]:
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[SequenceT, ...]:
        return tuple(self._waiting)

    def add(self, sequence: SequenceT) -> None:
        self._waiting.append(sequence)

    def admit(self) -> list[SequenceT]:
        """Give the free slots to those that wait longest, and return these."""
        admitted = []
        while self._waiting and self._free:
            sequence = self._waiting.popleft()
            sequence.slot = self._free.pop()
            self._running.append(sequence)
            admitted.append(sequence)
        return admitted

    def find(self, number: int) -> SequenceT | None:
        return next((one for one in (*self._running, *self._waiting) if one.id == number), None)

    def remove(self, sequence: SequenceT) -> None:
        """Its slot is free at once. Removing what is gone already does nothing."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._free.append(sequence.slot)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def expired(self, now: float) -> list[SequenceT]:
        everyone = (*self._running, *self._waiting)
        return [one for one in everyone if one.deadline is not None and one.deadline <= now]

    def plan(self) -> Plan[SequenceT]:
        # The oldest prompt first: two that take turns would both be late.
        fill = next((one for one in self._running if len(one.pending) > 1), None)
        piece = 0 if fill is None else min(len(fill.pending), self.piece_tokens)
        return Plan(fill, piece, tuple(one for one in self._running if len(one.pending) == 1))
