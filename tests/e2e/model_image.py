"""The server's image with torch, built and put on the node for those tests that run a model.

E2E_MODEL_IMAGE names one that the nodes can pull, for clusters other than the local one.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.images.engines import installed
from tests.kubectl import Kubectl

NOT_RUN = "NOT RUN: no image of the server with torch: name one in E2E_MODEL_IMAGE"


def model_image(admin: Kubectl) -> str:
    """Its name."""
    given = os.environ.get("E2E_MODEL_IMAGE")
    if given:
        return given
    if admin.kubeconfig.resolve() != ROOT / ".local" / "kubeconfig" or installed() is None:
        assert "E2E_REQUIRED" not in os.environ, NOT_RUN
        pytest.skip(NOT_RUN)
    _run("tests.images", "build", "--model-server")
    built = json.loads((ROOT / ".local" / "images" / "images.json").read_text())["model-server"]
    if built["image"] not in _on_the_nodes(admin):
        _run("tests.cluster", "load", built["archive"])
    return str(built["image"])


def _on_the_nodes(admin: Kubectl) -> set[str]:
    nodes = json.loads(admin("get", "nodes", "-o", "json"))["items"]
    return {name for node in nodes for image in node["status"].get("images", []) for name in image["names"]}


def _run(module: str, *arguments: str) -> None:
    # Its lines tell what takes so long.
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)
