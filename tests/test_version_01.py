"""What version 0.1 wrote opens, reports and resumes: a resumed run equals one that was never stopped."""

import json
import shlex
import tarfile
from pathlib import Path

import pytest

from gptworks.cli import main
from gptworks.files import read_rows
from gptworks.recipefile import load

pytestmark = pytest.mark.e2e

ARCHIVE = Path(__file__).parent / "fixtures" / "v01.tar.xz"
REFERENCE = Path("reference")

SKIPPED = {"seconds", "tokens_per_second", "mfu", "peak_memory", "chosen_by", "remarks"}
"""What depends on the machine and its load, and sentences."""

CLOSE = {"rel": 1e-2, "abs": 1e-3}
"""Equal to the last bit on the machine that wrote the fixtures. Another CPU sums in another order, which 100 steps of
training make about 1e-4 in a loss. A wrong step, seed, learning rate or row changes losses by more than 0.02."""


@pytest.fixture(autouse=True)
def artifacts(tmp_path, monkeypatch):
    """The current folder holds all that version 0.1 wrote; the network is off."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "fixtures-v01")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def gptworks(line: str) -> None:
    assert main(shlex.split(line)) == 0, line


def read(file: str | Path):
    return json.loads(Path(file).read_text())


def same(ours, theirs, name: str = "") -> None:
    """Same keys, text and whole numbers; floats within CLOSE."""
    if isinstance(theirs, dict):
        keys = theirs.keys() - SKIPPED
        assert ours.keys() - SKIPPED == keys, name
        for key in keys:
            same(ours[key], theirs[key], f"{name}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), name
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            same(one, other, f"{name}[{number}]")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, **CLOSE), name
    else:
        assert ours == theirs, name


def same_curves(run: str, reference: str) -> None:
    same(read_rows(Path(run) / "metrics.jsonl"), read_rows(REFERENCE / reference))


def stamps(folder: str) -> dict[Path, bytes]:
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "lock"]
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "name",
    [
        "bpe",
        "dataset",
        "runs/base",
        "runs/base@step-0",
        "runs/pretrain",
        "runs/pretrain@step-40",
        "runs/tries/tries/1",
        "runs/grades",
        "runs/answers-4",
        "runs/answers-16",
        "campaign",
    ],
)
def test_it_is_inspected(name):
    gptworks(f"inspect {name}")


def test_a_dataset_is_intact_and_complete(capsys):
    gptworks("inspect dataset --verify")
    before = stamps("dataset")
    gptworks(
        "prepare --sources texts/sets.jsonl --tokenizer bpe --out dataset --text-key body --subsets hill river "
        "--subset-key about.set --separator eos-before --parse-special --val-split-by tail --val-fraction 0.2 "
        "--min-words 3"
    )
    assert stamps("dataset") == before


def test_an_option_that_changed_is_named_by_its_new_name(capsys):
    line = (
        "prepare --sources texts/sets.jsonl --tokenizer bpe --out dataset --text-key body --subsets hill "
        "--subset-key about.set --separator none --parse-special --val-split-by tail --val-fraction 0.2 --min-words 3"
    )
    assert main(shlex.split(line)) == 2
    said = capsys.readouterr().err
    assert "prepare.subsets" in said
    assert "prepare.separator" in said
    assert "prepare.parse_special" not in said


def test_an_unfinished_dataset_is_finished():
    gptworks(
        "prepare --sources texts/good.jsonl texts/spoiled.jsonl --tokenizer bpe --out dataset-unfinished "
        "--separator eos-before --val-split-by tail --val-fraction 0.1 --parse-special --on-error skip"
    )
    assert read("dataset-unfinished/manifest.json")["fingerprint"].startswith("325ce3fc8bd44c33")


def test_pretraining_resumes_as_if_never_stopped():
    gptworks("pretrain --out runs/pretrain --resume")
    same_curves("runs/pretrain", "pretrain-metrics.jsonl")
    recipe = load(Path("runs/pretrain/recipe.toml"))
    assert (recipe.train.max_bad_steps, recipe.train.spike_sigma, recipe.optim.muon_lr) == (4, 9.0, 0.015)
    assert "max_bad_steps = 4" in Path("runs/pretrain/recipe.toml").read_text()
    assert not Path("runs/pretrain/changes.jsonl").exists()  # new names are no changes


@pytest.mark.parametrize(
    "line",
    [
        "pretrain --out runs/base --resume",
        "pretrain recipes/base.new.toml --resume",
        "finetune instruct --out runs/answers-16 --resume",
    ],
)
def test_a_finished_run_is_left_alone(line, capsys):
    gptworks("recipes upgrade recipes/base.toml --out recipes/base.new.toml")
    run = "answers-16" if "answers" in line else "base"
    before = stamps(f"runs/{run}/checkpoints"), Path(f"runs/{run}/metrics.jsonl").read_bytes()
    gptworks(line)
    assert (stamps(f"runs/{run}/checkpoints"), Path(f"runs/{run}/metrics.jsonl").read_bytes()) == before


def test_several_seeds_of_a_classifier_resume():
    first = stamps("runs/tries/tries/1/checkpoints")
    gptworks("finetune classify --out runs/tries --resume")
    for number in (1, 2):
        same_curves(f"runs/tries/tries/{number}", f"tries-{number}-metrics.jsonl")
    same(read("runs/tries/results/tries.json"), read(REFERENCE / "tries.json"))
    kept = {
        path.relative_to("runs/tries/checkpoints"): text
        for path, text in stamps("runs/tries/checkpoints").items()
    }
    assert kept == {path.relative_to("runs/tries/tries/1/checkpoints"): text for path, text in first.items()}
    gptworks('classify runs/tries --text "the cat sees" --pair "sees the clock" --json')


def test_a_finished_regression_with_an_int8_adapter_predicts_what_it_did(capsys):
    pytest.importorskip("bitsandbytes")
    gptworks('classify runs/grades --text "the cat sees" --pair "a dog sees" --json')
    assert "1.35" in capsys.readouterr().out  # 1.35444796
    before = stamps("runs/grades/checkpoints")
    gptworks("finetune classify --out runs/grades --resume")
    assert stamps("runs/grades/checkpoints") == before


def test_instructions_on_an_nf4_base_resume_merge_and_answer():
    pytest.importorskip("bitsandbytes")
    gptworks("finetune instruct --out runs/answers-4 --resume")
    same_curves("runs/answers-4", "answers-4-metrics.jsonl")
    ours, theirs = (
        read("runs/answers-4/results/instruct-test.json"),
        read(REFERENCE / "answers-4-instruct-test.json"),
    )
    for key in ("split", "checkpoint", "data_fingerprint", "tokenizer_fingerprint", "shortened", "dropped"):
        assert ours[key] == theirs[key]
    for key in ("before", "last"):
        same(ours["loss"][key], theirs["loss"][key])
    gptworks("merge runs/answers-4 --out merged")
    gptworks('generate merged --instruction "Who sees the clock?" --max-tokens 4')


def test_an_adapter_answers():
    gptworks('generate runs/answers-16 --instruction "Who sees the clock?" --max-tokens 4')


def test_a_checkpoint_is_evaluated(capsys):
    gptworks(
        "evaluate runs/pretrain@step-40 --tasks perplexity:texts/held.txt --perplexity.stride 16 "
        "--perplexity.ignore-first 3 --perplexity.average documents --out other.json"
    )
    assert read("other.json")["rows"]


def test_reports_speak_with_the_new_names():
    gptworks("report runs/base runs/pretrain --out both.html")
    page = Path("both.html").read_text()
    assert "muon_lr" in page
    assert "matrix_lr" not in page
    for run in ("runs/grades", "runs/tries/tries/1", "runs/pretrain"):
        gptworks(f"report {run}")
        assert Path(run, "report.html").is_file()


def test_a_glue_campaign_resumes_plots_and_compares():
    done = stamps("campaign/cells/base@step-60/wnli/try-1")
    gptworks("glue --out campaign --resume")
    for file in sorted((REFERENCE / "campaign").glob("*.json")):
        subject, task = file.stem.rsplit("-", 1)
        same(read(f"campaign/cells/{subject}/{task}/result.json"), read(file), file.stem)
    assert stamps("campaign/cells/base@step-60/wnli/try-1") == done
    before = stamps("campaign/cells")
    gptworks("glue --out campaign --resume")
    assert stamps("campaign/cells") == before
    gptworks("glue plot campaign")
    gptworks("glue compare campaign")


@pytest.mark.parametrize("name", ["answers-4", "answers-16", "base", "glue", "grades", "pretrain", "tries"])
def test_a_recipe_is_refused_until_it_is_upgraded(name, capsys):
    assert main(["plan", f"recipes/{name}.toml"]) == 2
    assert f"gptworks recipes upgrade recipes/{name}.toml" in capsys.readouterr().err
    gptworks(f"recipes upgrade recipes/{name}.toml --out new.toml")
    load(Path("new.toml"))
