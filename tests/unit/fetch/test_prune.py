"""`python -m inference_server prune` on real folders: what goes, what stays, kills, and fetches at the same time."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_server.__main__ import main
from inference_server.fetch.fetcher import Fetched
from inference_server.fetch.layout import ModelFolder
from inference_server.fetch.lease import acquire, this_process
from inference_server.fetch.ownership import Owner, Process
from inference_server.fetch.prune import ASIDE, Pruned, prune
from inference_server.fetch.ready import Ready, ReadyFile, dump_ready
from inference_server.fetch.retention import EXAMPLE
from inference_server.fetch.settings import PruneOrder
from inference_server.fetch.staging import read_ready, take
from inference_server.termination import ExitCode
from tests.hub.server import Hub
from tests.unit.fetch.running import Silent, assert_whole, failure, fetched, leftovers
from tests.unit.fetch.test_volume import a_volume as a_volume
from tests.unit.fetch.test_volume import fill

Files = dict[str, bytes]
DAY = 86400.0


def a_commit(number: int) -> str:
    return f"{number:040x}"


def a_model(cache: Path, commit: str = a_commit(1), *, repository: str = "tiny/other", days: float = 3) -> Path:
    """A whole model of a few files, used last so many days ago."""
    folder = ModelFolder(cache, repository)
    path = folder.commit(commit)
    path.mkdir(parents=True)
    files = {"config.json": b"{}", "model.safetensors": b"w" * 1000}
    for name, content in files.items():
        (path / name).write_bytes(content)
    listed = {name: ReadyFile(len(content), "0" * 64) for name, content in files.items()}
    (path / "READY.json").write_text(dump_ready(Ready(repository, commit, listed, 1000)))
    used(path, days=days)
    return path


def used(path: Path, *, days: float) -> None:
    age(path / "READY.json", days * DAY)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def is_whole(path: Path) -> bool:
    return read_ready(ModelFolder(path.parents[1], path.parent.name.replace("--", "/")), path.name) is not None


def pruned(cache: Path, *keep: Path, grace: float = DAY) -> Pruned:
    names = frozenset(f"{path.parent.name}/{path.name}" for path in keep) or frozenset({EXAMPLE})
    return prune(PruneOrder(cache, names, grace), Silent())


def tree(cache: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(cache)): path.read_bytes() if path.is_file() else None for path in sorted(cache.rglob("*"))
    }


def test_what_is_not_kept_and_long_unused_goes(tmp_path: Path) -> None:
    kept, old, young = (a_model(tmp_path, a_commit(number)) for number in range(3))
    other = a_model(tmp_path, a_commit(1), repository="tiny/kept")
    used(young, days=0.9)
    size = sum(path.stat().st_size for path in old.iterdir())
    done = pruned(tmp_path, kept, other)
    assert done == Pruned((f"tiny--other/{a_commit(1)}",), size, 3)
    assert [is_whole(path) for path in (kept, old, young, other)] == [True, False, True, True]
    assert not old.exists()
    assert leftovers(tmp_path) == []


def test_the_commit_counts_and_not_the_repository(tmp_path: Path) -> None:
    mine, theirs = a_model(tmp_path), a_model(tmp_path, repository="tiny/theirs")
    pruned(tmp_path, mine)
    assert is_whole(mine)
    assert not theirs.exists()


def test_what_is_not_of_the_layout_stays(tmp_path: Path) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    model = a_model(outside)
    a_model(cache, repository="tiny/real", days=0)
    (cache / "tiny--linked").symlink_to(model.parent)
    (cache / "tiny--real" / a_commit(7)).symlink_to(model)
    (cache / "tiny--real" / ".trash-0123456789ab").symlink_to(model)
    (cache / "tiny--real" / f".staging-{a_commit(7)}").symlink_to(model)
    (cache / "lost+found" / a_commit(1)).mkdir(parents=True)
    (cache / "notes--txt").write_text("a file")
    without = cache / "tiny--real" / a_commit(8)
    without.mkdir()
    (without / "config.json").write_text("{}")
    strange = a_model(cache, a_commit(9), repository="tiny/real")
    (strange / "READY.json").write_text(dump_ready(Ready("evil/twin", a_commit(9), {"x": ReadyFile(1, "0")}, 1)))
    used(strange, days=9)
    linked = a_model(cache, a_commit(10), repository="tiny/real")
    (linked / "READY.json").unlink()
    (linked / "READY.json").symlink_to(model / "READY.json")
    unreadable = a_model(cache, a_commit(11), repository="tiny/real")
    (unreadable / "READY.json").write_text("{")
    used(unreadable, days=9)
    short = a_model(cache, a_commit(12), repository="tiny/real")
    short.rename(short.with_name("main"))
    references = cache / "tiny--real" / ".refs"
    references.mkdir()
    (references / "main").write_text(a_commit(99))
    before = tree(tmp_path)
    del before["cache/tiny--real/.trash-0123456789ab"]
    assert pruned(cache).deleted == ()
    assert tree(tmp_path) == before


def test_links_in_a_model_are_deleted_and_not_followed(tmp_path: Path) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    model = a_model(cache)
    (model / "folder").symlink_to(outside)
    (model / "file").symlink_to(outside / "precious")
    pruned(cache)
    assert not model.exists()
    assert (outside / "precious").read_text() == "x"


def test_what_was_on_its_way_out_is_deleted(tmp_path: Path) -> None:
    model = a_model(tmp_path, days=0)
    model.with_name(".trash-0123456789ab").mkdir()
    (model.with_name(".trash-0123456789ab") / "model.safetensors").write_bytes(b"x")
    model.with_name(".trash-0123456789ac").write_text("a clock")
    pruned(tmp_path)
    assert leftovers(tmp_path) == []
    assert is_whole(model)


def test_a_model_whose_staging_folder_has_an_owner_stays(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    staging = ModelFolder(tmp_path, "tiny/other").staging(model.name)
    lease = acquire(staging, timeout=60, finished=lambda: False, waiting=lambda _: None)
    assert lease is not None
    assert pruned(tmp_path) == Pruned((), 0, 1)
    assert is_whole(model)
    assert staging.is_dir()
    lease.release()
    assert pruned(tmp_path).kept == 0
    assert not model.exists()
    assert leftovers(tmp_path) == []


def test_downloads_of_others_are_left_alone(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    staging = model.with_name(f".staging-{a_commit(5)}")
    (staging / "parts").mkdir(parents=True)
    (staging / "parts" / "model.safetensors").write_bytes(b"x" * 10)
    (staging / "owner-1").write_bytes(b"")
    pruned(tmp_path)
    assert not model.exists()
    assert (staging / "parts" / "model.safetensors").read_bytes() == b"x" * 10


def test_on_a_volume_without_a_byte_to_spare_it_makes_room(a_volume: Callable[[str], Path]) -> None:
    volume = a_volume("size=1m")
    model = a_model(volume)
    fill(volume)
    assert pruned(volume).deleted == (f"tiny--other/{model.name}",)
    assert leftovers(volume) == []


def test_a_read_only_volume_is_told(a_volume: Callable[[str], Path], run: Callable[..., Any]) -> None:
    volume = a_volume("size=1m")
    a_model(volume)
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    code, _, words = run(model_cache_dir=str(volume))
    assert (code, json.loads(words)["reason"]) == (30, "CacheNotWritable")


# Fetches.


def test_a_fetch_that_finds_a_model_marks_it_as_used(hub: Hub, cached: Fetched, tmp_path: Path) -> None:
    for revision in ("main", cached.ready.commit):
        used(cached.path, days=9)
        fetched(hub, tmp_path, model_revision=revision)
        assert pruned(tmp_path).deleted == ()
    used(cached.path, days=9)
    fetched(hub, tmp_path, hf_endpoint="http://127.0.0.1:9")
    assert pruned(tmp_path).deleted == ()


def test_a_model_that_was_pruned_is_fetched_again(hub: Hub, cached: Fetched, tmp_path: Path, checkpoint: Files) -> None:
    used(cached.path, days=2)
    assert pruned(tmp_path).kept == 0
    assert failure(hub, tmp_path, hf_endpoint="http://127.0.0.1:9").reason == "NetworkUnreachable"
    assert_whole(fetched(hub, tmp_path).path, checkpoint)


def test_whoever_finds_the_model_while_it_is_pruned_keeps_it(tmp_path: Path) -> None:
    found_and_there = 0
    for number in range(120):
        model = a_model(tmp_path, a_commit(number))
        start = threading.Barrier(2)
        found: list[Ready | None] = []

        def look(model: Path = model, start: threading.Barrier = start, found: list[Any] = found) -> None:
            start.wait()
            time.sleep(random.random() * 0.001)
            found.append(take(ModelFolder(tmp_path, "tiny/other"), model.name))

        thread = threading.Thread(target=look)
        thread.start()
        start.wait()
        pruned(tmp_path)
        thread.join()
        if found[0] is not None:
            found_and_there += 1
            assert is_whole(model), number
        assert leftovers(tmp_path) == []
    assert found_and_there > 5, "else nothing was tested"


def test_fetches_and_prunes_at_the_same_time_end_with_the_model(
    hub: Hub, cached: Fetched, tmp_path: Path, checkpoint: Files
) -> None:
    for _ in range(8):
        used(cached.path, days=2)
        thread = threading.Thread(target=pruned, args=(tmp_path,))
        thread.start()
        found = fetched(hub, tmp_path, model_revision=cached.ready.commit)
        thread.join()
        assert_whole(found.path, checkpoint)
    assert leftovers(tmp_path) == []


def test_while_a_model_is_out_of_its_place_a_fetch_waits(
    hub: Hub, cached: Fetched, tmp_path: Path, checkpoint: Files
) -> None:
    staging = ModelFolder(tmp_path, "tiny/qwen3").staging(cached.ready.commit)
    lease = acquire(staging, timeout=60, finished=lambda: False, waiting=lambda _: None)
    assert lease is not None
    cached.path.rename(staging / ASIDE)
    thread = threading.Thread(target=fetched, args=(hub, tmp_path))
    thread.start()
    time.sleep(1)
    assert hub.weights_served == 0
    (staging / ASIDE).rename(cached.path)
    thread.join()
    lease.release()
    assert hub.weights_served == 0
    assert_whole(cached.path, checkpoint)


# Deaths.


def test_killed_again_and_again_it_leaves_whole_models_or_none(tmp_path: Path) -> None:
    randomness = random.Random(3)
    cache = tmp_path / "cache"
    kept = [a_model(cache, a_commit(number)) for number in range(0, 3000, 1000)]
    others = [a_model(cache, a_commit(number)) for number in range(1, 600)]
    variables = {"MODEL_CACHE_DIR": str(cache), "KEEP_MODELS": "\n".join(f"tiny--other/{one.name}" for one in kept)}
    kills = 0
    for _ in range(6):
        process = a_prune(tmp_path, variables)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 * randomness.random())
        process.kill()
        process.communicate()
        kills += process.returncode != 0
        assert all(map(is_whole, kept))
        assert all(is_whole(path) for path in others if path.exists())
    # The next one comes later: of an owner that was killed before it wrote who it is, only its silence is known.
    for path in cache.glob("*/.staging-*/*"):
        age(path, 3600)
        age(path.parent, 3600)
    process = a_prune(tmp_path, variables)
    process.communicate()
    assert process.returncode == 0
    assert kills
    assert [path for path in others if path.exists()] == []
    assert all(map(is_whole, kept))
    assert leftovers(cache) == []


def a_prune(directory: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "inference_server", "prune"],
        cwd=directory,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
    )


DEAD = Process("elsewhere", "another boot", "another namespace", 1, "1")


@pytest.mark.parametrize(
    ("owner", "silent", "put_back"),
    [
        (Owner(this_process(), beat=1, released=True), 0, True),
        (replace(Owner(this_process(), beat=1), process=replace(this_process(), started="0")), 0, True),
        (Owner(DEAD, beat=1), 3600, True),
        (Owner(DEAD, beat=1), 0, False),
        (Owner(this_process(), beat=1), 0, False),
    ],
    ids=["it let go", "its process is gone", "elsewhere, silent for long", "elsewhere, a moment ago", "it lives"],
)
@pytest.mark.parametrize("anew", [False, True])
def test_what_a_killed_prune_had_moved_aside_is_put_back(
    tmp_path: Path, owner: Owner, silent: float, put_back: bool, anew: bool
) -> None:
    model = a_model(tmp_path)
    staging = model.with_name(f".staging-{model.name}")
    staging.mkdir()
    (staging / "owner-4").write_bytes(owner.encode())
    model.rename(staging / ASIDE)
    if anew:
        a_model(tmp_path)
    for path in (staging / "owner-4", staging):
        age(path, silent)
    pruned(tmp_path, model)
    assert is_whole(model) is (put_back or anew)
    assert staging.exists() is not put_back


@pytest.mark.parametrize("record", [b"", Owner(DEAD, beat=1).encode()], ids=["without a word", "elsewhere"])
@pytest.mark.parametrize(("silent", "deleted"), [(3600, True), (0, False)])
def test_who_was_killed_before_it_moved_a_model_does_not_keep_it_for_ever(
    tmp_path: Path, record: bytes, silent: float, deleted: bool
) -> None:
    unused = a_model(tmp_path)
    staging = unused.with_name(f".staging-{unused.name}")
    staging.mkdir()
    (staging / "owner-1").write_bytes(record)
    for path in (staging / "owner-1", staging):
        age(path, silent)
    pruned(tmp_path)
    assert unused.exists() is not deleted


# The command.


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command_line: None
) -> Callable[..., tuple[int, list[dict[str, Any]], str]]:
    """Runs the command; returns exit code, lines of output, and the termination log."""

    def run(**variables: str) -> tuple[int, list[dict[str, Any]], str]:
        log = tmp_path / "termination-log"
        log.write_text("from before")
        defaults = {"model_cache_dir": str(tmp_path), "keep_models": EXAMPLE, "termination_log_path": str(log)}
        for name, value in {**defaults, **variables}.items():
            monkeypatch.setenv(name.upper(), value)
        code = main(["prune"])
        return code, [json.loads(line) for line in capfd.readouterr().out.splitlines()], log.read_text()

    return run


def test_the_command_tells_what_it_deleted(run: Callable[..., Any], tmp_path: Path) -> None:
    model, young = a_model(tmp_path), a_model(tmp_path, a_commit(2), days=0)
    size = sum(path.stat().st_size for path in model.iterdir())
    code, lines, words = run()
    assert code == ExitCode.OK
    deleted, told = lines
    assert (deleted["event"], deleted["repository"], deleted["commit"]) == ("deleted", "tiny/other", model.name)
    assert deleted["bytes"] == size
    assert deleted["unusedSeconds"] == pytest.approx(3 * DAY, abs=60)
    assert {key: told[key] for key in ("event", "models", "bytesFreed", "kept")} == {
        "event": "pruned", "models": 1, "bytesFreed": size, "kept": 1,
    }  # fmt: skip
    assert json.loads(words) == {"models": 1, "bytesFreed": size, "deleted": [f"tiny--other/{model.name}"]}
    assert is_whole(young)


def test_the_grace_period_is_a_setting(run: Callable[..., Any], tmp_path: Path) -> None:
    model = a_model(tmp_path, days=3)
    assert run(prune_grace_seconds=str(4 * DAY))[2] == '{"models": 0, "bytesFreed": 0, "deleted": []}'
    assert is_whole(model)
    run(prune_grace_seconds="0")
    assert not model.exists()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"keep_models": ""}, "KEEP_MODELS names no model"),
        ({"keep_models": "[]"}, "KEEP_MODELS names no model"),
        ({"keep_models": "all"}, "KEEP_MODELS must hold folders"),
        ({"keep_models": "["}, "KEEP_MODELS must be a JSON list"),
        ({"keep_models_until": "soon"}, "KEEP_MODELS_UNTIL must be a time"),
        ({"keep_models_until": "2020-01-01T00:00:00Z"}, "KEEP_MODELS_UNTIL is over"),
        ({"prune_grace_seconds": "-1"}, "PRUNE_GRACE_SECONDS must be a number from 0"),
        ({"model_cache_dir": "/nowhere"}, "MODEL_CACHE_DIR names no folder"),
    ],
)
def test_settings_in_doubt_delete_nothing(
    run: Callable[..., Any], tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    model = a_model(tmp_path)
    code, (line,), words = run(**variables)
    assert code == ExitCode.CONFIG
    assert says in line["message"]
    assert (line["event"], json.loads(words)["reason"]) == ("failed", "InvalidSettings")
    assert json.loads(words)["remedy"]
    assert is_whole(model)


def test_a_list_that_still_counts_is_used(run: Callable[..., Any], tmp_path: Path) -> None:
    model = a_model(tmp_path)
    assert run(keep_models_until="2999-01-01T00:00:00Z")[0] == ExitCode.OK
    assert not model.exists()


def test_without_any_list_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command_line: None
) -> None:
    model = a_model(tmp_path)
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("KEEP_MODELS", raising=False)
    assert main(["prune"]) == ExitCode.CONFIG
    assert is_whole(model)
