"""The archive Python writes is an image a runtime can import."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import IO

from tests.cluster import images


def an_archive(folder: Path) -> Path:
    program = folder / "pause"
    program.write_bytes(b"program")
    images.archive(folder / "image.tar", name="example/pause:1", program=program)
    return folder / "image.tar"


def member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    found = tar.extractfile(name)
    assert found is not None
    return found


def test_the_manifest_leads_to_a_config_and_a_layer_that_agree(tmp_path: Path) -> None:
    with tarfile.open(an_archive(tmp_path)) as tar:
        [manifest] = json.load(member(tar, "manifest.json"))
        config = json.load(member(tar, manifest["Config"]))
        layers = [member(tar, name).read() for name in manifest["Layers"]]
    assert manifest["RepoTags"] == ["example/pause:1"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    assert config["config"]["Entrypoint"] == ["/pause"]


def test_the_layer_holds_the_executable_program(tmp_path: Path) -> None:
    with tarfile.open(an_archive(tmp_path)) as tar:
        [manifest] = json.load(member(tar, "manifest.json"))
        with tarfile.open(fileobj=member(tar, manifest["Layers"][0])) as layer:
            assert layer.getmember("pause").mode == 0o755
            assert member(layer, "pause").read() == b"program"


def test_the_same_program_gives_the_same_archive(tmp_path: Path) -> None:
    first = an_archive(tmp_path).read_bytes()
    assert an_archive(tmp_path).read_bytes() == first
