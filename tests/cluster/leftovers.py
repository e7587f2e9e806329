"""What a cluster leaves on the machine: found, listed, removed."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import cgroups, network, processes
from tests.cluster.steps import Failure, wait_until

CONTAINER_LOGS = Path("/var/log/containers")
KUBELET_FOLDER = Path("/var/lib/kubelet")
CNI_RESULTS = Path("/var/lib/cni/results")
SHIM_SOCKETS = Path("/run/containerd/s")


@dataclass(frozen=True)
class Leftovers:
    """Lines a person can read, by kind."""

    processes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """All of it, one line each."""
        return [f"{kind}: {item}" for kind, items in vars(self).items() for item in items]


def find(state: Path) -> Leftovers:
    """Everything of the cluster with this state folder that is still there."""
    files = (str(state),) if state.exists() else ()
    if os.geteuid() != 0:
        # Without root only a control plane can have run.
        return Leftovers(processes=_lines(processes.owned_by(state)), files=files)
    running = {*processes.owned_by(state), *processes.in_cgroup(cgroups.CGROUP)}
    rules = [f"table {family} {name}" for family, name in network.tables()]
    return Leftovers(
        processes=_lines(running),
        mounts=tuple(map(str, mounts_under(state, Path("/proc/self/mounts").read_text()))),
        interfaces=tuple([name for name in network.links() if name == network.BRIDGE] + network.bridge_ports()),
        rules=tuple(rules + [f"chain {name}" for name in network.portmap_chains()]),
        cgroups=tuple(map(str, cgroups.existing())),
        files=files,
    )


def _lines(running: Iterable[processes.Process]) -> tuple[str, ...]:
    return tuple(f"{process.pid} {process.program}" for process in sorted(running))


def remove(state: Path) -> None:
    """End and remove all of it; what is not there is no error."""
    running = processes.owned_by(state)
    # Those that would start or restart others go first.
    for programs in ({"kubelet", "kwokctl"}, {"containerd", "kube-proxy", "kube-controller-manager"}):
        processes.end(process for process in running if process.program in programs)
    processes.end(processes.in_cgroup(cgroups.CGROUP))
    processes.end(processes.owned_by(state))
    unmount(state)
    network.restore(state)
    cgroups.remove()
    _remove_strays(state)
    shutil.rmtree(state, ignore_errors=True)


def unmount(state: Path) -> None:
    """Unmount everything below the state folder, the deepest first."""

    def gone() -> bool:
        mounts = mounts_under(state, Path("/proc/self/mounts").read_text())
        for mount in mounts:
            subprocess.run(["umount", "--lazy", str(mount)], capture_output=True, check=False)
        return not mounts

    wait_until(f"mounts under {state} are gone", gone, seconds=20)


def mounts_under(state: Path, mounts: str) -> list[Path]:
    """Mount points below a folder in /proc/self/mounts, the latest and so the deepest first."""
    points = (_unescape(line.split()[1]) for line in mounts.splitlines())
    return [Path(point) for point in reversed(list(points)) if Path(point).is_relative_to(state)]


def require_none(state: Path) -> None:
    """Fail with the list if `down` missed anything."""
    if lines := find(state).lines():
        raise Failure("left behind:\n  " + "\n  ".join(lines))


def _remove_strays(state: Path) -> None:
    # Paths that the kubelet and the shims do not let us choose.
    for link in CONTAINER_LOGS.glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(state):
            link.unlink(missing_ok=True)
    network.remove_if_empty(CONTAINER_LOGS)
    if not processes.named("kubelet"):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(KUBELET_FOLDER / "device-plugins")
        network.remove_if_empty(KUBELET_FOLDER)
    if not processes.named("containerd"):
        shutil.rmtree(SHIM_SOCKETS, ignore_errors=True)
        shutil.rmtree(SHIM_SOCKETS.parent / "fifo", ignore_errors=True)
        network.remove_if_empty(SHIM_SOCKETS.parent)
        for pattern in (f"{network.NETWORK}-*", "cni-loopback-*"):
            for result in CNI_RESULTS.glob(pattern):
                result.unlink(missing_ok=True)
        for folder in (CNI_RESULTS, CNI_RESULTS.parent):
            network.remove_if_empty(folder)


def _unescape(point: str) -> str:
    # The kernel writes blanks and backslashes in paths as octal.
    return point.encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")
