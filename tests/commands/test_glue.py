"""Whole commands: a campaign over every task, killed, shared between processes, extended and misused."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from gptworks import files, runs
from gptworks.cli import main
from gptworks.evaluation import glue as metrics
from gptworks.glue import records
from gptworks.glue.plan import CampaignPlan, task_tables
from gptworks.glue.tasks import TASKS
from gptworks.model import checkpoint
from gptworks.recipefile import load
from tests.glue import official
from tests.model.test_lora import tiny

pytestmark = pytest.mark.e2e

ROWS = 24
FAST = "--no-official-rows --classify.batch-examples 8 --train.epochs 0.5 --eval.every 0 --optim.lr 3e-3"
HEAD = "--classify.train-layers head"


def gptworks(line):
    """A command line, as typed."""
    return main(shlex.split(line))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return official.write(tmp_path_factory.mktemp("glue"), rows=ROWS)


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_tokenizer):
    folder = tmp_path_factory.mktemp("models") / "base"
    checkpoint.save(tiny(init_std=0.05, context=96), folder, byte_tokenizer)
    return folder


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory):
    """All nine tasks, two tries each."""
    out = tmp_path_factory.mktemp("campaign") / "whole"
    assert gptworks(f"glue --model {base} --data {data} --out {out} {FAST} --n-seeds 2") == 0
    return out


def results(campaign):
    """All results, without their times."""
    found = {}
    for file in sorted(campaign.glob("cells/*/*/*.json*")):
        text = file.read_text()
        if file.suffix == ".json":
            result = json.loads(text)
            assert result.pop("seconds") > 0
            for one in result["tries"]:
                assert one.pop("seconds") > 0
            text = json.dumps(result)
        found[file.relative_to(campaign).as_posix()] = text
    return found


def test_every_cell_has_scores_of_its_own_predictions(whole):
    done = records.results(whole)
    assert {task for _, task in done} == set(TASKS)
    for (subject, name), result in done.items():
        task = TASKS[name]
        run = records.try_run(records.cell(whole, subject, name), result.chosen) / "results"
        assert result.n == ROWS * len(task.validation)
        found = {}
        for part in task.validation:
            rows = files.read_rows(run / f"{part.name}.jsonl")
            said = [row["label"] if task.labels else row["value"] for row in rows]
            words = task.labels or (0.0, 2.5, 4.75)
            true = [words[n % len(words)] for n in range(ROWS)]
            numbers = [[words.index(w) for w in side] if task.labels else side for side in (said, true)]
            scores = metrics.score(name, *map(np.array, numbers))
            found |= {f"accuracy_{part.name}": scores["accuracy"]} if name == "mnli" else scores
        assert result.best.metrics == pytest.approx(found, abs=1e-4)
        assert result.best.score == pytest.approx(metrics.task_score(name, found), abs=1e-4)
        assert result.best.score == max(one.score for one in result.tries)
        assert result.mean["score"] == pytest.approx(np.mean([one.score for one in result.tries]))
        assert result.standard_deviation["score"] == pytest.approx(
            np.std([one.score for one in result.tries], ddof=1)
        )
        assert [one.seed for one in result.tries] == [0, 1]
        assert "optimistic" in result.chosen_by


def test_every_test_row_has_an_answer_and_tries_leave_no_checkpoints(whole):
    for (subject, name), _ in records.results(whole).items():
        for part in TASKS[name].tests:
            rows = files.read_rows(records.predictions_file(records.cell(whole, subject, name), part))
            assert [row["index"] for row in rows] == list(range(ROWS))
            if name == "stsb":
                assert all(0 <= row["value"] <= 5 for row in rows)
            else:
                assert {row["label"] for row in rows} <= set(TASKS[name].labels)
    assert not list(whole.glob("cells/*/*/*/checkpoints"))


def test_a_try_has_the_settings_of_its_profile_and_the_options(whole):
    wnli, cola, stsb = (
        load(whole / f"cells/base/{name}/try-2/recipe.toml") for name in ("wnli", "cola", "stsb")
    )
    assert (wnli.train.dropout, cola.train.dropout) == (0.2, 0.0)
    assert (wnli.train.seed, wnli.train.epochs, wnli.classify.batch_examples, wnli.optim.lr) == (
        1,
        0.5,
        8,
        3e-3,
    )
    assert wnli.optim.betas == (0.9, 0.95)
    assert (stsb.classify.both_orders, cola.classify.both_orders) == (True, False)
    rows = [row for row in files.read_rows(whole / "cells/base/rte/try-1/metrics.jsonl") if "lr" in row]
    assert [row["lr"] for row in rows] == pytest.approx(
        [3e-3, 1.5e-3]
    )  # half of three steps, and it ends there
    looks = [row for row in files.read_rows(whole / "cells/base/mrpc/try-1/metrics.jsonl") if "val_f1" in row]
    assert [row["step"] for row in looks] == [0, 2]
    result = records.results(whole)["base", "mrpc"]
    assert looks[-1]["val_f1"] == pytest.approx(result.tries[0].metrics["f1"])


def test_the_table_has_the_official_average_and_the_guesses(whole, capsys):
    assert gptworks(f"glue --out {whole} --resume") == 0
    table = capsys.readouterr().out
    assert table == (whole / "table.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| base |"))
    kept = {name: result.best.metrics for (_, name), result in records.results(whole).items()}
    assert row.split("|")[-2].strip() == f"{100 * metrics.total(kept):.1f}"
    assert "| *majority guess* |" in table
    assert "| *positive guess* |" in table


def test_sigkill_anywhere_loses_nothing(base, data, whole, tmp_path):
    out = tmp_path / "whole"
    line = f"glue --model {base} --data {data} --out {out} {FAST} --n-seeds 2 --resume --tasks cola rte wnli mrpc"
    words = [sys.executable, "-m", "gptworks", *shlex.split(line)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(list(out.glob("cells/*/*/result.json"))) < 2:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {file: file.stat().st_mtime_ns for file in out.glob("cells/*/*/result.json")}
    assert gptworks(line) == 0
    ours, theirs = results(out), results(whole)
    assert ours == {name: theirs[name] for name in ours}
    assert len(ours) == 4 * 2
    assert all(file.stat().st_mtime_ns == when for file, when in done.items())  # none was done again


def test_a_cell_that_another_process_holds_is_left_to_it(base, data, whole, tmp_path, capsys):
    out = tmp_path / "shared"
    line = f"glue --model {base} --data {data} --out {out} {FAST} --n-seeds 2 --tasks rte wnli"
    with files.locked(records.cell(out, "base", "rte")):
        assert gptworks(line) == 0
        assert "1 cell left" in capsys.readouterr().err
        assert [task for _, task in records.results(out)] == ["wnli"]
    assert gptworks(line) == 2
    said = capsys.readouterr().err
    assert str(out) in said
    assert "--resume" in said
    assert gptworks(f"{line} --resume") == 0
    ours, theirs = results(out), results(whole)
    assert ours == {name: theirs[name] for name in ours}
    assert len(ours) == 4


def test_a_campaign_may_grow_but_keeps_its_settings(base, data, tmp_path, capsys):
    out = tmp_path / "growing"
    line = f"glue --model {base} --data {data} --out {out} {FAST}"
    assert gptworks(f"{line} --tasks wnli --n-seeds 1") == 0
    alone = records.results(out)["base", "wnli"]
    assert gptworks(f"{line} --tasks wnli rte --n-seeds 3 --resume") == 0
    now = records.results(out)
    assert [len(result.tries) for result in now.values()] == [3, 3]
    assert now["base", "wnli"].tries[0] == alone.tries[0]
    capsys.readouterr()
    assert gptworks(f"{line} --tasks rte --n-seeds 3 --resume --optim.lr 1e-3") == 2
    assert "optim.lr of rte = 0.003, not 0.001" in capsys.readouterr().err
    assert gptworks(f"{line} --tasks rte --n-seeds 3 --resume --rte.epochs 1") == 2
    assert "train.epochs of rte = 0.5, not 1.0" in capsys.readouterr().err
    assert gptworks(f"{line} --tasks rte --n-seeds 3 --resume --train.precision auto") == 0  # the default
    before = (out / "recipe.toml").read_text()
    assert gptworks(f"glue --out {out} --resume") == 0
    assert (out / "recipe.toml").read_text() == before


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, byte_tokenizer):
    """A run with the untrained model and two more checkpoints."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("the cat sat on the mat and saw it. " * 400)
    byte_tokenizer.save(folder / "bytes")
    assert (
        gptworks(
            f"prepare --sources {folder}/texts --tokenizer {folder}/bytes --out {folder}/set --val-fraction 0"
        )
        == 0
    )
    shape = "--model.n-layer 1 --model.n-head 2 --model.n-embd 16 --model.context 96"
    saves = "--save.at-start --save.every-epochs 0.02 --eval.every 0"
    length = "--train.batch-tokens 96 --train.max-steps 6"
    line = f"pretrain --data {folder}/set --out {folder}/run {shape} {length} {saves}"
    assert gptworks(line) == 0
    return folder / "run"


