"""Who owns a folder, and who is dead."""

from dataclasses import replace
from pathlib import Path

from inference_server.fetch.layout import ModelFolder, is_commit
from inference_server.fetch.ownership import (
    RECORD_BYTES,
    Owner,
    Process,
    Watch,
    beaten,
    decode,
    generations,
    owner_name,
    shares_processes,
)

HERE = Process("pod-1", "boot", "pid:[1]", 7, "12345")
OWNER = Owner(HERE, beat=1)


def test_a_record_is_read_as_it_was_written_and_has_one_length() -> None:
    later = beaten(OWNER, done=8_040_000_000, total=10**15)
    assert decode(later.encode()) == later
    assert len(later.encode()) == RECORD_BYTES
    assert len(replace(later, process=Process("h" * 64, "b" * 36, "pid:[4026532836]", 2**22, "9" * 12)).encode()) == 512


def test_a_half_written_record_is_none() -> None:
    assert [decode(text) for text in (b"", b"{}", b"[]", OWNER.encode()[:40], b'{"process": {}, "beat": 1}')] == [
        None
    ] * 5


def test_owners_are_in_order() -> None:
    names = ["owner-10", "files", owner_name(2), "owner-x", "owner-1.tmp"]
    assert generations(names) == [2, 10]


def test_only_processes_of_the_same_machine_and_container_can_be_looked_up() -> None:
    assert shares_processes(HERE, replace(HERE, pid=9))
    assert not shares_processes(HERE, replace(HERE, namespace="pid:[2]"))
    assert not shares_processes(HERE, replace(HERE, boot="another"))
    assert not shares_processes(replace(HERE, boot=""), replace(HERE, boot=""))


def test_an_owner_is_dead_after_silence_of_the_watchers_own_time() -> None:
    watch = Watch(60)
    looks = [(1, 0), (1, 59), (2, 60), (2, 119), (2, 121)]
    assert [watch.is_dead(1, replace(OWNER, beat=beat), running=None, now=now) for beat, now in looks] == [
        False, False, False, False, True,
    ]  # fmt: skip


def test_the_next_owner_gets_its_own_time() -> None:
    watch = Watch(60)
    assert not watch.is_dead(1, OWNER, running=None, now=0)
    assert not watch.is_dead(2, OWNER, running=None, now=61)


def test_a_record_that_stays_half_written_is_that_of_a_dead_owner() -> None:
    watch = Watch(60)
    assert not watch.is_dead(1, None, running=None, now=0)
    assert watch.is_dead(1, None, running=None, now=61)


def test_a_process_that_is_gone_or_has_released_is_not_waited_for() -> None:
    assert Watch(60).is_dead(1, OWNER, running=False, now=0)
    assert Watch(60).is_dead(1, replace(OWNER, released=True), running=True, now=0)
    assert not Watch(60).is_dead(1, OWNER, running=True, now=0)


def test_where_things_are() -> None:
    folder = ModelFolder(Path("/m"), "Qwen/Qwen3-4B")
    assert folder.commit("c") == Path("/m/Qwen--Qwen3-4B/c")
    assert folder.staging("c") == Path("/m/Qwen--Qwen3-4B/.staging-c")
    assert folder.trash("t") == Path("/m/Qwen--Qwen3-4B/.trash-t")
    assert folder.reference("refs/pr/1") == Path("/m/Qwen--Qwen3-4B/.refs/refs%2Fpr%2F1")


def test_a_commit_has_forty_digits() -> None:
    assert is_commit("0123456789abcdef" * 2 + "01234567")
    assert not is_commit("main")
    assert not is_commit("0123456")
