"""`gptworks evaluate` as people run it, and the scores a run takes of itself."""

import json
import os
import subprocess
import sys

import pytest

from gptworks import files, runs
from gptworks.cli import main
from gptworks.model import checkpoint, classifier
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from gptworks.results import read
from tests import hub
from tests.evaluation.conftest import HELLASWAG, LAMBADA, PIQA, write_rows

pytestmark = pytest.mark.e2e

SHAPE = ModelOptions(n_layer=1, n_head=2, n_embd=16, context=128, init_std=0.3)


@pytest.fixture
def place(tmp_path, monkeypatch, byte_tokenizer):
    """A folder with models, texts and evaluation sets."""
    monkeypatch.chdir(tmp_path)
    for name, seed in {"one": 0, "two": 1}.items():
        model = build(resolve_config(SHAPE, byte_tokenizer.vocab_size), seed=seed)
        checkpoint.save(model, tmp_path / name, byte_tokenizer)
    other = byte_tokenizer.with_special_tokens(["<|more|>"])
    checkpoint.save(build(resolve_config(SHAPE, other.vocab_size), seed=0), tmp_path / "other", other)
    (tmp_path / "text.txt").write_text("One text to read. " * 30)
    write_rows(tmp_path / "hellaswag.jsonl", HELLASWAG)
    write_rows(tmp_path / "piqa.jsonl", PIQA)
    return tmp_path


def test_scores_say_what_they_are_and_accumulate(place, capsys):
    tasks = ["--tasks", "perplexity:text.txt", "hellaswag:hellaswag.jsonl"]
    assert main(["evaluate", "one", *tasks, "--out", "results.json"]) == 0
    table = capsys.readouterr().out
    assert "hellaswag" in table
    assert " dev " in table
    results = read(place / "results.json")
    assert [result.metric for result in results] == [
        "perplexity",
        "bits_per_byte",
        "word_perplexity",
        "acc",
        "acc_norm",
    ]
    for result in results:
        assert result.n > 0
        assert result.definition
        assert result.split in {"dev", "unknown"}
        assert len(result.data_fingerprint) == len(result.model_fingerprint) == 64
        assert result.versions.keys() >= {"gptworks", "torch"}
        assert result.standard_error is not None
    assert (
        main(["evaluate", "one", "--tasks", "piqa:piqa.jsonl", "--limit", "3", "--out", "results.json"]) == 0
    )
    assert main(["evaluate", "one", *tasks, "--out", "results.json"]) == 0  # the same again takes its place
    results = read(place / "results.json")
    assert len(results) == 7
    assert {result.limit for result in results if result.task == "piqa"} == {3}


def test_a_file_alone_is_no_task(place, capsys):
    assert main(["evaluate", "one", "--tasks", "hellaswag", "hellaswag.jsonl"]) == 2
    assert "hellaswag:hellaswag.jsonl" in capsys.readouterr().err


def test_a_classifier_is_not_scored_as_a_language_model(place, byte_tokenizer, capsys):
    spam = classifier.with_head(checkpoint.load(place / "one"), ("ham", "spam"), seed=0)
    classifier.save(spam, place / "spam", byte_tokenizer)
    assert main(["evaluate", "spam", "--tasks", "perplexity:text.txt", "--out", "results.json"]) == 2
    assert "spam is a classifier" in capsys.readouterr().err
    assert not (place / "results.json").exists()


def test_a_recipe_says_what_is_measured_and_flags_beat_it(place):
    (place / "r.toml").write_text(
        'out = "run"\n[evaluate]\ntasks = ["piqa:piqa.jsonl"]\nlimit = 4\n[perplexity]\nstride = 3\n'
    )
    assert main(["evaluate", "r.toml", "one", "--limit", "2", "--out", "results.json"]) == 0
    assert [(result.task, result.limit) for result in read(place / "results.json")] == [("piqa", 2)] * 2
    assert not (place / "run").exists()