def test_all_checkpoints_of_a_run_that_marked_none_are_the_ones_it_has_left(
    pretrained, data, tmp_path, capsys
):
    run, out = tmp_path / "run", tmp_path / "campaign"
    shutil.copytree(pretrained, run)
    for one in runs.Run(run).checkpoints()[:-1]:
        shutil.rmtree(one.path)
    state = runs.Run(run).checkpoints()[0].path / runs.STATE
    state.write_text(json.dumps(json.loads(state.read_text()) | {"kept": False}))
    line = f"glue --run {run} --data {data} --out {out} {FAST} --n-seeds 1 --tasks wnli {HEAD}"
    assert gptworks(f"{line} --checkpoints all") == 0
    said = capsys.readouterr().err
    assert f"{run} " in said
    assert "--save.every-epochs" in said
    assert [subject.step for subject in records.read_grid(out).subjects] == [6]


def test_checkpoints_of_a_run_are_measured_the_last_first(pretrained, data, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "campaign"
    shutil.copytree(pretrained, run)
    line = f"glue --run {run} --data {data} --out {out} {FAST} --n-seeds 1 --tasks wnli cola {HEAD}"
    assert gptworks(f"{line} --checkpoints all") == 0
    done = [text.split(":")[0] for text in capsys.readouterr().err.splitlines() if " cells" in text]
    assert done == ["run@step-6 WNLI", "run@step-6 CoLA", "run@step-0 WNLI", "run@step-0 CoLA", *done[4:]]
    grid = records.read_grid(out)
    steps = [subject.step for subject in grid.subjects]
    assert (steps[0], steps[-1], steps) == (0, 6, sorted(steps))
    assert len(steps) >= 3
    assert (grid.subjects[0].epoch, grid.subjects[0].tokens) == (0.0, 0)
    assert (grid.subjects[-1].tokens, grid.subjects[-1].model) == (6 * 96, f"{run}@step-6")
    shutil.rmtree(out / f"cells/run@step-{steps[1]}/cola")
    shutil.rmtree(run / "checkpoints" / runs.step_name(steps[1]))
    capsys.readouterr()
    assert gptworks(f"{line} --checkpoints all --resume") == 2
    said = capsys.readouterr().err
    assert f"{run}@step-{steps[1]} " in said
    assert "--checkpoints" in said
    assert gptworks(f"{line} --checkpoints 0 --resume") == 0
    assert gptworks(f"{line} --checkpoints 0,9 --resume") == 2
    said = capsys.readouterr().err
    assert f"{run}@epoch-9.0 " in said
    last = re.findall(r"epoch-([\d.]+)", said)[-1]
    assert gptworks(f"{line} --checkpoints {last} --resume") == 0


def test_changed_weights_are_refused(base, data, tmp_path, byte_tokenizer, capsys):
    model, out = tmp_path / "model", tmp_path / "campaign"
    shutil.copytree(base, model)
    line = f"glue --model {model} --data {data} --out {out} {FAST} --n-seeds 1 --tasks wnli"
    assert gptworks(line) == 0
    checkpoint.save(tiny(init_std=0.04, context=96), model, byte_tokenizer)
    assert gptworks(f"{line} --resume") == 2
    assert str(model) in capsys.readouterr().err


def test_adapters_and_models_that_are_kept(base, data, tmp_path):
    out = tmp_path / "campaign"
    line = f"glue --model {base} --data {data} --out {out} {FAST} --n-seeds 2 --tasks stsb --lora.rank 2 --keep-models"
    assert gptworks(line) == 0
    result = records.results(out)["base", "stsb"]
    kept = [file.parent.name for file in out.glob("cells/base/stsb/*/checkpoints")]
    assert kept == [f"try-{result.chosen}"]
    run = out / "cells/base/stsb" / kept[0]
    assert (runs.Run(run).checkpoint() / "adapter_config.json").is_file()
    assert gptworks(f"classify {run} --text 'a cat' --pair 'the mat'") == 0


def test_a_campaign_becomes_a_submission_and_pictures(base, tmp_path, capsys):
    """With WNLI's official numbers of rows, and the other tasks filled."""
    data, out, file = (
        official.write(tmp_path / "glue", ("wnli",), whole=True),
        tmp_path / "c",
        tmp_path / "s.zip",
    )
    line = f"glue --model {base} --data {data} --out {out} --tasks wnli --n-seeds 1 --train.epochs 0.1 --eval.every 0"
    assert gptworks(line) == 0
    capsys.readouterr()
    assert gptworks(f"inspect {out}") == 0
    assert "1 of 1 done" in capsys.readouterr().out
    assert gptworks(f"glue submit {out} --out {file}") == 2
    assert "add --fill-majority" in capsys.readouterr().err
    assert not file.exists()
    assert gptworks(f"glue submit {out} --out {file} --fill-majority") == 0
    said = capsys.readouterr().err
    assert "CoLA (1), " in said
    assert "WNLI (0.1 of 6 epochs)" in said
    assert gptworks(f"glue check {file}") == 0
    with zipfile.ZipFile(file) as archive:
        lines = archive.read("WNLI.tsv").decode().splitlines()
    part = TASKS["wnli"].tests[0]
    said = list(records.read_predictions(records.cell(out, "base", "wnli"), part))
    assert lines[0] == "index\tprediction"
    assert lines[1:] == [f"{n}\t{TASKS['wnli'].word_of[answer]}" for n, answer in enumerate(said)]
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("more/notes.txt", "x")
    assert gptworks(f"glue check {file}") == 2
    assert "notes.txt" in capsys.readouterr().out
    assert gptworks(f"glue plot {out}") == 0
    drawn = capsys.readouterr().out.split()
    assert {file.rpartition(".")[2] for file in drawn} == {"png", "svg"}
    assert all((tmp_path / file).stat().st_size > 1000 for file in drawn)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--tasks rte", "--run RUN or --model MODEL"),
        ("--model nowhere/at/all", "nowhere/at/all"),
        ("--model {base} {base}", "called base"),
        ("--model {base} --tasks coala", "--tasks coala"),
        ("--run {base}", "--run {base}"),
        ("--run {base} --checkpoints all", "--run {base}"),
        ("--run {run} --checkpoints some", "--checkpoints some"),
        ("--model {base} --tasks rte --official-rows", "24 rows, but GLUE's RTE has 2,490"),
        ("--model {base} --classify.label y", "glue.classify.label"),
        ("--model {base} --train.max-steps 3", "train.max_steps"),
    ],
)
def test_errors_are_reported_before_anything_is_written(
    base, pretrained, data, tmp_path, capsys, more, words
):
    out = tmp_path / "campaign"
    line = f"glue --data {data} --out {out} {FAST} " + more.format(base=base, run=pretrained)
    assert gptworks(line) == 2
    said = capsys.readouterr().err
    assert words.format(base=base) in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_torchrun_is_refused(base, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    assert gptworks(f"glue --model {base} --data {data} --out {tmp_path}/c {FAST}") == 2
    assert "torchrun" in capsys.readouterr().err


def test_a_recipe_measures_the_run_it_pretrains(pretrained, base, data, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'out = "{pretrained}"\n[train]\nmax_steps = 6\nbatch_tokens = 96\n[optim]\nlr = 1.0\n[eval]\nevery = 9\n'
        f'[glue]\ndata = "{data}"\nout = "{tmp_path}/campaign"\nofficial_rows = false\ntasks = ["wnli"]\n'
        f'model = ["{base}"]\n'
        "n_seeds = 2\n[glue.train]\nepochs = 2\n[glue.wnli]\nepochs = 1\nn_seeds = 1\n"
    )
    assert gptworks(f"glue {recipe}") == 0
    result, other = records.results(tmp_path / "campaign").values()
    assert other.subject == "base"
    assert len(result.tries) == 1  # a task's own table beats the tables for all tasks
    made = load(tmp_path / f"campaign/cells/{result.subject}/wnli/try-1/recipe.toml")
    assert (made.optim.lr, made.train.epochs, made.train.max_steps) == (5e-5, 1.0, None)  # not pretraining's
    assert (made.eval.every, made.base) == (5, f"{pretrained}@step-6")
    for more, subjects in ((f"--model {base}", 1), (f"--model {base} --checkpoints last", 2)):
        assert gptworks(f"glue {recipe} {more} --out {tmp_path}/{subjects}") == 0
        assert len(records.read_grid(tmp_path / str(subjects)).subjects) == subjects


def test_a_flag_for_all_tasks_beats_a_tasks_own_table_of_the_recipe(tmp_path, monkeypatch):
    seen = []

    def check(self):
        seen.append(self.tables)
        raise SystemExit(0)

    monkeypatch.setattr(CampaignPlan, "check", check)
    file = tmp_path / "r.toml"
    file.write_text(
        f'[glue]\nout = "{tmp_path / "c"}"\nmodel = ["{tmp_path}"]\nn_seeds = 2\n'
        "[glue.train]\nepochs = 7\n[glue.cola]\nepochs = 2\nn_seeds = 3\n[glue.rte]\nlr = 1e-3\n"
    )
    assert gptworks(f"glue {file} --train.epochs 1 --rte.lr 2e-3 --optim.lr=3e-3") == 0
    assert gptworks(f"glue {file}") == 0
    flags, alone = ({name: task_tables(tables, name) for name in ("cola", "rte")} for tables in seen)
    assert (flags["cola"]["train"]["epochs"], flags["cola"]["n_seeds"], flags["rte"]["n_seeds"]) == (1, 3, 2)
    assert (flags["cola"]["optim"]["lr"], flags["rte"]["optim"]["lr"]) == (3e-3, 2e-3)
    assert (alone["cola"]["train"]["epochs"], alone["rte"]["train"]["epochs"]) == (2, 7)
    assert alone["rte"]["optim"]["lr"] == 1e-3


def test_a_campaign_of_version_0_1_resumes(whole, base, data, tmp_path, capsys):
    """Its recipe.toml has the old names, and every option with its default."""
    out = tmp_path / "whole"
    shutil.copytree(whole, out)
    (out / "recipe.toml").write_text(
        f'[glue]\ncheckpoints = "last"\nmodel = ["{base}"]\ntasks = ["all"]\ndata = "{data}"\nout = "{out}"\n'
        "epochs = 0.5\ntries = 2\neval_every = 0\nlr = 0.003\nbatch = 8\nbetas = [0.9, 0.95]\nweight_decay = 0.01\n"
        'clip = 1.0\nwarmup = 0.002\ntrain_layers = "all"\npair_separator = "\\n"\nseed = 0\nprecision = "auto"\n'
        'micro_batch = "auto"\nkeep_models = false\nofficial_rows = false\n[glue.cola]\n[glue.wnli]\n'
        '[lora]\nrank = 0\ndropout = 0.0\ntargets = []\nscaling = "standard"\nbase_bits = 32\n'
    )
    line = f"glue --model {base} --data {data} --out {out} {FAST} --n-seeds 2 --resume"
    assert gptworks(f"{line} --optim.lr 1e-3") == 2
    assert "optim.lr of cola = 0.003, not 0.001" in capsys.readouterr().err
    assert gptworks(line) == 0
    assert results(out) == results(whole)
