"""The operator's requests, from the API server's audit log (audit-policy.yaml: nobody else's are in it)."""

import json
from collections import Counter
from pathlib import Path

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
# The lease of the leader is renewed for ever, by design.
AT_REST = frozenset({"leases"})


class Audit:
    """Counts since a mark."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def mark(self) -> int:
        """The end of the log as it is now."""
        return self._log.stat().st_size if self._log.exists() else 0

    def requests(self, since: int) -> Counter[str]:
        """Requests from a mark on, as "verb resource" or "verb resource/subresource"."""
        found: Counter[str] = Counter()
        seen: set[str] = set()
        for line in self._complete_lines(since):
            entry = json.loads(line)
            if entry["auditID"] in seen:
                continue  # a watch is told of when it begins and when it ends
            seen.add(entry["auditID"])
            found[_name(entry)] += 1
        return found

    def writes(self, since: int) -> Counter[str]:
        """Writes from a mark on, but for the leader's lease."""
        return Counter({what: count for what, count in self.requests(since).items() if is_write(what)})

    def _complete_lines(self, since: int) -> list[bytes]:
        with self._log.open("rb") as stream:
            stream.seek(since)
            return stream.read().rpartition(b"\n")[0].splitlines()


def is_write(what: str) -> bool:
    """Whether a request, in the words of `Audit.requests`, changes anything but the lease."""
    verb, resource = what.split(" ", 1)
    return verb in WRITES and resource not in AT_REST


def _name(entry: dict[str, dict[str, str]]) -> str:
    target = entry.get("objectRef", {})
    resource = target.get("resource") or entry["requestURI"]
    subresource = f"/{target['subresource']}" if "subresource" in target else ""
    return f"{entry['verb']} {resource}{subresource}"
