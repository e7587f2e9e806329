"""The control groups under which the kubelet puts pods: ours by name, in every hierarchy."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

CGROUP = "/llm-operator-cluster"
MOUNTS = Path("/proc/self/mounts")


def create() -> None:
    """Make the root group everywhere (cgroup v1, v2, or both), with the controllers it needs."""
    for kind, hierarchy in hierarchies(MOUNTS.read_text()):
        group = hierarchy / CGROUP.lstrip("/")
        if kind == "cgroup2":
            _delegate(hierarchy)
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            # In v1 a new cpuset is empty, and a process cannot enter it until it is not.
            if kind == "cgroup" and (group / name).exists():
                (group / name).write_text((hierarchy / name).read_text())


def remove() -> None:
    """Remove the group and all below it; the processes in it have ended before."""
    # One at a time: a hierarchy may be mounted in two places, and the first removal serves both.
    while groups := existing():
        group = groups[0]
        for folder in sorted(_below(group), key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()


def existing() -> list[Path]:
    """Folders of our group that exist."""
    groups = (path / CGROUP.lstrip("/") for _, path in hierarchies(MOUNTS.read_text()))
    return [group for group in groups if group.is_dir()]


def hierarchies(mounts: str) -> list[tuple[str, Path]]:
    """Mounted hierarchies as (`cgroup` or `cgroup2`, folder), each folder once."""
    rows = (line.split() for line in mounts.splitlines())
    return list(dict.fromkeys((row[2], Path(row[1])) for row in rows if row[2] in ("cgroup", "cgroup2")))


def _delegate(hierarchy: Path) -> None:
    for controller in (hierarchy / "cgroup.controllers").read_text().split():
        # Not every controller can be delegated; the kubelet names the ones it misses.
        with contextlib.suppress(OSError):
            (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")


def _below(group: Path) -> Iterator[Path]:
    yield group
    for child in group.iterdir():
        if child.is_dir():
            yield from _below(child)
