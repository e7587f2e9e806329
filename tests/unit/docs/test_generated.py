"""Tables of docs/ that are written from the code are as the code has them now."""

import pytest

from scripts import generate_docs


def test_the_tables_are_those_of_the_code() -> None:
    assert generate_docs.MODEL_CACHE.read_text() == generate_docs.model_cache(), "run `make generate`"
    assert generate_docs.SERVER.read_text() == generate_docs.server(), "run `make generate`"


def test_a_page_that_lost_its_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="no part 'settings'"):
        generate_docs.generated("# A page without it", "settings", "| x |")
