import numpy as np
import pytest

from gptworks.report import curves
from gptworks.report.logs import read


def test_thinning_keeps_the_mean_and_the_order():
    x, y = np.arange(1000.0), np.random.default_rng(0).normal(size=1000)
    few_x, few_y = curves.thin(x, y, 50)
    assert len(few_x) == 50
    assert (np.diff(few_x) > 0).all()
    np.testing.assert_allclose(few_y.mean(), y.mean(), atol=1e-12)
    np.testing.assert_allclose(few_y[3], y[60:80].mean(), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("hellaswag_completion acc_norm", {"GPT-2 124M": 0.2955, "GPT-3 125M": 0.337}),
        ("hellaswag acc_norm", {"GPT-2 124M": 0.3114}),
        ("hellaswag_completion acc", {}),
        ("val_accuracy", {}),
    ],
)
def test_known_models_are_drawn_beside_the_very_score_they_have(name, lines):
    assert curves.references(name) == lines


def test_scores_of_a_runs_checkpoints_become_a_curve(logged):
    rows = [{"task": "piqa", "metric": "acc", "value": v, "step": s} for s, v in ((40, 0.6), (10, 0.5))]
    pictures = curves.scores(read([logged(results=rows)]))
    line = next(p for p in pictures if p.title == "piqa acc").figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [1280, 5120]
    assert line.get_ydata().tolist() == [0.5, 0.6]
