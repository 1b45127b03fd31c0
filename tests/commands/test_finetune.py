"""Through the front door: a tiny model learns a word, and what must hold of the run."""

import contextlib
import dataclasses
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gptworks import files, packaged, runs
from gptworks.cli import main
from gptworks.commands import classify as commands_classify
from gptworks.evaluation import prediction
from gptworks.model import checkpoint, classifier
from gptworks.recipefile import load
from tests import hub
from tests.model.test_lora import tiny

pytestmark = pytest.mark.e2e

FAST = "--train.max-steps 24 --batch-examples 8 --optim.lr 3e-3 --eval.every 8 --save.every 5 --log.every 3"
TIMED = {"seconds", "tokens_per_second", "mfu", "peak_memory"}


def gptworks(line):
    """A command line, as typed."""
    return main(shlex.split(line))


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_tokenizer):
    folder = tmp_path_factory.mktemp("base")
    checkpoint.save(tiny(init_std=0.05, dropout=0.1), folder, byte_tokenizer)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Messages that are spam if they end loudly."""
    chance = random.Random(0)
    file = tmp_path_factory.mktemp("data") / "messages"
    words = ["see", "you", "soon", "win", "a", "prize"]
    rows = []
    for number in range(160):
        text = " ".join(chance.choices(words, k=chance.randint(1, 6)))
        rows.append(f"spam\t{text}!!!\n" if number % 4 == 0 else f"ham\t{text} :)\n")
    file.write_text("".join(rows))
    return file


def start(base, data, out, more=""):
    return f"finetune classify --model {base} --data {data} --out {out} {FAST} {more}"


@pytest.fixture(scope="module", params=["", "--lora.rank 4 --lora.dropout 0.1", "--train-layers last-block"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def straight(base, data, kind, tmp_path_factory):
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert gptworks(start(base, data, out, kind)) == 0
    return out


def rows(run):
    kept = files.read_rows(run / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMED} for row in kept]


def tensors(run):
    folder = runs.Run(run).checkpoint()
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        found |= {f"{file.name}:{name}": tensor for name, tensor in load_file(file).items()}
    return found


def assert_same_bits(one, other):
    assert rows(one) == rows(other)
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_its_card_has_the_test_score_of_its_checkpoint(straight, tmp_path):
    for which, file in (("", "last.md"), ("@step-20", "older.md")):
        words = ["push", f"{straight}{which}", "--repo", "you/spam", "--card-only", str(tmp_path / file)]
        assert main(words) == 0
    scores = json.loads((straight / "results" / "classify-test.json").read_text())["scores"]["last"]
    line = rf"\| classify \| accuracy \| {scores['accuracy']:.4g} \| [\d.]+ to [\d.]+ \| 32 \| messages \| test \| 0 \|"
    assert re.search(line, (tmp_path / "last.md").read_text())
    assert "checkpoint" in (tmp_path / "older.md").read_text()


def test_it_learns_and_says_so_in_json(straight):
    result = json.loads((straight / "results" / "classify-test.json").read_text())
    scores = result["scores"]["last"]
    assert scores["n"] == 32
    assert scores["baselines"]["majority_accuracy"] == 0.75
    assert scores["accuracy"] > 0.9  # guessing has 0.75; the end of a text gives its class away
    assert sum(map(sum, scores["confusion"])) == 32
    assert {"roc_auc", "matthews", "ece", "balanced_accuracy", "mistakes"} <= scores.keys()
    assert (straight / "plots" / "loss.png").is_file()
    for ending in ("png", "svg"):
        assert (straight / "plots" / f"classify-test.{ending}").stat().st_size > 10_000
    assert sum(one["n"] for one in scores["reliability"]) == 32
    held = json.loads((straight / "results" / "classify-val.json").read_text())["scores"]["last"]
    said = [
        row["val_accuracy"] for row in files.read_rows(straight / "metrics.jsonl") if "val_accuracy" in row
    ]
    assert held["accuracy"] == pytest.approx(said[-1])
    assert (result["kind"], result["labels"], result["truncated"]) == ("classes", ["ham", "spam"], 0)


def test_memory_is_said_before_and_measured_after(straight, base, kind):
    said = json.loads((straight / "results" / "memory.json").read_text())
    assert said["estimated_total"] == sum(said["estimated"].values())
    assert said["added"] == said["peak"] - said["held_before"]
    whole = 4 * sum(param.numel() for param in checkpoint.load(base).parameters())
    trained = said["estimated"]["gradients"]
    assert said["estimated"]["weights"] >= whole
    assert said["estimated"]["optimizer"] == 2 * trained
    assert trained > 0.9 * whole if not kind else trained < 0.5 * whole


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(base, data, kind, straight, tmp_path):
    again = tmp_path / "run"
    assert gptworks(start(base, data, again, f"{kind} --save.keep 9")) == 0
    for later in [
        one for one in runs.Run(again).checkpoints() if one.step > 10
    ]:  # as if it had been killed then
        (later.path / runs.MARKER).unlink()
    assert runs.Run(again).checkpoints()[-1].step == 10
    assert gptworks(f"finetune classify --out {again} --resume") == 0
    assert_same_bits(again, straight)


def test_sigkill_anywhere_loses_nothing(base, data, straight, kind, tmp_path):
    if kind:
        pytest.skip("once is enough: it costs a fresh interpreter")
    out = tmp_path / "run"
    words = [sys.executable, "-m", "gptworks", *shlex.split(start(base, data, out))]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not runs.Run(out).checkpoints() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert gptworks(start(base, data, out, "--resume")) == 0
    assert_same_bits(out, straight)


def test_a_finished_run_resumes_to_itself(straight):
    before, memory = tensors(straight), straight / "results" / "memory.json"
    measured = memory.read_text()
    assert gptworks(f"finetune classify --out {straight} --resume") == 0
    assert all(torch.equal(tensors(straight)[name], before[name]) for name in before)
    assert memory.read_text() == measured
    memory.unlink()  # as if killed between the last save and this
    assert gptworks(f"finetune classify --out {straight} --resume") == 0
    assert json.loads(memory.read_text())["estimated"] == json.loads(measured)["estimated"]
    memory.write_text(measured)


def test_classify_says_what_the_model_says(straight, capsys, tmp_path, byte_tokenizer, monkeypatch):
    capsys.readouterr()
    texts = ["see you soon :)", "win a prize!!!"]
    assert gptworks(f"classify {straight} --json --text '{texts[0]}' --text '{texts[1]}'") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["label"] for answer in answers] == ["ham", "spam"]
    model = classifier.load(runs.Run(straight).checkpoint())
    ids = [np.array(byte_tokenizer.encode(text)) for text in texts]
    wanted = classifier.predict(model, ids, 0).softmax(1)
    found = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    (tmp_path / "texts").write_text("\n".join(texts) + "\n")
    assert gptworks(f"classify {straight} --file {tmp_path / 'texts'}") == 0
    of_file = capsys.readouterr().out
    assert [line.split("\t")[0] for line in of_file.splitlines()] == ["ham", "spam"]
    piped = io.TextIOWrapper(io.BytesIO("\r\n".join(texts).encode("utf-8-sig")))
    monkeypatch.setattr("sys.stdin", piped)
    assert gptworks(f"classify {straight} --file -") == 0
    assert capsys.readouterr().out == of_file
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    assert gptworks(f"classify {straight} --file -") == 2
    assert "byte 3" in capsys.readouterr().err
    assert gptworks(f"classify {straight} --file - --column text") == 2
    assert "--column text" in capsys.readouterr().err


def test_a_table_is_classified_by_the_column_that_it_has(straight, tmp_path, capsys):
    """Semicolons, a mark at the beginning and quotes, as a spreadsheet writes them; the name is no known one."""
    table = tmp_path / "new.csv"
    table.write_text('No;Nachricht\n1;"see you; soon :)"\n2;win a prize!!!\n', encoding="utf-8-sig")
    assert gptworks(f"classify {straight} --file {table} --column Nachricht") == 0
    said = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(label, text) for label, _, text in said] == [
        ("ham", "see you; soon :)"),
        ("spam", "win a prize!!!"),
    ]
    assert gptworks(f"classify {straight} --file {table}") == 2
    assert "set --column to one of No, Nachricht" in capsys.readouterr().err
    assert gptworks(f"classify {straight} --file {table} --column Text") == 2
    assert "--column Text: " in capsys.readouterr().err


def test_what_has_no_text_has_no_class_and_keeps_its_place(straight, tmp_path, capsys, monkeypatch):
    table = tmp_path / "new.csv"
    table.write_text("No,Message\n1,see you :)\n2,\n3,win!!!\n")
    assert gptworks(f"classify {straight} --file {table} --json") == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["text"], one["label"]) for one in said] == [
        ("see you :)", "ham"),
        ("", None),
        ("win!!!", "spam"),
    ]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"see you :)\n\nwin!!!\n")))
    assert gptworks(f"classify {straight} --file -") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(label, text) for label, _, text in lines] == [
        ("ham", "see you :)"),
        ("", ""),
        ("spam", "win!!!"),
    ]


def test_answers_are_out_before_the_next_texts_are_read(straight, tmp_path, capsys, monkeypatch):
    """As if interrupted while the second chunk is read."""
    texts = [f"see you {number}{'!!!' if number % 3 else ' :)'}" for number in range(7)]
    (tmp_path / "texts").write_text("\n".join(texts))
    line = f"classify {straight} --file {tmp_path / 'texts'} --json"
    assert gptworks(line) == 0
    whole = [json.loads(one) for one in capsys.readouterr().out.splitlines()]
    assert [one["text"] for one in whole] == texts
    read, chunks = prediction.Predictor.predict, []

    def interrupted(reader, chunk):
        chunks.append(chunk)
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return read(reader, chunk)

    monkeypatch.setattr(prediction.Predictor, "predict", interrupted)
    monkeypatch.setattr(commands_classify, "CHUNK", 4)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        gptworks(line)
    said = [json.loads(one) for one in capsys.readouterr().out.splitlines()]
    assert [(one["text"], one["label"]) for one in said] == [(one["text"], one["label"]) for one in whole[:4]]


def test_a_text_is_one_line_and_cut_ones_are_counted(straight, tmp_path, capsys):
    rows = [{"text": "see\tyou\nsoon"}, {"text": "win " * 40}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert gptworks(f"classify {straight} --file {tmp_path}/t.jsonl") == 0
    said = capsys.readouterr()
    assert [line.split("\t")[2] for line in said.out.splitlines()] == ["see you soon", "win " * 40]
    assert "1 text" in said.err
    assert said.err.count("\n") == 1


@pytest.fixture(scope="module")
def paired(base, tmp_path_factory):
    """A run that learned whether two texts are the same; its columns were guessed."""
    out = tmp_path_factory.mktemp("paired") / "run"
    lines = [f"{'ab'[i % 2] * 3},{'ab'[i // 2 % 2] * 3},{'ny'[i % 2 == i // 2 % 2]}\n" for i in range(80)]
    (out.parent / "t.csv").write_text("question1,question2,label\n" + "".join(lines))
    assert gptworks(start(base, out.parent / "t.csv", out, "--train.max-steps 4")) == 0
    return out


def test_a_table_of_pairs_is_read_as_in_training(paired, tmp_path, capsys):
    table = tmp_path / "new.csv"
    table.write_text("id,question1,question2,other\n1,aaa,bbb,bbb\n2,aaa,aaa,bbb\n")
    wanted = []
    for second in ("bbb", "aaa"):
        capsys.readouterr()
        assert gptworks(f"classify {paired} --text aaa --pair {second} --json") == 0
        wanted.append(json.loads(capsys.readouterr().out))
    for more in ("", "--column question1", "--column question1 --pair question2"):
        assert gptworks(f"classify {paired} --file {table} --json {more}") == 0
        said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(one["text"], one["pair"]) for one in said] == [("aaa", "bbb"), ("aaa", "aaa")]
        for one, other in zip(said, wanted, strict=True):
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    assert gptworks(f"classify {paired} --file {table} --pair other") == 0
    assert [line.split("\t")[2:] for line in capsys.readouterr().out.splitlines()] == [["aaa", "bbb"]] * 2
    renamed = tmp_path / "renamed.csv"
    renamed.write_text("Premise,Hypothesis\naaa,bbb\n")
    assert gptworks(f"classify {paired} --file {renamed} --json") == 0
    assert json.loads(capsys.readouterr().out)["probabilities"] == pytest.approx(
        wanted[0]["probabilities"], abs=1e-6
    )


@pytest.mark.parametrize(
    ("run", "more", "message"),
    [
        (
            "paired",
            "--text a",
            "was trained on pairs (question1 and question2)",
        ),
        ("adapted", "--text a --pair b", "was trained on single texts (text)"),
        ("adapted", "--file {table} --pair two", "was trained on single texts (text)"),
        ("paired", "--file {table} --pair three", "has no such column; it has one, two"),
        (
            "paired",
            "--file {table} --column one",
            "set --pair to one of one, two",
        ),
        (
            "paired",
            "--file {table}",
            "set --column to one of one, two",
        ),
        ("paired", "--file {lines}", "give a table"),
        ("paired", "--file {lines} --pair b", "--pair b names a column"),
        ("paired", "--text a --file {table} --pair b", "leave out --text or --file"),
    ],
)
def test_single_texts_and_pairs_are_told_apart(run, more, message, tmp_path, capsys, request):
    (tmp_path / "t.csv").write_text("one,two\na,b\n")
    (tmp_path / "lines.txt").write_text("a\n")
    folder = request.getfixturevalue(run)
    capsys.readouterr()
    more = more.format(table=tmp_path / "t.csv", lines=tmp_path / "lines.txt")
    assert gptworks(f"classify {folder} {more}") == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.err.count("\n"), said.out) == (1, "")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft, of transformers
def test_the_checkpoint_is_transformers_or_peft_s_with_the_same_scores(straight, base, kind, byte_tokenizer):
    from transformers import AutoModelForSequenceClassification

    folder = runs.Run(straight).checkpoint()
    if "lora" in kind:
        from peft import PeftModel

        theirs = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, pad_token_id=256)
        theirs = PeftModel.from_pretrained(theirs, folder).eval()
    else:
        theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        assert theirs.config.id2label == {0: "ham", 1: "spam"}
    ids = np.array(byte_tokenizer.encode("win a prize!!!"))
    ours = classifier.predict(classifier.load(folder), [ids], 0)
    with torch.no_grad():
        torch.testing.assert_close(theirs(torch.from_numpy(ids)[None]).logits, ours, rtol=1e-5, atol=1e-5)


def test_numbers_are_predicted_by_the_same_path(base, tmp_path, capsys):
    lines = [f"{'a' * (i % 7)}b\tx\t{i % 7 / 2}\n" for i in range(80)]
    (tmp_path / "t").write_text("sentence1\tsentence2\tscore\n" + "".join(lines))
    assert gptworks(start(base, tmp_path / "t", tmp_path / "run", "--train.max-steps 60")) == 0
    scores = json.loads((tmp_path / "run/results/classify-test.json").read_text())["scores"]["last"]
    assert scores["mse"] < scores["baselines"]["mean_mse"]
    assert scores["pearson"] > 0.5
    capsys.readouterr()
    assert gptworks(f"classify {tmp_path}/run --text aab --pair x --json") == 0
    assert isinstance(json.loads(capsys.readouterr().out)["value"], float)


def test_prices_are_learned_and_scored_in_their_own_unit(base, tmp_path, capsys):
    rows = [f"{'a' * (i % 7)}b\t{100_000 + 50_000.5 * (i % 7)}\n" for i in range(80)]
    (tmp_path / "t").write_text("text\tlabel\n" + "".join(rows))
    line = start(
        base, tmp_path / "t", tmp_path / "run", "--train.max-steps 60 --test-fraction 0 --save.every 30"
    )
    assert gptworks(line) == 0
    said = capsys.readouterr()
    assert "divided by 262,144 during training" in said.err
    assert "root mean squared error " in said.out
    scores = json.loads((tmp_path / "run/results/classify-val.json").read_text())["scores"]["last"]
    assert scores["mse"] < scores["baselines"]["mean_mse"] / 4
    assert gptworks(f"classify {tmp_path}/run --text aaaaab --json") == 0
    assert 250_000 < json.loads(capsys.readouterr().out)["value"] < 450_000
    for gone in (tmp_path / "run/checkpoints").glob("step-*60"):
        kept = load_file(gone / "model.safetensors")
        shutil.rmtree(gone)
    assert gptworks(f"{line} --resume") == 0
    again = load_file(runs.Run(tmp_path / "run").checkpoint() / "model.safetensors")
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    capsys.readouterr()
    assert gptworks(f"push {tmp_path}/run --repo you/prices --card-only {tmp_path}/card.md") == 0
    card = (tmp_path / "card.md").read_text()
    assert "predicts a number from a text" in card
    assert "selected with" in card


def test_a_recipe_file_is_laid_under_the_flags(base, data, tmp_path):
    file = tmp_path / "spam.toml"
    file.write_text(
        f'base = "{base}"\ndata = "{data}"\nout = "{tmp_path / "no"}"\n'
        '[model]\npreset = "gpt2"\n[classify]\nbalance = "sample"\nbatch_examples = 4\n[train]\nmax_steps = 2\n'
    )
    assert gptworks(f"finetune classify {file} --out {tmp_path / 'run'} --batch-examples 5") == 0
    import tomllib

    saved = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())
    assert saved["classify"] | {"batch_examples": 5, "balance": "sample"} == saved["classify"]
    assert saved["optim"]["lr"] == 5e-5
    assert saved["optim"]["schedule"] == "linear"
    assert not saved.keys() & {"model", "sample", "prepare"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--label verdict", "--label verdict: {data} has no such column; it has label, text"),
        ("--lora.rank 4 --train-layers head", "--train-layers head and --lora.rank exclude each other"),
        (
            "--lora.rank 4 --lora.targets q_proj",
            "lora.targets=q_proj names no linear layer; there are attn.c_attn",
        ),
        ("--max-tokens 500", "--max-tokens 500 is more than the model's context of 48"),
        ("--train.epochs 2", "train.max_steps and train.epochs"),
        ("--model ./nowhere", "there is no folder ./nowhere"),
        ("--data ./nowhere", "there is no file nowhere"),
        ("--train-layers some", "--train-layers"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    base, data, tmp_path, capsys, more, message
):
    out = tmp_path / "run"
    line = start(base, data, out)
    for name in ("--model", "--data"):
        if more.startswith(name + " "):
            line = line.replace(f"{name} {base if name == '--model' else data}", "")
    assert gptworks(f"{line} {more}") == 2
    said = capsys.readouterr().err
    assert message.format(data=data) in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ham\thello\n" * 9, "has only one class, ham"),
        ("ham\t \n" * 9 + "spam\t\n", "has no example with a text"),
        ("ham\thello\n" * 9 + "spam\t \n", "has only one class, ham"),
        ("a,b,c\n1,2,3\n4,5,6\n", "set --text to one of a, b, c"),
        ("", "has no rows"),
    ],
)
def test_texts_that_teach_nothing_are_refused(base, tmp_path, capsys, text, message):
    (tmp_path / "texts").write_text(text)
    assert gptworks(start(base, tmp_path / "texts", tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_label_that_training_never_sees_is_refused(base, tmp_path, capsys):
    (tmp_path / "train.tsv").write_text("label\ttext\n" + "ham\thi\nspam\tho\n" * 9)
    (tmp_path / "test.tsv").write_text("label\ttext\neggs\thi\n")
    assert gptworks(start(base, tmp_path, tmp_path / "run")) == 2
    assert "labels that are not in training: eggs" in capsys.readouterr().err


def test_texts_longer_than_the_model_reads_are_cut_and_counted(base, tmp_path, capsys):
    lines = [f"{'ab'[n % 2]}\t{'word ' * (20 if n % 10 == 0 else 1)}{'ab'[n % 2]}\n" for n in range(60)]
    (tmp_path / "texts").write_text("".join(lines))
    assert gptworks(start(base, tmp_path / "texts", tmp_path / "run", "--train.max-steps 2")) == 0
    assert "6 texts longer" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/results/classify-test.json").read_text())["truncated"] == 6


def test_an_adapter_beside_another_base_is_refused_and_both_are_named(
    adapted, tmp_path, byte_tokenizer, capsys
):
    other = tmp_path / "other"
    checkpoint.save(tiny("modern"), other, byte_tokenizer)
    folder = tmp_path / "adapter"
    shutil.copytree(runs.Run(adapted).checkpoint(), folder)
    file = folder / "adapter_config.json"
    was = json.loads(file.read_text())["base_model_name_or_path"]
    file.write_text(file.read_text().replace(was, str(other)))
    assert gptworks(f"classify {folder} --text x") == 2
    assert "does not match its checksum" in capsys.readouterr().err
    (folder / runs.MARKER).unlink()
    assert gptworks(f"classify {folder} --text x") == 2
    assert f"{folder} is an adapter for {other}" in capsys.readouterr().err


@pytest.mark.parametrize("bits", ["bf16", "nf4"])
def test_an_adapter_is_trained_beside_a_base_in_few_bits_and_goes_on_the_same(base, data, tmp_path, bits):
    if bits == 4:
        pytest.importorskip("bitsandbytes")
    more = f"--lora.rank 4 --lora.base-dtype {bits} --train.checkpoint-activations --save.keep 9"
    for name in ("one", "two"):
        assert gptworks(start(base, data, tmp_path / name, more)) == 0
    for later in [one for one in runs.Run(tmp_path / "two").checkpoints() if one.step > 10]:
        (later.path / runs.MARKER).unlink()
    assert gptworks(f"finetune classify --out {tmp_path / 'two'} --resume") == 0
    assert_same_bits(tmp_path / "one", tmp_path / "two")
    scores = json.loads((tmp_path / "one/results/classify-test.json").read_text())["scores"]["last"]
    assert scores["accuracy"] > 0.9
    assert gptworks(f"classify {tmp_path / 'one'} --text hello") == 0


HUB = """---
configs:
- config_name: loud
  data_files:
  - split: train
    path: loud/train.parquet
  - split: validation
    path: loud/validation.parquet
  - split: test
    path: loud/test.parquet
