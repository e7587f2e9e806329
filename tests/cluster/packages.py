"""The Debian packages a real node and the image builder need, installed in one step when missing."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import network
from tests.cluster.steps import Failure, step

# Which package brings a program. buildah and debootstrap build the project's images.
PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "socat": "socat",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}
CNI = "containernetworking-plugins"
POLICY = Path("/usr/sbin/policy-rc.d")


def missing() -> list[str]:
    """Packages whose programs this machine lacks."""
    wanted = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    has_cni = any((folder / "bridge").is_file() for folder in network.CNI_PLUGINS)
    return wanted if has_cni else [*wanted, CNI]


def ensure() -> None:
    """Install what is missing; touch nothing when nothing is."""
    if wanted := missing():
        with step(f"install {', '.join(wanted)}"), _no_services():
            _apt("update")
            # debootstrap verifies Debian's archive with these keys, which it only recommends.
            keys = ["debian-archive-keyring", "gnupg"] if "debootstrap" in wanted else []
            _apt("install", "--yes", "--no-install-recommends", *wanted, *keys)
        if left := missing():
            raise Failure(f"apt installed the packages, but these still lack their programs: {', '.join(left)}")


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep package scripts from starting a containerd of the system's."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()


def _apt(*words: str) -> None:
    answer = subprocess.run(
        ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300", *words],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if answer.returncode:
        raise Failure(f"apt-get {words[0]} failed:\n{(answer.stdout + answer.stderr)[-2000:]}")
