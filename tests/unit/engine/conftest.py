from pathlib import Path

import pytest

from tests.unit.engine.checkpoints import a_model

# A character whose token the broken model computes nothing for.
POISON = "~"


@pytest.fixture(scope="session")
def thinking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_model(tmp_path_factory.mktemp("thinking"))


@pytest.fixture(scope="session")
def poisoned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without thinking; what follows POISON is not a number."""

    return a_model(tmp_path_factory.mktemp("poisoned"), thinks=False, poison=POISON, tie_word_embeddings=False)
