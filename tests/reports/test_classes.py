import json

import numpy as np
import pytest

from gptworks.evaluation import classification
from gptworks.reports import classes, page, plots
from gptworks.runs import Run


def test_a_classifiers_scores_are_shown_as_measured(logged):
    run = logged()
    (run / "recipe.toml").write_text('base = "b"\n[classify]\nbatch_examples = 4\n')
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 3, 200)
    logits = generator.normal(size=(200, 3)) + 2 * np.eye(3)[targets]
    names = ("ham", "spam", "<eggs>")
    scores = classification.scores(logits, targets, names) | {
        "checkpoint": "step-000040",
        "baselines": classification.baselines(targets, targets, 3),
        "mistakes": [m | {"text": "a <text>"} for m in classification.mistakes(logits, targets, names, 2)],
    }
    (run / "results" / "classify-test.json").write_text(json.dumps({"scores": {"last": scores}}))
    drawn = page.draw([run])
    html = page.html(drawn)
    for words in (
        f"{scores['accuracy']:.4f}",
        f"{scores['ece']:.4f}",
        "&lt;eggs&gt;",
        "a &lt;text&gt;",
        "majority accuracy",
    ):
        assert words in html, words
    confusion, reliability = drawn.held_out[0].pictures
    cells = [text.get_text().split("\n")[0] for text in confusion.figure.axes[0].texts]
    assert cells == [str(n) for row in scores["confusion"] for n in row]
    points = reliability.figure.axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(
        points, [[b["probability"], b["accuracy"]] for b in scores["reliability"]], atol=1e-12
    )
    assert "FLOPs" not in drawn.losses
    assert "nats per text" in html


def test_a_regression_has_scores_too(logged):
    run = logged()
    told = {"n": 9, "mse": 27560769536.0, "pearson": None, "spearman": 0.5, "baselines": {"mean_mse": 2.0}}
    (run / "results" / "classify-test.json").write_text(json.dumps({"scores": {"last": told}}))
    html = page.html(page.draw([run]))
    assert ">166,014<" in html
    assert ">1.414<" in html
    assert "27560769536" not in html


def long_names(K):
    return [f"{'Ünusually long words of a name 👍 最悪'[: 20 + i]} and so on {i}" for i in range(K)]


@pytest.mark.parametrize("K", [2, 12, 20])
def test_long_class_names_stay_inside_the_plot_and_apart(tmp_path, K):
    """In any script: warnings are errors here."""
    made = classes._confusion(long_names(K), np.eye(K, dtype=int), "x")
    made.save(tmp_path)
    axes, figure = made.figure.axes[0], made.figure
    figure.draw_without_rendering()
    inside = [label.get_window_extent() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    assert all(box.x0 >= 0 and box.y0 >= 0 for box in inside)
    under = axes.get_xticklabels()
    apart = (axes.transData.transform((1, 0)) - axes.transData.transform((0, 0)))[0]
    turned = np.sin(np.radians(under[0].get_rotation()))
    assert apart * turned > 0.9 * under[0].get_fontsize() * figure.dpi / 72


def test_class_names_in_any_script_are_drawn(tmp_path):
    names, targets = long_names(6), np.arange(60) % 6
    told = classification.scores(np.eye(6)[targets], targets, tuple(names))
    told["baselines"] = classification.baselines(targets, targets, 6)
    result = {"kind": "classes", "labels": names, "split": "test", "scores": {"last": told}}
    assert (
        plots.classification(Run(tmp_path), "classify-test", result)
        == tmp_path / "plots" / "classify-test.png"
    )
