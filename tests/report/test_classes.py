import json

import numpy as np

from gptworks.evaluate import classification
from gptworks.report import page


def test_a_classifiers_test_is_shown_as_it_was_measured(logged):
    run = logged()
    (run / "recipe.toml").write_text('base = "b"\n[classify]\nbatch = 4\n')
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
    confusion, reliability = drawn.tested[0].pictures
    cells = [text.get_text().split("\n")[0] for text in confusion.figure.axes[0].texts]
    assert cells == [str(n) for row in scores["confusion"] for n in row]
    points = reliability.figure.axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(
        points, [[b["probability"], b["accuracy"]] for b in scores["reliability"]], atol=1e-12
    )
    assert "FLOPs" not in drawn.losses
    assert "nats per text" in html


def test_a_predictor_of_numbers_has_its_scores_too(logged):
    run = logged()
    told = {"n": 9, "mse": 27560769536.0, "pearson": None, "spearman": 0.5, "baselines": {"mean_mse": 2.0}}
    (run / "results" / "classify-test.json").write_text(json.dumps({"scores": {"last": told}}))
    html = page.html(page.draw([run]))
    assert ">166,014<" in html
    assert ">1.414<" in html
    assert "27560769536" not in html
