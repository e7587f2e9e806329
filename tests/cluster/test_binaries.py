"""The binaries' cache: named by what is built, published whole or not at all."""

import hashlib
from pathlib import Path

import pytest

from tests.cluster import binaries, download
from tests.cluster.steps import Failure


def a_module(folder: Path, **over: str) -> binaries.Module:
    folder.mkdir(exist_ok=True)
    (folder / "go.mod").write_text("module example\n")
    (folder / "go.sum").write_text("")
    # Joining an absolute path onto the source folder gives that path.
    return binaries.Module(str(folder), programs=("thing",), **over)  # type: ignore[arg-type]


def test_the_cache_name_is_stable(tmp_path: Path) -> None:
    assert binaries.fingerprint([a_module(tmp_path / "m")]) == binaries.fingerprint([a_module(tmp_path / "m")])


def test_the_cache_name_changes_with_the_pinned_sums(tmp_path: Path) -> None:
    module = a_module(tmp_path / "m")
    before = binaries.fingerprint([module])
    (tmp_path / "m" / "go.sum").write_text("example v1 h1:x\n")
    assert binaries.fingerprint([module]) != before


def test_the_cache_name_changes_with_the_linker_flags(tmp_path: Path) -> None:
    plain, stamped = a_module(tmp_path / "m"), a_module(tmp_path / "m", ldflags="-X a=b")
    assert binaries.fingerprint([plain]) != binaries.fingerprint([stamped])


def test_cached_binaries_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    module = a_module(tmp_path / "m")
    binaries.bin_dir([module]).mkdir(parents=True)
    assert binaries.ensure([module]) == binaries.bin_dir([module])


def test_without_go_the_message_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Failure, match=r"thing .* needs Go 1\.26 or later: `go` is not on PATH"):
        binaries.ensure([a_module(tmp_path / "m")])


def test_a_published_folder_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "name" / "bin"
    binaries.publish(target, lambda folder: (folder / "thing").touch())
    assert [path.name for path in target.iterdir()] == ["thing"]
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_failed_build_publishes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise Failure("broken")

    with pytest.raises(Failure, match="broken"):
        binaries.publish(tmp_path / "name" / "bin", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_download_with_another_digest_is_refused() -> None:
    download.verify("kubectl", b"content", hashlib.sha256(b"content").hexdigest())
    with pytest.raises(Failure, match="kubectl: SHA-256"):
        download.verify("kubectl", b"tampered", hashlib.sha256(b"content").hexdigest())
