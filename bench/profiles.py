"""What a profile of the operator says: where its CPU time goes, by part and by function."""

import pstats
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

# The first whose folder is in a frame's path names the part that the innermost known frame belongs to.
PARTS = (
    "llm_operator",
    "kopf",
    "kubernetes",
    "aiohttp",
    "yarl",
    "multidict",
    "pydantic",
    "prometheus_client",
    "json",
    "copy.py",
    "ssl.py",
    "logging",
    "asyncio",
)
TOP = 25
# A profiler may take a thread that waits for one that works.
WAITING = (
    "_worker (concurrent/futures/thread.py",
    "select (selectors.py",
    "EpollSelector.select",
    "wait (threading.py",
)


def report(profile: Path) -> str:
    """The profile as text, for either profiler."""
    if not profile.exists():
        return f"no profile at {profile}"
    if profile.suffix == ".raw":
        return _of_samples(profile.read_text().splitlines())
    return _of_trace(profile)


def _of_samples(lines: Iterable[str]) -> str:
    total, own, parts = 0, Counter[str](), Counter[str]()
    within = Counter[str]()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if frames[-1].startswith(WAITING):
            continue
        samples = int(count)
        total += samples
        own[_without_line(frames[-1])] += samples
        parts[_part(frames)] += samples
        for frame in {_without_line(one) for one in frames}:
            within[frame] += samples
    # What everything runs below tells nothing.
    within = Counter({name: count for name, count in within.items() if count < 0.9 * total})
    tables = (("by part", parts), ("in the function itself", own), ("in the function and below it", within))
    return "\n".join(_table(title, counts, total) for title, counts in tables)


def _of_trace(profile: Path) -> str:
    stats = pstats.Stats(str(profile))
    own, within, parts = Counter[str](), Counter[str](), Counter[str]()
    for (file, _, name), (_, _, seconds, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        function = f"{name} ({_short(file)})"
        own[function] += round(seconds * 1000)
        within[function] += round(cumulative * 1000)
        parts[_part([file])] += round(seconds * 1000)
    waiting = sum(count for name, count in own.items() if "epoll" in name or "select" in name)
    total = sum(own.values()) - waiting
    # What everything runs below tells nothing.
    within = Counter({name: count for name, count in within.items() if count < 0.9 * total})
    tables = (("by part", parts), ("in the function itself", own), ("in the function and below it", within))
    return "\n".join(_table(title, counts, total) for title, counts in tables)


def _table(title: str, counts: Counter[str], total: int) -> str:
    lines = [f"{100 * count / max(total, 1):6.1f} %  {name}" for name, count in counts.most_common(TOP)]
    return "\n".join([f"-- {title}", *lines])


def _part(frames: Iterable[str]) -> str:
    for frame in reversed(list(frames)):
        for part in PARTS:
            if f"{part}/" in frame or f"/{part}" in frame or f"({part}" in frame:
                return part
    return "other"


def _without_line(frame: str) -> str:
    # py-spy: "function (path/file.py:12)"
    head, _, line = frame.rpartition(":")
    return f"{head})" if line.rstrip(")").isdigit() else frame


def _short(file: str) -> str:
    return "/".join(Path(file).parts[-3:])
