import dataclasses

import numpy as np

from gptworks.evaluation import scores
from gptworks.evaluation.scores import EvalData, ModelInfo, Score


def made(n):
    score = Score("acc", np.ones((n, 2)), "mean", "share of right answers", n)
    return scores.make_result(score, EvalData("piqa", "dev", "f", "x"), ModelInfo("m", "y", "z"))


def test_one_example_has_no_standard_error():
    one, two = made(1), made(2)
    assert (one.standard_error, two.standard_error) == (None, 0.0)
    assert scores.describe(one) == "piqa: acc 1.0000 (dev, n = 1 example)"
    assert scores.describe(two) == "piqa: acc 1.0000 +- 0.0000 (dev, n = 2 examples)"
    assert "1 example " in scores.table([one]).splitlines()[1]


def test_a_note_on_several_metrics_of_a_task_is_printed_once():
    noted = dataclasses.replace(made(1), notes=("1 context cut",))
    table = scores.table([noted, dataclasses.replace(noted, metric="acc_norm")])
    assert table.splitlines()[3:] == ["piqa: 1 context cut"]
