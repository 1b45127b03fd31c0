import numpy as np

from gptworks.evaluate import results
from gptworks.evaluate.results import Material, Score, Subject


def row(n):
    score = Score("acc", np.ones((n, 2)), "mean", "share of right answers", n)
    return results.row(score, Material("piqa", "dev", "f", "x"), Subject("m", "y", "z"))


def test_one_example_is_told_without_an_error():
    one, two = row(1), row(2)
    assert (one["standard_error"], two["standard_error"]) == (None, 0.0)
    assert results.describe(one) == "piqa: acc 1.0000 (dev, n = 1 example)"
    assert results.describe(two) == "piqa: acc 1.0000 +- 0.0000 (dev, n = 2 examples)"
    assert "1 example " in results.table([one]).splitlines()[1]
    noted = results.table(
        [one | {"notes": ["1 context cut"]}, one | {"metric": "acc", "notes": ["1 context cut"]}]
    )
    assert noted.splitlines()[3:] == [f"{one['task']}: 1 context cut"]
