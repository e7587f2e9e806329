"""Container image archives: the pause image made here, and archives of others loaded into the node."""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.download import architecture
from tests.cluster.steps import Failure

PAUSE = "llm-operator.local/pause:1"


def archive(path: Path, *, name: str, program: Path) -> None:
    """Write a one-file image as a docker-archive; the same program gives the same bytes."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _add(tar, program.name, program.read_bytes(), mode=0o755)
    content = layer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    config = json.dumps({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "tests/cluster/pause"}],
    }).encode()  # fmt: skip
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(path, mode="w") as tar:
        _add(tar, config_name, config)
        _add(tar, f"{digest}.tar", content)
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def load(state: Path, archives: Sequence[Path], *, snapshotter: str) -> list[str]:
    """Import archives into the node's containerd; return what it says it imported."""
    imported = []
    for path in archives:
        answer = subprocess.run(
            ["ctr", "--address", str(state / "containerd.sock"), "--namespace", "k8s.io",
             "images", "import", "--snapshotter", snapshotter, str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if answer.returncode:
            raise Failure(f"containerd refuses {path}: {answer.stderr.strip() or answer.stdout.strip()}")
        imported += [line.split()[1] for line in answer.stdout.splitlines() if line.startswith("unpacking ")]
    return imported


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    tar.addfile(member, io.BytesIO(content))
