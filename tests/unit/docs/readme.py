"""The blocks of code in README.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order; "sh walked" are those that the e2e test runs."""
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```$", text, re.M | re.S)
