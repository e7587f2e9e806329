"""Where things are on the volume. Called by everything that touches it; touches nothing itself.

<cache>/<org>--<name>/<commit>/…, READY.json   a model; without READY.json it is not one
<cache>/<org>--<name>/.staging-<commit>/       what is being downloaded or taken away, with its owner's files
<cache>/<org>--<name>/.refs/<revision>         the commit that a branch or tag meant when it was fetched last
<cache>/<org>--<name>/.trash-<id>/             on its way out
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

READY_FILE = "READY.json"
STAGING_PREFIX = ".staging-"
TRASH_PREFIX = ".trash-"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*--[A-Za-z0-9_][A-Za-z0-9._-]*")
_TRASH = re.compile(re.escape(TRASH_PREFIX) + r"[0-9a-f]{12}")
# Of any file system, less what is added to a name while the file is written.
_LONGEST_NAME_BYTES = 200


def is_commit(revision: str) -> bool:
    """True for a whole commit hash: it means the same for ever, so the Hub need not be asked."""
    return _COMMIT.fullmatch(revision) is not None


def is_repository(name: str) -> bool:
    """True for the name that the folder of a repository has."""
    return _REPOSITORY.fullmatch(name) is not None


def is_model(path: str) -> bool:
    """True for the path of a model, below the cache."""
    repository, _, commit = path.partition("/")
    return is_repository(repository) and is_commit(commit)


def is_staging(name: str) -> bool:
    """True for the name that a download's folder has."""
    return name.startswith(STAGING_PREFIX) and is_commit(name.removeprefix(STAGING_PREFIX))


def is_trash(name: str) -> bool:
    """True for the name that we give to what is on its way out."""
    return _TRASH.fullmatch(name) is not None


def is_plain_name(name: str) -> bool:
    """True for the name of a file that lies in its folder wherever it is written, and is not one of our own."""
    return (
        0 < len(name.encode(errors="replace")) <= _LONGEST_NAME_BYTES
        and name.isprintable()
        and not name.startswith(".")
        and not {"/", "\\"} & set(name)
        and name.casefold() != READY_FILE.casefold()
    )


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The folder of one repository on the volume."""

    cache_dir: Path
    repository: str

    @property
    def path(self) -> Path:
        return self.cache_dir / self.repository.replace("/", "--")

    def commit(self, commit: str) -> Path:
        return self.path / commit

    def staging(self, commit: str) -> Path:
        return self.path / f"{STAGING_PREFIX}{commit}"

    def trash(self, unique: str) -> Path:
        return self.path / f"{TRASH_PREFIX}{unique}"

    def reference(self, revision: str) -> Path:
        return self.path / ".refs" / quote(revision, safe="")
