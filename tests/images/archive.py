"""Looks into a docker-archive without any engine: its settings, and the files that a container would see."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

WHITEOUT = ".wh."
OURS = ("opt/venv/", "app/")


@dataclass(frozen=True, slots=True)
class Archive:
    """Names, image configuration and visible files (path → bytes) of one image."""

    names: tuple[str, ...]
    config: dict[str, Any]
    files: dict[str, int]

    @property
    def base_bytes(self) -> int:
        return sum(self.files.values()) - self.added_bytes

    @property
    def added_bytes(self) -> int:
        """What our Dockerfile adds to its base: the virtual environment and the package."""
        return sum(size for path, size in self.files.items() if path.startswith(OURS))


def read(path: Path) -> Archive:
    """Read an archive as `docker save` or buildah writes it."""
    files: dict[str, int] = {}
    for layer in layers(path):
        _lay_over(files, layer)
    with tarfile.open(path) as outer:
        (manifest,) = json.load(_member(outer, "manifest.json"))
        config = json.load(_member(outer, manifest["Config"]))
    return Archive(names=tuple(manifest["RepoTags"] or ()), config=config, files=files)


def layers(path: Path) -> Iterator[tarfile.TarFile]:
    """The layers, lowest first; each is closed when the next one is asked for."""
    with tarfile.open(path) as outer:
        (manifest,) = json.load(_member(outer, "manifest.json"))
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=_member(outer, layer)) as inner:
                yield inner


def _lay_over(files: dict[str, int], layer: tarfile.TarFile) -> None:
    for entry in layer:
        path = PurePosixPath(entry.name.removeprefix("./"))
        if path.name.startswith(WHITEOUT):
            gone = str(path.parent / path.name.removeprefix(WHITEOUT))
            for file in [file for file in files if file == gone or file.startswith(f"{gone}/")]:
                del files[file]
        elif not entry.isdir():
            files[str(path)] = entry.size


def _member(archive: tarfile.TarFile, name: str) -> Any:
    content = archive.extractfile(name)
    if content is None:
        raise KeyError(name)
    return content
