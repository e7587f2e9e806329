"""What goes into an image, and the tag that follows from it.

A tag is a hash of the inputs, so "is there anything to build?" is answered without an engine, a cluster never runs
an image older than its tag says, and a Deployment rolls only when something in the image did change.
"""

import hashlib
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Image:
    """One of our images: its key in images.json, repository, Dockerfile, and the build arguments it is given."""

    key: str
    repository: str
    dockerfile: str
    arguments: tuple[tuple[str, str], ...] = ()


IMAGES = (
    Image("operator", "localhost/llm-operator", "Dockerfile.operator"),
    # Without torch: it is made in seconds, and answers as a mock.
    Image("server", "localhost/inference-server", "Dockerfile.server", (("EXTRAS", "server fetch"),)),
)
# The server with torch, as people get it: gigabytes, so it is made only where it is asked for.
MODEL_SERVER = Image(
    "model-server",
    "localhost/inference-server-llm",
    "Dockerfile.server",
    tuple((name, os.environ[name]) for name in ("TORCH_INDEX",) if os.environ.get(name)),
)


def instructions(dockerfile: str) -> Iterator[list[str]]:
    """Words of each instruction; comments dropped, continued lines joined."""
    lines = (line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            yield line.split()


def copied(dockerfile: str) -> list[str]:
    """Paths that the Dockerfile copies from the repository (not from another stage)."""
    paths: list[str] = []
    for name, *words in instructions(dockerfile):
        if name == "COPY" and not any(word.startswith("--from=") for word in words):
            paths += [word for word in words[:-1] if not word.startswith("--")]
    return paths


def default_argument(dockerfile: str, name: str) -> str:
    """Default of a build argument, e.g. the base image that people with a registry get."""
    for word, *rest in instructions(dockerfile):
        if word == "ARG" and rest[0].startswith(f"{name}="):
            return shlex.split(rest[0])[0].partition("=")[2]
    raise KeyError(name)


def input_files(image: Image, root: Path = ROOT) -> list[Path]:
    """Every file whose content can change the image, sorted."""
    dockerfile = (root / image.dockerfile).read_text()
    files = {root / image.dockerfile, root / ".dockerignore"}
    for path in copied(dockerfile):
        source = root / path
        files |= {file for file in source.rglob("*") if file.is_file()} if source.is_dir() else {source}
    return sorted(
        file for file in files if "__pycache__" not in file.parts and file.suffix not in {".pyc", ".pyo", ".so"}
    )


def tagged(image: Image, root: Path = ROOT) -> str:
    """The image's full name, e.g. localhost/llm-operator:dev-0123456789ab."""
    digest = hashlib.sha256()
    for file in input_files(image, root):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(root)} {file.stat().st_mode & 0o100:o} {content}\n".encode())
    digest.update(repr(image.arguments).encode())
    return f"{image.repository}:dev-{digest.hexdigest()[:12]}"
