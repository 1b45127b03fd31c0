import json
from pathlib import Path

import pytest

from gptworks.data.dataset import Dataset, fingerprint
from gptworks.data.prepare import prepare
from gptworks.errors import DataError
from gptworks.recipe import PrepareOptions


@pytest.fixture
def folder(tmp_path: Path, texts: list[str], tokenizer) -> Path:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    options = PrepareOptions(
        sources=(str(tmp_path / "a.jsonl"),), val_fraction=0.1, shard_tokens=2000, workers=1
    )
    prepare(options, tokenizer, tmp_path / "out")
    return tmp_path / "out"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00001.bin", "train-00000.idx", "val-00000.bin"])
def test_one_altered_bit_is_noticed(name, folder):
    assert Dataset.open(folder).splits["train"].n_tokens > 0
    flip(folder / name, -9)
    with pytest.raises(DataError, match=rf"{name} was changed .*SHA-256"):
        Dataset.open(folder)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "train-00001.bin").unlink(), "train-00001.bin"),
        (lambda f: (f / "train-00001.idx").unlink(), "train-00001.idx"),
        (lambda f: (f / "train-00001.bin").write_bytes(b""), "train-00001.bin"),
        (lambda f: (f / "manifest.json").write_text("{"), r"cannot read .*manifest\.json"),
        (lambda f: (f / "manifest.json").write_text("{}"), "is not the manifest of a gptworks Dataset"),
        (lambda f: (f / "manifest.json").unlink(), "is not a Dataset: it has no manifest.json"),
    ],
)
def test_damage_is_noticed(harm, message, verify, folder):
    harm(folder)
    with pytest.raises(DataError, match=message):
        Dataset.open(folder, verify=verify)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "uint32"}, "its fingerprint does not match"),
        ({"version": 9}, "is a Dataset of version 9; this program reads version 1"),
    ],
)
def test_an_altered_manifest_is_noticed(change, message, folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(DataError, match=message):
        Dataset.open(folder)


def test_a_shard_of_another_dataset_is_noticed_without_checksums(folder):
    (folder / "train-00000.bin").write_bytes((folder / "val-00000.bin").read_bytes())
    (folder / "train-00000.idx").write_bytes((folder / "val-00000.idx").read_bytes())
    with pytest.raises(DataError, match=r"train-00000\.bin holds .* tokens, but the manifest"):
        Dataset.open(folder, verify=False)


def test_the_fingerprint_covers_what_a_model_sees_and_no_more(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert fingerprint(manifest) == manifest["fingerprint"]
    assert (
        fingerprint(manifest | {"sources": [], "inputs": {}, "producer": "", "notes": []})
        == manifest["fingerprint"]
    )
    assert fingerprint(manifest | {"tokenizer": {}}) != manifest["fingerprint"]


def test_another_tokenizer_in_the_folder_is_noticed(folder, tokenizer):
    tokenizer.with_special_tokens(["<|x|>"]).save(folder)
    with pytest.raises(DataError, match="did not make its tokens"):
        Dataset.open(folder).tokenizer()


def test_no_dataset_there(tmp_path):
    with pytest.raises(DataError, match=r"no Dataset .*nothing; .*`gptworks prepare"):
        Dataset.open(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is not a Dataset"):
        Dataset.open(tmp_path / "file")
