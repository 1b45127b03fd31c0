from gptworks.messages import counted, first_line, shorten


def test_one_is_singular_and_thousands_are_marked():
    assert [counted(n, "layer") for n in (0, 1, 2, 12_000)] == [
        "0 layers",
        "1 layer",
        "2 layers",
        "12,000 layers",
    ]


def test_a_long_text_ends_with_a_word():
    assert shorten("a remote\n worker", 15) == "a remote worker"
    assert shorten("a remote worker", 14) == "a remote ..."
    assert shorten("application", 5) == "appli ..."


def test_an_error_is_told_in_its_first_line_or_by_its_kind():
    assert first_line(RuntimeError("\n no kernel \nis available")) == "no kernel"
    assert first_line(RuntimeError("worker " * 50)) == "worker " * 28 + "..."
    assert first_line(RuntimeError()) == "RuntimeError"
