"""Writes what docs say of tables in the code: called by `make generate`.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from pathlib import Path

from pydantic import SecretStr

from inference_server.fetch.failures import EXITS
from inference_server.settings import Settings

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- generated: {name} -->\n", "<!-- end -->"
MODEL_CACHE = ROOT / "docs/model-cache.md"
SERVER = ROOT / "docs/inference-server.md"


def exit_codes() -> str:
    """The table of what a fetch, or a prune, ends with."""
    rows = [
        ("0", "", "The model is there"),
        ("2", "", "Wrong command line"),
        *((str(one.code), f"`{reason}`", one.meaning) for reason, one in EXITS.items()),
        (
            "78",
            "`ModeNotSupported`",
            "This installation could not run the mode of `FETCH_FOR_MODE`, so nothing was fetched",
        ),
        ("78", "`InvalidSettings`", "A setting is wrong; the message says what is allowed"),
    ]
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    return "\n".join(["| Exit code | `reason` | Meaning |", "|---|---|---|", *lines]) + "\n"


def settings() -> str:
    """The table of the server's settings."""
    lines = []
    for name, field in Settings.model_fields.items():
        shown = _shown(field.default)
        default = f"`{shown}`" if shown else ""
        lines.append(f"| `{name.upper()}` | {default} | {field.description} |".replace("|  |", "| |"))
    return "\n".join(["| Variable | Default | Meaning |", "|---|---|---|", *lines]) + "\n"


def _shown(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if default is None:
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def generated(text: str, name: str, content: str) -> str:
    """The page with this part as the code has it now. Raises ValueError where the page has no such part."""
    begin = BEGIN.format(name=name)
    before, found, rest = text.partition(begin)
    if not found:
        raise ValueError(f"no part {name!r}")
    return before + begin + content + rest[rest.index(END) :]


def model_cache() -> str:
    """docs/model-cache.md as it should be."""
    return generated(MODEL_CACHE.read_text(), "exit codes", exit_codes())


def server() -> str:
    """docs/inference-server.md as it should be."""
    return generated(SERVER.read_text(), "settings", settings())


if __name__ == "__main__":
    MODEL_CACHE.write_text(model_cache())
    SERVER.write_text(server())
