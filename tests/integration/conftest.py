"""A real control plane with KWOK's fake nodes, and the operator as a process beside it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster import binaries, controlplane
from tests.kubectl import Kubectl, Manifest, eventually

ROOT = Path(__file__).parents[2]
OPERATOR = "system:serviceaccount:llm-operator-system:llm-operator"
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


# The files that take longest, in this order: begun last, they would keep one process busy when the others are done.
LONG = ("test_kills", "test_api_faults", "test_cache", "test_diagnosis", "test_rbac", "test_admission", "test_restore")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@dataclass(frozen=True)
class ControlPlane:
    """A control plane, its administrator's and the operator's kubeconfig, and its audit log."""

    kubeconfig: Path
    operator_kubeconfig: Path
    audit_log: Path

    def kubectl(self, namespace: str) -> Kubectl:
        return Kubectl(str(binaries.ensure() / "kubectl"), self.kubeconfig, namespace)

    def requests(self, *, since: int = 0) -> list[Manifest]:
        """Audited requests, oldest first, from entry `since` on."""
        lines = self.audit_log.read_text().splitlines()[since:]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def operator_writes(self, *, namespace: str, since: int) -> list[str]:
        """The operator's writes in a namespace from entry `since` on, as "verb plural/name"."""
        return [
            f"{one['verb']} {one['objectRef']['resource']}/{one['objectRef'].get('name')}"
            for one in self.requests(since=since)
            if one["user"]["username"] == OPERATOR
            and one["verb"] in WRITES
            and one["objectRef"].get("namespace") == namespace
        ]


@contextmanager
def started_control_plane(name: str, folder: Path) -> Iterator[ControlPlane]:
    """A control plane without our CRD; the operator's kubeconfig is still to be written (`install`)."""
    plane = controlplane.start(
        f"{name}-{os.getpid()}",
        workdir=folder / "kwok",
        kwok_nodes=3,
        audit_policy=Path(__file__).with_name("audit-policy.yaml"),
        stages=Path(__file__).with_name("stages.yaml"),
    )
    try:
        assert plane.audit_log is not None
        yield ControlPlane(plane.kubeconfig, folder / "operator-kubeconfig", plane.audit_log)
    finally:
        plane.stop()


def install(plane: ControlPlane, *, crd: bool = True) -> None:
    """The operator's namespace, service account and rights from deploy/, a kubeconfig with its token, the CRD."""
    kubectl = plane.kubectl("llm-operator-system")
    everything = yaml.safe_load_all(kubectl("kustomize", str(ROOT / "deploy/kustomize/base")))
    left_out = {"Deployment"} if crd else {"Deployment", "CustomResourceDefinition"}
    kubectl.apply(*(one for one in everything if one["kind"] not in left_out))
    if crd:
        kubectl("wait", "--for=condition=Established", "crd/llmdeployments.llm.carepath.ai")
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": kubectl("create", "token", "llm-operator", "--duration=2h").strip()}
    plane.operator_kubeconfig.write_text(yaml.safe_dump(config))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with started_control_plane("integration", tmp_path_factory.mktemp("control-plane")) as plane:
        install(plane)
        yield plane


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def running_operator(
    plane: ControlPlane, log: Path, *, wait: bool = True, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The operator as a process, ready; stopped by SIGTERM, and its exit code checked, at the end."""
    port = free_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "llm_operator"],
            env={
                **os.environ,
                "KUBECONFIG": str(plane.operator_kubeconfig),
                "LLMOP_SERVER_IMAGE": "registry.example.com/server:1",
                "LLMOP_HEALTH_PORT": str(port),
                "LLMOP_METRICS_PORT": "0",
                # A machine that stands still for ten seconds costs a leader its lease, and its life: test_leader.py.
                "LLMOP_LEADER_ELECTION": "false",
                **settings,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            if wait:
                is_up = f"http://127.0.0.1:{port}/readyz"
                eventually(lambda: process.poll() is not None or answers(is_up), seconds=180)
            yield process
            assert process.poll() is None, f"the operator ended by itself:\n{log.read_text()[-4000:]}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(timeout=120)
            finally:
                process.kill()
    assert code == 0, f"exit code {code}:\n{log.read_text()[-4000:]}"


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The operator runs; the value is its log."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with running_operator(control_plane, log):
        yield log


@pytest.fixture
def kubectl(control_plane: ControlPlane) -> Iterator[Kubectl]:
    """kubectl in a namespace of its own, which enforces Pod Security `restricted`."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    admin = control_plane.kubectl("default")
    admin("create", "namespace", name)
    admin("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    ours = control_plane.kubectl(name)
    eventually(lambda: ours.get("serviceaccount", "default"))
    yield ours
    admin("delete", "namespace", name, "--wait=false")
