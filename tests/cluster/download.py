"""Official release binaries, each checked against the digest its project publishes beside it."""

import hashlib
import io
import platform
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.steps import Failure, say, step

PROBE_SECONDS = 4
READ_SECONDS = 120
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def architecture() -> str:
    """This machine's architecture as release files name it."""
    machine = platform.machine().lower()
    if machine not in ARCHITECTURES:
        raise Failure(f"no Kubernetes release for this machine's architecture, {machine}")
    return ARCHITECTURES[machine]


def kubernetes(target: Path, *, version: str, programs: Iterable[str]) -> bool:
    """Fetch Kubernetes programs; False when the release server cannot be reached."""
    base = f"https://dl.k8s.io/release/{version}/bin/linux/{architecture()}"
    if not _reachable(f"{base}/kubectl.sha256"):
        return False

    def fetch(program: str) -> None:
        content = _get(f"{base}/{program}")
        verify(program, content, _get(f"{base}/{program}.sha256").decode().split()[0])
        _install(target / program, content)

    with step(f"download Kubernetes {version}"), ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, programs))
    return True


def etcd(target: Path, *, version: str) -> bool:
    """Fetch etcd; False when GitHub's releases cannot be reached."""
    base = f"https://github.com/etcd-io/etcd/releases/download/{version}"
    if not _reachable(f"{base}/SHA256SUMS"):
        return False
    name = f"etcd-{version}-linux-{architecture()}"
    with step(f"download etcd {version}"):
        archive = _get(f"{base}/{name}.tar.gz")
        rows = (line.split() for line in _get(f"{base}/SHA256SUMS").decode().splitlines())
        sums = {row[1]: row[0] for row in rows}
        verify(name, archive, sums[f"{name}.tar.gz"])
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            member = tar.extractfile(f"{name}/etcd")
            assert member is not None
            _install(target / "etcd", member.read())
    return True


def verify(name: str, content: bytes, expected: str) -> None:
    """Refuse content whose SHA-256 is not the published one."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise Failure(f"{name}: SHA-256 {found}, but its release says {expected}")


def _install(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o755)


def _reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError) as error:
        say(f"  {url} cannot be reached ({error}): building instead")
        return False


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=READ_SECONDS) as answer:
            content: bytes = answer.read()
            return content
    except (urllib.error.URLError, OSError) as error:
        raise Failure(f"download of {url} failed: {error}") from error
