"""What admission makes of our own writes: learned from the answer, accepted, and told once. Pure.

Nobody else can come between a write and its answer: what the answer has different from what was sent was set by an
admission plugin, at this write and at every other. To write it again would be a fight that nobody wins. A value of
somebody else's in the same place is drift like any other.
"""

import json

from llm_operator.core import names
from llm_operator.core.children.drift import ANY, NONE, compare
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Accepted, Admitted

# More than any plugin changes; an annotation may not grow without bounds.
LIMIT = 200


def learned(desired: Manifest, stored: Manifest, before: Accepted) -> Admitted:
    """What the answer to a write teaches. A value that comes out otherwise each time may be any."""
    found = {}
    for one in compare(desired, stored).differences[:LIMIT]:
        ours, theirs = before.get(one.path, (one.ours, one.theirs))
        varies = ours == one.ours and theirs != one.theirs
        found[one.path] = (one.ours, ANY if varies else one.theirs)
    return Admitted(names.revision_of(desired), found)


def encode(accepted: Accepted) -> str:
    """The text of the annotation."""
    return json.dumps({path: list(values) for path, values in sorted(accepted.items())}, separators=(",", ":"))


def decode(annotation: str | None) -> Accepted:
    """What an annotation accepts: nothing, if it cannot be read. Anybody may have edited it."""
    try:
        found = json.loads(annotation or "{}")
        return {str(path): (str(ours), str(theirs)) for path, (ours, theirs) in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return NONE
