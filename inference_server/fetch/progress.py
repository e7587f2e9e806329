"""How far a download is: speed, remaining time, and the bar. Fed by `fetcher`, shown by `display`."""

from collections import deque
from dataclasses import dataclass
from typing import Any

_WINDOW_SECONDS = 15.0
_BAR_CELLS = 30
_FEWEST_CELLS = 5


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`per_second` in bytes; `eta` in seconds, None while unknown."""

    done: int
    total: int
    per_second: int
    eta: int | None
    file: str

    @property
    def percent(self) -> int:
        """Rounded down, so that 100 means all of it."""
        return 100 * self.done // self.total if self.total else 100

    def as_json(self) -> dict[str, Any]:
        return {
            "bytesDone": self.done,
            "bytesTotal": self.total,
            "percent": self.percent,
            "bytesPerSecond": self.per_second,
            "etaSeconds": self.eta,
            "file": self.file,
        }


class Meter:
    """Never goes back: what is downloaded once more, because it came damaged, counts once."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def done(self) -> int:
        return self._done

    def begin(self, done: int, now: float) -> None:
        """`done` bytes were there already: they say nothing about the speed."""
        self._done = max(self._done, min(done, self._total))
        self._samples = deque([(now, self._done)])

    def look(self, done: int, now: float, file: str) -> Snapshot:
        self._done = max(self._done, min(done, self._total))
        self._samples.append((now, self._done))
        while now - self._samples[0][0] > _WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        (first, at_first) = self._samples[0]
        elapsed = now - first
        per_second = int((self._done - at_first) / elapsed) if elapsed > 0 else 0
        left = self._total - self._done
        eta = 0 if not left else round(left / per_second) if per_second else None
        return Snapshot(self._done, self._total, per_second, eta, file)


def bar(snapshot: Snapshot, columns: int) -> str:
    """One line of at most `columns` characters: where there is little room, the numbers before the bar."""
    numbers = [
        f"{snapshot.percent:3d} %",
        f"{size(snapshot.done)} of {size(snapshot.total)}",
        f"ETA {_clock(snapshot.eta)}",
        f"{size(snapshot.per_second)}/s",
        snapshot.file,
    ]
    while len(numbers) > 1 and len("  ".join(numbers)) > columns:
        numbers.pop()
    line = "  ".join(numbers)
    cells = min(_BAR_CELLS, columns - len(line) - len("[] "))
    if cells >= _FEWEST_CELLS:
        filled = cells * snapshot.percent // 100
        line = f"[{'#' * filled}{'-' * (cells - filled)}] {line}"
    return line[: max(columns, 1)]


def size(count: int) -> str:
    """Bytes for people, as the Hub's pages show them (powers of 1000)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in ("B", "kB") else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _clock(seconds: int | None) -> str:
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
