from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from inference_server.engine.qwen.writer import Detokenizer, StopTexts, Writer


def decode(tokens: Sequence[int]) -> str:
    """A byte is a token."""
    return bytes(tokens).decode(errors="replace")


# What stands for half a character is taken for one, and shown a little later.
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="�")))
def test_pieces_are_whole_characters_and_together_the_text(text: str) -> None:
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.feed(byte) for byte in text.encode()]
    assert [piece for piece in pieces if piece] == list(text)
    assert detokenizer.flush() == ""


@given(data=st.binary(max_size=40))
def test_bytes_that_are_no_text_hold_nothing_up(data: bytes) -> None:
    detokenizer = Detokenizer(decode)
    shown = "".join(map(detokenizer.feed, data)) + detokenizer.flush()
    assert len(shown) >= data.count(b"a")
    assert detokenizer.flush() == ""


@given(text=st.text("abc", max_size=30), stops=st.lists(st.text("abc", max_size=4), max_size=3), cut=st.integers(1, 5))
def test_a_text_ends_before_the_first_stop_however_it_is_cut(text: str, stops: list[str], cut: int) -> None:
    through = StopTexts(stops)
    shown = ""
    for at in range(0, len(text), cut):
        shown += through.feed(text[at : at + cut])
        if through.hit:
            break
    shown += through.flush()
    # The first moment at which one of them is complete decides.
    ends = [text[:end] for end in range(len(text) + 1) if any(stop and text[:end].endswith(stop) for stop in stops)]
    assert through.hit == bool(ends)
    assert text.startswith(shown)
    if not ends:
        assert shown == text
    else:
        assert all(not stop or stop not in shown for stop in stops)


def test_blank_lines_before_the_first_word_are_left_out() -> None:
    writer = Writer(decode, stop=("END",))
    assert "".join(map(writer.feed, b"\n\n Yes.\n\nNo. EN")) == "Yes.\n\nNo. "
    assert writer.flush() == "EN"


def test_nothing_comes_after_a_stop() -> None:
    writer = Writer(decode, stop=("b",))
    assert "".join(map(writer.feed, b"ab")) == "a"
    assert writer.stopped
    assert writer.flush() == ""


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    writer = Writer(decode)
    assert "".join(map(writer.feed, "é".encode()[:1])) == ""
    assert writer.flush() == "�"
