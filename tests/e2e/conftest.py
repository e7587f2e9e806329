"""Tests on nodes that run real containers, with whatever operator KUBECONFIG's cluster has (`make deploy`)."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import a_hub
from tests.e2e import registry as a_registry
from tests.e2e.model_image import model_image
from tests.e2e.steps import operator_logs, server_image
from tests.kubectl import Kubectl, eventually


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.e2e)
    # The image that runs a model is built beside the others, which need none.
    items.sort(key=lambda item: "model_server" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def admin(kubeconfig: Path) -> Kubectl:
    """kubectl in no namespace of its own."""
    program = shutil.which("kubectl")
    assert program is not None, "kubectl is not on PATH"
    return Kubectl(program, kubeconfig)


@pytest.fixture(scope="session")
def registry(admin: Kubectl) -> Iterator[a_registry.Registry]:
    """A registry that misbehaves."""
    with a_registry.running(admin, server_image(admin)) as registry:
        yield registry


@pytest.fixture(scope="module")
def hub(admin: Kubectl) -> Iterator[str]:
    """Address of a Hub in the cluster."""
    with a_hub.running(admin, server_image(admin)) as address:
        yield address


@pytest.fixture(scope="session")
def model_server(admin: Kubectl) -> str:
    """The server's image with what runs a model."""
    return model_image(admin)


@pytest.fixture
def volume(admin: Kubectl, kubectl: Kubectl) -> Iterator[str]:
    """A volume for the claim of the namespace."""
    with a_hub.a_volume(admin, server_image(admin), kubectl.namespace, a_hub.CACHE["claimName"]) as path:
        yield path


@pytest.fixture
def kubectl(admin: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a namespace of its own, which enforces Pod Security `restricted`."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    admin("create", "namespace", name)
    admin("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    ours = Kubectl(admin.program, admin.kubeconfig, name)
    eventually(lambda: ours.get("serviceaccount", "default"))
    failed_before = request.session.testsfailed
    yield ours
    if request.session.testsfailed > failed_before:
        print(ours("get", "llmdep,deploy,rs,pods", "-o", "wide"))
        print(ours("describe", "llmdep,pods"))
        print(operator_logs(admin, "--since=60s"))
    admin("delete", "namespace", name, "--wait=false")
