"""Several tries: what each leaves behind, which is kept, and what a kill in the middle costs."""

import json
import shutil
import statistics

import pytest
import torch
from safetensors.torch import load_file

from gptworks import files, runs
from gptworks.commands import tries
from tests.commands.test_finetune import base, data, gptworks, rows, start  # noqa: F401 - fixtures

pytestmark = pytest.mark.e2e

THREE = "--n-seeds 3 --train.seed 5 --train.max-steps 6 --save.every 3"


@pytest.fixture(scope="module")
def three(base, data, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("tries") / "run"
    assert gptworks(start(base, data, out, THREE)) == 0
    return out


def weights(run):
    return load_file(runs.Run(run).checkpoint() / "model.safetensors")


def summary(run):
    return json.loads((run / "results" / "tries.json").read_text())


def measured(run, number, split):
    return json.loads((run / f"tries/{number}/results/classify-{split}.json").read_text())["scores"]["last"]


def test_the_best_on_validation_is_kept_and_the_spread_is_of_all(three):
    said = summary(three)
    losses = {number: measured(three, number, "val")["loss"] for number in (1, 2, 3)}
    assert said["kept"] == min(losses, key=losses.get)
    assert said["kept_by"] == "validation loss"
    assert [row["seed"] for row in said["tries"]] == [5, 6, 7]
    for split in ("val", "test"):
        each = [measured(three, number, split)["loss"] for number in (1, 2, 3)]
        assert len(set(each)) == 3
        assert said[split]["loss"] == pytest.approx(
            {
                "n": 3,
                "mean": statistics.fmean(each),
                "standard_deviation": statistics.stdev(each),
                "kept": each[said["kept"] - 1],
            }
        )


def test_the_run_is_its_best_try_and_the_others_keep_no_weights(three, capsys):
    best = three / "tries" / str(summary(three)["kept"])
    assert rows(three) == rows(best)
    assert not list((three / "tries").glob("*/checkpoints"))
    for number in (1, 2, 3):
        assert (three / f"tries/{number}/recipe.toml").is_file()
        assert (three / f"tries/{number}/plots/classify-test.png").is_file()
    capsys.readouterr()
    assert gptworks(f"classify {three} --text 'win a prize!!!' --json") == 0
    assert json.loads(capsys.readouterr().out)["label"] in {"ham", "spam"}
    assert gptworks(f"classify {three}@best --text hello") == 0


def test_the_first_try_is_the_run_without_tries(three, base, data, tmp_path):  # noqa: F811
    alone = tmp_path / "alone"
    assert gptworks(start(base, data, alone, THREE.replace("--n-seeds 3", ""))) == 0
    assert rows(alone) == rows(three / "tries" / "1")


def test_a_kill_in_the_middle_costs_the_unfinished_try_alone(three, base, data, tmp_path):  # noqa: F811
    """As left by a kill in the second try after its first checkpoint: the first is through."""
    out = tmp_path / "run"
    assert gptworks(start(base, data, out, THREE.replace("--n-seeds 3", "--n-seeds 2"))) == 0
    best = summary(out)["kept"]
    (out / "checkpoints").rename(out / "tries" / str(best) / "checkpoints")
    for leftover in ("results", "plots"):
        shutil.rmtree(out / leftover)
    (out / "metrics.jsonl").unlink()
    shutil.rmtree(out / "tries/2")
    first = (out / "tries/1/metrics.jsonl").read_bytes()
    second = start(base, data, out / "tries/2", THREE.replace("--n-seeds 3", "").replace("5", "6"))
    assert gptworks(second) == 0
    for name in ("classify-val.json", "classify-test.json"):
        (out / "tries/2/results" / name).unlink()
    for later in [one for one in runs.Run(out / "tries/2").checkpoints() if one.step > 3]:
        (later.path / runs.MARKER).unlink()
    if not (out / "tries/1/checkpoints").is_dir():  # it lost, and its weights are gone as they should be
        assert best == 2
    assert gptworks(f"finetune classify --out {out} --resume --n-seeds 3") == 0
    assert (out / "tries/1/metrics.jsonl").read_bytes() == first
    assert summary(out) == summary(three)
    if summary(three)["kept"] != 1:
        assert all(torch.equal(weights(out)[name], value) for name, value in weights(three).items())


def test_a_finished_run_of_tries_says_the_same_again(three, capsys):
    before, seconds = summary(three), rows(three)
    assert gptworks(f"finetune classify --out {three} --resume") == 0
    assert summary(three) == before
    assert rows(three) == seconds
    assert "test, accuracy: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--n-seeds 2 --val-fraction 0", "--n-seeds chooses by validation, and there is none"),
        ("--n-seeds 2 --best-metric spearman", "--best-metric spearman"),
        ("--n-seeds 2 --problem-type regression --best-metric matthews", "row"),
        ("--n-seeds 2 --train.max-hours 1", "--n-seeds and train.max_hours exclude each other"),
    ],
)
def test_tries_that_cannot_be_compared_are_refused(base, data, tmp_path, capsys, more, message):  # noqa: F811
    assert gptworks(start(base, data, tmp_path / "run", more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tries_go_on_with_their_own_data_only(three, base, data, tmp_path, capsys):  # noqa: F811
    assert gptworks(start(base, data, three, THREE)) == 2
    assert "already holds a run; add --resume" in capsys.readouterr().err
    other = tmp_path / "other"
    other.write_text(data.read_text().replace("prize", "house"))
    assert gptworks(f"finetune classify --out {three} --resume --data {other}") == 2
    assert "is a different Dataset" in capsys.readouterr().err
    assert gptworks(f"finetune classify --out {three} --resume --optim.lr 1") == 2
    assert "optim.lr = 0.003, not 1.0" in capsys.readouterr().err


def test_two_processes_do_not_share_a_folder_of_tries(three, capsys):
    with files.locked(three):
        assert gptworks(f"finetune classify --out {three} --resume") == 2
    assert "is in use by process" in capsys.readouterr().err


def test_a_score_that_is_not_defined_never_wins(tmp_path):
    for number, value in enumerate((0.2, None, 0.7, float("nan")), 1):
        file = tmp_path / f"tries/{number}/results/classify-val.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"scores": {"last": {"spearman": value, "mse": 0.1 * number}}}))
    from gptworks.recipe import ClassifyOptions

    assert tries.keep_best(tmp_path, ClassifyOptions(n_seeds=4, best_metric="spearman")) == 3
    assert tries.keep_best(tmp_path, ClassifyOptions(n_seeds=4, best_metric="loss")) == 1


def test_a_score_that_one_try_alone_has_is_told_without_a_deviation():
    every = {"n": 3, "mean": 0.5, "standard_deviation": 0.25, "kept": 0.75}
    alone = {"n": 1, "mean": 0.5, "standard_deviation": None, "kept": 0.5}
    assert tries.lines({"test": {"accuracy": every, "pearson": alone}}) == [
        "test, accuracy: 0.5000 +- 0.2500 over 3 tries; 0.7500 in the kept try",
        "test, pearson: 0.5000 in the kept try, undefined in the others",
    ]
