"""Every way to the Hub and back, typed as a person would, at a Hub on the loopback interface, whole and in disorder."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from gptworks.data.dataset import Dataset
from gptworks.text.tokenizer import Tokenizer
from tests import hub, lookalikes
from tests.hubwrites import CUT, SLOW, TOKEN, Faults

SCRIPT = """
import contextlib, io, json, os, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.02))  # the Hub's libraries wait up to a minute between tries
from gptworks.cli import main
answers = []
for line, token in json.load(sys.stdin):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(line.split())
    answers.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""

WEIGHTS = b"weights " * 3_500_000
"""So many that half of them are more than what a download writes at a time, 10 MB."""

TEXTS = [f"Document {n}: " + "the cat sat on the mat and looked at it. " * (1 + n % 7) for n in range(120)]


def typed(lines, root, home, faults=None):
    """(status, stdout, stderr) of each command line, or (line, token), in one process that knows this Hub only.

    Without a `root`, nobody answers there.
    """
    asked = [line if isinstance(line, tuple) else (line, None) for line in lines]
    home.mkdir(exist_ok=True)
    with hub.serve(root, faults) if root else nullcontext("http://127.0.0.1:9") as endpoint:
        quick = {
            "HF_HUB_DOWNLOAD_TIMEOUT": "3",
            "HF_HUB_ETAG_TIMEOUT": "3",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], input=json.dumps(asked), capture_output=True, text=True, check=False,
            env=hub.environment(endpoint, home) | quick | {"PYTHONPATH": ":".join(sys.path)}, cwd=home,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def documents(folder: Path) -> list[str]:
    """The texts of a Dataset's training split, in its order."""
    dataset = Dataset.open(folder)
    tokenizer = Tokenizer.load(folder)
    (shard,) = dataset.split("train").shards
    ends = shard.ends.tolist()
    return [tokenizer.decode(shard.tokens[a : b - 1]) for a, b in zip([0, *ends], ends, strict=False)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, byte_tokenizer):
    folder = tmp_path_factory.mktemp("hub")
    byte_tokenizer.save(folder / "bytes")
    return folder


@pytest.mark.slow
def test_everything_by_its_own_name(place, shared_data):
    root, home = place / "all", place / "all-home"
    lookalikes.openwebtext(root, TEXTS)
    lookalikes.fineweb_edu(root, TEXTS[:40])
    lookalikes.hellaswag(root, 6)
    asked = [{"instruction": f"Count to {n}.", "input": "", "output": str(n)} for n in range(60)]
    lookalikes.alpaca(root, asked)
    pairs = [{"sentence1": f"It is {n}.", "sentence2": "It is.", "label": n % 2, "idx": n} for n in range(20)]
    hidden = [row | {"label": -1} for row in pairs]
    splits = {"train": pairs, "validation": pairs, "test": hidden}
    lookalikes.glue(root, "wnli", splits, ["not_entailment", "entailment"])
    lookalikes.gpt2(root, shared_data / "gpt2_bpe")
    few = "--train.max-steps 2"
    lines = [
        "prepare --sources hf:Skylion007/openwebtext --tokenizer gpt2 --val-fraction 0 --workers 1 --out owt",
        "prepare --sources hf:Skylion007/openwebtext@refs/convert/parquet --tokenizer gpt2 --val-fraction 0 "
        "--workers 1 --out converted",
        "prepare --sources hf:HuggingFaceFW/fineweb-edu:sample-10BT --tokenizer gpt2 --val-fraction 0 "
        "--workers 1 --out fineweb",
        f"pretrain --data owt --base gpt2 --out runs/on --train.batch-tokens 256 {few}",
        f"finetune instruct --model gpt2 --data hf:tatsu-lab/alpaca --out runs/alpaca --batch 4 --n-responses 1 "
        f"--max-response-tokens 2 {few}",
        "evaluate gpt2 --tasks hellaswag hellaswag_completion --limit 4 --out scores.json",
        "glue --data hf --model gpt2 --tasks wnli --no-official-rows --out campaign --n-seeds 1 --epochs 0.2 "
        "--eval-every 0",
        ("push runs/alpaca --repo you/alpaca", TOKEN),
        "generate you/alpaca --instruction Count --max-tokens 2",
    ]
    answers = typed(lines, root, home)
    for line, (status, out, err) in zip(lines, answers, strict=True):
        assert status == 0, (line, out, err)
    assert documents(home / "owt") == documents(home / "converted") == TEXTS[::2] + TEXTS[1::2]
    assert documents(home / "fineweb") == TEXTS[:40:2] + TEXTS[1:40:2]
    assert [row["data"] for row in json.loads((home / "scores.json").read_text())["rows"]] == [
        f"hf:Rowan/hellaswag@{hub.COMMIT[:12]} (validation)"
    ] * 4
    assert (home / "campaign/table.md").is_file()
    for status, out, err in typed([lines[0], "generate gpt2 --prompt Once --max-tokens 2"], None, home):
        assert status == 0, (out, err)  # what is here needs no Hub


