"""Which models a prune keeps: a list in doubt deletes nothing."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.fetch.layout import is_model
from inference_server.fetch.retention import parse_keep, parse_until

ONE, TWO = f"tiny--qwen3/{'1' * 40}", f"Qwen--Qwen3-4B-Thinking-2507/{'2' * 40}"


@pytest.mark.parametrize(
    "text",
    [json.dumps([ONE, TWO]), f"{ONE}\n{TWO}", f"\n  {ONE} \r\n\n{TWO}\n", f' ["{TWO}",\n"{ONE}", "{ONE}"] '],
)
def test_a_list_is_json_or_lines(text: str) -> None:
    assert parse_keep(text) == {ONE, TWO}


@pytest.mark.parametrize(
    "text",
    ["", "  \n ", "[]", "[", '["', "[null]", f'["{ONE}", 1]', "{}", "null", "*", "[" * 100_000],
)
def test_an_empty_or_broken_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="KEEP_MODELS"):
        parse_keep(text)


@pytest.mark.parametrize(
    "entry",
    [
        "tiny--qwen3",
        f"tiny/qwen3/{'1' * 40}",
        f"tiny--qwen3/{'1' * 39}",
        f"tiny--qwen3/{'1' * 40}/",
        f"/models/{ONE}",
        f"../{ONE}",
        f"tiny--qwen3/../{'1' * 40}",
        f".--./{'1' * 40}",
        "tiny--qwen3/main",
    ],
)
def test_an_entry_that_is_no_model_is_refused_whatever_stands_beside_it(entry: str) -> None:
    with pytest.raises(ValueError, match="such as Qwen--Qwen3"):
        parse_keep(f"{ONE}\n{entry}")


@given(st.text())
def test_any_text_is_a_list_of_models_or_refused(text: str) -> None:
    try:
        kept = parse_keep(text)
    except ValueError:
        return
    assert kept
    assert all(map(is_model, kept))


def test_a_time_needs_its_zone() -> None:
    assert parse_until("") is None
    assert parse_until("2026-01-02T03:04:05Z") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for text in ("2026-01-02T03:04:05", "tomorrow", "1"):
        with pytest.raises(ValueError, match="KEEP_MODELS_UNTIL"):
            parse_until(text)
