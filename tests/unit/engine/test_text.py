"""How a model's authors would draw, by its generation_config.json."""

from pathlib import Path
from typing import Any

import pytest

from inference_server.engine.qwen.sampling import Draw
from inference_server.engine.qwen.text import Text
from inference_server.termination import StartupError
from tests.unit.engine.checkpoints import with_generation

OWN = {"temperature": 0.5, "top_p": 0.8, "top_k": 7}


@pytest.mark.parametrize(
    ("generation", "do_sample", "advised"),
    [
        pytest.param({**OWN, "do_sample": True}, None, Draw(0.5, 0.8, 7), id="the model draws"),
        pytest.param(OWN, None, Draw(0.5, 0.8, 7), id="the model does not say"),
        pytest.param({}, None, Draw(0.6, 0.95, 20), id="the model says nothing"),
        pytest.param({**OWN, "do_sample": False}, None, Draw(0.0, 1.0, 0), id="the model does not draw"),
        pytest.param({**OWN, "do_sample": False}, True, Draw(0.5, 0.8, 7), id="but the settings do"),
        pytest.param({**OWN, "do_sample": True}, False, Draw(0.0, 0.8, 7), id="the settings do not draw"),
        pytest.param({"temperature": 0, "do_sample": False}, True, Draw(0.6, 0.95, 20), id="a temperature is needed"),
        pytest.param(
            {"temperature": None, "top_k": None, "top_p": 1}, None, Draw(0.6, 1.0, 20), id="nulls say nothing"
        ),
    ],
)
def test_the_model_says_how_to_draw_unless_the_settings_say_whether(
    thinking_model: Path, tmp_path: Path, generation: dict[str, Any], do_sample: bool | None, advised: Draw
) -> None:
    assert Text(with_generation(thinking_model, tmp_path, generation), do_sample=do_sample).advised == advised


def test_a_model_that_says_nonsense_is_corrupt(thinking_model: Path, tmp_path: Path) -> None:
    folder = with_generation(thinking_model, tmp_path, {"temperature": "hot"})
    with pytest.raises(StartupError, match=r"generation_config\.json"):
        Text(folder)


@pytest.mark.parametrize(
    ("generation", "unheeded"),
    [
        pytest.param({**OWN, "do_sample": True, "eos_token_id": [1, 2]}, (), id="all of it is done"),
        pytest.param(
            {"repetition_penalty": 1.05, "min_p": 0.1}, ("min_p=0.1", "repetition_penalty=1.05"), id="numbers"
        ),
        pytest.param(
            {"presence_penalty": 2, "bad_words_ids": [[7]]}, ("bad_words_ids", "presence_penalty=2"), id="ids"
        ),
        pytest.param({"repetition_penalty": 1.0, "min_p": None, "num_beams": 1, "typical_p": 1}, (), id="no wish"),
    ],
)
def test_advice_that_nobody_follows_is_known(
    thinking_model: Path, tmp_path: Path, generation: dict[str, Any], unheeded: tuple[str, ...]
) -> None:
    assert Text(with_generation(thinking_model, tmp_path, generation)).unheeded_advice == unheeded
