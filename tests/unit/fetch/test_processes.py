"""Kills, several processes on one volume, owners that die, sleep or hang."""

import hashlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import httpx2
import pytest

from inference_server.fetch.fetcher import Fetched
from inference_server.fetch.hub import Memory, Source, download, list_files
from inference_server.fetch.layout import ModelFolder
from inference_server.fetch.lease import this_process
from inference_server.fetch.ownership import Owner, Process
from tests.hub.server import Answer, Hub
from tests.unit.fetch.running import (
    GOOD_TOKEN,
    REPOSITORY,
    SECOND_SHARD,
    Silent,
    a_fetch,
    assert_whole,
    fetched,
    leftovers,
    wait_for,
)

Files = dict[str, bytes]


def folder(cache: Path, hub: Hub) -> ModelFolder:
    return ModelFolder(cache, REPOSITORY)


def commit(hub: Hub) -> str:
    return hub.repositories[REPOSITORY].references["main"]


def weights(files: Files) -> int:
    return sum(len(content) for name, content in files.items() if name.endswith(".safetensors"))


def test_killed_again_and_again_it_still_gets_the_whole_model(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    randomness = random.Random(5)
    hub.repositories[REPOSITORY].answers[".safetensors"] = Answer(bytes_per_second=1.5e6)
    cache = tmp_path / "cache"
    kills = 0
    while kills < 4:
        process = a_fetch(hub, cache, tmp_path)
        time.sleep(0.5 + 0.6 * randomness.random())
        process.kill()
        kills += 1
        for ready in cache.glob("*/*/READY.json"):
            assert_whole(ready.parent, checkpoint)
    hub.repositories[REPOSITORY].answers.clear()
    assert_whole(fetched(hub, cache).path, checkpoint)
    assert leftovers(cache) == []
    # Continued, not started again: each kill costs what was on its way, not what was there.
    assert hub.weights_served < 2 * weights(checkpoint)


def test_of_many_processes_one_downloads(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    released = threading.Event()
    hub.repositories[REPOSITORY].answers[SECOND_SHARD] = Answer(at=(1_000_000, released.wait))
    cache = tmp_path / "cache"
    patient = {"fetch_owner_timeout_seconds": 30, "fetch_stall_seconds": 600}
    processes = [a_fetch(hub, cache, tmp_path, **patient) for _ in range(3)]
    wait_for(lambda: sum(any(line["bytesDone"] for line in one.named("waiting")) for one in processes) == 2)
    released.set()
    assert [process.wait() for process in processes] == [0] * 3
    assert_whole(folder(cache, hub).commit(commit(hub)), checkpoint)
    assert leftovers(cache) == []
    assert hub.weights_served == weights(checkpoint)
    assert len([process for process in processes if process.named("waiting")]) == 2
    told = [line for process in processes for line in process.named("waiting") if line["bytesDone"]]
    assert {line["bytesTotal"] for line in told} == {
        sum(len(checkpoint[name]) for name in checkpoint) - unserved(checkpoint)
    }


def unserved(files: Files) -> int:
    return len(files["README.md"]) + len(files[".gitattributes"])


def test_when_the_one_that_downloads_is_killed_another_goes_on(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    hub.script(SECOND_SHARD, Answer(), Answer(stall_at=1_500_000))
    cache = tmp_path / "cache"
    first = a_fetch(hub, cache, tmp_path)
    wait_for(lambda: hub.weights_served > 1_500_000)
    others = [a_fetch(hub, cache, tmp_path) for _ in range(2)]
    wait_for(lambda: all(process.named("waiting") for process in others))
    first.kill()
    assert [process.wait() for process in others] == [0, 0]
    assert_whole(folder(cache, hub).commit(commit(hub)), checkpoint)
    assert hub.weights_served < weights(checkpoint) + 200_000


def test_the_transfer_ends_with_its_parent(hub: Hub, tmp_path: Path) -> None:
    hub.script(SECOND_SHARD, Answer(), Answer(stall_at=500_000))
    process = a_fetch(hub, tmp_path / "cache", tmp_path)
    wait_for(lambda: hub.weights_served > 500_000)
    (child,) = process.children()
    process.kill()
    wait_for(lambda: not is_running(child))


def test_the_token_is_not_in_the_environment_of_the_process_that_downloads(hub: Hub, tmp_path: Path) -> None:
    hub.script("/revision/main", Answer(stall_at=0))
    process = a_fetch(hub, tmp_path / "cache", tmp_path, huggingface_token=GOOD_TOKEN, hf_token=GOOD_TOKEN)
    wait_for(lambda: hub.requests)
    (child,) = process.children()
    environment = Path(f"/proc/{child}/environ").read_text()
    process.kill()
    assert hub.requests[0][2]["authorization"] == f"Bearer {GOOD_TOKEN}"
    assert "PATH=" in environment
    assert GOOD_TOKEN not in environment


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_transfer_that_is_killed_is_told_as_lack_of_memory(hub: Hub, tmp_path: Path) -> None:
    hub.script(SECOND_SHARD, Answer(), Answer(stall_at=500_000), Answer(), Answer(stall_at=500_000))
    process = a_fetch(hub, tmp_path / "cache", tmp_path, fetch_tries=6)
    part = folder(tmp_path / "cache", hub).staging(commit(hub)) / "parts" / SECOND_SHARD
    wait_for(lambda: part.exists() and part.stat().st_size == 500_000)
    (first,) = process.children()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: [child for child in process.children() if child != first])
    (second,) = process.children()
    wait_for(lambda: len([path for _, path, _ in hub.requests if path.endswith(SECOND_SHARD)]) == 4)
    os.kill(second, signal.SIGKILL)
    assert process.wait() == 32
    assert process.events[-1]["reason"] == "OutOfMemory"


def test_a_transfer_that_hangs_is_killed_and_continued(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    hub.script(SECOND_SHARD, Answer(), Answer(stall_at=1_000_000))
    display = Silent()
    # On a slow machine the start of a process may count as a stall, too.
    found = fetched(hub, tmp_path, display, fetch_tries=9, fetch_stall_seconds=1.5)
    assert_whole(found.path, checkpoint)
    assert {reason for reason, *_ in display.retries} == {"DownloadStalled"}
    assert weights(checkpoint) <= hub.weights_served < weights(checkpoint) + 1_000_000


def test_cut_transfers_are_continued_as_long_as_there_is_progress(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    cuts = [Answer(cut_at=at) for at in (400_000, 800_000)]
    hub.script(SECOND_SHARD, *[answer for cut in cuts for answer in (Answer(), cut)])
    display = Silent()
    assert_whole(fetched(hub, tmp_path, display, fetch_tries=2).path, checkpoint)
    assert [retry[:2] for retry in display.retries] == [("NetworkUnreachable", 1)] * 2
    assert hub.weights_served == weights(checkpoint)


def test_what_was_read_of_a_part_is_not_read_again_when_the_line_breaks(hub: Hub, tmp_path: Path) -> None:
    """As the worker does it: one memory for all the tries of a process."""
    content = random.Random(1).randbytes(8_000_000)
    commit = hub.add(REPOSITORY, {SECOND_SHARD: content})
    (file,) = list_files(endpoint=hub.url, token=None, repository=REPOSITORY, revision=commit)[1]
    source = Source(hub.url, None, REPOSITORY, commit)
    hub.script(f"_cdn/tiny--qwen3/{commit}/{SECOND_SHARD}", *[Answer(cut_at=n * 500_000) for n in range(1, 16)])
    part, target, memory = tmp_path / "part", tmp_path / "target", Memory()

    def bring(memory: Memory) -> str:
        return download(file, source, part=part, target=target, step=lambda _: None, memory=memory)

    before = bytes_read()
    for _ in range(14):
        with pytest.raises(httpx2.TransportError):
            bring(memory)
    assert bytes_read() - before < len(content) / 2
    # Another process has nothing to remember, and one that finds another length does not trust what it does.
    before = bytes_read()
    with pytest.raises(httpx2.TransportError):
        bring(Memory())
    assert bytes_read() - before >= 7_000_000
    with part.open("r+b") as grown:
        grown.truncate(part.stat().st_size - 1)
    assert bring(memory) == hashlib.sha256(content).hexdigest()
    assert target.read_bytes() == content


def bytes_read() -> int:
    """By this process, from files: what comes from a socket is not counted."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_servers_wish_to_wait_is_obeyed(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    asked: list[float] = []
    limited = Answer(status=429, headers={"Retry-After": "1"}, before=lambda: asked.append(time.monotonic()))
    hub.script("/revision/main", limited, Answer(before=lambda: asked.append(time.monotonic())))
    assert_whole(fetched(hub, tmp_path, fetch_tries=2).path, checkpoint)
    assert asked[1] - asked[0] >= 1


def a_foreign_owner(cache: Path, hub: Hub, **changed: object) -> Path:
    """An owner's file of a process on another machine."""
    staging = folder(cache, hub).staging(commit(hub))
    staging.mkdir(parents=True)
    owner = Owner(Process("node-2", "another-boot", "pid:[1]", 1, "1"), beat=7)
    (staging / "owner-3").write_bytes(owner.encode())
    return staging / "owner-3"


def test_a_dead_owner_on_another_machine_is_not_waited_for_longer_than_the_time_out(
    hub: Hub, tmp_path: Path, checkpoint: Files
) -> None:
    a_foreign_owner(tmp_path, hub)
    began = time.monotonic()
    assert_whole(fetched(hub, tmp_path, fetch_owner_timeout_seconds=1, fetch_tries=3).path, checkpoint)
    assert time.monotonic() - began >= 1
    assert leftovers(tmp_path) == []


def test_an_owner_that_died_before_it_could_write_its_name_is_dead_too(
    hub: Hub, tmp_path: Path, checkpoint: Files
) -> None:
    a_foreign_owner(tmp_path, hub).write_bytes(b"")
    assert_whole(fetched(hub, tmp_path, fetch_owner_timeout_seconds=1, fetch_tries=3).path, checkpoint)


def test_a_number_that_is_now_another_processs_is_dead(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    path = a_foreign_owner(tmp_path, hub)
    here = this_process()
    path.write_bytes(Owner(Process(here.host, here.boot, here.namespace, 1, "12345678"), beat=1).encode())
    assert_whole(fetched(hub, tmp_path).path, checkpoint)


def test_an_owner_that_was_asleep_stops_when_another_has_taken_over(
    hub: Hub, tmp_path: Path, checkpoint: Files
) -> None:
    """Its worker, which was awake, stops writing before anybody takes over."""
    cache = tmp_path / "cache"
    # Slow for the first one only: it would take half a minute.
    hub.script(SECOND_SHARD, Answer(), Answer(bytes_per_second=60_000))
    sleeper = a_fetch(hub, cache, tmp_path, fetch_owner_timeout_seconds=8, fetch_tries=3)
    part = folder(cache, hub).staging(commit(hub)) / "parts" / SECOND_SHARD
    wait_for(lambda: part.exists() and part.stat().st_size)
    other = a_fetch(hub, cache, tmp_path, fetch_owner_timeout_seconds=8, fetch_tries=3)
    wait_for(lambda: other.named("waiting"))
    for process in (sleeper, other):
        process.signal(signal.SIGSTOP)
    sizes = [0, part.stat().st_size]
    while sizes[-1] > sizes[-2]:
        time.sleep(2)
        sizes.append(part.stat().st_size)
    assert sizes[-1] < len(checkpoint[SECOND_SHARD]), "it was not over, it was ended"
    other.signal(signal.SIGCONT)
    assert other.wait() == 0
    sleeper.signal(signal.SIGCONT)
    assert sleeper.wait() == 0
    assert_whole(folder(cache, hub).commit(commit(hub)), checkpoint)
    assert leftovers(cache) == []


def test_a_published_model_that_a_late_process_finds_is_left_alone(hub: Hub, tmp_path: Path, cached: Fetched) -> None:
    a_foreign_owner(tmp_path, hub)
    before = {path.name: path.stat().st_ino for path in cached.path.iterdir()}
    assert fetched(hub, tmp_path) == cached
    assert {path.name: path.stat().st_ino for path in cached.path.iterdir()} == before


def test_a_reference_that_is_nonsense_is_no_reference(hub: Hub, tmp_path: Path, cached: Fetched) -> None:
    folder(tmp_path, hub).reference("main").write_text("../../etc")
    hub.script("/revision/main", Answer(status=503))
    with pytest.raises(Exception, match="EndpointUnavailable"):
        fetched(hub, tmp_path)
    assert fetched(hub, tmp_path) == cached
