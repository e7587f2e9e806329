"""Revisions: what the user declared for the pods, the exact template it became, and what is known of it.

A revision is named by a hash of the user's fields, so that the same spec is the same revision for ever,
whichever operator looks. The rendered template is stored beside it and applied verbatim: an operator that
would render it otherwise restarts nothing. All of it lives in an owned ControllerRevision, the verdict in
one annotation of it; status only shows it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.cached_model import CachedModel, needs_model, pinned
from llm_operator.core.cached_model import decode as decode_model
from llm_operator.core.cached_model import encode as encode_model
from llm_operator.core.children import admission
from llm_operator.core.children.metadata import metadata
from llm_operator.core.children.pod_template import build_pod_template
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Accepted, Parent, Settings
from llm_operator.core.revisions.declaration import Declaration, declaration, digest, says_the_same, terms_in, values_in
from llm_operator.core.revisions.state import RolloutTerms, State, Verdict, decode, encode, parse_time

# A name of the same fields rendered anew: HASH-2, HASH-3 ...
AGAIN = re.compile(r"(?P<hash>.+)-(?P<time>[1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision as it is recorded (`live`), or as it is about to be (`live` without a resourceVersion)."""

    hash: str
    number: int
    fields: Manifest
    template: Manifest
    verdict: Verdict
    live: Manifest
    model: CachedModel | None = None
    values: Manifest = field(default_factory=dict)

    @property
    def terms(self) -> str:
        """The terms on which its model was to be fetched in the last attempt."""
        return self.verdict.terms or terms_in(self.values)

    @property
    def admitted(self) -> Accepted:
        """What admission is known to make of its Deployment."""
        return admission.decode(self.live["metadata"].get("annotations", {}).get(names.ADMITTED))

    @property
    def needs_model(self) -> bool:
        """Whether it cannot be applied before its model has been fetched."""
        return self.model is None and needs_model(self.template)

    @property
    def state(self) -> State:
        """Short for the verdict's state."""
        return self.verdict.state

    def judged(self, verdict: Verdict, model: CachedModel | None = None) -> "Revision":
        """The same revision with another verdict, and a model if one is given, as it will be once that is written."""
        annotations = {**self.live["metadata"].get("annotations", {}), names.VERDICT: encode(verdict)}
        if model is not None:
            annotations[names.MODEL] = encode_model(model)
        live = {**self.live, "metadata": {**self.live["metadata"], "annotations": annotations}}
        if model is None:
            return replace(self, verdict=verdict, live=live)
        return replace(self, verdict=verdict, live=live, model=model, template=pinned(self.template, model))


def name_of(said: Declaration, revisions: Iterable[Revision]) -> str:
    """The name of the revision that a spec declares: that of a record that says the same, else a hash of its fields.

    Of several such records the one that was proved good last counts, then the newest: it is the others rendered anew.
    """
    known = list(revisions)
    same = [one for one in known if says_the_same(said, one.fields, one.values)]
    if same:
        good = [one for one in same if one.state is State.GOOD]
        return max(good or same, key=lambda one: (decided(one) if good else 0.0, one.number)).hash
    # Of a revision whose record was lost and made anew the fields are not known.
    taken = {one.hash for one in known if one.fields}
    return next(name for name in (digest(said.fields, salt) for salt in count()) if name not in taken)


def hash_in(name: str) -> str:
    """The hash of the fields that a name begins with."""
    again = AGAIN.fullmatch(name)
    return name if again is None else again["hash"]


def next_name(name: str) -> str:
    """The name of the same fields, rendered once more."""
    again = AGAIN.fullmatch(name)
    return f"{hash_in(name)}-{2 if again is None else int(again['time']) + 1}"


def decided(revision: Revision) -> float:
    """When its verdict was found, for comparisons; an unknown time is long ago."""
    return 0.0 if revision.verdict.decided_at is None else revision.verdict.decided_at.timestamp()


def is_fresh(token: str | None, verdict: Verdict) -> bool:
    """Whether a retry token asks for an attempt that this verdict does not know of."""
    return token is not None and token != verdict.retry_token


def asks_again(spec: LLMDeploymentSpec, revision: Revision) -> bool:
    """Whether another attempt is asked for: by a fresh token, by other terms for a model that is not there, or by an
    easier roll-out than the one that failed.
    """
    verdict, terms = revision.verdict, declaration(spec).terms
    if is_fresh(spec.rollback.retry_token, verdict) or (revision.needs_model and terms not in (None, revision.terms)):
        return True
    return verdict.rollout is not None and RolloutTerms.of(spec).are_easier_than(verdict.rollout)


def new_revision(
    parent: Parent, spec: LLMDeploymentSpec, settings: Settings, *, name: str, number: int, verdict: Verdict
) -> Revision:
    """Render the pod template and put it into a ControllerRevision that is still to be created."""
    template = build_pod_template(parent.name, spec, settings, revision=name)
    return recorded(parent, declaration(spec), template, name=name, number=number, verdict=verdict)


def is_rendered_so(parent: Parent, spec: LLMDeploymentSpec, settings: Settings, revision: Revision) -> bool:
    """Whether the revision would be rendered today as it once was."""
    today = build_pod_template(parent.name, spec, settings, revision=revision.hash)
    return bool(revision.live["data"]["template"] == today)


def recorded(
    parent: Parent, said: Declaration | None, template: Manifest, *, name: str, number: int, verdict: Verdict
) -> Revision:
    """A ControllerRevision with this template, still to be created. What it declares may not be known any more."""
    fields, values = ({}, {}) if said is None else (said.fields, said.values)
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            **metadata(parent, f"{parent.name}-{name}"),
            "annotations": {names.REVISION: name, names.VERDICT: encode(verdict)},
        },
        "revision": number,
        "data": {"fields": fields, "values": values, "template": template},
    }
    return Revision(name, number, fields, template, verdict, manifest, values=values)


def is_readable(live: Manifest) -> bool:
    """Whether a ControllerRevision is one of ours, and can be read."""
    data = live.get("data")
    is_ours = names.revision_of(live) is not None
    return is_ours and isinstance(data, dict) and isinstance(data.get("template"), dict)


def parse_revision(live: Manifest) -> Revision | None:
    """A ControllerRevision as a value; None for one that was never ours or cannot be read.

    A verdict that cannot be read counts as an attempt that begins when the revision was made.
    """
    name = names.revision_of(live)
    if name is None or not is_readable(live):
        return None
    data = live["data"]
    fields, values = (one if isinstance(one, dict) else {} for one in (data.get("fields"), data.get("values")))
    annotation = live["metadata"]["annotations"].get(names.VERDICT)
    model = decode_model(live["metadata"]["annotations"].get(names.MODEL))
    return Revision(
        hash=name,
        number=live.get("revision", 0),
        fields=fields,
        values=values or values_in(fields),
        template=data["template"] if model is None else pinned(data["template"], model),
        model=model,
        verdict=decode(annotation)
        or Verdict(State.CANDIDATE, started_at=parse_time(live["metadata"].get("creationTimestamp"))),
        live=live,
    )
