"""Through the front door: a tiny model learns to answer, and what must hold of the run."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import torch
from safetensors.torch import load_file

from gptworks import files, runs
from gptworks.cli import main
from gptworks.model import checkpoint
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from gptworks.text.templates import Chat, Message
from tests.conftest import CONTEXT

FAST = (
    "--train.max-steps 40 --batch-examples 8 --optim.lr 5e-3 --eval.every 10 --save.every 5 --log.every 3 "
    "--n-responses 6"
)
TIMED = {"seconds", "tokens_per_second", "mfu", "peak_memory"}
SHORT = "{% for m in messages %}{{ m.content }}{{ '>' if m.role == 'user' else eos_token }}{% endfor %}"
"""A template of few tokens, for the tiny model's context of 48."""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft, of transformers
]


def gptworks(line):
    """A command line, as typed."""
    return main(shlex.split(line))


def tiny(tokenizer, **options):
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 32, "context": CONTEXT, "init_std": 0.05} | options
    return build(resolve_config(ModelOptions(**shape), tokenizer.vocab_size), seed=0).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_tokenizer):
    folder = tmp_path_factory.mktemp("base")
    checkpoint.save(tiny(byte_tokenizer, dropout=0.1), folder, byte_tokenizer)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The answer is yes to what ends with !, and no to what ends with ?"""
    chance = random.Random(0)
    rows = []
    for number in range(240):
        text = "".join(chance.choices("abcdef", k=chance.randint(1, 8)))
        ending, answer = ("!", "yes") if number % 2 else ("?", "no")
        rows.append({"instruction": text + ending, "input": "", "output": answer})
    file = tmp_path_factory.mktemp("data") / "alpaca.json"
    file.write_text(json.dumps(rows))
    return file


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    file = tmp_path_factory.mktemp("template") / "short.jinja"
    file.write_text(SHORT)
    return file


def start(base, data, out, more=""):
    return f"finetune instruct --model {base} --data {data} --out {out} {FAST} {more}"


KINDS = {
    "full": "--template {short}",
    "lora": "--template {short} --lora.rank 4 --lora.dropout 0.1",
    "chatml": "--template chatml --lora.rank 4 --packing on",
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, short):
    return KINDS[request.param].format(short=short)


@pytest.fixture(scope="module")
def straight(base, data, kind, tmp_path_factory):
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert gptworks(start(base, data, out, kind)) == 0
    return out


@pytest.fixture(scope="module")
def full(base, data, short, tmp_path_factory):
    """A run that trained all weights until it knew the answers."""
    out = tmp_path_factory.mktemp("full") / "run"
    more = f"--template {short} --train.max-steps 120 --train.dropout 0 --test-fraction 0.1 --save.every 60"
    assert gptworks(start(base, data, out, more)) == 0
    return out


def rows(run):
    kept = files.read_rows(run / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMED} for row in kept]


def losses(run):
    return [row.get("loss", row.get("val_loss")) for row in rows(run)]


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
    answers = [(run / "results" / "responses.json").read_text() for run in (one, other)]
    assert answers[0] == answers[1]


def results(run, name="instruct-test"):
    return json.loads((run / "results" / f"{name}.json").read_text())


def test_it_learns_to_answer_and_what_it_says_is_kept(full):
    result, said = results(full), results(full, "responses")
    assert result["loss"]["before"] > 4
    assert (
        result["loss"]["last"] < 0.3
    )  # guessing between the two answers costs 0.2 a token, knowing them nothing
    assert [row["output"] for row in said] == [
        "yes" if row["instruction"][-1] == "!" else "no" for row in said
    ]
    right = [row["model_response"] == row["output"] for row in said]
    assert sum(right) >= 5
    assert result["responses"]["exact_match"] == sum(right) / 6
    assert result["responses"]["n"] == len(said) == 6
    assert {row["finish_reason"] for row in said} == {"eos"}
    assert (full / "plots" / "loss.png").is_file()


def test_generation_uses_the_template_of_training_and_says_the_answer_alone(full, capsys):
    for row in results(full, "responses"):
        capsys.readouterr()
        assert gptworks(f"generate {full} --instruction '{row['instruction']}' --temperature 0") == 0
        assert capsys.readouterr().out == row["model_response"] + "\n"
    assert gptworks(f"generate {full} --instruction 'a!' --temperature 0 --json") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["prompt"] == "a!>"
    assert answer["finish_reason"] == "eos"
    assert gptworks(f"generate {full} --instruction 'a!' --temperature 0 --stream") == 0
    assert capsys.readouterr().out == answer["text"] + "\n"


def test_transformers_answers_the_same_from_the_checkpoint_alone(full):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = runs.Run(full).checkpoint()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for row in results(full, "responses"):
        asked = [{"role": "user", "content": row["instruction"]}]
        ids = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(**ids, do_sample=False, max_new_tokens=20)
        assert (
            tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            == row["model_response"]
        )


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(base, data, kind, straight, tmp_path):
    again = tmp_path / "run"
    assert gptworks(start(base, data, again, f"{kind} --save.keep 9")) == 0
    for later in [
        one for one in runs.Run(again).checkpoints() if one.step > 10
    ]:  # as if it had been killed then
        (later.path / runs.MARKER).unlink()
    assert runs.Run(again).checkpoints()[-1].step == 10
    assert gptworks(f"finetune instruct --out {again} --resume") == 0
    assert_same_bits(again, straight)


def test_sigkill_anywhere_loses_nothing(base, data, straight, kind, tmp_path):
    if "chatml" not in kind:
        pytest.skip("once is enough: it costs a fresh interpreter")
    out = tmp_path / "run"
    words = [sys.executable, "-m", "gptworks", *shlex.split(start(base, data, out, kind))]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not runs.Run(out).checkpoints() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert gptworks(start(base, data, out, f"{kind} --resume")) == 0
    assert_same_bits(out, straight)


def test_a_finished_run_resumes_to_itself(straight):
    before = tensors(straight)
    assert gptworks(f"finetune instruct --out {straight} --resume") == 0
    assert all(torch.equal(tensors(straight)[name], before[name]) for name in before)


EXACT = "--train.precision fp32 --train.dropout 0"
"""Without what depends on how a step is cut: masks, and bfloat16's rounding where the hardware has it."""


