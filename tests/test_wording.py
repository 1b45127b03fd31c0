from gptworks.wording import counted


def test_one_is_singular_and_thousands_are_marked():
    assert [counted(n, "layer") for n in (0, 1, 2, 12_000)] == [
        "0 layers",
        "1 layer",
        "2 layers",
        "12,000 layers",
    ]
