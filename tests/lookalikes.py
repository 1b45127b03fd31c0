"""Repositories of the Hub as they are laid out there, but tiny: README with configurations, Parquet shards, a model.

In the folder that tests/hub.py serves: `datasets/Skylion007/openwebtext`, and so on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = Sequence[dict[str, Any]]


def card(configs: dict[str, dict[str, str]]) -> str:
    """A README whose YAML says which files are which split of which configuration."""
    lines = ["---", "license: odc-by", "configs:"]
    for name, files in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, pattern in files.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    return "\n".join([*lines, "---", "# A dataset", ""])


def parquet(path: Path, rows: Rows, schema: pa.Schema | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, row_group_size=25)


def openwebtext(root: Path, texts: Sequence[str], shards: int = 2) -> Path:
    """One configuration, plain_text, of shards in a folder; and the Hub's own copy on its branch."""
    folder = root / "datasets/Skylion007/openwebtext"
    pieces = [texts[shard::shards] for shard in range(shards)]
    for number, piece in enumerate(pieces):
        rows = [{"text": text} for text in piece]
        parquet(folder / f"plain_text/train-{number:05d}-of-{shards:05d}.parquet", rows)
        converted = folder.with_name("openwebtext@refs--convert--parquet")
        parquet(converted / f"plain_text/partial-train/{number:04d}.parquet", rows)
    (folder / "README.md").write_text(card({"plain_text": {"train": "plain_text/train-*"}}))
    return folder


def fineweb_edu(root: Path, texts: Sequence[str]) -> Path:
    """Several configurations, and columns beside the text."""
    folder = root / "datasets/HuggingFaceFW/fineweb-edu"
    for shard in range(2):
        rows = [
            {"text": text, "id": f"<urn:uuid:{n}>", "dump": "CC-MAIN-2013-20", "score": 3.1, "int_score": 3}
            for n, text in enumerate(texts[shard::2])
        ]
        parquet(folder / f"sample/10BT/{shard:03d}_00000.parquet", rows)
    crawl = [{"text": "not of the sample", "id": "", "dump": "", "score": 0.0, "int_score": 0}]
    parquet(folder / "data/CC-MAIN-2013-20/train-00000-of-00001.parquet", crawl)
    configs = {"default": {"train": "data/*/*"}, "sample-10BT": {"train": "sample/10BT/*"}}
    (folder / "README.md").write_text(card(configs))
    return folder


def alpaca(root: Path, rows: Rows) -> Path:
    folder = root / "datasets/tatsu-lab/alpaca"
    named = "train-00000-of-00001-a09b74b3ef9c3b56.parquet"
    parquet(folder / "data" / named, [row | {"text": "as one"} for row in rows])
    (folder / "README.md").write_text(card({"default": {"train": "data/train-*"}}))
    return folder


def hellaswag(root: Path, n: int) -> Path:
    """Labels are texts there, and the test's are empty."""
    folder = root / "datasets/Rowan/hellaswag"
    for split, label in (("train", "0"), ("validation", "1"), ("test", "")):
        rows = [
            {
                "ind": number,
                "activity_label": "Rain",
                "ctx_a": "A man looks up.",
                "ctx_b": "he",
                "ctx": "A man looks up. he",
                "endings": ["rains.", "says that it rains.", "the sun.", "no."],
                "source_id": f"activitynet~v_{number}",
                "split": split,
                "split_type": "indomain",
                "label": label,
            }
            for number in range(n)
        ]
        parquet(folder / f"data/{split}-00000-of-00001.parquet", rows)
    configs = {split: f"data/{split}-*" for split in ("train", "validation", "test")}
    (folder / "README.md").write_text(card({"default": configs}))
    return folder


def glue(root: Path, task: str, splits: dict[str, Rows], names: Sequence[str]) -> Path:
    """One task, as nyu-mll/glue has each as a configuration; classes by number, whose names are in the files."""
    from datasets import ClassLabel, Dataset, Features, Value

    folder = root / "datasets/nyu-mll/glue"
    (folder / task).mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        columns = {key: Value("string") for key in rows[0]}
        features = Features(columns | {"label": ClassLabel(names=list(names)), "idx": Value("int32")})
        Dataset.from_list(list(rows), features=features).to_parquet(
            folder / task / f"{split}-00000-of-00001.parquet"
        )
    files = {path.name: {split: f"{path.name}/{split}-*" for split in splits} for path in _folders(folder)}
    (folder / "README.md").write_text(card(files))
    return folder


def gpt2(root: Path, tokenizer: Path, *, n_embd: int = 32, n_layer: int = 2, context: int = 128) -> Path:
    """A random GPT-2 saved by transformers, with the vocabulary in vocab.json and merges.txt of a folder."""
    import shutil

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = root / "models/openai-community/gpt2"
    torch.manual_seed(0)
    config = GPT2Config(n_embd=n_embd, n_layer=n_layer, n_head=2, n_positions=context)
    GPT2LMHeadModel(config).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / name, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# GPT-2\n")
    return folder


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())