@pytest.mark.parametrize("packing", ["on", "off"])
def test_half_the_micro_batch_is_the_same_update(base, data, short, tmp_path, packing):
    for size in (8, 3):
        more = f"--template {short} --train.max-steps 4 --packing {packing} --n-responses 0 {EXACT}"
        assert gptworks(start(base, data, tmp_path / str(size), f"{more} --train.micro-batch {size}")) == 0
    whole = tensors(tmp_path / "8")
    assert losses(tmp_path / "3") == pytest.approx(losses(tmp_path / "8"), rel=1e-5)
    found = tensors(tmp_path / "3")
    for name in whole:
        if name.startswith("model"):
            torch.testing.assert_close(found[name], whole[name], rtol=0, atol=1e-4)


def test_packed_and_padded_are_one_run(base, data, short, tmp_path):
    for packing in ("on", "off"):
        more = f"--template {short} --train.max-steps 4 --packing {packing} --n-responses 0 {EXACT}"
        assert gptworks(start(base, data, tmp_path / packing, more)) == 0
    assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), rel=1e-5)


@pytest.fixture(scope="module")
def chatml(base, data, tmp_path_factory):
    """A run that trained an adapter, and the embeddings of two new tokens."""
    out = tmp_path_factory.mktemp("chatml") / "run"
    assert gptworks(start(base, data, out, KINDS["chatml"])) == 0
    return out


