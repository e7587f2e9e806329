"""docs/troubleshooting.md has an entry for each reason that asks somebody to act, and for no other."""

import re
from pathlib import Path

from llm_operator.api.conditions import FINE, MEANINGS, Reason

ROOT = Path(__file__).parents[3]


def entries(page: str) -> list[str]:
    return re.findall(r"^### (\w+)$", (ROOT / page).read_text(), re.M)


def test_every_reason_has_an_entry_and_every_entry_is_a_reason() -> None:
    found = entries("docs/troubleshooting.md")
    assert sorted(found) == sorted(str(reason) for reason in Reason if reason not in FINE)


def test_no_entry_is_empty() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    bodies = re.split(r"^##+ .*$", text, flags=re.M)[1:]
    headings = re.findall(r"^(##+) ", text, re.M)
    assert all(body.strip() for body, heading in zip(bodies, headings, strict=True) if heading == "###")


def test_every_reason_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Reason)


def test_the_state_page_names_only_reasons_there_are() -> None:
    text = (ROOT / "docs/rollback.md").read_text()
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", text)) - {"RollingUpdate"}
    assert named <= {str(reason) for reason in Reason}