@pytest.fixture(scope="module")
def refusals(place):
    """What each command line said, at a Hub where much is wrong."""
    root = place / "some"
    whole = lookalikes.openwebtext(root, TEXTS)
    for name in ("gated", "busy", "dead", "full"):
        shutil.copytree(whole, root / "datasets/some" / name)
    program = root / "datasets/some/program"
    program.mkdir()
    (program / "program.py").write_text("import datasets")
    many = root / "datasets/some/many"
    for config in "ab":
        lookalikes.parquet(many / config / "train.parquet", [{"text": "a text"}])
    (many / "README.md").write_text(
        lookalikes.card({config: {"train": f"{config}/train.parquet"} for config in "ab"})
    )
    for name in ("gated", "cut", "full", "dead"):
        folder = root / "models/some" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(WEIGHTS)
    faults = Faults(
        {
            "/cdn/datasets/some/busy/.*00000-of.*": [429, 500, CUT],
            "/cdn/datasets/some/busy/.*00001-of.*": [503, 0, SLOW],
            "/cdn/datasets/some/dead/.*": [500] * 9999,
            "/api/datasets/some/full": [429] * 99,
            "/cdn/models/some/cut/.*": [CUT, CUT, 0],
            "/api/models/some/full.*": [429] * 99,
            "/some/full/resolve.*": [429] * 99,
            "/api/models/some/dead.*": [500] * 99,
            "/some/dead/resolve.*": [500] * 99,
        },
        gated={"some/gated"},
        delay=4,
    )
    prepare = "prepare --tokenizer ../bytes --val-fraction 0 --workers 1 --sources hf:some"
    lines = {
        "no dataset": f"{prepare}/nothing --out a",
        "gated": f"{prepare}/gated --out b",
        "gated, wrong token": (f"{prepare}/gated --out b", "hf_wrong"),
        "gated, token": (f"{prepare}/gated --out b", TOKEN),
        "program": f"{prepare}/program --out a",
        "many": f"{prepare}/many --out a",
        "one of many": f"{prepare}/many:b --out many",
        "no revision": f"{prepare}/busy@v9 --out a",
        "busy": f"{prepare}/busy --out busy",
        "dead": f"{prepare}/dead --out a",
        "full": f"{prepare}/full --out a",
        "no model": "inspect some/nothing",
        "gated model": "inspect some/gated",
        "full model": "inspect some/full",
        "dead model": "inspect some/dead",
        "gated tokenizer": "prepare --tokenizer some/gated --sources ../bytes --out a",
        "full tokenizer": "prepare --tokenizer some/full --sources ../bytes --out a",
        "cut model": "inspect some/cut",
    }
    answers = dict(zip(lines, typed(list(lines.values()), root, place / "some-home", faults), strict=True))
    return answers, faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no dataset", "hf:some/nothing (split train): there is no such dataset on the Hugging Face Hub: check OWNER"),
        ("gated", "gated: accept its terms at https://huggingface.co/datasets/some/gated, then set HF_TOKEN"),
        ("gated, wrong token", "does not accept this token"),
        ("program", "hf:some/program@refs/convert/parquet"),
        ("many", "hf:some/many:CONFIG, out of ['a', 'b']"),
        ("no revision", "there is no such revision of it"),
        ("dead", "(500)"),
        ("full", "too many requests from this address (429)"),
        ("no model", "some/nothing: no folder here, and there is no such model on the Hugging Face Hub"),
        ("gated model", "gated: accept its terms at https://huggingface.co/some/gated, then set HF_TOKEN"),
        ("full model", "(429)"),
        ("dead model", "(500)"),
        ("gated tokenizer", "gated: accept its terms at https://huggingface.co/some/gated"),
        ("full tokenizer", "(429)"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line_that_says_what_to_do(refusals, place, what, says):
    status, _, err = refusals[0][what]
    assert status == 2, err
    line = err.splitlines()[-1]
    assert says in line
    assert line.count("gptworks:") == 1
    assert not (place / "some-home" / "a").exists()


@pytest.mark.slow
def test_a_token_opens_what_is_gated_and_a_configuration_what_has_several(refusals, place):
    for what, folder, count in (("gated, token", "b", len(TEXTS)), ("one of many", "many", 1)):
        assert refusals[0][what][0] == 0, refusals[0][what]
        assert len(documents(place / "some-home" / folder)) == count


@pytest.mark.slow
def test_a_hub_that_is_busy_cuts_off_and_is_slow_gives_all_in_the_end(refusals, place):
    assert refusals[0]["busy"][0] == 0, refusals[0]["busy"]
    assert documents(place / "some-home/busy") == TEXTS[::2] + TEXTS[1::2]
    left = {path: some for path, some in refusals[1].statuses.items() if "busy" in path and some}
    assert not left  # all of it has happened


@pytest.mark.slow
def test_a_download_that_was_cut_off_goes_on_where_it_was(refusals, place):
    """It is no model: that is said of the whole file, so it is there."""
    assert refusals[0]["cut model"][2].splitlines()[-1].startswith("gptworks: ")
    asked = [span for method, path, span in refusals[1].read if path.startswith("/cdn/models/some/cut")]
    assert asked[0] in ("", "bytes=0-")
    assert any(span.startswith("bytes=") and span != "bytes=0-" for span in asked), asked
    (file,) = (place / "some-home/hf/hub").glob("models--some--cut/snapshots/*/model.safetensors")
    assert file.read_bytes() == WEIGHTS


@pytest.mark.slow
def test_an_interrupted_prepare_goes_on_at_the_revision_it_began_with(place):
    root, home = place / "moving", place / "moving-home"
    texts = [f"Old {n} " + "word " * 4000 for n in range(80)]  # pieces of a stream are of some megabytes
    folder = lookalikes.openwebtext(root, texts * 10)
    faults = Faults({"/cdn/.*train-00001.*": [500] * 9999})
    line = "prepare --sources hf:Skylion007/openwebtext --tokenizer ../bytes --val-fraction 0 --workers 1 --out set"
    ((status, _, err),) = typed([line], root, home, faults)
    assert (status, "(500)" in err) == (2, True), err
    assert list((home / "set/unfinished").glob("*.part"))
    hub.move_on(folder, "f" * 40)
    lookalikes.openwebtext(root, ["New", "Newer"])
    ((status, _, err),) = typed([line], root, home)
    assert status == 0, err
    assert documents(home / "set") == [*(texts * 10)[::2], *(texts * 10)[1::2]]
    ((status, _, err),) = typed([line.replace("set", "new")], root, home)
    assert (status, documents(home / "new")) == (0, ["New", "Newer"])