def test_tokens_of_a_template_are_learned_beside_an_adapter(chatml, base):
    folder = runs.Run(chatml).checkpoint()
    tokenizer, before = checkpoint.load_tokenizer(folder), checkpoint.load(base)
    assert tokenizer.special_tokens == {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
    assert tokenizer.eos == "<|im_end|>"
    after = checkpoint.load(folder)
    assert after.config.vocab_size == checkpoint.read_config(folder).vocab_size == 259
    new = after.head_weight[257:259]
    mean = before.head_weight[:257].mean(0)
    assert (new - mean).abs().max() > 0.01  # where they began
    asked = json.loads((folder / "adapter_config.json").read_text())
    assert asked["modules_to_save"] == ["wte", "lm_head"]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_peft_opens_it_beside_a_base_with_as_many_rows(chatml, base):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = runs.Run(chatml).checkpoint()
    theirs = AutoModelForCausalLM.from_pretrained(base)
    theirs.resize_token_embeddings(259, mean_resizing=False)
    theirs = PeftModel.from_pretrained(theirs, folder).eval()
    ids = torch.tensor([Chat(checkpoint.load_tokenizer(folder)).prompt([Message("user", "ab!")])])
    ours = checkpoint.load(folder)
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours.logits(ours(ids)), rtol=1e-4, atol=1e-5)


def test_merged_is_an_ordinary_model_that_answers_the_same(chatml, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert gptworks(f"merge {chatml} --out {tmp_path / 'whole'}") == 0
    said = []
    for model in (chatml, tmp_path / "whole"):
        capsys.readouterr()
        assert gptworks(f"generate {model} --instruction 'abc?' --max-tokens 8 --temperature 0") == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    assert theirs.generation_config.eos_token_id == tokenizer.eos_token_id == 258
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "abc?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )["input_ids"]
    ours = checkpoint.load(tmp_path / "whole")
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours.logits(ours(ids)), rtol=1e-5, atol=1e-5)


def test_inspect_says_what_it_is(chatml, base, capsys):
    assert gptworks(f"inspect {chatml}") == 0
    said = capsys.readouterr().out
    assert "validation loss" in said
    assert "259" in said
    assert f"LoRA of rank 4 for {base}" in said
    assert "None" not in said


def test_a_model_that_was_taught_goes_on_with_its_own_template(full, data, tmp_path):
    assert (
        gptworks(
            f"finetune instruct --model {full} --data {data} --out {tmp_path / 'run'} --train.max-steps 1"
        )
        == 0
    )
    saved = checkpoint.load_tokenizer(runs.Run(tmp_path / "run").checkpoint())
    assert saved.chat_template == SHORT


