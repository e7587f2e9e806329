"""An image that cannot run what it fetches for says so before anything is fetched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_TORCH = """
import sys
from inference_server import modes
modes.find_spec = lambda _: None
from inference_server.__main__ import main
sys.exit(main(["fetch"]))
"""


@pytest.mark.parametrize(("mode", "code", "reason"), [("qwen", 78, "ModeNotSupported"), ("", 33, "OfflineMode")])
def test_it_is_refused_before_the_hub_is_asked(tmp_path: Path, mode: str, code: int, reason: str) -> None:
    words = tmp_path / "last-words"
    words.touch()
    given = {
        "FETCH_FOR_MODE": mode,
        "MODEL_CACHE_DIR": str(tmp_path),
        "TERMINATION_LOG_PATH": str(words),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], env={**os.environ, **given}, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert json.loads(words.read_text())["reason"] == reason
