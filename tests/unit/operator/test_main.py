"""The process itself: settings that are not valid, and a cluster that is not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("LLMOP_", "KUBE"))}
    return subprocess.run(
        [sys.executable, "-m", "llm_operator"],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LLMOP_CONCURRENCY", "0", "greater than or equal to 1"),
        ("LLMOP_HEALTH_PORT", "99999", "less than or equal to 65535"),
        ("LLMOP_LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("LLMOP_NAMESPACES", "clinic,Not_A_Name", "should match pattern"),
        ("LLMOP_LEASE_NAMESPACE", "Not_A_Name", "should match pattern"),
        ("LLMOP_CONFIRM_SECONDS", "301", "less than or equal to 300"),
        ("LLMOP_LEADER_ELECTION", "maybe", "valid boolean"),
        ("LLMOP_FETCH_HTTPS_PROXY", "http://user:password@proxy:3128", "should match pattern"),
        ("LLMOP_FETCH_HTTPS_PROXY", "proxy:3128", "should match pattern"),
        ("LLMOP_FETCH_NO_PROXY", "one, two", "should match pattern"),
        ("LLMOP_FETCH_CA_CONFIG_MAP", "Not_A_Name", "should match pattern"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    process = run(**{name: value})
    assert process.returncode == 78
    assert name in process.stderr
    assert allowed in process.stderr
    assert "Traceback" not in process.stderr


def test_without_a_cluster_it_says_how_to_name_one(tmp_path: Path) -> None:
    process = run(KUBECONFIG=str(tmp_path / "missing"))
    assert process.returncode == 78
    assert "KUBECONFIG" in process.stderr
    assert "Traceback" not in process.stderr


def test_the_source_folder_does_not_shadow_the_standard_library() -> None:
    command = [sys.executable, "-S", "-c", "import operator, functools"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=30)
    assert not (ROOT / "operator" / "__init__.py").exists()
