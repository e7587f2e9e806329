"""Where pods may run: tolerations and affinity, with the same words and meaning as in a Pod.

Kubernetes lets a custom resource accept these as free-form objects; here each field is typed, bounded
and described, so that a mistake is refused by `kubectl apply` and not found later in a stuck rollout.
"""

from typing import Annotated, Literal

from pydantic import Field

from llm_operator.api.schema import ATOMIC_LIST, ApiModel, rule, rules

DNS_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DNS_SUBDOMAIN = f"{DNS_LABEL}([.]{DNS_LABEL})*"
LABEL_KEY = f"^({DNS_SUBDOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"

LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=LABEL_KEY)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]
LabelValues = Annotated[list[LabelValue], Field(max_length=32, json_schema_extra=ATOMIC_LIST)]
Weight = Annotated[int, Field(ge=1, le=100, description="Weight of this preference, 1 to 100; higher counts more.")]
TopologyKey = Annotated[
    LabelKey,
    Field(description="Node label that defines the topology, for example `topology.kubernetes.io/zone`."),
]

LABEL_KEYS = rules(
    rule(
        f"self.all(key, size(key) <= 317 && key.matches('{LABEL_KEY}'))",
        "keys must be label names such as kubernetes.io/arch",
    )
)
SET_OPERATOR_RULES = rules(
    rule(
        "self.operator in ['In', 'NotIn'] ? (has(self.values) && size(self.values) > 0) : true",
        "`values` must not be empty when `operator` is In or NotIn",
    ),
    rule(
        "self.operator in ['Exists', 'DoesNotExist'] ? (!has(self.values) || size(self.values) == 0) : true",
        "`values` must be empty when `operator` is Exists or DoesNotExist",
    ),
)


class Toleration(ApiModel, json_schema_extra=rules(
    rule(
        "has(self.operator) && self.operator == 'Exists' ? !has(self.value) || self.value == '' : true",
        "`value` must be empty when `operator` is Exists",
    ),
    rule(
        "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
        "`operator` must be Exists when `key` is empty",
    ),
    rule(
        "has(self.tolerationSeconds) ? has(self.effect) && self.effect == 'NoExecute' : true",
        "`effect` must be NoExecute when `tolerationSeconds` is set",
    ),
)):  # fmt: skip
    """Lets the pods run on nodes that carry a matching taint."""

    key: LabelKey | None = Field(None, description="Taint key to tolerate; empty with Exists means every taint.")
    operator: Literal["Exists", "Equal"] | None = Field(
        None,
        description="Exists matches any value of the key; Equal (the meaning when unset) compares `value`.",
    )
    value: LabelValue | None = Field(None, description="Taint value to tolerate; only with operator Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Taint effect to tolerate; unset means every effect."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None,
        description="Seconds a running pod stays after a NoExecute taint appears; unset means for ever.",
        json_schema_extra={"format": "int64"},
    )


class NodeSelectorRequirement(ApiModel, json_schema_extra={
    "x-kubernetes-validations": [
        *SET_OPERATOR_RULES["x-kubernetes-validations"],
        rule(
            "self.operator in ['Gt', 'Lt'] ? (has(self.values) && size(self.values) == 1"
            " && self.values[0].matches('^-?[0-9]+$')) : true",
            "`values` must hold exactly one integer when `operator` is Gt or Lt",
        ),
    ]
}):  # fmt: skip
    """One condition on a node's labels."""

    key: LabelKey = Field(description="Node label the condition is about.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(
        description="How the label is compared with `values`."
    )
    values: LabelValues | None = Field(
        None,
        description="Values to compare with: at least one for In and NotIn, one integer for Gt and Lt, else none.",
    )


class NodeSelectorTerm(ApiModel):
    """A set of node conditions that must all hold."""

    match_expressions: list[NodeSelectorRequirement] | None = Field(
        None,
        max_length=16,
        description="Conditions on node labels; all must hold.",
        json_schema_extra=ATOMIC_LIST,
    )


class NodeSelector(ApiModel):
    """Alternatives of node conditions, of which at least one must hold."""

    node_selector_terms: list[NodeSelectorTerm] = Field(
        min_length=1,
        max_length=8,
        description="Alternatives; a node that meets any one of them is allowed.",
        json_schema_extra=ATOMIC_LIST,
    )


class PreferredSchedulingTerm(ApiModel):
    """A weighted preference for nodes."""

    weight: Weight
    preference: NodeSelectorTerm = Field(description="Conditions a preferred node meets.")


class NodeAffinity(ApiModel):
    """Which nodes the pods must or should run on."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(
        None, description="Nodes the pods must run on; otherwise they stay Pending."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredSchedulingTerm] | None = Field(
        None,
        max_length=8,
        description="Nodes the scheduler prefers when there is a choice.",
        json_schema_extra=ATOMIC_LIST,
    )


class LabelSelectorRequirement(ApiModel, json_schema_extra=SET_OPERATOR_RULES):
    """One condition on a pod's labels."""

    key: LabelKey = Field(description="Pod label the condition is about.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label is compared with `values`."
    )
    values: LabelValues | None = Field(
        None, description="Values to compare with: at least one for In and NotIn, else none."
    )


class LabelSelector(ApiModel):
    """Chooses pods by their labels; all given conditions must hold."""

    match_labels: dict[str, LabelValue] | None = Field(
        None,
        max_length=16,
        description="Labels a pod must carry with exactly these values.",
        json_schema_extra=LABEL_KEYS,
    )
    match_expressions: list[LabelSelectorRequirement] | None = Field(
        None,
        max_length=16,
        description="Further conditions on pod labels; all must hold.",
        json_schema_extra=ATOMIC_LIST,
    )


class PodAffinityTerm(ApiModel):
    """Pods of the same namespace that pull towards, or push away from, a topology."""

    label_selector: LabelSelector = Field(description="Pods (of this namespace) the term is about.")
    topology_key: TopologyKey


class WeightedPodAffinityTerm(ApiModel):
    """A weighted preference for or against a topology, by the pods already there."""

    weight: Weight
    pod_affinity_term: PodAffinityTerm = Field(description="The pods and the topology the preference is about.")


class PodAffinity(ApiModel):
    """Topologies to share with other pods."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] | None = Field(
        None,
        max_length=8,
        description="Terms that must hold; otherwise the pods stay Pending.",
        json_schema_extra=ATOMIC_LIST,
    )
    preferred_during_scheduling_ignored_during_execution: list[WeightedPodAffinityTerm] | None = Field(
        None,
        max_length=8,
        description="Terms the scheduler prefers when there is a choice.",
        json_schema_extra=ATOMIC_LIST,
    )


class PodAntiAffinity(PodAffinity):
    """Topologies to keep apart from other pods."""


class Affinity(ApiModel):
    """Rules for which nodes and neighbours the pods should have."""

    node_affinity: NodeAffinity | None = Field(None, description="Which nodes the pods must or should run on.")
    pod_affinity: PodAffinity | None = Field(None, description="Pods to run near to, for example in the same zone.")
    pod_anti_affinity: PodAntiAffinity | None = Field(
        None, description="Pods to keep away from, for example one replica per node."
    )
