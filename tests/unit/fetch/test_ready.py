"""READY.json is trusted only when it is one, and fits to what is there."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.fetch.ready import Ready, ReadyFile, damage, dump_ready, parse_ready

READY = Ready(
    "a/b", "c" * 40, {"config.json": ReadyFile(3, "ab"), "x.safetensors": ReadyFile(9, "cd")}, 9, {"layers": 2}
)
SIZES = {"config.json": 3, "x.safetensors": 9}


def test_the_document_has_the_promised_fields() -> None:
    assert json.loads(dump_ready(READY)) == {
        "repository": "a/b",
        "commit": "c" * 40,
        "files": {"config.json": {"size": 3, "sha256": "ab"}, "x.safetensors": {"size": 9, "sha256": "cd"}},
        "weightsBytes": 9,
        "model": {"layers": 2},
    }


names = st.text(min_size=1).filter(lambda name: "/" not in name and name not in (".", ".."))


@given(
    st.builds(
        Ready,
        st.text(),
        st.text(),
        st.dictionaries(names, st.builds(ReadyFile, st.integers(0), st.text()), min_size=1),
        st.integers(0),
        st.dictionaries(st.text(), st.integers() | st.none() | st.text()),
    )
)
def test_what_is_written_is_what_is_read(ready: Ready) -> None:
    assert parse_ready(dump_ready(ready)) == ready


def test_unknown_fields_are_left_alone_and_the_model_may_be_missing() -> None:
    document = json.loads(dump_ready(READY)) | {"later": 1}
    del document["model"]
    assert parse_ready(json.dumps(document)).model == {}


def changed(**over: Any) -> str:
    return json.dumps({**json.loads(dump_ready(READY)), **over})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(dump_ready(READY)[:50], id="cut short"),
        pytest.param("[]", id="a list"),
        pytest.param("null", id="null"),
        pytest.param(changed(files={}), id="no files"),
        pytest.param(changed(files=[]), id="files are a list"),
        pytest.param(changed(files={"a": {"size": 1}}), id="no checksum"),
        pytest.param(changed(files={"a": {"size": "1", "sha256": ""}}), id="a size in words"),
        pytest.param(changed(files={"a": {"size": True, "sha256": ""}}), id="a size that is a truth"),
        pytest.param(changed(files={"a": {"size": -1, "sha256": ""}}), id="a negative size"),
        pytest.param(changed(files={"../a": {"size": 1, "sha256": ""}}), id="a path out of the folder"),
        pytest.param(changed(files={"..": {"size": 1, "sha256": ""}}), id="the folder above"),
        pytest.param(changed(commit=None), id="no commit"),
        pytest.param(changed(weightsBytes=None), id="no size of the weights"),
    ],
)
def test_a_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_ready(text)


def damaged(sizes: dict[str, int], *, repository: str = "a/b", commit: str = "c" * 40) -> str:
    return damage(READY, repository=repository, commit=commit, sizes=sizes) or ""


def test_a_folder_that_is_as_promised_is_whole() -> None:
    assert damaged(SIZES) == ""
    assert damaged({**SIZES, "more": 1}) == ""


def test_another_model_a_missing_file_and_another_size_are_damage() -> None:
    assert "a/b" in damaged(SIZES, repository="a/c")
    assert "c" * 40 in damaged(SIZES, commit="d" * 40)
    assert "x.safetensors should have 9 bytes and has none" in damaged({"config.json": 3})
    assert "x.safetensors should have 9 bytes and has 8" in damaged({**SIZES, "x.safetensors": 8})
