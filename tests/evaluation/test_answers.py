import builtins

import pytest

from gptworks.evaluation import answers


def row(output, said, reason="eos"):
    return {"output": output, "model_response": said, "finish_reason": reason}


def test_scores_are_those_of_the_libraries_people_quote():
    """ROUGE-L by hand from Lin's definition: longest common subsequence, F1 of its shares of both texts."""
    found = answers.scores(
        [
            row("the cat sat on the mat", "the cat lay on a mat"),  # the cat on mat: 4 of 6 and of 6
            row("yes", "yes "),
            row("one two three four", "four three", "length"),  # one word: 1 of 4, 1 of 2
        ]
    )
    assert found["rouge_l"] == pytest.approx((4 / 6 + 1 + 2 * 0.25 * 0.5 / 0.75) / 3)
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["ended_by_themselves"] == pytest.approx(2 / 3)
    assert "tok:13a" in found["definitions"]["bleu"]
    same = answers.scores([row("a sentence of five words .", "a sentence of five words .")])
    assert same["bleu"] == pytest.approx(100)
    assert same["rouge_l_standard_error"] is None


def test_without_the_libraries_the_rest_is_measured(monkeypatch):
    real = builtins.__import__

    def without(name, *more, **named):
        if name.startswith("rouge_score"):
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    found = answers.scores([row("a", "a")])
    assert found["exact_match"] == 1
    assert "gptworks[eval]" in answers.line(found)
