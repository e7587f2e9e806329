"""What tests of more than one folder need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
LOCAL_KUBECONFIG = ROOT / ".local/kubeconfig"
SIMULATED = "NOT RUN: no container can run on this machine (no Docker engine, no root), the nodes are simulated"

# How long an example takes says more about the machine than about us. CI tries all of them, you wait for a quarter.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=100, **UNTIMED)
settings.register_profile("local", max_examples=25, **UNTIMED)
settings.load_profile("ci" if "CI" in os.environ else "local")


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """The cluster of KUBECONFIG, or the local one; its nodes run real containers."""
    path = Path(os.environ.get("KUBECONFIG") or LOCAL_KUBECONFIG)
    if path == LOCAL_KUBECONFIG:
        command = [sys.executable, "-m", "tests.cluster", "status", "--provider"]
        provider = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        if provider == "kwok":
            assert "E2E_REQUIRED" not in os.environ, SIMULATED
            pytest.skip(SIMULATED)
    assert path.is_file(), "run `make cluster-up deploy` first, or set KUBECONFIG"
    return path
