"""`gptworks import-config`, and system 004 from its own config file to a perplexity, at small size."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from gptworks import files, packaged, recipefile, runs
from gptworks.cli import main

pytestmark = pytest.mark.e2e

# As algrshn/gpt-pytorch ships it.
CONFIG = """[preprocessing]
path_to_original_data=pile
path_to_store_preprocessed_data=data/pile
pile_sets_to_use=FreeLaw|Gutenberg (PG-19)|Wikipedia (en)
max_len_words=256
min_len_words=16
max_len_tokens=512
max_num_of_tokens_in_batch=2100

[train]
device=cuda:0
epochs=1
num_of_chunks_to_use=2
num_workers=2
prefetch_factor=10
max_lr=2.5e-4
start_predicting_from_what_token=8
P_drop=0.1
init_std=0.02
masking_minus_inf=-1e+6
disable_pin_memory=False
folder_to_save_state_dicts=saved_models/run
warmup_steps=40000
steps_to_attenuate_lr_to_zero=11500000
weight_decay=0.01

[inference]
device=cuda:0
chunk_num=16
how_many_tokens_to_generate=20
inference_method=beam_search
beam_size=6

[val]
data_from_what_chunk_to_use=29
chunk_num_val=290
num_of_docs=10000

[architecture]
N=12
d_model=768
d_ff=3072
h=12
d_k=64
d_v=64
positional_encoding_max_pos=513
"""


def gptworks(line: str) -> int:
    return main(shlex.split(line))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the config, and three chunks of a corpus shaped like the Pile."""
    monkeypatch.chdir(tmp_path)
    Path("config.txt").write_text(CONFIG)
    Path("pile").mkdir()
    sets = ["FreeLaw", "Wikipedia (en)", "Github"]
    for chunk in (0, 1, 29):
        rows = [
            {
                "text": f"Document {n} of chunk {chunk}: "
                + "the court found that the cat sat. " * (1 + n % 5),
                "meta": {"pile_set_name": sets[n % 3]},
            }
            for n in range(90)
        ]
        Path(f"pile/{chunk}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_the_whole_of_system_004_with_sizes_cut(here, capsys):
    """Only sizes and counts, and the tokenizer, which is not to be had here, differ from the imported recipe."""
    assert gptworks("import-config config.txt --out pile.toml") == 0
    words = "tokenizer train --sources pile --vocab-size 300 --out vocabulary"
    assert gptworks(words) == 0
    assert gptworks("prepare pile.toml --tokenizer vocabulary --workers 1") == 0
    manifest = json.loads(Path("data/pile/manifest.json").read_text())
    assert manifest["splits"]["val"]["documents"] > 10  # chunk 29, less other sets and short documents
    sizes = "--model.n-layer 1 --model.n-embd 32 --model.n-head 2 --model.n-inner 64"
    assert (
        gptworks(f"pretrain pile.toml {sizes} --train.max-steps 12 --optim.warmup-steps 2 --eval.tokens 4096")
        == 0
    )
    run = Path("saved_models/run")
    assert recipefile.load(run / "recipe.toml").train.epochs is None  # the flag has beaten the file's
    assert runs.Run(run).checkpoint().is_dir()
    rows = [row for row in files.read_rows(run / "metrics.jsonl") if "val_loss" in row]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    capsys.readouterr()
    assert gptworks("generate saved_models/run --prompt 'The court' --max-tokens 20 --beams 6") == 0
    Path("held.jsonl").write_text(Path("pile/29.jsonl").read_text())
    measure = "--perplexity.average documents --perplexity.ignore-first 8 --limit 40"
    assert gptworks(f"evaluate saved_models/run --tasks perplexity:held.jsonl {measure}") == 0
    assert "documents" in capsys.readouterr().out


def test_every_value_arrives(here, capsys):
    assert gptworks("import-config config.txt") == 0
    text = capsys.readouterr().out
    got = tomllib.loads(text)
    assert got["prepare"]["sources"] == ["pile/0.jsonl", "pile/1.jsonl", "pile/29.jsonl"]
    assert got["prepare"]["val_source"] == ["pile/29.jsonl"]
    assert got["prepare"]["subsets"] == ["FreeLaw", "Gutenberg (PG-19)", "Wikipedia (en)"]
    assert got["prepare"]["separator"] == "bos-eos"
    assert (got["prepare"]["min_words"], got["prepare"]["max_words"], got["prepare"]["max_tokens"]) == (
        16,
        256,
        512,
    )
    assert got["model"]["context"] == 513
    assert got["train"] == {"epochs": 1, "batch_tokens": 2100, "windows": "documents", "ignore_first": 8}
    assert got["optim"]["decay_steps"] == 11_540_000
    assert got["perplexity"] == {"average": "documents", "ignore_first": 8}
    assert "--max-tokens 20 --beams 6" in text
    for name in ("device", "num_workers", "masking_minus_inf", "chunk_num_val"):
        assert re.search(rf"^#   \w+\.{name} \(", text, re.MULTILINE), name


def test_the_network_is_theirs_to_the_last_parameter(here):
    """124,011,264 were counted in theirs."""
    from gptworks.model import sizing
    from gptworks.model.config import resolve_config

    assert gptworks("import-config config.txt --out pile.toml") == 0
    config = resolve_config(recipefile.load(Path("pile.toml")).model, 50258)
    assert sizing.parameters(config) == 124_011_264


def test_the_recipe_of_the_repository_is_that_of_its_config(here, repository):
    """But for where the Pile is, and what goes with a GPU of 8 GB."""
    sets = "FreeLaw|HackerNews|Books3|OpenWebText2|Gutenberg (PG-19)|Pile-CC|BookCorpus2|Wikipedia (en)"
    text = CONFIG.replace("FreeLaw|Gutenberg (PG-19)|Wikipedia (en)", f"{sets}|PubMed Abstracts").replace(
        "use=2", "use=17"
    )
    Path("config.txt").write_text(text)
    assert gptworks("import-config config.txt --out pile.toml") == 0
    imported, kept = (recipefile.load(path) for path in (Path("pile.toml"), packaged.find("pile-8gb")))
    assert kept.model == imported.model
    assert kept.optim == imported.optim
    assert kept.perplexity == imported.perplexity
    for name in ("epochs", "batch_tokens", "windows", "ignore_first"):
        assert getattr(kept.train, name) == getattr(imported.train, name), name
    for name in (
        "subsets",
        "min_words",
        "max_words",
        "max_tokens",
        "separator",
        "add_tokens",
        "val_split_by",
    ):
        assert getattr(kept.prepare, name) == getattr(imported.prepare, name), name


def test_chunks_as_the_pile_names_them_are_found(here):
    for chunk, name in ((0, "00.jsonl.zst"), (1, "01.jsonl.zst"), (29, "29.jsonl.zst")):
        Path(f"pile/{chunk}.jsonl").rename(f"pile/{name}")
    assert gptworks("import-config config.txt --out pile.toml") == 0
    sources = recipefile.load(Path("pile.toml")).prepare.sources
    assert sources == ("pile/00.jsonl.zst", "pile/01.jsonl.zst", "pile/29.jsonl.zst")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("d_k=64", "d_k=32"), "[architecture] d_k must be d_model / h = 64"),
        (("h=12", "h=0"), "[architecture] h = 0 must be at least 1"),
        (("N=12", "N=0"), "n_layer"),
        (("max_lr=2.5e-4", "max_lr=fast"), "[train] max_lr = fast is not a number"),
        (("warmup_steps=40000", "warmup_steps=4e4"), "[train] warmup_steps = 4e4 is not a whole number"),
        (("P_drop=0.1", "P_drop=1.5"), "dropout"),
        (
            ("beam_size=6", "beam_sise=6"),
            "[inference] beam_sise is not a key of algrshn/gpt-pytorch; near: [inference] b",
        ),
        (("[preprocessing]", "preprocessing"), "config.txt is not a config.txt"),
        (("epochs=1", "epochs=1\nepochs=2"), "config.txt is not a config.txt"),
    ],
)
def test_what_cannot_be_taken_over_is_one_line(here, capsys, change, says):
    Path("config.txt").write_text(CONFIG.replace(*change, 1))
    assert gptworks("import-config config.txt --out pile.toml") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not Path("pile.toml").exists()


def test_files_that_are_not_there_or_are(here, capsys):
    assert gptworks("import-config other.txt") == 2
    assert "other.txt" in capsys.readouterr().err
    assert gptworks("import-config config.txt --out config.txt") == 2
    assert "already exists" in capsys.readouterr().err
