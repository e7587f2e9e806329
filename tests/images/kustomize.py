"""Writes the kustomization that deploys what was just built: `kubectl apply -k .local/deploy`."""

import json
import os
from pathlib import Path

from tests.images.inputs import ROOT
from tests.images.progress import ImageError

OVERLAY = ROOT / "deploy" / "kustomize" / "overlays" / "local"
TEMPLATE = """\
# Written by `python3 -m tests.images kustomize`.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - {overlay}
images:
  - name: localhost/llm-operator
    newName: {repository}
    newTag: {tag}
patches:
  - target: {{kind: Deployment, name: llm-operator}}
    patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {{name: llm-operator}}
      spec:
        template:
          spec:
            containers:
              - name: operator
                env:
                  - {{name: LLMOP_SERVER_IMAGE, value: "{server}"}}
"""


def write(index: Path, folder: Path) -> Path:
    """Write kustomization.yaml into the folder for the images of the index, and return its path."""
    if not index.exists():
        raise ImageError(f"{index} is missing: run `python3 -m tests.images build` first")
    images = json.loads(index.read_text())
    repository, _, tag = images["operator"]["image"].rpartition(":")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "kustomization.yaml"
    overlay = os.path.relpath(OVERLAY, folder.resolve())
    server = images["server"]["image"]
    path.write_text(TEMPLATE.format(overlay=overlay, repository=repository, tag=tag, server=server))
    return path