---
"""


def test_a_dataset_of_the_hub_with_its_splits_and_names_of_classes(base, tmp_path):
    """The address of the Hub is fixed when its library is imported: a process of its own."""
    from datasets import ClassLabel, Dataset, Features, Value

    folder = tmp_path / "hub" / "datasets" / "someone" / "messages"
    (folder / "loud").mkdir(parents=True)
    (folder / "README.md").write_text(HUB)
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["quiet", "loud"])})
    for split, n in {"train": 40, "validation": 10, "test": 6}.items():
        hidden = split == "test"
        rows = {
            "sentence": [f"{split} {i}{'!!!' if i % 2 else '.'}" for i in range(n)],
            "label": [-1 if hidden else i % 2 for i in range(n)],
        }
        Dataset.from_dict(rows, features=features).to_parquet(folder / "loud" / f"{split}.parquet")
    line = start(base, "hf:someone/messages:loud", tmp_path / "run", "--train.max-steps 2")
    wrong = start(base, "hf:someone/nothing", tmp_path / "no", "")
    with hub.serve(tmp_path / "hub") as endpoint:
        env = hub.environment(endpoint, tmp_path) | {"PYTHONPATH": ":".join(sys.path)}
        for words, status in ((line, 0), (wrong, 2)):
            command = [sys.executable, "-m", "gptworks", *shlex.split(words)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == status, done.stderr
    assert "hf:someone/nothing: " in done.stderr
    result = json.loads((tmp_path / "run/results/classify-test.json").read_text())
    assert result["labels"] == ["loud", "quiet"]
    assert result["remarks"] == ["test has no labels and is not used"]
    held = json.loads((tmp_path / "run/results/classify-val.json").read_text())["scores"]["last"]
    assert held["n"] == 10
    assert result["scores"]["last"]["n"] == 8  # a fifth of training's, as the test has no labels


@pytest.mark.parametrize("missing", ["model", "data", "out"])
def test_what_is_missing_is_named(base, data, tmp_path, capsys, missing):
    given = {"model": base, "data": data, "out": tmp_path / "run"}
    line = " ".join(f"--{name} {value}" for name, value in given.items() if name != missing)
    assert gptworks(f"finetune classify {line}") == 2
    assert f"finetune classify needs --{missing}" in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_data_only(straight, data, tmp_path, capsys):
    other = tmp_path / "other"
    other.write_text(data.read_text().replace("prize", "house"))
    assert gptworks(f"finetune classify --out {straight} --resume --data {other}") == 2
    assert "and " + str(other) + " is a different Dataset" in capsys.readouterr().err


def test_a_run_is_not_overwritten(straight, base, data, capsys):
    assert gptworks(start(base, data, straight)) == 2
    assert "already holds a run; add --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("classify {run}", "--text TEXT or --file FILE"),
        ("classify {run} --text ' '", "--text is empty"),
        ("classify {run} --file {run}/none", "--file {run}/none does not exist"),
        ("classify {run} --file {run}", "{run}: Is a directory"),
        ("classify {base} --text x", "score.weight"),
    ],
)
def test_classify_refuses(straight, base, capsys, line, message):
    assert gptworks(line.format(run=straight, base=base)) == 2
    assert message.format(run=straight) in capsys.readouterr().err


def test_a_file_in_another_encoding_is_refused(straight, tmp_path, capsys):
    (tmp_path / "texts.txt").write_bytes(b"see you\ngr\xfc\xdfe\n")
    assert gptworks(f"classify {straight} --file {tmp_path}/texts.txt") == 2
    assert "texts.txt is not valid UTF-8 (byte 10)" in capsys.readouterr().err


def test_every_class_is_said_with_its_examples_so_that_a_mistyped_one_shows(base, tmp_path, capsys):
    lines = [
        "label\ttext\n",
        *(f"{'spam' if n % 4 == 0 else 'ham'}\tword {n}\n" for n in range(40)),
        "Ham\thi\n",
    ]
    (tmp_path / "texts").write_text("".join(lines))
    flags = "--train.max-steps 1 --val-fraction 0 --test-fraction 0"
    assert gptworks(start(base, tmp_path / "texts", tmp_path / "run", flags)) == 0
    assert "classes: Ham (1), ham (30), spam (10)" in capsys.readouterr().err


def test_pretraining_has_another_dropout(tmp_path, capsys):
    assert gptworks(f"pretrain --data {tmp_path} --out {tmp_path / 'r'} --train.dropout 0.1") == 2
    assert "model.dropout" in capsys.readouterr().err


@pytest.fixture(scope="module")
def adapted(base, data, tmp_path_factory):
    """A run that trained an adapter."""
    out = tmp_path_factory.mktemp("adapted") / "run"
    assert gptworks(start(base, data, out, "--lora.rank 4")) == 0
    return out


def test_merged_is_an_ordinary_classifier_with_the_same_scores(adapted, tmp_path, byte_tokenizer):
    from transformers import AutoModelForSequenceClassification

    assert gptworks(f"merge {adapted} --out {tmp_path / 'whole'}") == 0
    ids = np.array(byte_tokenizer.encode("win a prize!!!"))
    ours = classifier.predict(classifier.load(runs.Run(adapted).checkpoint()), [ids], 0)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(torch.from_numpy(ids)[None]).logits, ours, rtol=1e-5, atol=1e-5)
    assert theirs.config.id2label == {0: "ham", 1: "spam"}
    assert gptworks(f"classify {tmp_path / 'whole'} --text hello") == 0


def test_merge_refuses_what_it_cannot_do(adapted, base, tmp_path, capsys):
    assert gptworks(f"merge {base} --out {tmp_path / 'whole'}") == 2
    assert "not an adapter" in capsys.readouterr().err
    assert gptworks(f"merge {adapted} --out {tmp_path}") == 2
    assert "already exists" in capsys.readouterr().err


def test_an_adapter_s_run_does_not_go_on_beside_a_base_that_changed(
    base, data, tmp_path, byte_tokenizer, capsys
):
    other = tmp_path / "base"
    checkpoint.save(tiny(init_std=0.05), other, byte_tokenizer)
    line = start(other, data, tmp_path / "run", "--lora.rank 4")
    assert gptworks(line) == 0
    checkpoint.save(tiny(init_std=0.06), other, byte_tokenizer)
    assert gptworks(f"{line} --resume") == 2
    assert "whose weights have changed" in capsys.readouterr().err


def test_generation_refuses_a_classifier_s_adapter(adapted, capsys):
    assert gptworks(f"generate {adapted} --prompt x") == 2
    assert "gptworks classify" in capsys.readouterr().err


def test_a_recipe_says_itself_what_it_is_for(base, data, repository, tmp_path, capsys):
    recipe = packaged.find("spam-gpt2")
    line = f"finetune {recipe} --model {base} --data {data} --out {tmp_path / 'run'} --train.epochs 1"
    assert gptworks(line) == 0
    asked, done = load(recipe), load(tmp_path / "run" / "recipe.toml")
    assert done.classify == dataclasses.replace(asked.classify, text="text", label="label")
    assert done.optim == dataclasses.replace(asked.optim, final_lr=0.0)
    (tmp_path / "other.toml").write_text("[optim]\nlr = 1.0\n")
    assert gptworks(f"finetune {tmp_path / 'other.toml'}") == 2
    assert "[classify]" in capsys.readouterr().err


def test_two_processes_take_the_steps_of_one(base, data, tmp_path):
    line = "--train.max-steps 5 --batch-examples 7 --eval.every 2 --train.dropout 0"
    line += " --lora.rank 4 --train.precision fp32"
    for count in (1, 2):
        out = tmp_path / str(count)
        words = shlex.split(f"finetune classify --model {base} --data {data} --out {out} {line}")
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, *torchrun, "-m", "gptworks", *words]
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=200)
    alone, shared = (
        [row.get("loss", row.get("val_loss")) for row in rows(tmp_path / count)] for count in ("1", "2")
    )
    assert shared == pytest.approx(alone, rel=1e-5)
    assert tensors(tmp_path / "1").keys() == tensors(tmp_path / "2").keys()
