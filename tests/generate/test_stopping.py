import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptworks.generate.stopping import SampleText


def say(tokenizer, text: str, stop: tuple[str, ...]) -> tuple[list[str], bool]:
    """The pieces a byte at a time, and whether it stopped."""
    sample = SampleText(tokenizer, stop)
    pieces = [sample.push(id) for id in tokenizer.encode(text)]
    return [*pieces, sample.end()], sample.stopped


@pytest.mark.parametrize(
    ("text", "stop", "said"),
    [
        ("one\n\ntwo", ("\n\n",), "one"),
        ("one\ntwo", ("\n\n",), "one\ntwo"),
        ("ends in half a stop\n", ("\n\n",), "ends in half a stop\n"),
        ("aab", ("ab",), "a"),
        ("first of two: b then a", ("a", "b"), "first of two: "),
        ("überall größer", ("ß",), "überall grö"),
        ("nothing", (), "nothing"),
        ("\n\n", ("\n\n",), ""),
    ],
)
def test_text_ends_before_the_first_stop_string(byte_tokenizer, text: str, stop: tuple[str, ...], said: str):
    pieces, stopped = say(byte_tokenizer, text, stop)
    assert "".join(pieces) == said
    assert stopped == (said != text)


def test_only_what_may_become_a_stop_string_is_held_back(byte_tokenizer):
    pieces, _ = say(byte_tokenizer, "a-b--c", ("--!",))
    assert pieces == ["a", "", "-b", "", "", "--c", ""]


def test_a_character_in_the_making_is_held_back(byte_tokenizer):
    pieces, _ = say(byte_tokenizer, "ä€", ())
    assert pieces == ["", "ä", "", "", "€", ""]
    sample = SampleText(byte_tokenizer, ())
    assert sample.push(byte_tokenizer.encode("ä")[0]) + sample.end() == "�"


@given(text=st.text("ab\n", max_size=12), stop=st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3))
def test_pieces_together_are_the_text_up_to_the_earliest_stop(byte_tokenizer, text: str, stop: list[str]):
    """Earliest to be complete: a stop string counts once its last character is there."""
    ends = [text.find(string) + len(string) for string in stop if string in text]
    pieces, stopped = say(byte_tokenizer, text, tuple(stop))
    assert stopped == bool(ends)
    seen = text[: min(ends)] if ends else text
    begins = [seen.find(string) for string in stop if string in seen]
    assert "".join(pieces) == (seen[: min(begins)] if begins else text)
