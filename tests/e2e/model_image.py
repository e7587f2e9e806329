"""The server's image with torch, on the node for those tests that run a model: `python -m tests.e2e.model_image`.

Building and loading take minutes, so `make e2e` begins with it and runs the tests that need none meanwhile.
E2E_MODEL_IMAGE names one that the nodes can pull, for clusters other than the local one.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import ROOT
from tests.images.engines import cache_folder, installed
from tests.images.inputs import MODEL_SERVER, tagged
from tests.images.progress import say
from tests.kubectl import Kubectl

KUBECONFIG = ROOT / ".local" / "kubeconfig"
ARCHIVES = ROOT / ".local" / "images"
# Measured with nothing cached: two layers, the packages, an archive, and the node's two copies, of 6 GB each.
NEEDED_GIGABYTES = 40
NOT_RUN = "NOT RUN: no image of the server with torch: `make e2e` builds it, E2E_MODEL_IMAGE names one"


def model_image(admin: Kubectl) -> str:
    """Its name."""
    given = os.environ.get("E2E_MODEL_IMAGE")
    if given:
        return given
    if admin.kubeconfig.resolve() != KUBECONFIG or installed() is None:
        assert "E2E_REQUIRED" not in os.environ, NOT_RUN
        pytest.skip(NOT_RUN)
    name = tagged(MODEL_SERVER)
    with _alone():
        # Whoever comes first builds it, the others find it.
        if name not in _on_the_nodes(admin):
            _prepare()
    return name


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time."""
    ARCHIVES.mkdir(parents=True, exist_ok=True)
    with (ARCHIVES / "model-server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare() -> None:
    """Build it and put it on the local cluster's node."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free / 1e9
    if free < NEEDED_GIGABYTES:
        say(f"only {free:.0f} GB are free at {cache}: this takes up to {NEEDED_GIGABYTES} GB, less what is cached;")
        say("  with less than 1 % of a disk free the node ends its pods and deletes its images")
    _run("tests.images", "build", "--model-server")
    archive = ROOT / json.loads((ARCHIVES / "images.json").read_text())[MODEL_SERVER.key]["archive"]
    _run("tests.cluster", "load", str(archive))
    # It is on the node, and with what builds images; a third copy of gigabytes serves nobody.
    archive.unlink()


def _on_the_nodes(admin: Kubectl) -> set[str]:
    nodes = json.loads(admin("get", "nodes", "-o", "json"))["items"]
    return {name for node in nodes for image in node["status"].get("images", []) for name in image["names"]}


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    with _alone():
        _prepare()
