"""Start, find and end the cluster's processes.

They are found by what they are, a known program whose command line names our directory, and never by a
recorded pid: pids are reused, records go stale in a crash, and a shim has no record at all.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = frozenset({
    "containerd",
    "containerd-shim-runc-v2",
    "coredns",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "kwok-controller",
    "kwokctl",
})  # fmt: skip


# Kept: a Popen that is collected before its process ends warns.
_daemons: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, order=True)
class Process:
    """A live process; `started` (kernel ticks since boot) tells it from a later one with its pid."""

    pid: int
    started: int
    program: str


def spawn(argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None) -> None:
    """Start a daemon in a session of its own, so that it survives this process and its terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            cwd="/",
        )
    _daemons.append(daemon)


def owned_by(directory: Path) -> list[Process]:
    """Our programs that run out of, or with files of, this directory."""
    marker = f"{directory}/".encode()
    return sorted(process for process, argv in _known() if marker in argv)


def named(program: str) -> list[Process]:
    """Every process of this program, whoever started it."""
    return sorted(process for process, _ in _known() if process.program == program)


def _known() -> Iterator[tuple[Process, bytes]]:
    for pid in _pids():
        argv = _read(pid, "cmdline")
        program = Path(os.fsdecode(argv.split(b"\0", 1)[0])).name
        if program in PROGRAMS and (started := start_time(pid)) is not None:
            yield Process(pid=pid, started=started, program=program), argv


def in_cgroup(path: str) -> list[Process]:
    """Processes of containers: those in this cgroup or below it, in any hierarchy."""
    found = []
    for pid in _pids():
        groups = (line.split(":", 2)[-1] for line in _read(pid, "cgroup").decode().splitlines())
        inside = any(group == path or group.startswith(f"{path}/") for group in groups)
        if inside and (started := start_time(pid)) is not None:
            program = _read(pid, "comm").decode(errors="replace").strip()
            found.append(Process(pid=pid, started=started, program=program))
    return sorted(found)


def end(processes: Iterable[Process], *, grace: float = 0.0) -> None:
    """Ask (when given a grace period), then kill; return when they are gone."""
    left = [process for process in processes if is_alive(process)]
    if grace:
        _signal(left, signal.SIGTERM)
        left = _outlasting(left, seconds=grace)
    _signal(left, signal.SIGKILL)
    _outlasting(left, seconds=10)
    # Those that this process started are its own to bury: a Popen that nobody asked warns at the end.
    _daemons[:] = [daemon for daemon in _daemons if daemon.poll() is None]


def is_alive(process: Process) -> bool:
    """Whether this very process still runs."""
    return start_time(process.pid) == process.started


def start_time(pid: int) -> int | None:
    """Ticks since boot at which the pid's process began; None for none, or for a zombie."""
    # The second field, the name, may hold spaces and parentheses: count from its end.
    fields = _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":
        return None
    return int(fields[19])


def _outlasting(processes: list[Process], *, seconds: float) -> list[Process]:
    deadline = time.monotonic() + seconds
    while left := [process for process in processes if is_alive(process)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []


def _signal(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue


def _pids() -> Iterable[int]:
    own = str(os.getpid())
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and entry.name != own)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
