import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptworks.data.documents import (
    Document,
    Outcome,
    apply_filters,
    first_words,
    line_end_in_file,
    segments,
    split_point_in_file,
)
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer

PROSE = st.text(st.sampled_from("ab1 \n\t'sé東.,_\r🙂²"), max_size=80) | st.text(max_size=40)


@pytest.mark.parametrize("which", ["tokenizer", "gpt4_like"])
def test_parts_encoded_apart_give_the_tokens_of_the_whole(which: str, request: pytest.FixtureRequest):
    tokenizer: Tokenizer = request.getfixturevalue(which)

    @settings(max_examples=300, deadline=None)
    @given(PROSE, st.integers(0, 9))
    def check(text: str, size: int):
        text = text.encode(errors="replace").decode()
        parts = list(segments(text, size=size))
        assert "".join(parts) == text
        apart = [id for part in parts for id in tokenizer.encode(part)]
        assert apart == tokenizer.encode(text)

    check()


def test_no_special_token_is_cut():
    special = "<|end of\ntext|>"
    text = f"one two {special} three four"
    parts = list(segments(text, [special], size=1))
    assert sum(special in part for part in parts) == 1
    assert len(parts) == 4
    assert "".join(parts) == text


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("ab \né東🙂."), max_size=300), step=st.integers(1, 50))
def test_a_file_falls_apart_at_its_seams(text: str, step: int, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "text"
    path.write_bytes(data := text.encode())
    seams = [0, *(split_point_in_file(path, after) for after in range(step, len(data), step)), len(data)]
    assert seams == sorted(seams)
    parts = [data[start:stop].decode() for start, stop in itertools.pairwise(seams)]
    assert "".join(parts) == text
    assert all(part[0] in " \n" for part in parts[1:] if part)


def test_a_line_s_end_is_found_far_away(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"x" * 200_000 + b"\nab\n\nc")
    assert [line_end_in_file(path, after) for after in (0, 200_000, 200_001, 200_004, 200_005)] == [
        200_001,
        200_001,
        200_004,
        200_005,
        200_006,
    ]


def test_a_seam_is_found_far_away(tmp_path):
    path = tmp_path / "text"
    path.write_text("é" * 100_000 + " end", encoding="utf-8")
    assert split_point_in_file(path, 3) == 200_000
    path.write_text("." * 300_000, encoding="utf-8")
    assert split_point_in_file(path, 3) == 300_000


@given(st.text(st.sampled_from("ab \n\t\u00a0"), max_size=50), st.integers(1, 8))
def test_first_words_are_the_first_words_and_a_beginning_of_the_text(text: str, n: int):
    cut = first_words(text, n)
    assert text.startswith(cut)
    assert cut.split() == text.split()[:n]


@given(st.text(st.sampled_from("ab \n"), max_size=50), st.integers(1, 8))
def test_min_words_counts_words(text: str, n: int):
    _, outcome, _ = apply_filters(Document(text), PrepareOptions(min_words=n))
    assert (outcome is Outcome.KEPT) == (len(text.split()) >= n and text != "")


@pytest.mark.parametrize(
    ("options", "document", "expected"),
    [
        (PrepareOptions(), Document("a b c"), ("a b c", Outcome.KEPT, False)),
        (PrepareOptions(), Document(""), ("", Outcome.EMPTY, False)),
        (PrepareOptions(max_words=2), Document("a\n b c"), ("a\n b", Outcome.KEPT, True)),
        (PrepareOptions(max_words=3), Document("a b c "), ("a b c ", Outcome.KEPT, False)),
        (PrepareOptions(max_words=2, drop_long=True), Document("a b c"), ("", Outcome.TOO_LONG, False)),
        (PrepareOptions(subsets=("A",)), Document("a", "A"), ("a", Outcome.KEPT, False)),
        (PrepareOptions(subsets=("A",)), Document("a", "B"), ("", Outcome.OTHER_SET, False)),
        (PrepareOptions(subsets=("A",)), Document("a"), ("", Outcome.OTHER_SET, False)),
        (PrepareOptions(), Document("", outcome=Outcome.INVALID_JSON), ("", Outcome.INVALID_JSON, False)),
    ],
)
def test_filters(options: PrepareOptions, document: Document, expected: tuple):
    assert apply_filters(document, options) == expected
