"""How a model's authors would draw, by its generation_config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.engine.qwen.sampling import Draw
from inference_server.engine.qwen.text import Text

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
    ],
)
def test_the_model_says_how_to_draw_unless_the_settings_say_whether(
    thinking_model: Path, tmp_path: Path, generation: dict[str, Any], do_sample: bool | None, advised: Draw
) -> None:
    for path in thinking_model.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert Text(tmp_path, do_sample=do_sample).advised == advised
