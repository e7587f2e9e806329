"""Which kind of cluster this machine can run, and why not a better one."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal, get_args

from tests.cluster import node, packages

Provider = Literal["kind", "bare", "kwok"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)


@dataclass(frozen=True)
class Facts:
    """What decides."""

    docker: bool
    kind: bool
    linux: bool
    root: bool
    apt: bool
    missing_packages: tuple[str, ...]
    missing_kernel: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """The provider, and why each better one was passed over."""

    provider: Provider
    refusals: tuple[str, ...] = ()


def choose(facts: Facts) -> Choice:
    """Kind where Docker runs; else a real node on this machine; else fake nodes."""
    no_kind = why_not_kind(facts)
    if not no_kind:
        return Choice("kind")
    no_bare = why_not_bare(facts)
    if not no_bare:
        return Choice("bare", (f"kind: {no_kind}",))
    return Choice("kwok", (f"kind: {no_kind}", f"bare: {no_bare}"))


def refuse(provider: Provider, facts: Facts) -> str:
    """Why this machine cannot run a provider; empty when it can."""
    reasons = {"kind": why_not_kind(facts), "bare": why_not_bare(facts)}
    return reasons.get(provider, "")


def why_not_kind(facts: Facts) -> str:
    """Empty when kind can be used."""
    if not facts.docker:
        return "`docker info` does not work"
    return "" if facts.kind else "`kind` is not on PATH"


def why_not_bare(facts: Facts) -> str:
    """Empty when a node can run on this machine itself."""
    if not facts.linux:
        return "needs Linux"
    if not facts.root:
        return "needs root"
    if facts.missing_kernel:
        return f"{', '.join(facts.missing_kernel)} missing"
    if facts.missing_packages and not facts.apt:
        return f"{', '.join(facts.missing_packages)} missing, and no apt-get to install with"
    return ""


def gather() -> Facts:
    """Look at this machine."""
    return Facts(
        docker=_docker_works(),
        kind=shutil.which("kind") is not None,
        linux=platform.system() == "Linux",
        root=os.geteuid() == 0,
        apt=shutil.which("apt-get") is not None,
        missing_packages=tuple(packages.missing()),
        missing_kernel=tuple(node.missing_kernel_parts()),
    )


def _docker_works() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
