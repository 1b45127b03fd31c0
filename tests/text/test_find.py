"""Where tokenizers come from: folders, tiktoken's cache, and a Hub (our own, on the loopback interface)."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptworks.errors import DataError
from gptworks.text.find import GPT2_FINGERPRINT
from gptworks.text.tokenizer import Tokenizer
from tests import hub

LOAD = """
import sys
from gptworks.errors import DataError
from gptworks.text.tokenizer import Tokenizer
for name in sys.argv[1:]:
    try:
        tokenizer = Tokenizer.load(name)
        print(tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.eos, tokenizer.bos)
    except DataError as error:
        print(error)
"""


def load_in_child(endpoint: str, home: Path, *names: str, **more: str) -> list[str]:
    """What a fresh process, whose Hub is `endpoint`, says of each name."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env=hub.environment(endpoint, home) | {"PYTHONPATH": ":".join(sys.path)} | more,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def facts(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.fingerprint} {tokenizer.vocab_size} {tokenizer.eos} {tokenizer.bos}"


def test_the_nearest_folder_is_named_before_the_hub_s_words(small: Tokenizer, tmp_path: Path):
    small.save(tmp_path / "bpe")
    (tmp_path / "hub").mkdir()
    with hub.serve(tmp_path / "hub") as endpoint:
        there = load_in_child(endpoint, tmp_path, "bpee")
    away = load_in_child(endpoint, tmp_path, "bpee")
    for (line,) in (there, away):
        assert "(the nearest: bpe), and " in line


def test_a_hub_model_s_tokenizer_is_loaded_once_and_kept(small: Tokenizer, tmp_path: Path):
    root = tmp_path / "hub"
    small.save(root / "models" / "someone" / "model")
    (root / "models" / "someone" / "empty").mkdir()
    with hub.serve(root) as endpoint:
        said = load_in_child(endpoint, tmp_path, "someone/model", "someone/empty", "someone/nothing")
    assert said[0] == facts(small)
    assert [line.split(":")[0] for line in said[1:]] == [
        "no tokenizer someone/empty",
        "no tokenizer someone/nothing",
    ]
    assert "Hugging Face Hub" in said[1]
    assert load_in_child(endpoint, tmp_path, "someone/model", HF_HUB_OFFLINE="1") == [facts(small)]


def test_gpt2_comes_from_the_hub_or_from_tiktokens_cache(gpt2: Tokenizer, gpt2_folder: Path, tmp_path: Path):
    model = tmp_path / "hub" / "models" / "openai-community" / "gpt2"
    model.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(gpt2_folder / name, model)
    with hub.serve(tmp_path / "hub") as endpoint:
        assert load_in_child(endpoint, tmp_path, "gpt2", "r50k_base") == [facts(gpt2)] * 2
    base = "https://openaipublic.blob.core.windows.net/"
    for folder, files in {
        "pair": {
            "gpt-2/encodings/main/encoder.json": "vocab.json",
            "gpt-2/encodings/main/vocab.bpe": "merges.txt",
        },
        "ranks": {"encodings/r50k_base.tiktoken": "gpt2.tiktoken"},
    }.items():
        cache = tmp_path / folder / "tiktoken"
        cache.mkdir(parents=True)
        for url, name in files.items():
            shutil.copy(gpt2_folder / name, cache / hashlib.sha1((base + url).encode()).hexdigest())
        assert load_in_child("http://127.0.0.1:9", tmp_path / folder, "gpt2") == [facts(gpt2)]


def test_gpt2s_fingerprint_is_the_one_expected(gpt2: Tokenizer):
    assert gpt2.fingerprint == GPT2_FINGERPRINT


def test_another_tokenizer_under_gpt2s_name_is_refused(small: Tokenizer, tmp_path: Path):
    small.save(tmp_path / "hub" / "models" / "openai-community" / "gpt2")
    with hub.serve(tmp_path / "hub") as endpoint:
        (said,) = load_in_child(endpoint, tmp_path, "gpt2")
    assert said.startswith("openai-community/gpt2 on the Hugging Face Hub is not GPT-2's vocabulary")


def test_a_damaged_file_in_tiktokens_cache_is_named(tmp_path: Path):
    url = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
    damaged = tmp_path / "tiktoken" / hashlib.sha1(url.encode()).hexdigest()
    damaged.parent.mkdir()
    damaged.write_bytes(b"IQ== 0\nIg")
    (said,) = load_in_child("http://127.0.0.1:9", tmp_path, "gpt2")
    assert said.startswith(f"{damaged} is not a tiktoken file")


def test_where_gpt2_was_looked_for_is_said(tmp_path: Path):
    (said,) = load_in_child("http://127.0.0.1:9", tmp_path, "gpt2")
    assert said.startswith(f"GPT-2's vocabulary is not in tiktoken's cache ({tmp_path / 'tiktoken'}), and ")


def test_a_hub_that_cannot_be_reached_is_said(tmp_path: Path):
    (said,) = load_in_child("http://127.0.0.1:9", tmp_path, "someone/model")
    assert said.startswith("no tokenizer someone/model here, and the Hub cannot be reached (")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no tokenizer at ./nowhere: there is no such file or folder"),
        ("/no/such/folder", "no tokenizer at /no/such/folder"),
        ("a/b/c", "no tokenizer at a/b/c"),
        (Path("gpt2"), "no tokenizer at gpt2"),
    ],
)
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(
    name: str | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"^{message}"):
        Tokenizer.load(name)


def test_a_folder_without_a_tokenizer_says_what_was_looked_for(tmp_path: Path):
    with pytest.raises(DataError, match=r"tokenizer\.json, vocab\.json \+ merges\.txt or one \.tiktoken"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"vocab\.json .* folder"):
        Tokenizer.load(tmp_path / "vocab.json")
