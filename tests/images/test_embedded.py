"""`docker build --build-arg DOWNLOAD_MODEL=true`: a model in the image, and the token of the build nowhere in it."""

import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inference_server.fetch.ready import Ready, damage, parse_ready
from tests.hub.checkpoint import a_checkpoint
from tests.hub.server import a_hub
from tests.images import archive
from tests.images.build import build_variant
from tests.images.engines import Engine, installed

pytestmark = pytest.mark.e2e

NAME = "localhost/inference-server-embedded:test"
REPOSITORY = "tiny/gated"
TOKEN = "hf_SecretOfTheBuildThatNobodyMaySee"
NOT_RUN = "NOT RUN: no engine that builds images on this machine"


@dataclass(frozen=True)
class Embedded:
    """The image, and what the Hub that it was built from had."""

    engine: Engine
    path: Path
    commit: str
    files: dict[str, bytes]

    @property
    def folder(self) -> str:
        return f"models/tiny--gated/{self.commit}"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    if installed() is None:
        assert "E2E_REQUIRED" not in os.environ, NOT_RUN
        pytest.skip(NOT_RUN)
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "token").write_text(f"{TOKEN}\n")
    files = a_checkpoint()
    with a_hub(cdn_host=None, tokens=(TOKEN,)) as hub:
        commit = hub.add(REPOSITORY, files, gated=True, private=True)
        engine = build_variant(
            NAME,
            folder / "image.tar",
            arguments={"DOWNLOAD_MODEL": "true", "MODEL_REPOSITORY": REPOSITORY, "HF_ENDPOINT": hub.url},
            options=("--secret", f"id=huggingface-token,src={folder / 'token'}", "--network", "host"),
        )
        assert any(headers.get("authorization") == f"Bearer {TOKEN}" for _, _, headers in hub.requests)
    yield Embedded(engine, folder / "image.tar", commit, files)
    engine.remove([NAME])


def contents(embedded: Embedded) -> tuple[dict[str, tarfile.TarInfo], dict[str, bytes]]:
    """Entries and files below /models. They are one layer, and all of it."""
    found: list[tuple[dict[str, tarfile.TarInfo], dict[str, bytes]]] = []
    for layer in archive.layers(embedded.path):
        entries = {entry.name.strip("/"): entry for entry in layer}
        if any(name.split("/")[0] == "models" for name in entries):
            assert {name.split("/")[0] for name in entries} == {"models"}
            streams = {name: layer.extractfile(entry) for name, entry in entries.items() if entry.isfile()}
            found.append((entries, {name: stream.read() for name, stream in streams.items() if stream}))
    (only,) = found
    return only


def test_the_model_is_whole_and_proved(embedded: Embedded) -> None:
    _, files = contents(embedded)
    ready: Ready = parse_ready(files[f"{embedded.folder}/READY.json"].decode())
    sizes = {name: len(files[f"{embedded.folder}/{name}"]) for name in ready.files}
    assert damage(ready, repository=REPOSITORY, commit=embedded.commit, sizes=sizes) is None
    for name, file in ready.files.items():
        content = files[f"{embedded.folder}/{name}"]
        assert content == embedded.files[name]
        assert hashlib.sha256(content).hexdigest() == file.sha256


def test_everybody_can_read_it_and_only_root_change_it(embedded: Embedded) -> None:
    entries, files = contents(embedded)
    assert {entry.uid for entry in entries.values()} == {0}
    needed = stat.S_IROTH | stat.S_IXOTH
    for name, entry in entries.items():
        wanted = needed if entry.isdir() else stat.S_IROTH
        assert entry.mode & (wanted | stat.S_IWOTH | stat.S_IWGRP) == wanted, name
    assert set(files) == {f"{embedded.folder}/{name}" for name in [*parsed(embedded).files, "READY.json"]} | {
        "models/tiny--gated/.refs/main"
    }


def parsed(embedded: Embedded) -> Ready:
    return parse_ready(contents(embedded)[1][f"{embedded.folder}/READY.json"].decode())


def test_the_token_is_in_no_layer_no_setting_and_no_history(embedded: Embedded) -> None:
    assert holds(embedded.path, embedded.commit)
    assert not holds(embedded.path, TOKEN)
    config = archive.read(embedded.path).config
    assert config["history"]
    assert not [word for word in config["config"]["Env"] if "TOKEN" in word]
    assert "HF_ENDPOINT" not in json.dumps(config)
    assert TOKEN not in embedded.path.with_suffix(".log").read_text()


def holds(image: Path, text: str) -> bool:
    """Whether the text stands in any file or name of any layer, or in what the archive says about the image."""
    for layer in archive.layers(image):
        for entry in layer:
            content = layer.extractfile(entry) if entry.isfile() else None
            if text in entry.name or (content and text.encode() in content.read()):
                return True
    with tarfile.open(image) as outer:
        documents = [outer.extractfile(entry) for entry in outer if entry.name.endswith(".json")]
        return any(text.encode() in document.read() for document in documents if document)


def test_in_the_image_the_model_is_found_without_network_by_the_servers_user(embedded: Embedded) -> None:
    lines = embedded.engine.run(NAME, "python", "-m", "inference_server", "fetch").splitlines()
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["used_cached", "ready"]
    assert (events[-1]["path"], events[-1]["commit"]) == (f"/{embedded.folder}", embedded.commit)
    assert embedded.engine.run(NAME, "id", "-u").strip() == "10001"
    assert archive.read(embedded.path).config["config"]["Entrypoint"] == ["python", "-m", "inference_server"]
