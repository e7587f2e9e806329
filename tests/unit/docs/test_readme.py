"""What README.md shows can be applied as it stands."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.api.types import LLMDeployment
from tests.unit.docs.readme import ROOT, blocks


def the_overlay() -> str:
    return next(one for one in blocks("yaml") if "patches:" in one)


def test_the_manifest_is_the_one_of_the_examples_in_short() -> None:
    shown = yaml.safe_load(next(one for one in blocks("yaml") if "kind: LLMDeployment" in one))
    stored = yaml.safe_load((ROOT / "examples/mock.yaml").read_text())
    LLMDeployment.model_validate({"spec": shown["spec"]})
    assert {**stored, "spec": {**stored["spec"], **shown["spec"]}} == stored
    assert shown["metadata"] == stored["metadata"]


def test_files_that_the_commands_name_are_there() -> None:
    commands = "\n".join(blocks("sh walked"))
    files = [word for word in commands.split() if word.endswith(".yaml")]
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_the_overlay_names_the_images_of_both_programs(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on PATH")
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copytree(ROOT / "crds", tmp_path / "crds")
    overlay = tmp_path / "my-overlay" / "kustomization.yaml"
    overlay.parent.mkdir()
    overlay.write_text(the_overlay())
    done = subprocess.run([kubectl, "kustomize", str(overlay.parent)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (container,) = containers(list(yaml.safe_load_all(done.stdout)))
    assert container["image"] == "registry.example.com/llm-operator:1.0"
    images = [one["value"] for one in container["env"] if one["name"] == "LLMOP_SERVER_IMAGE"]
    assert images == ["registry.example.com/inference-server:1.0"]


def containers(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    deployment = next(one for one in manifests if one["kind"] == "Deployment")
    return list(deployment["spec"]["template"]["spec"]["containers"])
