"""The five systems, typed as a new user would, with the packaged recipes. Only sizes, counts, and where
data and models are, differ. (System 004, from its own config file: commands/test_import_config.py.)
"""

import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gptworks import files, runs
from gptworks.cli import main
from gptworks.model import checkpoint
from tests.evaluation.judges import Judge, serving
from tests.glue import official

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path, monkeypatch, repository, byte_tokenizer):
    """A folder with a byte tokenizer, and a random model in the shape of GPT-2, saved by transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    monkeypatch.chdir(tmp_path)
    byte_tokenizer.save(Path("bytes"))
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=byte_tokenizer.vocab_size, n_embd=32, n_layer=1, n_head=2, n_positions=512)
    GPT2LMHeadModel(config).save_pretrained("small-gpt2")
    byte_tokenizer.save(Path("small-gpt2"))
    return tmp_path


@pytest.fixture
def texts(repository):
    """Some hundred kilobytes of this repository."""
    files = sorted((repository / "src" / "gptworks" / "data").glob("*.py"))
    return [part for file in files for part in file.read_text().split("\n\n\n")]


def typed(line: str) -> None:
    assert main(shlex.split(line)) == 0, line


def rows(run: str, key: str) -> list[float]:
    return [row[key] for row in files.read_rows(Path(run) / "metrics.jsonl") if key in row]


def parquet(path: str, texts: list[str]) -> None:
    pq.write_table(pa.table({"text": texts}), path)


@pytest.mark.parametrize("name", ["small", "large", "short", "minimal"])
def test_000_gluept(here, texts, name):
    """Subsets of Parquet, pretraining with all its checkpoints, a campaign of one task, pictures, the zip."""
    for subset in range(2):
        parquet(f"{subset:04}.parquet", texts[subset::2])
    recipe = f"gluept-{name}"
    typed(
        f"prepare {recipe} --sources 0000.parquet 0001.parquet --tokenizer bytes --limit 60 "
        "--val-fraction 0.1 --workers 1"
    )
    frozen = "" if name == "minimal" else "--model.frozen-embedding small-gpt2"
    sizes = f"--model.n-layer 1 --model.n-head 2 --model.n-embd 32 {frozen} --train.batch-tokens 2048"
    often = "--save.every-epochs 0.5 --save.until-epoch 1" if name == "small" else "--save.every-epochs 1"
    counts = f"--train.epochs 3 --optim.warmup-steps 4 --eval.every 20 {often}"
    typed(f"pretrain {recipe} {sizes} {counts}")
    run = f"runs/gluept-{name}"
    assert rows(run, "val_loss")[-1] < rows(run, "val_loss")[0]
    kept = [round(2 * one.epoch) / 2 for one in runs.Run(Path(run)).checkpoints() if one.kept]
    assert kept == ([0, 0.5, 1, 2, 3] if name == "small" else [0, 1, 2, 3])
    if frozen:
        model, base = (checkpoint.load(checkpoint.find_checkpoint(one)) for one in (run, "small-gpt2"))
        assert torch.equal(model.transformer.wte.weight[:257], base.transformer.wte.weight[:257])
    official.write(Path("GLUE"), ("wnli",), whole=True)
    few = "--model small-gpt2 --tasks wnli --data GLUE --wnli.tries 1 --wnli.epochs 0.05 --wnli.eval-every 0"
    typed(f"glue {recipe} --run {run} --checkpoints 0,3 {few}")
    campaign = f"runs/gluept-{name}-glue"
    typed(f"glue plot {campaign}")
    typed(f"glue submit {campaign} --out {name}.zip --fill-majority")
    typed(f"glue check {name}.zip")
    assert list(Path(campaign, "plots").glob("*.png"))


def test_001_dalpino(here, texts, capsys):
    """Its pretraining mixed with one's own texts, LoRA on Alpaca's rows, and an answer."""
    parquet("openwebtext.parquet", texts)
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("A note of mine. " * 50)
    recipe = "dalpino-pretrain"
    typed(
        f"prepare {recipe} --sources openwebtext.parquet mine --weights 1 4 --tokenizer bytes --val-fraction 0.1"
    )
    sizes = (
        "--model.n-layer 1 --model.n-head 2 --model.n-embd 32 --model.context 512 --train.batch-tokens 2048"
    )
    typed(f"pretrain {recipe} {sizes} --train.max-steps 30 --eval.every 10 --eval.tokens 4096")
    assert rows("runs/dalpino", "val_loss")[-1] < rows("runs/dalpino", "val_loss")[0]
    assert set(rows("runs/dalpino", "lr")) == {5e-4}
    asked = [{"instruction": f"Count to {n}.", "input": "", "output": str(n)} for n in range(60)]
    Path("alpaca.json").write_text(json.dumps(asked))
    lora = "--data alpaca.json --batch-examples 8 --train.epochs 1 --n-responses 2 --max-response-tokens 8"
    typed(f"finetune dalpino-lora --model runs/dalpino {lora}")
    folder = checkpoint.find_checkpoint("runs/dalpino-lora")
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (8, 16)  # their 2.0 is not divided by the rank, PEFT's is
    capsys.readouterr()
    typed("generate runs/dalpino-lora --instruction 'Count to 3.' --max-tokens 8 --top-k 20 --temperature 1")
    assert capsys.readouterr().out


def test_002_susac(here, shared_data, capsys):
    """From a folder of transformers: real messages and real instructions, answers, a judge, both modes of the page."""
    spam = f"--model small-gpt2 --data {shared_data}/sms_spam/SMSSpamCollection --max-tokens 128"
    typed(f"finetune spam-gpt2 {spam} --train.epochs 0.3 --eval.every 0")
    result = json.loads(Path("runs/spam-gpt2/results/classify-test.json").read_text())
    assert result["scores"]["last"]["n"] == 300  # of 747 + 747, as there
    short = [
        row
        for row in json.loads((shared_data / "alpaca/alpaca_random_9k.json").read_text())
        if len(row["instruction"] + row["input"] + row["output"]) < 200
    ]
    Path("alpaca.json").write_text(json.dumps(short[:100]))
    few = "--limit 100 --train.epochs 0.2 --n-responses 4 --max-response-tokens 8 --eval.every 0"
    typed(f"finetune alpaca-gpt2 --model small-gpt2 --data alpaca.json {few}")
    answers = json.loads(Path("runs/alpaca-gpt2/results/responses.json").read_text())
    assert len(answers) == 4
    with serving(Judge(lambda prompt: "70")) as url:
        typed(f"judge runs/alpaca-gpt2 --judge openai:gpt-4o-mini --base-url {url} --pause 0.001")
    assert "points 70.00" in capsys.readouterr().out
    _two_modes("runs/alpaca-gpt2", "runs/spam-gpt2")


def _two_modes(instruct: str, spam: str) -> None:
    """What the page asks for its modes Instruct and Classify."""
    from fastapi.testclient import TestClient

    from gptworks.serving import models
    from gptworks.serving.server import create_app
    from gptworks.serving.settings import ServeSettings

    settings = ServeSettings()
    with TestClient(
        create_app(models.load([instruct, spam], settings), settings), base_url="http://127.0.0.1"
    ) as client:
        kinds = {one["id"]: one["kind"] for one in client.get("/v1/models").json()["data"]}
        assert kinds == {instruct: "instruct", spam: "classifier"}
        said = {
            "model": instruct,
            "messages": [{"role": "user", "content": "Name a colour."}],
            "max_tokens": 4,
        }
        assert client.post("/v1/chat/completions", json=said | {"top_k": 50}).status_code == 200
        named = client.post("/v1/classify", json={"model": spam, "input": "WIN a prize"}).json()["data"][0]
        assert named["label"] in ("ham", "spam")


def test_003_gpt_alpha(here, texts, shared_data, capsys):
    """Its own tokenizer, small shards, HellaSwag and samples on the way, the report with its lines, export, text."""
    parquet("fineweb.parquet", texts)
    typed("tokenizer train --sources fineweb.parquet --pattern gpt4 --vocab-size 600 --out bpe")
    recipe = "gpt-alpha-124m"
    small = "--tokenizer bpe --shard-tokens 20000 --val-fraction 0.1"
    typed(f"prepare {recipe} --sources fineweb.parquet {small}")
    assert len(list(Path("data/fineweb-edu-10bt").glob("train-*.bin"))) > 1
    questions = f"--eval.tasks hellaswag_completion:{shared_data}/hellaswag/hellaswag_val_first2000.jsonl"
    sizes = (
        "--model.n-layer 1 --model.n-head 2 --model.n-embd 32 --model.context 128 --train.batch-tokens 1024"
    )
    counts = (
        "--train.max-steps 30 --optim.warmup-steps 4 --eval.every 10 --eval.tokens 4096 --sample.every 15"
    )
    typed(f"pretrain {recipe} {sizes} {counts} {questions} --eval.task-every 15 --eval.task-limit 8")
    run = "runs/gpt-alpha-124m"
    assert rows(run, "val_loss")[-1] < rows(run, "val_loss")[0]
    assert len(rows(run, "hellaswag_completion/acc_norm_token")) >= 2
    assert (Path(run) / "samples.jsonl").read_text().count("Once upon a time,") >= 2
    typed(f"report {run} --out report.html")
    page = Path("report.html").read_text()
    assert "GPT-2 124M" in page
    assert "GPT-3 125M" in page
    typed(f"export {run} --to safetensors --out exported")
    capsys.readouterr()
    typed("generate exported --prompt 'Once upon a time,' --samples 2 --max-tokens 8 --top-k 50")
    assert capsys.readouterr().out.count("Once upon a time,") == 2
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained("exported"),
        AutoTokenizer.from_pretrained("exported"),
    )
    ours = checkpoint.load(checkpoint.find_checkpoint(run)).eval()
    ids = torch.tensor([tokenizer.encode("Once upon a time,")])
    with torch.no_grad():
        assert torch.allclose(ours.logits(ours(ids)), model(ids).logits, rtol=0, atol=1e-4)
