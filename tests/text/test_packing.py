from hypothesis import given
from hypothesis import strategies as st

from gptworks.text.packing import first_fit


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 100))
def test_rows_hold_every_text_once_and_are_at_most_a_quarter_too_many(lengths: list[int], width: int):
    places, (R, T) = first_fit(lengths, width)
    taken = [{(row, start + i) for i in range(n)} for (row, start), n in zip(places, lengths, strict=True)]
    assert len(set().union(*taken)) == sum(lengths)  # no two overlap
    assert T <= width
    assert all(row < R and start + n <= T for (row, start), n in zip(places, lengths, strict=True))
    assert R <= 11 / 9 * -(-sum(lengths) // width) + 11  # far from one row per text


def test_the_longest_goes_first_into_the_first_row_with_room():
    assert first_fit([3, 5, 2, 6], 8) == ([(1, 5), (1, 0), (0, 6), (0, 0)], (2, 8))