def test_two_models_are_compared_on_the_same_examples(place, capsys):
    argv = [
        "evaluate",
        "one",
        "two",
        "--tasks",
        "hellaswag:hellaswag.jsonl",
        "perplexity:text.txt",
        "--compare",
    ]
    assert main([*argv, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    values = {(row["model"], row["metric"]): row["value"] for row in output["rows"]}
    assert {row["metric"] for row in output["differences"]} >= {
        "acc",
        "acc_norm",
        "perplexity",
        "bits_per_byte",
    }
    for row in output["differences"]:
        expected = values["two", row["metric"]] - values["one", row["metric"]]
        assert row["difference"] == pytest.approx(expected)
        assert 0 < row["p"] <= 1
    assert main(argv) == 0
    assert "McNemar, exact" in capsys.readouterr().out


def test_bits_per_byte_compare_models_with_different_tokenizers(place, capsys):
    assert main(["evaluate", "one", "other", "--tasks", "bits_per_byte:text.txt", "--compare", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert {row["metric"] for row in output["differences"]} == {"bits_per_byte", "word_perplexity"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["one"], "--tasks"),
        (["one", "--tasks", "helaswag"], "hellaswag, hellaswag_completion"),
        (["one", "--tasks", "piqa,arc_easy"], "'piqa,arc_easy'"),
        (["one", "--tasks", "perplexity"], "perplexity:FILE"),
        (["one", "--tasks", "perplexity:nothere"], "perplexity:nothere"),
        (["one", "--tasks", "hellaswag:nothere"], "nothere"),
        (["one", "--tasks", "piqa:hellaswag.jsonl"], "hellaswag.jsonl:1 lacks 'goal'"),
        (["one", "--tasks", "piqa:piqa.jsonl", "--num-fewshot", "3"], "harness:piqa@3"),
        (["one", "--tasks", "piqa:piqa.jsonl", "--limit", "0"], "--limit"),
        (["one", "--tasks", "harness:"], "harness:"),
        (["nowhere/at/all", "--tasks", "piqa:piqa.jsonl"], "nowhere/at/all"),
        (["one", "--tasks", "piqa:piqa.jsonl", "--compare"], "--compare"),
        (["one", "--tasks", "piqa:piqa.jsonl", "--out", "text.txt"], "text.txt"),
        (["one", "--tasks", "piqa:piqa.jsonl", "--without", "out.json"], "out.json"),
        (["one", "other", "--tasks", "perplexity:text.txt", "--compare"], "--tasks bits_per_byte:text.txt"),
    ],
)
def test_bad_input_is_refused_in_one_line(place, capsys, words, named):
    assert main(["evaluate", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert named in line
    assert not (place / "out.json").exists()


def test_a_set_that_is_only_named_comes_from_the_hub(place, byte_tokenizer):
    """With the revision in the row. In a process of its own, since the Hub's address is fixed at import."""
    folder = place / "hub" / "datasets" / "EleutherAI" / "lambada_openai"
    folder.mkdir(parents=True)
    write_rows(folder / "test.jsonl", LAMBADA)
    with hub.serve(place / "hub") as endpoint:
        environment = hub.environment(endpoint, place / "home")
        code = "import sys; from gptworks.cli import main; sys.exit(main(sys.argv[1:]))"
        paths = os.pathsep.join(path for path in sys.path if path)
        argv = ["evaluate", "one", "--tasks", "lambada", "--out", "results.json"]
        done = subprocess.run(
            [sys.executable, "-c", code, *argv],
            env=environment | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    result = read(place / "results.json")[0]
    assert result.data == f"hf:EleutherAI/lambada_openai@{hub.COMMIT[:12]} (test)"
    assert (result.split, result.n, result.metric) == ("test", len(LAMBADA), "acc")


@pytest.fixture
def dataset(place, byte_tokenizer):
    byte_tokenizer.save(place / "bytes")
    words = [
        "--sources",
        "text.txt",
        "--tokenizer",
        "bytes",
        "--val-fraction",
        "0.2",
        "--val-split-by",
        "tail",
    ]
    assert main(["prepare", *words, "--workers", "1", "--out", "set"]) == 0
    return place / "set"


TRAINING = [
    *[
        "--data",
        "set",
        "--model.n-layer",
        "1",
        "--model.n-head",
        "2",
        "--model.n-embd",
        "16",
        "--model.context",
        "64",
    ],
    *["--train.batch-tokens", "64", "--train.max-steps", "4", "--model.dropout", "0.1", "--eval.every", "2"],
]
SCORED = [
    "--eval.tasks",
    "hellaswag_completion:hellaswag.jsonl",
    "bits_per_byte:text.txt",
    "--eval.task-every",
    "2",
]


def test_scores_in_training_change_nothing_of_it(place, dataset):
    """Losses and weights are equal bit for bit; dropout is on, so chance is left alone as well."""
    assert main(["pretrain", *TRAINING, "--out", "plain"]) == 0
    assert main(["pretrain", *TRAINING, *SCORED, "--eval.task-limit", "4", "--out", "scored"]) == 0
    plain, scored = (files.read_rows(place / name / "metrics.jsonl") for name in ("plain", "scored"))

    def losses(rows):
        return [
            (row["step"], row.get("loss"), row.get("val_loss"))
            for row in rows
            if "loss" in row or "val_loss" in row
        ]

    assert losses(plain) == losses(scored)
    one, other = (
        checkpoint.read_tensors(runs.Run(place / name).checkpoint()) for name in ("plain", "scored")
    )
    assert all(one[name].equal(other[name]) for name in one)
    taken = [row for row in scored if "hellaswag_completion/acc_norm_token" in row]
    assert [row["step"] for row in taken] == [2, 4]
    assert taken[0]["hellaswag_completion/acc_norm_token/n"] == 4


def test_the_last_scores_in_training_are_evaluates(place, dataset, capsys):
    assert main(["pretrain", *TRAINING, *SCORED, "--out", "run"]) == 0
    last = files.read_rows(place / "run" / "metrics.jsonl")[-1]
    assert main(["evaluate", "run", "--tasks", SCORED[1], SCORED[2]]) == 0
    results = runs.Run(place / "run").results()
    assert len(results) == 4
    for result in results:
        assert result.step == 4
        assert last[f"{result.task}/{result.metric}"] == pytest.approx(result.value, rel=1e-6)


def test_what_cannot_be_scored_is_refused_before_training(place, dataset, capsys):
    assert main(["pretrain", *TRAINING, "--eval.tasks", "hellaswg", "--out", "run"]) == 2
    assert "hellaswag" in capsys.readouterr().err
    assert not (place / "run").exists()


def test_answers_longer_than_the_context_do_not_stop_a_training(place, dataset):
    """As evaluate counts them: by their first tokens, so that all six questions stay in."""
    short = ["--model.context", "16", "--eval.tasks", "hellaswag_completion:hellaswag.jsonl"]
    assert main(["pretrain", *TRAINING, *short, "--out", "short"]) == 0
    last = files.read_rows(place / "short" / "metrics.jsonl")[-1]
    assert last["hellaswag_completion/acc_norm_token/n"] == 6
    assert main(["evaluate", "short", "--tasks", short[-1]]) == 0
    result = read(place / "short" / "results" / "hellaswag_completion.json")[0]
    assert result.details["shortened"] > 0
    assert "cut at the end" in result.notes[-1]
