"""GGUF files in llama.cpp itself: token ids, and greedy text.

Needs Node and node-llama-cpp, which ships llama.cpp built: in an empty FOLDER,

    NODE_LLAMA_CPP_SKIP_DOWNLOAD=true npm install --ignore-scripts --omit=optional \
        node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64

and GPTWORKS_LLAMA=FOLDER/node_modules/node-llama-cpp.
"""

import json
import os
import shutil
import subprocess
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from gptworks.exports import gguf
from gptworks.generation import engine
from gptworks.text import templates
from gptworks.text.engines import HARD_TEXTS
from gptworks.text.tokenizer import Tokenizer
from tests.exports.conftest import POEM, SHAPES, knowing

SCRIPT = Path(__file__).with_name("llama.mjs")
PROMPTS = ["Das Schiff lief aus, the", "12345 gulls rose: «ĉu vi", " — 日本語も, 🚢"]


@pytest.fixture(scope="session")
def llama(repository):
    """Asks llama.cpp about a file."""
    node = shutil.which("node")
    folder = Path(os.environ.get("GPTWORKS_LLAMA") or repository / "node_modules" / "node-llama-cpp")
    if node is None or not (folder / "package.json").is_file():
        pytest.skip("llama.cpp is not here: set GPTWORKS_LLAMA to node-llama-cpp's folder (see this file)")

    def ask(file, texts=(), prompts=(), n=100, context=128):
        asked = {"model": str(file), "texts": texts, "prompts": prompts, "n": n, "context": context}
        question = Path(file).with_suffix(".json")
        question.write_text(json.dumps(asked))
        answer = question.with_name("answer.json")
        command = [node, SCRIPT, folder, question, answer]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(answer.read_text())

    return ask


def greedy(model, tokenizer: Tokenizer, prompt: list[int]) -> tuple[list[int], bool]:
    settings = engine.GenerateSettings(temperature=0, max_tokens=100)
    (sample,) = engine.generate(model, tokenizer, prompt, settings)
    return sample.ids, sample.finish_reason == "eos"


def odd_texts() -> list[str]:
    """Texts that tokenizers quarrel about: blanks, contractions, joiners, and a piece of every script."""
    known = [
        chr(code)
        for code in range(0x20, 0x30000)
        if unicodedata.category(chr(code)) not in {"Cn", "Cs", "Co"}
    ]
    scripts = [
        "".join(f"{a}{b} " for a, b in zip(known[at::97], known[at + 1 :: 97], strict=False))
        for at in range(0, 97, 12)
    ]
    said = [
        "I'LL we've he'S 'tis",
        "a  b   c\n\n d\t\te \r\n\r\n f  ",
        "1234567 12 ٣٤٥ ½",
        "e\u0301 \u200d\U0001f469\u200d\U0001f680 \u00a0x",
    ]
    return [*HARD_TEXTS, POEM, *said, *scripts, "<|endoftext|> spelled out", "\x00\x01 control"]


def check(llama, file, model, tokenizer, *, texts=True):
    prompts = [
        ([] if tokenizer.bos_id is None else [tokenizer.bos_id]) + tokenizer.encode(text) for text in PROMPTS
    ]
    answer = llama(file, odd_texts() if texts else [], prompts)
    if texts:
        for text, ids, special in zip(odd_texts(), answer["ids"], answer["special"], strict=True):
            assert ids == tokenizer.encode(text), repr(text[:40])
            assert special == tokenizer.encode(text, specials=True), repr(text[:40])
    for prompt, said in zip(prompts, answer["greedy"], strict=True):
        ids, ended = greedy(model, tokenizer, prompt)
        assert said["ids"] == ids + [tokenizer.eos_id] * ended
        assert said["text"].removesuffix(tokenizer.eos) == tokenizer.decode(ids)
    assert any(greedy(model, tokenizer, prompt)[1] for prompt in prompts)  # an end was among them
    assert (answer["eos"], answer["prependBos"]) == (tokenizer.eos_id, tokenizer.bos_id is not None)
    return answer


@pytest.mark.parametrize("precision", ["fp16", "q8_0"])
def test_llama_cpp_says_what_we_say(llama, known, tmp_path, precision):
    _, model, tokenizer = known
    gguf.write(model, tokenizer, tmp_path / "x.gguf", precision, name="x")
    check(llama, tmp_path / "x.gguf", model, tokenizer, texts=precision == "fp16")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_llama_cpp_says_what_we_say_in_gpt2s_vocabulary(llama, shared_data, tmp_path, family):
    tokenizer = Tokenizer.load(shared_data / "gpt2_bpe")
    model = knowing(tokenizer, SHAPES[family])
    for precision in ("fp32", "fp16", "bf16", "q8_0"):
        gguf.write(model, tokenizer, tmp_path / f"{precision}.gguf", precision, name="x")
        check(llama, tmp_path / f"{precision}.gguf", model, tokenizer, texts=precision == "fp16")


def test_llama_cpp_has_the_neighbours_and_the_template(llama, own_bpe, tmp_path):
    tokenizer = templates.adopt(own_bpe["gpt2"], templates.find("chatml"), templates.SPECIAL_TOKENS["chatml"])
    options = replace(
        SHAPES["gpt2"],
        positions="sinusoidal",
        bias=("qkv",),
        tied=False,
        norm_eps=1e-3,
        n_embd=80,
        n_inner=320,
    )
    model = knowing(tokenizer, options)
    gguf.write(model, tokenizer, tmp_path / "x.gguf", "fp16", name="x")
    answer = check(llama, tmp_path / "x.gguf", model, tokenizer)
    assert "if true" in answer["template"]
