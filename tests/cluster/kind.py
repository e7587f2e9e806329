"""The kind provider: a node in a Docker container, with the same storage stand-in as the others."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import storage
from tests.cluster.api import Api, install_kubeconfig
from tests.cluster.places import CLUSTER
from tests.cluster.steps import Failure, step

NODE = f"{CLUSTER}-control-plane"
VOLUMES = "/var/local/efs"


def start(kubeconfig: Path) -> None:
    """Create the cluster and write its kubeconfig."""
    with step("kind create cluster"):
        _kind("create", "cluster", "--wait", "180s", "--kubeconfig", str(kubeconfig.with_suffix(".kind")))
    kubeconfig.with_suffix(".kind").unlink(missing_ok=True)
    install_kubeconfig(kubeconfig, _kind("get", "kubeconfig"))


def settle(kubeconfig: Path) -> None:
    """Install what every provider has; safe to repeat."""
    folders = " ".join(f"{VOLUMES}/{storage.CLASS}-{number:02}" for number in range(storage.COUNT))
    _run(["docker", "exec", NODE, "sh", "-c", f"mkdir -p {folders} && chmod 0777 {folders}"])
    api = Api(kubeconfig)
    standard = "/apis/storage.k8s.io/v1/storageclasses/standard"
    not_default = {"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "false"}}}
    api.request("PATCH", standard, not_default, kind="merge-patch+json")
    storage.install(api, VOLUMES)


def is_up() -> bool:
    """Whether kind knows our cluster and its container runs."""
    state = subprocess.run(
        ["docker", "inspect", "--format", "{{json .State.Running}}", NODE],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return state.returncode == 0 and json.loads(state.stdout) is True


def delete() -> None:
    """Remove the cluster; none is no error."""
    _kind("delete", "cluster")


def load(archives: Sequence[Path]) -> None:
    """Load image archives into the node."""
    for path in archives:
        _kind("load", "image-archive", str(path))


def _kind(*words: str) -> str:
    return _run(["kind", *words, "--name", CLUSTER])


def _run(command: list[str]) -> str:
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, check=False)
    if answer.returncode:
        raise Failure(f"{' '.join(command[:4])} failed")
    return answer.stdout
