"""Which model a recorded revision has in the claim. Pure."""

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.names import Manifest
from llm_operator.core.revisions.declaration import declaration
from llm_operator.core.revisions.history import History
from llm_operator.core.revisions.revision import Revision, name_of


def pin_to_recorded_commit(spec: LLMDeploymentSpec, history: History, claim: Manifest | None) -> LLMDeploymentSpec:
    """The spec that a fetch goes by: a claim that was made anew gets what is pinned, not what the branch means now."""
    declared = history.get(name_of(declaration(spec), history.revisions))
    if declared is None or declared.model is None or not is_in_replaced_claim(declared, claim):
        return spec
    pinned = {"repository": declared.model.repository, "revision": declared.model.commit}
    model = spec.wanted_model.model_copy(update=pinned)
    return spec.model_copy(update={"model": model})


def is_in_replaced_claim(revision: Revision, claim: Manifest | None) -> bool:
    """Whether a revision's model was fetched into another claim of the same name than there is now."""
    return revision.model is not None and claim is not None and revision.model.claim != claim["metadata"]["uid"]


def find_cached_model(history: History, spec: LLMDeploymentSpec, claim: Manifest | None) -> CachedModel | None:
    """The model of an earlier revision that declared the same: it is in the claim, and nobody need be asked."""
    if claim is None:
        return None
    wanted = _which(declaration(spec).values)
    found = [
        one.model
        for one in history.revisions
        if one.model is not None and one.model.claim == claim["metadata"]["uid"] and _which(one.values) == wanted
    ]
    return found[-1] if found else None


def _which(values: Manifest) -> tuple[object, ...]:
    """Which model is meant. Not from which address: what a repository holds is the same everywhere."""
    model = values.get("model", {})
    return (values.get("cache"), *(model.get(key) for key in ("repository", "revision")))
