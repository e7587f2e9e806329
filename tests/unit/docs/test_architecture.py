"""docs/architecture.md leads to files that are there, and names every room of the core."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
OPERATOR = ROOT / "operator/llm_operator"
PAGE = (ROOT / "docs/architecture.md").read_text()
DECIDED = PAGE.split("## Where is it decided")[1].split("\n## ")[0]


def test_every_decision_is_where_the_page_says() -> None:
    named = re.findall(r"`([\w/]+\.py)`", DECIDED)
    assert len(named) > 20
    rooms = ("", "core/children/")  # A file may be named after another one of its room.
    lost = [
        one for one in named if not any((base / one).is_file() for base in (ROOT, *(OPERATOR / it for it in rooms)))
    ]
    assert lost == []


def test_every_room_stands_in_the_drawing() -> None:
    drawing = PAGE.split("## The house")[1].split("## Where")[0]
    rooms = sorted(one.parent.name for one in (OPERATOR / "core").glob("*/__init__.py"))
    assert [room for room in rooms if f"{room}/" not in drawing] == []
