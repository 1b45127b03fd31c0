from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import gptworks
from gptworks.model import checkpoint
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.recipe import BpeOptions, ModelOptions
from gptworks.text import bpe
from gptworks.text.engines import HARD_TEXTS
from gptworks.text.tokenizer import Tokenizer

POEM = "Das Schiff lief aus, the kettle sang, 12345 gulls rose: «ĉu vi aŭdas?» — 日本語も, 🚢 too.\nIt's all!"

SHAPES = {
    "gpt2": ModelOptions(family="gpt2", n_layer=2, n_head=4, n_embd=64, context=128),
    "modern": ModelOptions(family="modern", n_layer=2, n_head=4, n_kv_head=2, n_embd=64, context=128),
}


@pytest.fixture(scope="session")
def own_bpe() -> dict[str, Tokenizer]:
    """Tokenizers trained here, by split pattern; GPT-4's with a mark of its own where texts begin."""
    texts = [file.read_text() for file in sorted(Path(gptworks.__file__).parent.rglob("*.py"))[:20]]
    texts += [text for text in (*HARD_TEXTS, POEM) for _ in range(3)]
    names = {"gpt2": ("<|endoftext|>",), "gpt4": ("<|endoftext|>", "<|bos|>")}
    options = [
        BpeOptions(vocab_size=700, pattern=kind, special_tokens=names[kind]) for kind in ("gpt2", "gpt4")
    ]
    return {option.pattern: bpe.train(texts, option) for option in options}


def knowing(tokenizer: Tokenizer, options: ModelOptions, *, text: str = POEM):
    """A model that has learned one text by heart: what it says does not hang on the last digit of a logit."""
    model = build(resolve_config(options, tokenizer.vocab_size), seed=0).train()
    begin = [tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id]
    ids = torch.tensor([[*begin, *tokenizer.encode(text), tokenizer.eos_id]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = F.cross_entropy(model.logits(model(ids[:, :-1]))[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            return model.eval()
    raise AssertionError(f"the text is not learned: {loss.item()}")


@pytest.fixture(scope="session", params=["gpt2", "modern"])
def known(request, own_bpe, tmp_path_factory):
    """(folder, model, tokenizer): a model of either family that knows POEM."""
    tokenizer = own_bpe["gpt2" if request.param == "gpt2" else "gpt4"]
    model = knowing(tokenizer, SHAPES[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint.save(model, folder, tokenizer)
    return folder, model, tokenizer
