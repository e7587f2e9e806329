"""Tests on nodes that run real containers, with whatever operator KUBECONFIG's cluster has (`make deploy`)."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubectl import Kubectl, eventually

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.e2e)


@pytest.fixture
def kubectl(kubeconfig: Path, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a namespace of its own, which enforces Pod Security `restricted`."""
    program = shutil.which("kubectl")
    assert program is not None, "kubectl is not on PATH"
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    admin = Kubectl(program, kubeconfig)
    admin("create", "namespace", name)
    admin("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    ours = Kubectl(program, kubeconfig, name)
    eventually(lambda: ours.get("serviceaccount", "default"))
    failed_before = request.session.testsfailed
    yield ours
    if request.session.testsfailed > failed_before:
        print(ours("get", "llmdep,deploy,rs,pods", "-o", "wide"))
        print(ours("describe", "llmdep,pods"))
        print(admin("logs", "-n", "llm-operator-system", "deployment/llm-operator", "--tail=50"))
    admin("delete", "namespace", name, "--wait=false")
