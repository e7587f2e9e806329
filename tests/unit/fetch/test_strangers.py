"""A volume is shared with others: what is not ours stays, wherever it lies and whatever it is called."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from inference_server.fetch.fetcher import Fetched
from inference_server.fetch.layout import is_plain_name, is_staging, is_trash
from tests.hub.server import Hub
from tests.unit.fetch.running import REPOSITORY, assert_whole, failure, fetched
from tests.unit.fetch.test_prune import a_commit, a_model, pruned, tree

Files = dict[str, bytes]
COMMIT = a_commit(7)


def old(path: Path) -> Path:
    """A folder with a file, both days old."""
    path.mkdir(parents=True)
    (path / "precious").write_text("x")
    then = time.time() - 9 * 86400
    for touched in (path / "precious", path):
        os.utime(touched, (then, then))
    return path


def strangers(cache: Path, outside: Path) -> None:
    """Names that begin as ours do; ours behind a link; and ours without an owner."""
    for name in (
        "webapp/.staging-prod",
        "photos/.trash-2024",
        f"webapp/.staging-{COMMIT}",
        "photos/.trash-0123456789ab",
        "my--notes/.trash-2024",
        "my--notes/.staging-prod",
        f"my--notes/.staging-{COMMIT}",
        f"my--notes/.staging-{COMMIT}.bak",
    ):
        old(cache / name)
    theirs = old(outside / "other--cache" / f".staging-{COMMIT}")
    (theirs / "owner-1").write_bytes(b"")
    old(outside / "other--cache" / ".trash-0123456789ab")
    (cache / "link--cache").symlink_to(outside / "other--cache")
    (cache / "my--notes" / ".trash-00000000000a").symlink_to(theirs)
    (cache / "my--notes" / f".staging-{a_commit(8)}").symlink_to(theirs)


def test_a_fetch_leaves_everything_of_others_where_it_is(hub: Hub, tmp_path: Path) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    strangers(cache, outside)
    before = tree(tmp_path)
    # A link of this name is ours, or worth nothing: where it leads stays.
    del before["cache/my--notes/.trash-00000000000a"]
    fetched(hub, cache)
    after = tree(tmp_path)
    assert {path: content for path, content in after.items() if "tiny--qwen3" not in path} == before


def test_a_prune_does_the_same(tmp_path: Path) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    strangers(cache, outside)
    model = a_model(cache)
    before = tree(tmp_path)
    del before["cache/my--notes/.trash-00000000000a"]
    pruned(cache)
    gone = {path for path in before if path.startswith(str(model.relative_to(tmp_path)))}
    assert tree(tmp_path) == {path: content for path, content in before.items() if path not in gone}


@pytest.mark.parametrize("place", ["commit", "staging"])
def test_a_link_in_the_place_of_a_model_is_not_followed_but_told(hub: Hub, tmp_path: Path, place: str) -> None:
    commit = hub.repositories[REPOSITORY].references["main"]
    own = old(tmp_path / "own")
    (own / "config.json").write_bytes(hub.repositories[REPOSITORY].commits[commit]["config.json"])
    link = tmp_path / "cache" / "tiny--qwen3" / {"commit": commit, "staging": f".staging-{commit}"}[place]
    link.parent.mkdir(parents=True)
    link.symlink_to(own)
    before = tree(own)
    error = failure(hub, tmp_path / "cache")
    assert (error.reason, error.exit_code) == ("CacheNotWritable", 30)
    assert str(link) in error.message
    assert (tree(own), link.is_symlink()) == (before, True)


def test_a_model_behind_a_link_is_used_where_it_is_whole(hub: Hub, tmp_path: Path, cached: Fetched) -> None:
    own = cached.path.rename(tmp_path / "own")
    cached.path.symlink_to(own)
    assert fetched(hub, tmp_path) == cached


@pytest.mark.parametrize("name", ["READY.json", "config.json"])
def test_what_cannot_be_read_is_not_taken_for_missing(
    hub: Hub, tmp_path: Path, checkpoint: Files, cached: Fetched, name: str
) -> None:
    """A link to itself cannot be read by root either."""
    content = (cached.path / name).read_bytes()
    (cached.path / name).unlink()
    (cached.path / name).symlink_to(name)
    before = sorted(path.name for path in cached.path.iterdir())
    error = failure(hub, tmp_path)
    assert error.reason == "CacheNotWritable"
    assert "ELOOP" in error.message
    assert name in error.message
    assert sorted(path.name for path in cached.path.iterdir()) == before
    (cached.path / name).unlink()
    (cached.path / name).write_bytes(content)
    assert fetched(hub, tmp_path) == cached


def test_one_repository_that_cannot_be_read_does_not_keep_the_others(tmp_path: Path) -> None:
    model = a_model(tmp_path, repository="tiny/second")
    first = a_model(tmp_path, repository="tiny/first")
    (first.parent / f".staging-{first.name}").write_text("in the way")
    with pytest.raises(Exception, match="CacheNotWritable"):
        pruned(tmp_path)
    assert (first.exists(), model.exists()) == (True, False)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (f".staging-{COMMIT}", (True, False)),
        (f".staging-{COMMIT[:-1]}", (False, False)),
        (f".staging-{COMMIT}x", (False, False)),
        (".staging-prod", (False, False)),
        (".trash-0123456789ab", (False, True)),
        (".trash-0123456789abc", (False, False)),
        (".trash-2024", (False, False)),
        (".trash-", (False, False)),
    ],
)
def test_our_names_are_exact(name: str, ours: Any) -> None:
    assert (is_staging(name), is_trash(name)) == ours


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/a",
        "a\\b",
        "a\nb",
        "a\0b",
        "\x1b[2J",
        ".cache",
        ".owner-1",
        "READY.json",
        "ready.JSON",
        "a" * 201,
        "\N{CJK UNIFIED IDEOGRAPH-6A21}" * 67,
        "\ud800",
        "a\u202eb",
    ],
)
def test_names_that_no_file_of_a_model_has(name: str) -> None:
    assert not is_plain_name(name)


@pytest.mark.parametrize("name", ["config.json", "a" * 200, "\N{CJK UNIFIED IDEOGRAPH-6A21}.json", "a b+c.json"])
def test_names_that_one_may_have(name: str) -> None:
    assert is_plain_name(name)


def test_a_model_is_whole_also_beside_them(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    strangers(tmp_path / "cache", tmp_path / "outside")
    assert_whole(fetched(hub, tmp_path / "cache").path, checkpoint)
