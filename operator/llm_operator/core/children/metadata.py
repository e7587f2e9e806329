"""Name, labels and owner of every child. Pure."""

from llm_operator.core import names
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Parent
from llm_operator.core.ownership import owner_reference


def metadata(parent: Parent, name: str | None = None) -> Manifest:
    """Metadata of a child; it has its parent's name unless it is given one of its own."""
    return {
        "name": name or parent.name,
        "namespace": parent.namespace,
        "labels": names.labels(parent.name),
        "ownerReferences": [owner_reference(parent)],
    }
