"""The last words of the server, of a fetch and of a prune in the words of an LLMDeployment. Pure.

The programs know nothing of Kubernetes: their remedies name environment variables and commands, which nobody who holds
an LLMDeployment can set. Their message stays, with fields in the place of settings; their remedy is replaced.
"""

import re

from llm_operator.api.types import Generation
from llm_operator.core import names

RETRY = "then set a new spec.rollback.retryToken"
ADDRESS = (
    "Correct spec.model.endpoint; or see to DNS, egress rules, NetworkPolicies and the proxy "
    f"(LLMOP_FETCH_HTTPS_PROXY of the operator), {RETRY}."
)
ANOTHER_IMAGE = "Set spec.image to an image of the inference server of the operator's version."
CREDENTIALS = f"put a token with read access into the Secret of spec.model.tokenSecretRef, {RETRY}."
ACCESS = (
    "Ask for access on the model's page, with the account of the token in the Secret of spec.model.tokenSecretRef, "
    f"{RETRY}; or correct spec.model.repository."
)
REMEDIES: dict[str, str] = {
    "TokenMissing": f"Check spec.model.repository for mistakes; if it is right, {CREDENTIALS}",
    "TokenInvalid": f"P{CREDENTIALS[1:]}",
    "RepositoryGated": ACCESS,
    "AccessDenied": ACCESS,
    "RepositoryNotFound": f"Correct spec.model.repository; if it is right, {CREDENTIALS}",
    "RevisionNotFound": "Correct spec.model.revision; a commit needs all its 40 digits.",
    "ChecksumMismatch": "Something between the cluster and the Hub changes the data: see to the proxy, or to the "
    f"mirror of spec.model.endpoint, {RETRY}.",
    "TlsFailed": "Correct spec.model.endpoint; if a CA of your own signs for this network, put it into the ConfigMap "
    f"of LLMOP_FETCH_CA_CONFIG_MAP of the operator, {RETRY}.",
    "EndpointInvalid": "Correct spec.model.endpoint; a proxy must let the Hub's answers through unchanged.",
    "CacheNotWritable": f"See to the permissions of the volume of spec.cache (docs/model-cache.md), {RETRY}; or name "
    "another spec.cache.claimName.",
    "NoSpace": f"Raise spec.cache.size, or have old models deleted (spec.cache.prune: Unused), {RETRY}.",
    "NoSpaceYet": "It waits until the other fetches into the volume are done; raise spec.cache.size if it lasts.",
    "OutOfMemory": "Raise spec.model.fetchResources.limits.memory; 512Mi is enough for a model of any size.",
    "OfflineMode": "The image forbids to ask the Hub: set spec.model.source to image if it holds the model, or "
    "spec.image to another one.",
    "HubClientMissing": ANOTHER_IMAGE,
    "ModeNotSupported": "Set spec.image to an image that has the model's libraries, or spec.mode to mock.",
    "RateLimited": f"Wait; or, as the limit is higher with a token, {CREDENTIALS}",
    "NetworkUnreachable": ADDRESS,
    "HostNotFound": ADDRESS,
    "EndpointUnavailable": "Wait, or set spec.model.endpoint to a mirror.",
    "DownloadStalled": f"What came so far is kept. If it happens again, see to the proxy and the network, {RETRY}.",
    "StorageFailed": f"If it lasts, see to the storage system behind the volume, {RETRY}.",
    "FetchInterrupted": "It begins again; what came so far is kept.",
    "FetchFailed": "If it happens again, report it with the log.",
    "InvalidSettings": "Correct the field; what the image sets by itself is mended by another spec.image.",
    "ModelMissing": f"Have it fetched again: {RETRY[5:]}; with spec.model.source image set spec.image to an image that "
    "holds the model.",
    "ModelCorrupt": "Name another spec.cache.claimName, so that it is fetched anew; or remove the model's folder from "
    f"the volume, {RETRY}.",
    "SystemPromptTooLong": "The image sets the system prompt: set spec.image to one with a shorter one, or choose "
    "another spec.model.repository.",
    "EngineFailed": "The log says where in the code.",
    "AddressUnavailable": ANOTHER_IMAGE,
}
A_SETTING = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
# Settings of the server that are given as a field of the LLMDeployment, and the field.
FIELD_OF_SETTING: dict[str, str] = {
    "LLM_MODE": "spec.mode",
    "MODEL_REPOSITORY": "spec.model.repository",
    "MODEL_REVISION": "spec.model.revision",
    **{names.setting(name): f"spec.generation.{one.alias}" for name, one in Generation.model_fields.items()},
}
FIELDS: dict[str, str] = {
    **FIELD_OF_SETTING,
    "MODEL_CACHE_DIR": "the folder of the models",
    "MODEL_PATH": "the model's folder",
    "HF_ENDPOINT": "spec.model.endpoint",
    "HUGGINGFACE_TOKEN": "the token of spec.model.tokenSecretRef",
    "HF_TOKEN": "the token of spec.model.tokenSecretRef",
    "HF_HUB_OFFLINE": "the image",
    "HTTPS_PROXY": "LLMOP_FETCH_HTTPS_PROXY of the operator",
    "HTTP_PROXY": "LLMOP_FETCH_HTTPS_PROXY of the operator",
    "NO_PROXY": "LLMOP_FETCH_NO_PROXY of the operator",
    "SSL_CERT_FILE": "LLMOP_FETCH_CA_CONFIG_MAP of the operator",
}
A_FIELD = re.compile(rf"\b(?:{'|'.join(sorted(FIELDS, key=len, reverse=True))})\b")
# What no field sets, the image does.
BY_THE_IMAGE = "the image's own"


def in_fields(reason: str, message: str, remedy: str) -> str:
    """The message, and what to do, in one text."""
    told = _with_fields(message, is_about_settings=reason == "InvalidSettings")
    return f"{told} {REMEDIES.get(reason) or _with_fields(remedy, is_about_settings=True)}".strip()


def _with_fields(text: str, *, is_about_settings: bool) -> str:
    """Names of settings as fields. Other words in capitals may be anything, but in a text about settings."""
    if is_about_settings:
        text = A_SETTING.sub(lambda found: found[0] if found[0] in FIELDS else f"{BY_THE_IMAGE} {found[0]}", text)
    return A_FIELD.sub(lambda found: FIELDS[found[0]], text)
