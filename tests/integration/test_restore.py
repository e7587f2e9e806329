"""A cluster is set back to a backup of etcd while the operator runs: it goes on from what is true now, by itself.

Versions grow no more: what the operator knows is newer than all that the API server says.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster import processes
from tests.integration.conftest import ControlPlane, install, running_operator, started_control_plane
from tests.integration.subject import new_namespace, rollout
from tests.kubectl import Kubectl, an_llmdeployment, eventually, is_ready

# In this order they start.
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok-controller")


class Component(NamedTuple):
    """A process of the control plane and how it was started."""

    process: processes.Process
    argv: list[str]
    cwd: str


class Cluster:
    """A control plane whose etcd can be copied and set back."""

    def __init__(self, workdir: Path, backup: Path) -> None:
        self._workdir, self._backup = workdir, backup

    def back_up(self) -> None:
        """What is on the disk at one moment: as good as a snapshot."""
        etcd = self._components()["etcd"]
        os.kill(etcd.process.pid, signal.SIGSTOP)
        try:
            shutil.copytree(_data(etcd), self._backup)
        finally:
            os.kill(etcd.process.pid, signal.SIGCONT)

    def restore(self) -> None:
        """As the manuals say: everything is stopped, etcd's data replaced, everything started."""
        found = self._components()
        processes.end(found[name].process for name in reversed(COMPONENTS))
        data = _data(found["etcd"])
        shutil.rmtree(data)
        shutil.copytree(self._backup, data)
        for name in COMPONENTS:
            command = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', found[name].cwd, *found[name].argv]
            processes.spawn(command, log=self._workdir / f"{name}-restored.log")

    def _components(self) -> dict[str, Component]:
        found = {}
        for process in processes.owned_by(self._workdir):
            argv = Path(f"/proc/{process.pid}/cmdline").read_text().rstrip("\0").split("\0")
            found[process.program] = Component(process, argv, str(Path(f"/proc/{process.pid}/cwd").readlink()))
        assert set(COMPONENTS) <= set(found)
        return found


def _data(etcd: Component) -> Path:
    (told,) = (word.partition("=")[2] for word in etcd.argv if word.startswith("--data-dir="))
    return Path(etcd.cwd) / told


@pytest.fixture
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with started_control_plane("restore", tmp_path_factory.mktemp("restore")) as plane:
        install(plane)
        yield plane


def ready(kubectl: Kubectl, *names: str) -> None:
    def all_ready() -> bool:
        late = [name for name in names if not is_ready(kubectl.get("llmdep", name))]
        assert not late, late
        return True

    eventually(all_ready, seconds=300)


def follows(kubectl: Kubectl, name: str, number: int) -> None:
    """An edit reaches the Deployment, and that it is Ready the status."""
    image = f"registry.example.com/server:{number}"
    kubectl.patch("llmdep", name, {"spec": {"image": image}})
    ready(kubectl, name)
    deployment = kubectl.get("deployment", name)
    assert deployment is not None
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_the_operator_goes_on_from_what_a_backup_brings_back(plane: ControlPlane, tmp_path: Path) -> None:
    kubectl = new_namespace(plane)
    cluster = Cluster(plane.kubeconfig.parent, tmp_path / "backup")
    # Nothing but what the set-back itself sets going makes it good.
    with running_operator(plane, tmp_path / "log", LLMOP_RESYNC_SECONDS="86400", LLMOP_NAMESPACES=kubectl.namespace):
        names = ("kept", "edited", "deleted")
        kubectl.apply(*(an_llmdeployment(name, rollout=rollout()) for name in names))
        ready(kubectl, *names)
        cluster.back_up()
        for number in range(2, 5):
            follows(kubectl, "edited", number)
        kubectl("delete", "llmdep", "deleted", "--cascade=foreground", "--timeout=120s")
        kubectl.apply(an_llmdeployment("ghost", rollout=rollout()))
        ready(kubectl, "ghost")
        cluster.restore()
        eventually(lambda: kubectl("get", "--raw", "/readyz") == "ok", seconds=180)
        # The backup says that a KWOK which is gone holds the nodes: the new one would wait until that runs out.
        plane.kubectl("kube-node-lease")("delete", "leases", "--all")
        ready(kubectl, *names)
        for name in names:
            follows(kubectl, name, 9)
        # A ghost's children would be made anew; and it may come again.
        assert {one["metadata"]["name"] for one in kubectl.list("deployments,services")} == set(names)
        kubectl.apply(an_llmdeployment("ghost", rollout=rollout()))
        ready(kubectl, "ghost")
        kubectl("delete", "deployment", "kept")
        eventually(lambda: kubectl.get("deployment", "kept"), seconds=180)
        ready(kubectl, "kept")
