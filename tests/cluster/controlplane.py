"""A real control plane (etcd, API server, controller manager, scheduler) as host processes, by kwokctl.

The cluster uses one. Integration tests start more with `start`, each with KWOK's fake nodes; those carry
their owner's pid, so that `gc` can end what a killed test run left.
"""

import json
import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import binaries, processes
from tests.cluster.api import Api, ApiError, write_kubeconfig
from tests.cluster.places import CLUSTER, scratch_home
from tests.cluster.steps import Failure, tails, wait_until

COMPONENTS = frozenset({"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"})
# Below the kernel's ephemeral ports and outside the NodePort range (30000-32767).
PORTS = range(20000, 29999)


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane and the files through which it is used."""

    name: str
    workdir: Path
    kubeconfig: Path
    audit_log: Path | None

    def stop(self) -> None:
        """End its processes and remove its files."""
        remove(self.workdir)
        _record(self.name, self.workdir).unlink(missing_ok=True)


def start(
    name: str,
    *,
    workdir: Path,
    kwok_nodes: int = 1,
    audit_policy: Path | None = None,
    stages: Path | None = None,
    extra_args: Sequence[str] = (),
    qps_limits: bool = True,
    owner: int | None = None,
) -> ControlPlane:
    """Start a control plane whose nodes and pods KWOK plays.

    `stages` is a file of KWOK Stages, which replace all of KWOK's own, those of nodes too. `extra_args` are
    kwokctl's `component=flag=value`. `owner` (this process unless given; 0 for none) is the pid after whose
    end `gc` may remove the control plane.
    """
    gc()
    workdir = workdir.resolve()
    plane = ControlPlane(
        name=name,
        workdir=workdir,
        kubeconfig=workdir / "kubeconfig",
        audit_log=logs(workdir) / "audit.log" if audit_policy else None,
    )
    plane.stop()
    _remember(plane, owner=os.getpid() if owner is None else owner)
    try:
        launch(
            workdir,
            kwok=True,
            audit_policy=audit_policy,
            stages=stages,
            extra_args=extra_args,
            qps_limits=qps_limits,
        )
        add_kwok_nodes(Api(plane.kubeconfig), kwok_nodes, log=logs(workdir) / "kwok-controller.log")
    except BaseException:
        plane.stop()
        raise
    return plane


def launch(
    workdir: Path,
    *,
    kwok: bool,
    audit_policy: Path | None = None,
    stages: Path | None = None,
    extra_args: Sequence[str] = (),
    certificate_names: Sequence[str] = (),
    qps_limits: bool = True,
) -> None:
    """Start the processes, wait until the API server is ready, write `workdir`/kubeconfig."""
    programs = binaries.ensure()
    # The administrator's key will be in it.
    workdir.mkdir(mode=0o700, parents=True)
    ports = free_ports(6)
    config = _write_config(workdir, ports=ports, certificate_names=certificate_names)
    command = [str(programs / "kwokctl"), "create", "cluster", f"--name={CLUSTER}", f"--config={config}"]
    command += ["--runtime=binary", "--wait=300s", "--timeout=300s"]
    command += [f"--kubeconfig={workdir / 'kwok-kubeconfig'}"]
    command += [f"--{name}-binary={programs / name}" for name in sorted(COMPONENTS)]
    command += [f"--kwok-controller-binary={programs / 'kwok'}"]
    # One of each: an election could only be lost, on a busy machine, and the loser exits.
    alone = [f"{name}=leader-elect=false" for name in ("kube-controller-manager", "kube-scheduler")]
    command += [f"--extra-args={argument}" for argument in (*alone, *extra_args)]
    command += [] if kwok else ["--disable=kwok-controller"]
    command += [f"--kube-audit-policy={audit_policy}"] if audit_policy else []
    command += [f"--config={stages}"] if stages else []
    command += [] if qps_limits else ["--disable-qps-limits"]
    answer = subprocess.run(command, env=_environment(workdir), capture_output=True, text=True, check=False)
    if answer.returncode:
        ends = tails(tuple(sorted(logs(workdir).glob("*.log"))))
        raise Failure(f"kwokctl create cluster failed:\n{answer.stderr[-2000:]}\n{ends}")
    write_kubeconfig(
        workdir / "kubeconfig",
        server=f"https://127.0.0.1:{ports[0]}",
        ca=pki(workdir) / "ca.crt",
        certificate=pki(workdir) / "admin.crt",
        key=pki(workdir) / "admin.key",
    )


def remove(workdir: Path) -> None:
    """End every process that runs out of this folder, and remove it."""
    running = processes.owned_by(workdir)
    # kwokctl first: it may be about to start others. etcd last: clients that lose it log and retry.
    for programs in ({"kwokctl"}, COMPONENTS | {"kwok-controller"}):
        processes.end(process for process in running if process.program in programs)
    shutil.rmtree(workdir, ignore_errors=True)


def gc() -> list[Path]:
    """Remove control planes whose owner is gone; return their folders."""
    removed = []
    for record in sorted(_records().glob("*.json")):
        try:
            fields = json.loads(record.read_text())
        except FileNotFoundError:
            continue  # its owner stopped it meanwhile
        owner, workdir = int(fields["owner"]), Path(fields["workdir"])
        if owner and processes.start_time(owner) != fields["owner_started"]:
            remove(workdir)
            record.unlink(missing_ok=True)
            removed.append(workdir)
    return removed


def pki(workdir: Path) -> Path:
    """The folder of the CA and the administrator's certificate."""
    return workdir / "clusters" / CLUSTER / "pki"


