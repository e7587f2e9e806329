"""The image builder's own logic: what a tag depends on, what an archive shows, what is written for kustomize."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.images import archive, kustomize
from tests.images.engines import layers_of
from tests.images.inputs import IMAGES, ROOT, copied, input_files, tagged
from tests.images.progress import ImageError

OPERATOR, SERVER = IMAGES


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of everything that goes into the images."""
    for source in {file for image in IMAGES for file in input_files(image)}:
        target = tmp_path / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return tmp_path


def tags(tree: Path) -> dict[str, str]:
    return {image.key: tagged(image, tree) for image in IMAGES}


def test_a_copy_has_the_same_tags(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(tree, copy, dirs_exist_ok=True, copy_function=shutil.copy)
    assert tags(copy) == tags(tree)


@pytest.mark.parametrize(
    ("changed", "rebuilt"),
    [
        ("operator/llm_operator/__init__.py", {"operator"}),
        ("inference_server/__init__.py", {"server"}),
        ("inference_server/new_module.py", {"server"}),
        ("Dockerfile.server", {"server"}),
        ("uv.lock", {"operator", "server"}),
        ("pyproject.toml", {"operator", "server"}),
        (".dockerignore", {"operator", "server"}),
        ("README.md", set()),
        ("inference_server/__pycache__/__init__.cpython-311.pyc", set()),
        ("tests/unit/test_anything.py", set()),
    ],
)
def test_an_image_gets_a_new_tag_only_when_something_in_it_changes(tree: Path, changed: str, rebuilt: set[str]) -> None:
    before = tags(tree)
    path = tree / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("# changed\n")
    after = tags(tree)
    assert {key for key in before if before[key] != after[key]} == rebuilt


def test_copies_between_stages_are_no_inputs() -> None:
    dockerfile = "# COPY a b\nCOPY --from=uv /uv /bin/\nCOPY --chown=1:1 one \\\n  two /target/\nRUN cp x y\n"
    assert copied(dockerfile) == ["one", "two"]


def test_the_log_of_a_build_names_its_layers() -> None:
    cached = "a4dec0df48665d1b34b991165a9b343aa908606456dfbe98a86cd379a9ca8ced"
    log = (
        f"[2/7] STEP 2/8: COPY a b\n--> Using cache {cached}\n--> a4dec0df486\n[2/7] STEP 3/8: RUN x\n--> 34b9ffc0501\n"
    )
    assert layers_of(log) == [cached, "a4dec0df486", "34b9ffc0501"]


def test_an_archive_shows_what_a_container_would_see(tmp_path: Path) -> None:
    lower = a_tar({"usr/bin/python3": b"12345", "usr/lib/pip/cli.py": b"1", "app/old.py": b"1"})
    upper = a_tar({"opt/venv/bin/python": b"123", "usr/lib/.wh.pip": b"", "app/.wh.old.py": b""})
    manifest = [{"Config": "c.json", "RepoTags": ["localhost/x:1"], "Layers": ["1.tar", "2.tar"]}]
    members = {"manifest.json": json.dumps(manifest).encode(), "c.json": b"{}", "1.tar": lower, "2.tar": upper}
    (tmp_path / "image.tar").write_bytes(a_tar(members))
    image = archive.read(tmp_path / "image.tar")
    assert image.names == ("localhost/x:1",)
    assert image.files == {"usr/bin/python3": 5, "opt/venv/bin/python": 3}
    assert (image.base_bytes, image.added_bytes) == (5, 3)


def a_tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_the_kustomization_for_this_machine_names_both_images(tmp_path: Path) -> None:
    index = tmp_path / "images.json"
    index.write_text(
        json.dumps(
            {
                "operator": {"image": "localhost/llm-operator:dev-1"},
                "server": {"image": "localhost/inference-server:dev-2"},
            }
        )
    )
    written = yaml.safe_load(kustomize.write(index, tmp_path / "deploy").read_text())
    assert written["images"] == [
        {"name": "localhost/llm-operator", "newName": "localhost/llm-operator", "newTag": "dev-1"}
    ]
    (container,) = yaml.safe_load(written["patches"][0]["patch"])["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "LLMOP_SERVER_IMAGE", "value": "localhost/inference-server:dev-2"}]


def test_deploying_before_building_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"tests\.images build"):
        kustomize.write(tmp_path / "images.json", tmp_path)
