"""README.md's path, walked as it is printed: every command of the blocks marked `walked`."""

import os
import subprocess
from pathlib import Path

import yaml

from tests.conftest import ROOT
from tests.kubectl import Kubectl
from tests.unit.docs.readme import blocks

NEXT = "--- the next block of the README ---"


def test_the_path_of_the_readme_works_as_printed(kubectl: Kubectl, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    settings = yaml.safe_load(kubectl.kubeconfig.read_text())
    for context in settings["contexts"]:
        context["context"]["namespace"] = kubectl.namespace
    config.write_text(yaml.safe_dump(settings))
    # One shell, as a user has it; what runs in its background goes on until it ends.
    commands = f"echo '{NEXT}'\n".join(blocks("sh walked"))
    script = f"set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{commands}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    applied, asked, edited = done.stdout.split(NEXT)
    assert "AllReplicasReady" in applied
    assert "[MOCK RESPONSE]" in asked
    assert '"chat.completion"' in asked
    assert "RolledBack" in edited
    assert "ModeNotSupported" in edited, "the column MESSAGE"
