"""Reads from the cluster all that one decision looks at. Called by reconcile.py; writes nothing."""

import asyncio
from datetime import datetime

from pydantic import ValidationError

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.model import InvalidSpec, Observation, Parent
from llm_operator.core.names import Manifest
from llm_operator.kube import DEPLOYMENTS, LLMDEPLOYMENTS, PODS, SERVICES, Kube


async def observe(kube: Kube, namespace: str, name: str, now: datetime) -> Observation | None:
    """The world around one LLMDeployment, read live; None when it does not exist."""
    live = await kube.get(LLMDEPLOYMENTS, namespace, name)
    if live is None:
        return None
    deployment, service, pods = await asyncio.gather(
        kube.get(DEPLOYMENTS, namespace, name),
        kube.get(SERVICES, namespace, name),
        kube.find(PODS, namespace, label_selector=names.selector_string(name)),
    )
    return Observation(parent=parse_parent(live), deployment=deployment, service=service, pods=tuple(pods), now=now)


def parse_parent(live: Manifest) -> Parent:
    """The LLMDeployment as a value; a spec that cannot be read becomes an `InvalidSpec`, never an exception."""
    metadata = live["metadata"]
    return Parent(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        spec=parse_spec(live.get("spec", {})),
        status=live.get("status", {}),
        deleting="deletionTimestamp" in metadata,
    )


def parse_spec(spec: object) -> LLMDeploymentSpec | InvalidSpec:
    """The spec as a value. The API server's schema refuses nearly all that would fail here."""
    try:
        return LLMDeploymentSpec.model_validate(spec)
    except ValidationError as error:
        return InvalidSpec(
            tuple(
                f"`{'.'.join(['spec', *map(str, one['loc'])])}`: {one['msg']}."
                for one in error.errors(include_input=False, include_url=False)
            )
        )
