"""Folders for other programs, opened by transformers in a process that cannot import gptworks."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gptworks.errors import CheckpointError
from gptworks.exports import portable
from gptworks.generation import engine
from gptworks.model import checkpoint, classifier, lora
from gptworks.model.folders import AdapterInfo
from gptworks.model.folders import save as write_folder
from gptworks.recipe import LoraOptions
from tests.exports.conftest import POEM

pytestmark = pytest.mark.e2e

ALONE = """
import sys
sys.modules["gptworks"] = None  # every import of it fails, wherever it is installed
import numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text, out = sys.argv[1:]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
ids = tokenizer(text, return_tensors="pt")["input_ids"]
said = model.generate(ids[:, :8], max_new_tokens=60, do_sample=False)
with torch.no_grad():
    logits = model.float()(ids).logits
np.savez(out, ids=ids.numpy(), logits=logits.numpy(), said=said.numpy(), dtype=str(model.dtype))
"""


def opened_alone(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, folder, POEM, tmp_path / "out.npz"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(tmp_path / "out.npz")


def test_transformers_alone_opens_it_and_says_the_same(known, tmp_path):
    folder, model, tokenizer = known
    portable.write(folder, tmp_path / "out", None)
    found = opened_alone(tmp_path / "out", tmp_path)
    ids = tokenizer.encode(POEM)
    assert found["ids"].tolist() == [ids]
    with torch.no_grad():
        wanted = model.logits(model(torch.tensor([ids]))).numpy()
    assert np.allclose(found["logits"], wanted, rtol=0, atol=1e-5)
    settings = engine.GenerateSettings(temperature=0, max_tokens=60)
    (sample,) = engine.generate(model, tokenizer, ids[:8], settings)
    end = [tokenizer.eos_id] * (sample.finish_reason == "eos")
    assert found["said"][0].tolist() == ids[:8] + sample.ids + end
    assert not (tmp_path / "out" / "trainer").exists()


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")]
)
def test_weights_are_in_the_precision_asked_for_and_the_config_says_so(known, tmp_path, precision, dtype):
    folder, _, _ = known
    portable.write(folder, tmp_path / "out", precision)
    tensors, before = (load_file(where / "model.safetensors") for where in (tmp_path / "out", folder))
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert all(torch.equal(tensor, before[name].to(tensor.dtype)) for name, tensor in tensors.items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    portable.write(tmp_path / "out", tmp_path / "again", None)  # as it is
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == dtype


def test_numbers_that_fp16_cannot_hold_are_refused(known, tmp_path):
    folder, _, tokenizer = known
    model = checkpoint.load(folder)
    with torch.no_grad():
        next(iter(model.parameters()))[0, 0] = 1e6
    checkpoint.save(model, tmp_path / "large", tokenizer)
    with pytest.raises(CheckpointError, match="--precision fp16"):
        portable.write(tmp_path / "large", tmp_path / "out", "fp16")


def test_an_adapter_is_merged(known, tmp_path):
    folder, _, tokenizer = known
    model = checkpoint.load(folder)
    options = LoraOptions(rank=4)
    lora.attach(model, options, seed=0)
    with torch.no_grad():
        for _, layer in lora.adapters(model):
            layer.lora_B.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    write_folder(model, tmp_path / "adapter", tokenizer, AdapterInfo(options, checkpoint.origin(str(folder))))
    portable.write(tmp_path / "adapter", tmp_path / "out", None)
    ids = torch.tensor([tokenizer.encode(POEM)])
    model.eval()
    with torch.no_grad():
        wanted = model.logits(model(ids)).numpy()
    assert np.allclose(opened_alone(tmp_path / "out", tmp_path)["logits"], wanted, rtol=0, atol=1e-4)


def test_a_classifier_stays_one(known, tmp_path):
    from transformers import AutoModelForSequenceClassification

    folder, _, tokenizer = known
    model = classifier.with_head(checkpoint.load(folder), ("ham", "spam"), seed=0)
    classifier.save(model, tmp_path / "classifier", tokenizer)
    portable.write(tmp_path / "classifier", tmp_path / "out", "bf16")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert theirs.dtype == torch.bfloat16
    assert theirs.config.id2label == {0: "ham", 1: "spam"}
    assert torch.equal(theirs.score.weight, model.score.weight.bfloat16())
