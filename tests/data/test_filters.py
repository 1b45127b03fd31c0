import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptworks.data.filters import first_words, judge
from gptworks.data.records import Document, Fate
from gptworks.recipe import PrepareOptions


@given(st.text(st.sampled_from("ab \n\t\u00a0"), max_size=50), st.integers(1, 8))
def test_first_words_are_the_first_words_and_a_beginning_of_the_text(text: str, n: int):
    cut = first_words(text, n)
    assert text.startswith(cut)
    assert cut.split() == text.split()[:n]


@given(st.text(st.sampled_from("ab \n"), max_size=50), st.integers(1, 8))
def test_min_words_counts_words(text: str, n: int):
    _, fate, _ = judge(Document(text), PrepareOptions(min_words=n))
    assert (fate is Fate.KEPT) == (len(text.split()) >= n and text != "")


@pytest.mark.parametrize(
    ("options", "document", "expected"),
    [
        (PrepareOptions(), Document("a b c"), ("a b c", Fate.KEPT, False)),
        (PrepareOptions(), Document(""), ("", Fate.EMPTY, False)),
        (PrepareOptions(max_words=2), Document("a\n b c"), ("a\n b", Fate.KEPT, True)),
        (PrepareOptions(max_words=3), Document("a b c "), ("a b c ", Fate.KEPT, False)),
        (PrepareOptions(max_words=2, drop_long=True), Document("a b c"), ("", Fate.TOO_LONG, False)),
        (PrepareOptions(keep_sets=("A",)), Document("a", "A"), ("a", Fate.KEPT, False)),
        (PrepareOptions(keep_sets=("A",)), Document("a", "B"), ("", Fate.OTHER_SET, False)),
        (PrepareOptions(keep_sets=("A",)), Document("a"), ("", Fate.OTHER_SET, False)),
        (PrepareOptions(), Document("", fate=Fate.INVALID_JSON), ("", Fate.INVALID_JSON, False)),
    ],
)
def test_filters(options: PrepareOptions, document: Document, expected: tuple):
    assert judge(document, options) == expected
