"""The LLMDeployment API: the one source of the CRD, its defaults, bounds and manual.

`python -m llm_operator.api.crd` turns these types into crds/llmdeployments.yaml. Descriptions are what
`kubectl explain llmdeployment.spec` prints; messages of rules are what a refused `kubectl apply` prints.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from llm_operator.api.scheduling import DNS_SUBDOMAIN, LABEL_KEYS, Affinity, LabelValue, Toleration
from llm_operator.api.schema import ATOMIC_LIST, ApiModel, list_map, rule, rules

GROUP = "llm.carepath.ai"
VERSION = "v1alpha1"
KIND = "LLMDeployment"
PLURAL = "llmdeployments"
API_VERSION = f"{GROUP}/{VERSION}"

Mode = Literal["mock", "qwen", "Qwen3-4B-Thinking-2507"]
CLAIM_NAME = "model-cache"
# As the server bounds its requests and settings. Decimals have four digits after the point.
MAX_TOKENS = 32_768
TEMPERATURE_PATTERN = "^([01]([.][0-9]{1,4})?|2([.]0{1,4})?)$"
TOP_P_PATTERN = "^(0[.]([1-9][0-9]{0,3}|0[1-9][0-9]{0,2}|00[1-9][0-9]?|000[1-9])|1([.]0{1,4})?)$"
# As the server's fetch takes them.
_HUB_NAME = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_])?"
REPOSITORY_PATTERN = f"^{_HUB_NAME}/{_HUB_NAME}$"
MODEL_REVISION_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._+/-]*$"
ENDPOINT_PATTERN = "^https?://[^ \\t/?#]+(/[^ \\t?#]*)?$"
LONG_MODE = "Qwen3-4B-Thinking-2507"
LONG_MODES_REPOSITORY = "Qwen/Qwen3-4B-Thinking-2507"

# The children are named after the object and get suffixes, and a Service name is a DNS label.
NAME_RULE = rule(
    "size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "`metadata.name` must be at most 40 characters of lower case letters, digits and '-', "
    "start with a letter and end with a letter or digit",
)
IMAGE_PATTERN = (
    "^([a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?([.][a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*(:[0-9]+)?/)?"
    "[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)*"
    "(:[a-zA-Z0-9_][-a-zA-Z0-9_.]{0,127})?(@sha256:[a-f0-9]{64})?$"
)
IMAGE = f"self.matches('{IMAGE_PATTERN}')"
# Narrower than Kubernetes allows: what it would round or write in another unit is refused instead.
QUANTITY_PATTERN = r"^[0-9]{1,15}([.][0-9]{1,3})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
RESOURCE_NAME = f"^(cpu|memory|ephemeral-storage|{DNS_SUBDOMAIN}/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?)$"

QUANTITY = f"string(self).matches('{QUANTITY_PATTERN}')"
# Each mistake has one rule, so that it is told once: the others look only at what is no such mistake.
Quantity = Annotated[
    str | int,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            **rules(
                rule(
                    QUANTITY,
                    "a quantity must not be negative, and is a number with at most 3 digits after the point and one of "
                    "m k M G T P Ki Mi Gi Ti Pi behind it, or nothing, such as 500m, 2 or 16Gi",
                    found="string(self)",
                ),
                rule(
                    # Beyond 64 bits the API server writes another number into the Deployment.
                    f"!{QUANTITY} || quantity(string(self)).compareTo(quantity('1Ei')) < 0",
                    "a quantity must be less than 1Ei",
                    found="string(self)",
                ),
            ),
        },
    ),
]
Quantities = Annotated[
    dict[str, Quantity],
    Field(
        max_length=8,
        json_schema_extra=rules(
            rule(
                f"self.all(name, size(name) <= 317 && name.matches('{RESOURCE_NAME}'))",
                "resource names must be cpu, memory, ephemeral-storage or an extended resource with a domain "
                "such as nvidia.com/gpu",
            ),
            rule(
                "self.all(name, !name.contains('/') || !isQuantity(string(self[name])) || "
                "quantity(string(self[name])).isInteger())",
                "an extended resource such as nvidia.com/gpu must be a whole number",
            ),
        ),
    ),
]
Decimal = Annotated[str, Field(max_length=16)]
# In requests, an extended resource needs its twin in limits.
TWIN_RULE = rule(
    "!has(self.requests) || self.requests.all(name, !name.contains('/') || !isQuantity(string(self.requests[name])) || "
    "(has(self.limits) && name in self.limits && (!isQuantity(string(self.limits[name])) || "
    "quantity(string(self.limits[name])).compareTo(quantity(string(self.requests[name]))) == 0)))",
    "an extended resource such as nvidia.com/gpu must stand in `limits`; in `requests` only with the same value",
)


class LocalObjectReference(ApiModel):
    """Names an object in the same namespace."""

    name: str = Field(
        min_length=1,
        max_length=253,
        pattern=f"^{DNS_SUBDOMAIN}$",
        description="Name of the object, in the namespace of the LLMDeployment.",
    )


class ResourceRequirements(ApiModel, json_schema_extra=rules(
    rule(
        "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
        "!isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) || "
        "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
        "every entry of `requests` must be less than or equal to the entry of the same name in `limits`",
    ),
    TWIN_RULE,
)):  # fmt: skip
    """Compute resources of each server pod."""

    requests: Quantities | None = Field(
        None,
        description="Resources reserved for each pod, for example `cpu: 500m` and `memory: 1Gi`; a node "
        "must have this much free for the pod to start.",
    )
    limits: Quantities | None = Field(
        None,
        description="Most that each pod may use. A server that goes over its `memory` limit is killed "
        "(OOMKilled); `cpu` is throttled.",
    )


class SecretKeyReference(ApiModel):
    """Names a key of a Secret in the same namespace."""

    name: str = Field(
        "huggingface-token",
        min_length=1,
        max_length=253,
        pattern=f"^{DNS_SUBDOMAIN}$",
        description="Name of the Secret, in the namespace of the LLMDeployment. One that does not exist is no token.",
    )
    key: str = Field(
        "token",
        min_length=1,
        max_length=253,
        pattern="^[._a-zA-Z0-9][-._a-zA-Z0-9]*$",
        description="Key of the Secret whose value is the token.",
    )


class Model(ApiModel):
    """Which model answers, and where it comes from."""

    repository: str = Field(
        LONG_MODES_REPOSITORY,
        max_length=96,
        description="Repository on the Hugging Face Hub, as owner/name.",
        json_schema_extra=rules(
            rule(
                f"self.matches('{REPOSITORY_PATTERN}') && !self.contains('--') && !self.contains('..')",
                "`repository` must be owner/name as the Hub's page of the model shows it, such as "
                "Qwen/Qwen3-4B-Thinking-2507, without the Hub's address",
                found="self",
            )
        ),
    )
    revision: str = Field(
        "main",
        max_length=200,
        json_schema_extra=rules(
            rule(
                f"self.matches('{MODEL_REVISION_PATTERN}') && !self.contains('..')",
                "`revision` must be a branch, a tag or a commit of the repository, such as main or v1.0",
                found="self",
            )
        ),
        description="Branch, tag or commit. What a branch means is asked once for a revision of this object, and "
        "stays: name a tag or a commit to say which files are meant.",
    )
    source: Literal["hub", "image"] = Field(
        "hub",
        description="`hub` fetches the model before servers start: into the claim of `spec.cache`, or without one into "
        "each pod by itself. `image` expects it in the server image, and fetches nothing.",
    )
    token_secret_ref: SecretKeyReference = Field(
        SecretKeyReference(),
        description="Secret with the token for private and gated repositories. Only the fetch is given it. With a "
        "cache another one restarts nothing; it has a model tried again that could not be fetched.",
        json_schema_extra={"default": SecretKeyReference().model_dump(by_alias=True)},
    )
    endpoint: Annotated[str, Field(max_length=512)] | None = Field(
        None,
        description="Address of a mirror of the Hub, such as https://hub.example.com; unset means the Hub itself. With "
        "a cache a model that is there stays as it is: to mean others name them by `repository` and `revision`.",
        json_schema_extra=rules(
            rule(
                f"self.matches('{ENDPOINT_PATTERN}')",
                "`endpoint` must be an address that begins with https:// or http://, such as https://hub.example.com",
            )
        ),
    )
    fetch_resources: ResourceRequirements | None = Field(
        None,
        description="Compute resources of the container that fetches the model (and of the one that prunes a cache). "
        "Unset means requests of 100m CPU and 128Mi memory, and limits of 2 CPU and 1Gi.",
    )
    memory_check: Literal["Enforce", "Skip"] = Field(
        "Enforce",
        description="Whether a memory limit that cannot hold the model is refused before any pod starts. `Skip` lets "
        "it be tried, for servers that need less than the operator reckons with.",
    )


class Generation(ApiModel, json_schema_extra=rules(
    rule(
        "!has(self.doSample) || !has(self.temperature) || "
        "self.doSample != self.temperature.matches('^0([.]0+)?$')",
        "`doSample` and `temperature` must not say the opposite: temperature \"0\" takes always the likeliest token, "
        "as `doSample: false` does. Leave one of them out",
    ),
)):  # fmt: skip
    """How answers are generated where a request does not say."""

    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=MAX_TOKENS,
        description="Most tokens of an answer, its reasoning included, 1 to 32768, such as 512. Unset means the "
        "server's default. A mock counts words.",
        json_schema_extra={"format": "int32"},
    )
    thinking_budget: int | None = Field(
        None,
        ge=0,
        le=MAX_TOKENS,
        description="Tokens after which the reasoning is brought to its end, 0 to 32768. Unset means as many as leave "
        "room for the answer. However large it is, room for the answer is kept within `maxNewTokens`.",
        json_schema_extra={"format": "int32"},
    )
    temperature: Decimal | None = Field(
        None,
        description='How varied answers are: a decimal in quotes, "0" to "2", such as "0.7"; "0" takes always the '
        "likeliest token. Unset means what the model's generation_config.json says.",
        json_schema_extra=rules(
            rule(
                f"self.matches('{TEMPERATURE_PATTERN}')",
                '`temperature` must be a decimal in quotes from "0" to "2", such as "0.7", with at most 4 digits '
                "after the point",
                found="self",
            )
        ),
    )
    top_p: Decimal | None = Field(
        None,
        description='Draw from the likeliest tokens that have this share together: a decimal in quotes, above "0" to '
        '"1", such as "0.9". Unset means what the model\'s generation_config.json says.',
        json_schema_extra=rules(
            rule(
                f"self.matches('{TOP_P_PATTERN}')",
                '`topP` must be a decimal in quotes above "0", to "1", such as "0.9", with at most 4 digits after the '
                "point",
                found="self",
            )
        ),
    )
    top_k: int | None = Field(
        None,
        ge=0,
        le=MAX_TOKENS,
        description="Draw from this many of the likeliest tokens, 0 to 32768; 0 means from all. Unset means what the "
        "model's generation_config.json says.",
        json_schema_extra={"format": "int32"},
    )
    do_sample: bool | None = Field(
        None,
        description="`false` takes always the likeliest token unless a request names a temperature; `true` draws, also "
        "where the model's generation_config.json says otherwise. Unset means what that says.",
    )


class Cache(ApiModel, json_schema_extra=rules(
    rule(
        "self.claimName != oldSelf.claimName || !isQuantity(string(self.size)) || "
        "quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",
        "`size` may only grow: a volume cannot be made smaller. For a smaller one set another `claimName`",
        field_path=".size",
    ),
    rule(
        "self.claimName != oldSelf.claimName || (has(self.storageClassName) == has(oldSelf.storageClassName) && "
        "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName))",
        "`storageClassName` of a claim cannot change. For another class set another `claimName`",
    ),
    rule(
        "self.claimName != oldSelf.claimName || self.accessModes == oldSelf.accessModes",
        "`accessModes` of a claim cannot change. For others set another `claimName`",
        field_path=".accessModes",
    ),
    rule(
        "!isQuantity(string(self.size)) || (quantity(string(self.size)).compareTo(quantity('1Mi')) >= 0 && "
        "quantity(string(self.size)).compareTo(quantity('1Pi')) <= 0)",
        "`size` must be 1Mi to 1Pi",
        field_path=".size",
    ),
)):  # fmt: skip
    """The volume that keeps models, shared by all pods, and by every LLMDeployment that names the same claim."""

    claim_name: str = Field(
        CLAIM_NAME,
        min_length=1,
        max_length=253,
        pattern=f"^{DNS_SUBDOMAIN}$",
        description="PersistentVolumeClaim of the namespace. One that exists is used as it is; else it is created.",
    )
    size: Quantity = Field(
        "20Gi",
        description="Size of a claim that the operator creates, 1Mi to 1Pi. May grow later if the storage class allows "
        "expansion. The files of Qwen3-4B are 8 GB.",
    )
    storage_class_name: Annotated[str, Field(max_length=253, pattern=f"^({DNS_SUBDOMAIN})?$")] | None = Field(
        None,
        description="StorageClass of a claim that the operator creates; unset means the cluster's default. An empty "
        "one asks for a volume that somebody has made by hand.",
    )
    access_modes: list[Literal["ReadWriteMany", "ReadWriteOnce"]] = Field(
        ["ReadWriteMany"],
        min_length=1,
        max_length=2,
        description="Access modes of a claim that the operator creates. `ReadWriteOnce` binds all pods to one node.",
        json_schema_extra=ATOMIC_LIST,
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        "Retain",
        description="What becomes of a claim that the operator created when the LLMDeployment is deleted: `Retain` "
        "keeps it. `Delete` deletes it, once no other LLMDeployment needs it.",
    )
    prune: Literal["Never", "Unused"] = Field(
        "Never",
        description="What becomes of models in a claim that the operator created: `Never` keeps them for ever. "
        "`Unused` has a Job delete those that no recorded revision of any LLMDeployment in the namespace needs and "
        "that were not fetched within a day. Every LLMDeployment that names the claim must say so.",
    )


class Rollout(ApiModel, json_schema_extra=rules(
    rule(
        "self.progressDeadlineSeconds < 1 || self.soakSeconds < self.progressDeadlineSeconds",
        "`soakSeconds` must be less than `progressDeadlineSeconds`, or no revision could ever be proved good",
    ),
)):  # fmt: skip
    """How a change is brought to the pods, and how long it has to prove itself."""

    progress_deadline_seconds: int = Field(
        900,
        ge=1,
        le=86_400,
        description="Seconds a new revision has to become available, 1 to 86400; after that it is rejected. Readiness "
        "that comes and goes does not extend it; each further replica that becomes available for the first time does.",
        json_schema_extra={"format": "int32"},
    )
    soak_seconds: int = Field(
        10,
        ge=0,
        le=3600,
        description="Seconds each new pod must answer without a break before it counts as available, 0 to 3600. A "
        "revision whose replicas all did is good: later changes that fail are rolled back to it.",
        json_schema_extra={"format": "int32"},
    )
    strategy: Literal["RollingUpdate", "Recreate"] = Field(
        "RollingUpdate",
        description="`RollingUpdate` starts a new pod beside the old ones and takes none away before it is available; "
        "it needs room for one more pod. `Recreate` ends the old pods first: nothing answers until the new ones do, "
        "and if they fail, until the good revision is back.",
    )


class Rollback(ApiModel):
    """What happens when a revision is rejected."""

    enabled: bool = Field(
        True,
        description="Whether the last good revision is brought back. If false, a rejected revision stays applied, and "
        "the old pods serve on beside it.",
    )
    fallback: Literal["None", "Mock"] = Field(
        "None",
        description="What to run when a revision is rejected and none was ever good. `Mock` runs mode mock with the "
        "operator's own image: it answers every request with fixed text that is no advice.",
    )
    max_per_hour: int = Field(
        3,
        ge=1,
        le=60,
        description="Rollbacks allowed within an hour, 1 to 60. When they are used up and the good revision serves, "
        "further changes wait until the hour is over.",
        json_schema_extra={"format": "int32"},
    )
    retry_token: (
        Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.:]*[A-Za-z0-9])?$")]
        | None
    ) = Field(
        None,
        description="Any text of your choice, for example a date. A value that was not there when the revision was "
        "rejected has it tried once more.",
    )


class LLMDeploymentSpec(ApiModel, json_schema_extra={
    **rules(
        rule(
            f"self.mode != '{LONG_MODE}' || !has(self.model) || self.model.repository == '{LONG_MODES_REPOSITORY}'",
            f"`mode` {LONG_MODE} means the model {LONG_MODES_REPOSITORY}. For another `model.repository` set `mode` to "
            "qwen",
            field_path=".mode",
        ),
        rule(
            "self.mode == 'mock' || !has(self.cache) || 'ReadWriteMany' in self.cache.accessModes || "
            "(self.replicas <= 1 && self.rollout.strategy == 'Recreate')",
            "`cache.accessModes` [ReadWriteOnce] serves one pod at a time: set `replicas` to 1 and `rollout.strategy` "
            "to Recreate, or use [ReadWriteMany] with a storage class that supports it, such as EFS or NFS",
            field_path=".cache",
        ),
    ),
}):  # fmt: skip
    """What the user wants to run. Only `mode` is required."""

    mode: Mode = Field(
        description="What answers requests: `mock` returns fixed text without any model; `qwen` (also written "
        "`Qwen3-4B-Thinking-2507`) runs the language model. The server image must support the mode; one that "
        "does not says so, and the old pods keep serving.",
    )
    replicas: int = Field(
        1,
        ge=0,
        le=100,
        description="Number of server pods, 0 to 100. `kubectl scale` and a HorizontalPodAutoscaler set this field.",
        json_schema_extra={"format": "int32"},
    )
    image: Annotated[str, Field(max_length=512)] | None = Field(
        None,
        description="Image of the inference server. Unset means the image that the operator was installed with.",
        json_schema_extra=rules(
            rule(
                "!self.contains('://')",
                "`image` is a reference without https://, such as registry.example.com/team/server:1.2",
                found="self",
            ),
            rule(
                f"self.contains('://') || {IMAGE} || !{IMAGE.replace('self', 'self.lowerAscii()')}",
                "`image` must be in lower case; only its tag may have capitals",
                found="self",
            ),
            rule(
                f"self.contains('://') || {IMAGE} || {IMAGE.replace('self', 'self.lowerAscii()')}",
                "`image` must be a container image reference such as registry.example.com/team/server:1.2 "
                "or registry.example.com/team/server@sha256:<64 hex digits>",
                found="self",
            ),
        ),
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When the node pulls the image."
    )
    image_pull_secrets: list[LocalObjectReference] | None = Field(
        None,
        max_length=8,
        description="Secrets of this namespace that hold credentials for private registries.",
        json_schema_extra=list_map("name"),
    )
    resources: ResourceRequirements | None = Field(
        None, description="Compute resources of each pod; unset means no requests and no limits."
    )
    node_selector: dict[str, LabelValue] | None = Field(
        None,
        max_length=16,
        description="Labels a node must carry for pods to run on it.",
        json_schema_extra=LABEL_KEYS,
    )
    tolerations: list[Toleration] | None = Field(
        None,
        max_length=16,
        description="Taints the pods tolerate, for example those of GPU nodes.",
        json_schema_extra=ATOMIC_LIST,
    )
    affinity: Affinity | None = Field(None, description="Rules for which nodes and neighbours the pods should have.")
    priority_class_name: Annotated[str, Field(min_length=1, max_length=253, pattern=f"^{DNS_SUBDOMAIN}$")] | None = (
        Field(None, description="PriorityClass of the pods; it must exist, or no pod can be created.")
    )
    model: Model | None = Field(
        None, description="Which model answers, and where it comes from; unset means all defaults. Unused in mode mock."
    )
    generation: Generation | None = Field(
        None,
        description="How answers are generated where a request does not say; what a request says wins. What is unset "
        "here is the server's or the model's own. Of these a mock heeds `maxNewTokens` alone.",
    )
    cache: Cache | None = Field(
        None,
        description="A volume that keeps the model, so that it is fetched once, before any server starts. Unset means "
        "that each pod fetches it for itself. Unused in mode mock, and where `model.source` is image.",
    )
    rollout: Rollout = Field(
        Rollout(),
        description="How a change is brought to the pods, and how long it has to prove itself.",
        json_schema_extra={"default": Rollout().model_dump(by_alias=True, exclude_none=True)},
    )
    rollback: Rollback = Field(
        Rollback(),
        description="What happens when a revision is rejected.",
        json_schema_extra={"default": Rollback().model_dump(by_alias=True, exclude_none=True)},
    )

    @property
    def canonical_mode(self) -> str:
        """The mode without its other names."""
        return "mock" if self.mode == "mock" else "qwen"

    @property
    def wanted_model(self) -> Model:
        """The model with its defaults."""
        return self.model or Model()

    @property
    def is_fetched(self) -> bool:
        """Whether a model has to be fetched before a server can start."""
        return self.canonical_mode != "mock" and self.wanted_model.source == "hub"

    @property
    def used_cache(self) -> Cache | None:
        """The cache, where one is declared and there is a model to keep in it."""
        return self.cache if self.is_fetched else None


class Condition(ApiModel):
    """One fact about the object, in the form of metav1.Condition."""

    type: str = Field(
        max_length=316,
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        description="Type of the condition: Ready, Available, Reconciling, Stalled, ModelCached, RolledBack or "
        "Degraded.",
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    observed_generation: int | None = Field(
        None,
        ge=0,
        description="The metadata.generation this condition speaks about.",
        json_schema_extra={"format": "int64"},
    )
    last_transition_time: str = Field(
        description="When `status` last changed.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Why, in one CamelCase word.",
    )
    message: str = Field(max_length=32768, description="Why, in words, with what to do about it.")


Revision = Annotated[str, Field(max_length=63)]


class RejectedRevision(ApiModel):
    """A revision that did not prove itself."""

    revision: Revision = Field(description="The revision; its ControllerRevision is called NAME-REVISION.")
    reason: str = Field(max_length=1024, description="Why it was rejected, in one CamelCase word.")
    message: str = Field(max_length=4096, description="Why it was rejected, in words, with what to do about it.")
    attempts: int = Field(ge=1, description="How often it was tried.", json_schema_extra={"format": "int32"})
    rejected_at: str = Field(description="When it was rejected last.", json_schema_extra={"format": "date-time"})


class ModelStatus(ApiModel):
    """The model of a revision."""

    repository: str = Field(max_length=96, description="Repository on the Hub.")
    revision: str = Field(max_length=200, description="Branch, tag or commit, as it was declared.")
    commit: str | None = Field(
        None, max_length=64, description="Commit that it meant when it was fetched; the servers read its files."
    )


class CacheStatus(ApiModel):
    """How far the model of the declared revision is in the claim."""

    phase: Literal["Pending", "Fetching", "Ready", "Failed"] = Field(
        description="`Pending` until a fetch works, `Fetching` while it does, `Ready` once every file was checked, "
        "`Failed` when it was given up; condition ModelCached says why."
    )
    progress: str | None = Field(
        None, max_length=16, description="The percent, such as `31%`, or the phase where there is none: column CACHE."
    )
    bytes_done: int | None = Field(
        None, ge=0, description="Bytes that are in the cache.", json_schema_extra={"format": "int64"}
    )
    bytes_total: int | None = Field(
        None, ge=0, description="Bytes of all files.", json_schema_extra={"format": "int64"}
    )
    percent: int | None = Field(
        None,
        ge=0,
        le=100,
        description="The same in percent; 100 once it is ready.",
        json_schema_extra={"format": "int32"},
    )


class Reverted(ApiModel):
    """An edit of a child by hand that was put back."""

    field: str = Field(max_length=512, description="What was set.")
    object: str = Field(max_length=512, description="Kind and name of the child.")
    manager: str = Field(max_length=128, description="Who set it: kubectl-set, kubectl-rollout, kubectl-edit, ...")
    time: str = Field(description="When it was put back.", json_schema_extra={"format": "date-time"})
    observed_generation: int = Field(
        description="The metadata.generation at that time.", json_schema_extra={"format": "int64"}
    )
    message: str = Field(max_length=2048, description="What happened, and which field of the LLMDeployment to edit.")


class LLMDeploymentStatus(ApiModel):
    """What the operator observed. Written by the operator only."""

    observed_generation: int | None = Field(
        None,
        description="The metadata.generation the status speaks about; -1 until the operator has seen the object.",
        json_schema_extra={"format": "int64"},
    )
    mode: str | None = Field(
        None,
        max_length=64,
        description="Mode of the replicas that answer: during a roll-out and after a rollback not the declared one. "
        "`mock,qwen` while replicas of both do; absent while none does.",
    )
    serving_revision: str | None = Field(
        None,
        max_length=256,
        description="Revision of the replicas that answer; several, separated by commas, that of the most replicas "
        "first, while one takes another's place; absent while none does.",
    )
    model: ModelStatus | None = Field(
        None, description="Model of the active revision; until there is one, of the declared one. Absent for a mock."
    )
    cache: CacheStatus | None = Field(
        None, description="How far the model of the declared revision is in the claim of `spec.cache`."
    )
    desired_revision: Revision | None = Field(
        None,
        description="Revision of the declared spec: a hash of all that shapes the pods, with a number where it was "
        "rendered anew.",
    )
    active_revision: Revision | None = Field(None, description="Revision that the Deployment has been given.")
    last_known_good_revision: Revision | None = Field(
        None, description="Revision that was proved good last; a rollback goes there."
    )
    rejected: list[RejectedRevision] | None = Field(
        None,
        max_length=5,
        description="Revisions that did not prove themselves, the newest first, at most five.",
        json_schema_extra=list_map("revision"),
    )
    replicas: int | None = Field(
        None, ge=0, description="Server pods that exist.", json_schema_extra={"format": "int32"}
    )
    ready_replicas: int | None = Field(
        None,
        ge=0,
        description="Server pods that answer their readiness probe.",
        json_schema_extra={"format": "int32"},
    )
    selector: str | None = Field(
        None, max_length=512, description="Label selector of the server pods, for autoscalers."
    )
    url: str | None = Field(
        None,
        max_length=512,
        description="Address of the Service inside the cluster; POST /triage is below it.",
    )
    reverted: Reverted | None = Field(
        None,
        description="The last edit of a child by hand (`kubectl set env`, `kubectl rollout undo`, ...), which was put "
        "back: edit the LLMDeployment instead. Absent after its next edit, or after an hour.",
    )
    conditions: list[Condition] | None = Field(
        None,
        max_length=16,
        description="Ready sums up; Available tells whether anything serves; the others are present only while true. "
        "Works with `kubectl wait --for=condition=Ready`.",
        json_schema_extra=list_map("type"),
    )


class LLMDeployment(ApiModel, json_schema_extra=rules(NAME_RULE)):
    """Declares a language model server; the operator keeps a healthy Deployment and Service behind it."""

    spec: LLMDeploymentSpec = Field(description="What to run. Only `mode` is required.")
    status: LLMDeploymentStatus = Field(
        # kstatus would take an object without conditions for healthy; -1 says "not seen yet" from the first moment.
        default_factory=lambda: LLMDeploymentStatus(observed_generation=-1),
        description="What the operator observed. Written by the operator only.",
    )


PRINTER_COLUMNS: list[dict[str, Any]] = [
    {"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "description": "Declared mode."},
    {
        "name": "Model",
        "type": "string",
        "jsonPath": ".status.model.repository",
        "description": "Model of the active revision.",
    },
    {
        "name": "Ready",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Ready")].status',
        "description": "Whether every replica runs the declared spec and answers.",
    },
    {
        "name": "Reason",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Ready")].reason',
        "description": "Why Ready has its value.",
    },
    {
        "name": "Replicas",
        "type": "integer",
        "jsonPath": ".status.readyReplicas",
        "description": "Replicas that answer.",
    },
    {
        "name": "Cache",
        "type": "string",
        "jsonPath": ".status.cache.progress",
        "description": "How much of the declared model is in the cache, or its phase.",
    },
    {
        "name": "URL",
        "type": "string",
        "jsonPath": ".status.url",
        "description": "Address inside the cluster.",
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {
        "name": "Desired",
        "type": "integer",
        "jsonPath": ".spec.replicas",
        "priority": 1,
        "description": "Replicas declared.",
    },
    {
        "name": "Image",
        "type": "string",
        "jsonPath": ".spec.image",
        "priority": 1,
        "description": "Declared image.",
    },
    {
        "name": "Revision",
        "type": "string",
        "jsonPath": ".status.servingRevision",
        "priority": 1,
        "description": "Revision of the replicas that answer.",
    },
    {
        "name": "Serving",
        "type": "string",
        "jsonPath": ".status.mode",
        "priority": 1,
        "description": "Mode of the replicas that answer.",
    },
    {
        "name": "Message",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Ready")].message',
        "priority": 1,
        "description": "Why Ready has its value, in words.",
    },
]
