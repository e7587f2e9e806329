"""GET /v1/models: what can be asked, and how it runs here."""

import time

from fastapi import FastAPI

from inference_server.api.chat_schemas import ModelCard, ModelDetails, ModelList
from inference_server.api.errors import ProblemError
from inference_server.api.schemas import openai_responses
from inference_server.engine.protocol import EngineInfo
from inference_server.lifecycle import Lifecycle


def add_models(app: FastAPI, lifecycle: Lifecycle) -> None:
    started = int(time.time())

    @app.get("/v1/models/", include_in_schema=False)
    @app.get("/v1/models", tags=["openai"], responses=openai_responses(401, 500))
    async def list_models() -> ModelList:
        """The one model of this server."""
        return ModelList(data=[_card(lifecycle.engine.info, started)])

    @app.get("/v1/models/{model:path}", tags=["openai"], responses=openai_responses(401, 404, 500))
    async def get_model(model: str) -> ModelCard:
        """The model of this server, by its name."""
        require_model(model, lifecycle.engine.info)
        return _card(lifecycle.engine.info, started)


def require_model(name: str, info: EngineInfo) -> None:
    """Raise where the server does not have the model. The name may lack its owner. Never repeats what was asked for."""
    if name not in {info.model, info.model.rpartition("/")[2]}:
        detail = f"There is no such model here; this server has {info.model}."
        raise ProblemError(404, "ModelNotFound", detail, param="model")


def _card(info: EngineInfo, started: int) -> ModelCard:
    details = ModelDetails.model_validate(info, from_attributes=True)
    owner = info.model.rpartition("/")[0] or "llm-server"
    return ModelCard(id=info.model, created=started, owned_by=owner, llm_server=details)
