"""Waiting, and what is said when it was in vain."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.steps import Failure, tail, wait_until


def test_a_refusal_while_waiting_means_not_yet() -> None:
    answers: Iterator[Failure | bool] = iter([Failure("connection refused"), False, True])

    def ready() -> bool:
        answer = next(answers)
        if isinstance(answer, Failure):
            raise answer
        return answer

    wait_until("server", ready, seconds=60, every=0)
    assert list(answers) == []


def test_a_wait_in_vain_names_the_last_refusal_and_shows_the_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("starting\nno port left\n")

    def refuse() -> bool:
        raise Failure("connection refused")

    with pytest.raises(Failure) as failure:
        wait_until("server answers", refuse, seconds=0, logs=(log,))
    assert "connection refused" in str(failure.value)
    assert "no port left" in str(failure.value)


def test_a_tail_is_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_text("".join(f"{number}\n" for number in range(100)))
    assert tail(log, lines=2) == "98\n99"


def test_a_log_that_is_not_there_says_so(tmp_path: Path) -> None:
    assert tail(tmp_path / "absent.log") == "(No such file or directory)"
