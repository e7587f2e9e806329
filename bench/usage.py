"""What processes have used so far, from /proc."""

import os
import time
from collections import defaultdict
from pathlib import Path

from tests.cluster import processes

OTHERS = "others"
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, user and system."""
    # The second field, the name, may hold spaces and parentheses: count from its end.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_memory_mib(pid: int) -> float:
    """The most memory a process has had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def machine_cpu_seconds() -> float:
    """CPU time of everything on this machine, what its host took away (steal) included."""
    line = Path("/proc/stat").read_text().split("\n", 1)[0]
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + softirq + steal) / TICKS


class Meter:
    """CPU seconds by program since it was made: the control plane's, the bench's, the operator's and all others'."""

    def __init__(self, control_plane: Path, operator: int | None = None) -> None:
        self._control_plane = control_plane
        self._operator = operator
        self._before = self._read()

    def cpu(self) -> dict[str, float]:
        """CPU seconds by program."""
        now = self._read()
        return {program: round(now[program] - self._before.get(program, 0.0), 2) for program in now}

    def _read(self) -> dict[str, float]:
        used: dict[str, float] = defaultdict(float)
        for process in processes.owned_by(self._control_plane):
            used[process.program] += cpu_seconds(process.pid)
        used["bench"] = time.process_time()
        if self._operator is not None:
            used["operator"] = cpu_seconds(self._operator)
        # A large share means that somebody else was at work, and that the seconds say little.
        used[OTHERS] = machine_cpu_seconds() - sum(used.values())
        return dict(used)
