import numpy as np
import pytest

from gptworks.reports import curves
from gptworks.reports.logs import read


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
def test_published_scores_are_drawn_only_for_the_same_definition(name, lines):
    assert curves.references(name) == lines


def test_scores_on_different_data_are_separate_curves(logged):
    def rows(step, **more):
        return {"task": "hellaswag", "metric": "acc", "value": 0.3, "step": step} | more

    few = {"n": 60, "data": "sets/few.jsonl", "data_fingerprint": "f"}
    many = {"n": 1000, "data": "sets/many.jsonl", "data_fingerprint": "m"}
    results = [rows(10, **few), rows(40, **many)]
    assert not any("hellaswag acc on" in p.title for p in curves.scores(read([logged(results=results)])))
    results += [
        rows(40, **few),
        rows(20, **many),
        rows(40, **few, split="test"),
        rows(20, **few, split="test"),
    ]
    pictures = [p for p in curves.scores(read([logged("two", results=results)])) if "acc on" in p.title]
    assert [p.title for p in pictures] == [
        "hellaswag acc on few.jsonl, n = 60",
        "hellaswag acc on many.jsonl, n = 1,000",
        "hellaswag acc on few.jsonl, n = 60; definition 2",
    ]
    assert [p.figure.axes[0].lines[0].get_xdata().tolist() for p in pictures] == [
        [1280, 5120],
        [2560, 5120],
        [2560, 5120],
    ]
    assert len({p.name for p in pictures}) == 3


def test_scores_of_a_runs_checkpoints_become_a_curve(logged):
    rows = [{"task": "piqa", "metric": "acc", "value": v, "step": s} for s, v in ((40, 0.6), (10, 0.5))]
    pictures = curves.scores(read([logged(results=rows)]))
    line = next(p for p in pictures if p.title == "piqa acc").figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [1280, 5120]
    assert line.get_ydata().tolist() == [0.5, 0.6]


def test_a_legend_lists_the_runs_that_have_points(logged):
    results = [{"task": "t", "metric": "m", "value": 5e6 + step, "step": step} for step in (20, 40)]
    runs = read([logged("scored", results=results), logged("other"), logged("third")])
    (of_results,) = [one for one in curves.scores(runs) if one.title == "t m"]
    (named,) = of_results.figure.axes[0].get_legend().get_texts()
    assert named.get_text() == "scored"
    (alone,) = [one for one in curves.scores(runs[:1]) if one.title == "t m"]
    assert [words.get_text() for words in alone.figure.axes[0].texts] == ["5M"]
