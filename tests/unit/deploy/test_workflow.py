"""The workflow runs other people's code: only at a commit somebody looked at, and with no more rights than it needs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def a_workflow(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_with_its_version_beside_it(path: Path) -> None:
    used = re.findall(r"uses:(.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r" [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", action), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_token_can_only_read(path: Path) -> None:
    workflow = a_workflow(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_job_has_a_time_limit_and_a_pinned_runner(path: Path) -> None:
    for job in a_workflow(path)["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 60
        assert not job["runs-on"].endswith("latest")


def test_the_workflow_uses_the_uv_of_the_dockerfiles() -> None:
    version = a_workflow(ROOT / ".github" / "workflows" / "ci.yml")["env"]["UV_VERSION"]
    for dockerfile in ("Dockerfile.operator", "Dockerfile.server"):
        assert f"ARG UV_IMAGE=ghcr.io/astral-sh/uv:{version}\n" in (ROOT / dockerfile).read_text()
