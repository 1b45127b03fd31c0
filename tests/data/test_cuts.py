import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptworks.data.cuts import line_end_in_file, seam_in_file, segments
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
    seams = [0, *(seam_in_file(path, after) for after in range(step, len(data), step)), len(data)]
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
    assert seam_in_file(path, 3) == 200_000
    path.write_text("." * 300_000, encoding="utf-8")
    assert seam_in_file(path, 3) == 300_000