def logs(workdir: Path) -> Path:
    """The folder of the components' logs, the audit log included."""
    return workdir / "clusters" / CLUSTER / "logs"


def add_kwok_nodes(api: Api, count: int, *, log: Path) -> None:
    """Create fake nodes and wait until KWOK has made them Ready."""
    resources = {"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti"}
    for number in range(count):
        name = f"kwok-{number}"
        labels = {"type": "kwok", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
        api.request(
            "POST",
            "/api/v1/nodes",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
                "status": {"capacity": resources, "allocatable": resources},
            },
        )
    wait_until("KWOK nodes Ready", lambda: len(api.ready_nodes()) >= count, seconds=60, logs=(log,))
    wait_until("default ServiceAccount", lambda: _exists(api, DEFAULT_ACCOUNT), seconds=60)


DEFAULT_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"


def _exists(api: Api, path: str) -> bool:
    try:
        api.request("GET", path)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens; random, so that two who ask together get different ones."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if _is_free(port, socket.SOCK_STREAM) and _is_free(port, socket.SOCK_DGRAM):
            found.append(port)
        if len(found) == count:
            return found
    raise Failure(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _write_config(workdir: Path, *, ports: list[int], certificate_names: Sequence[str]) -> Path:
    names = ("kubeApiserverPort", "etcdPort", "etcdPeerPort", "kubeControllerManagerPort", "kubeSchedulerPort")
    options: dict[str, object] = dict(zip((*names, "kwokControllerPort"), ports, strict=True))
    options |= {"bindAddress": "127.0.0.1", "kubeApiserverCertSANs": list(certificate_names)}
    path = workdir / "kwokctl.yaml"
    document = {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokctlConfiguration"}
    path.write_text(json.dumps({**document, "metadata": {"name": CLUSTER}, "options": options}))
    return path


def _environment(workdir: Path) -> dict[str, str]:
    # A stray KWOK_* of the user's would change what starts.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KWOK_")}
    return {**kept, "KWOK_WORKDIR": str(workdir)}


def _remember(plane: ControlPlane, *, owner: int) -> None:
    started = processes.start_time(owner) if owner else None
    if owner and started is None:
        raise Failure(f"the owner, pid {owner}, does not run")
    record = _record(plane.name, plane.workdir)
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({"workdir": str(plane.workdir), "owner": owner, "owner_started": started}))
    partial.replace(record)


def _records() -> Path:
    path = scratch_home() / "controlplanes"
    path.mkdir(exist_ok=True)
    return path


def _record(name: str, workdir: Path) -> Path:
    return _records() / f"{re.sub(r'[^A-Za-z0-9]+', '-', f'{name}-{workdir}')}.json"
