import json

import pytest

from gptworks.reports import page
from gptworks.runs import Run

RESULT = {
    "task": "hellaswag",
    "metric": "acc_norm",
    "value": 0.31234,
    "standard_error": 0.01,
    "interval_95": [0.29, 0.33],
    "n": 2000,
    "of": "examples",
    "split": "dev",
    "definition": "argmax of the mean log-probability",
    "notes": ["3 were cut"],
}

RECIPE = """data = "corpus"
out = "{name}"
[model]
family = "gpt2"
n_layer = 2
n_head = 2
n_embd = 32
context = 64
[train]
max_steps = 40
[optim]
lr = {lr}
"""


def maker(folder):
    """Writes the logs of a run as if it had been trained, without weights."""

    def make(name="first", *, lr=0.001, steps=40, results=None):
        run = folder / name
        (run / "results").mkdir(parents=True)
        (run / "checkpoints" / "step-000040").mkdir(parents=True)
        (run / "checkpoints" / "step-000040" / "config.json").write_text('{"vocab_size": 300}')
        (run / "recipe.toml").write_text(RECIPE.format(name=name, lr=lr))
        (run / "environment.json").write_text(json.dumps({"device": "1 CPU", "torch": "2.13"}))
        rows = [
            {
                "step": 0,
                "epoch": 0,
                "tokens": 0,
                "val_loss": 5.7,
                "val_bpb": 3.0,
                "hellaswag_completion acc_norm": 0.25,
            }
        ]
        for step in range(1, steps + 1):
            rows.append(
                {
                    "step": step,
                    "epoch": step / 40,
                    "tokens": 128 * step,
                    "loss": 5.7 - step / 20,
                    "lr": lr,
                    "grad_norm": 1.0,
                    "targets": 128,
                    "tokens_per_second": 1000.0,
                    "mfu": 0.25,
                    "peak_memory": 2e9,
                    "seconds": step / 10,
                }
            )
            if step % 10 == 0:
                rows.append(
                    {
                        "step": step,
                        "epoch": step / 40,
                        "tokens": 128 * step,
                        "val_loss": 5.8 - step / 20,
                        "val_bpb": 2.0,
                    }
                    | {"hellaswag_completion acc_norm": 0.25 + step / 1000}
                )
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        samples = [
            {"step": s, "prompt": "The", "seed": 0, "text": f" <b>end</b> {s}"} for s in range(10, 60, 10)
        ]
        (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
        if results is not None:
            (run / "results" / "some.json").write_text(json.dumps({"rows": results}))
        return Run(run)

    return make


@pytest.fixture
def logged(tmp_path):
    return maker(tmp_path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The page of one run."""
    return page.draw([maker(tmp_path_factory.mktemp("runs"))(results=[RESULT])])


@pytest.fixture(scope="module")
def html(drawn):
    return page.html(drawn)