def test_chats_of_several_turns_are_learned(base, short, tmp_path):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    chats = [
        {"messages": [{"role": role, "content": f"{text}{n}"} for role, text in turns]} for n in range(60)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    out = tmp_path / "run"
    more = f"--template {short} --train.max-steps 3 --test-fraction 0.2"
    assert gptworks(start(base, tmp_path / "chat.jsonl", out, more)) == 0
    said = results(out, "responses")
    assert all(row["instruction"].startswith("c") and row["output"].startswith("d") for row in said)
    assert [m["role"] for m in said[0]["messages"]] == ["user", "assistant"]


def test_a_recipe_says_itself_what_it_is_for(data, byte_tokenizer, repository, tmp_path):
    checkpoint.save(tiny(byte_tokenizer, context=320), tmp_path / "base", byte_tokenizer)
    line = f"finetune dalpino-lora --model {tmp_path}/base --data {data} --limit 60"
    assert (
        gptworks(f"{line} --out {tmp_path}/run --train.epochs 1 --n-responses 1 --max-response-tokens 4") == 0
    )
    saved = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())
    assert saved["instruct"]["template"] == "dalpino"
    assert saved["lora"] | {"rank": 8, "alpha": 2.0, "scaling": "unscaled"} == saved["lora"]
    assert saved["optim"]["grad_clip"] == 0
    assert not saved.keys() & {"model", "sample", "prepare", "classify"}
    config = json.loads((runs.Run(tmp_path / "run").checkpoint() / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == 2.0


BAD = [
    (
        "--template alpca",
        "--template alpca is neither a file nor one of alpaca, chatml, dalpino, raschka, susac",
    ),
    ("--template '{{ messages[0].content }}'", "puts no special token after an answer"),
    ("--template '{% if %}'", "line 1"),
    ("--template '{{ nothing.there }}'", "the chat template does not render: 'nothing' is undefined"),
    ("--max-tokens 500", "--max-tokens 500 is more than the model's context of 48"),
    ("--max-tokens 3", "3 tokens"),
    ("--train.epochs 2", "train.max_steps and train.epochs"),
    ("--val-fraction 0.6 --test-fraction 0.4", "leave nothing to train on"),
    ("--model ./nowhere", "there is no folder ./nowhere"),
    ("--data ./nowhere", "there is no file nowhere"),
    ("--lora.rank 4 --lora.targets q_proj", "lora.targets=q_proj names no linear layer"),
    ("--add-tokens a --template {short}", "'a' cannot be a special token"),
]


@pytest.mark.parametrize(("more", "message"), BAD)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    base, data, short, tmp_path, capsys, more, message
):
    out = tmp_path / "run"
    line = start(base, data, out)
    for name in ("--model", "--data"):
        if more.startswith(name + " "):
            line = line.replace(f"{name} {base if name == '--model' else data}", "")
    if "--template" not in more:
        more += f" --template {short}"
    assert gptworks(f"{line} {more.replace('{short}', str(short))}") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("missing", ["model", "data", "out"])
def test_what_is_missing_is_named(base, data, tmp_path, capsys, missing):
    given = {"model": base, "data": data, "out": tmp_path / "run"}
    line = " ".join(f"--{name} {value}" for name, value in given.items() if name != missing)
    assert gptworks(f"finetune instruct {line}") == 2
    assert f"finetune instruct needs --{missing}" in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_data_and_template_only(full, data, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text(data.read_text().replace("yes", "yea"))
    assert gptworks(f"finetune instruct --out {full} --resume --data {other}") == 2
    assert f"and {other} is a different Dataset" in capsys.readouterr().err
    assert gptworks(f"finetune instruct --out {full} --resume --template raschka") == 2
    assert "another chat template" in capsys.readouterr().err


def test_the_same_template_from_a_file_that_is_gone(full, data, short):
    """The run keeps the template itself."""
    saved = tomllib.loads((full / "recipe.toml").read_text())
    assert saved["instruct"]["template"] == SHORT


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generate {base} --instruction x", "has no chat template"),
        ("generate {full} --instruction x --prompt y", "--instruction"),
        ("generate {full} --input x", "--input"),
        ("generate {full} --instruction " + "x" * 60, "the prompt has 61 tokens"),
    ],
)
def test_generate_refuses(full, base, capsys, line, message):
    assert gptworks(line.format(full=full, base=base)) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_for_nothing_or_for_two_things(tmp_path, capsys):
    (tmp_path / "both.toml").write_text("[classify]\nbatch_examples = 2\n[instruct]\nbatch_examples = 2\n")
    assert gptworks(f"finetune {tmp_path / 'both.toml'}") == 2
    assert "[instruct]" in capsys.readouterr().err


def test_two_processes_take_the_steps_of_one(base, data, short, tmp_path):
    line = f"--template {short} --train.max-steps 4 --batch-examples 7 --eval.every 2 --lora.rank 4 {EXACT}"
    command = f"finetune instruct --model {base} --data {data} --n-responses 2 {line}"
    assert gptworks(f"{command} --out {tmp_path / '1'}") == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*torchrun, "-m", "gptworks", *shlex.split(f"{command} --out {tmp_path / '2'}")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(words, env=env, check=True, capture_output=True, timeout=200)
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-5)
    measured = [results(tmp_path / count)["loss"] for count in ("1", "2")]
    assert measured[1]["last"] == pytest.approx(measured[0]["last"], rel=1e-5)
    assert measured[1]["before"] == pytest.approx(measured[0]["before"], rel=1e-6)  # cut differently
