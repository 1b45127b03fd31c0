"""Version 0.1's option names: translated where gptworks wrote them, refused where a person did, upgraded on request."""

import dataclasses
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptworks import renames
from gptworks.cli import main
from gptworks.errors import ConfigError
from gptworks.recipe import Recipe
from gptworks.recipefile import load

OLD = """\
# A recipe of version 0.1.
data = "data/small"   # the Dataset
optim . "decay" = 'all'

[train]
patience = 4  # steps
max_steps = 10
"skip_first"=2

[ lora ]
base_bits = 8# low
targets = [
  "attention",  # patience = 4
  "mlp",
]

[instruct]
too_long = 'shorten'   # patience = 4
system = \"\"\"
batch = 4
[train]
\"\"\"

[glue]
lr = 4e-3
clip = 0.5
tries = 2

[glue.wnli]
tries = 3
lr = 5e-3
"""

NEW = """\
# A recipe of version 0.1.
data = "data/small"   # the Dataset
optim.weight_decay_on = 'all'

[train]
max_bad_steps = 4  # steps
max_steps = 10
ignore_first=2

[ lora ]
base_dtype = "int8"# low
targets = [
  "attention",  # patience = 4
  "mlp",
]

[instruct]
too_long = "truncate"   # patience = 4
system = \"\"\"
batch = 4
[train]
\"\"\"

[glue]
optim.lr = 4e-3
optim.grad_clip = 0.5
n_seeds = 2

[glue.wnli]
n_seeds = 3
lr = 5e-3
"""


def options(cls, prefix=""):
    for field in dataclasses.fields(cls):
        kind = type(field.default_factory()) if callable(field.default_factory) else type(field.default)
        if dataclasses.is_dataclass(kind):
            yield from options(kind, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_every_new_name_is_an_option_and_no_old_name_is():
    have = set(options(Recipe))
    assert not set(renames.OPTIONS.values()) - have
    assert not renames.OPTIONS.keys() & have


def test_glue_tasks_are_those_of_the_recipe():
    assert {
        name.split(".")[1] for name in options(Recipe) if name.startswith("glue.") and name.endswith("limit")
    } >= {*renames.GLUE_TASKS}


def test_an_upgrade_keeps_comments_and_layout():
    assert renames.upgrade(OLD) == NEW
    assert renames.upgrade(NEW) == NEW
    assert renames.upgrade(OLD.replace("\n", "\r\n")) == NEW.replace("\n", "\r\n")
    assert renames.upgrade(OLD.rstrip("\n")) == NEW.rstrip("\n")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("train = {patience = 4}", "max_bad_steps"),
        ("[train]\npatience = 4\nmax_bad_steps = 4", "overwrite"),
        ("[glue]\nepochs = 4\n[glue.train]\nseed = 1", "glue"),
        ("glue.train = 3\nglue.epochs = 4", "overwrite|mutable"),
        ("train = ", "end of document"),
    ],
)
def test_what_cannot_be_upgraded_exactly_is_refused(text, named):
    with pytest.raises(ConfigError, match=named):
        renames.upgrade(text)


names = st.sampled_from(sorted(renames.OPTIONS | {"train.max_steps": "", "prepare.sources": ""}))
values = st.sampled_from(
    ["8", "'classes'", '"shorten"', "[1, 2]", "[\n 'a # b',\n]", "'''\n[train]\nx = 1'''", "1e-3"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(names, values), unique_by=lambda item: renames.OPTIONS.get(item[0], item[0])))
def test_an_upgraded_text_says_what_the_translation_of_the_old_one_says(rows):
    rows.sort(key=lambda row: row[0].rpartition(".")[0])
    tables = dict.fromkeys(name.rpartition(".")[0] for name, _ in rows)
    text = "".join(
        f"[{table}]\n"
        + "".join(
            f"{name.rpartition('.')[2]} = {value}  # why\n"
            for name, value in rows
            if name.rpartition(".")[0] == table
        )
        for table in tables
    )
    upgraded = renames.upgrade(text)
    assert tomllib.loads(upgraded) == renames.translate(tomllib.loads(text))
    assert upgraded.count("# why") == len(rows)


def test_translation_changes_names_and_values_and_leaves_new_ones_alone():
    old = {
        "lora": {"base_bits": 4},
        "classify": {"kind": "number"},
        "glue": {"epochs": 2, "cola": {}},
        "out": "run",
    }
    new = {
        "lora": {"base_dtype": "nf4"},
        "classify": {"problem_type": "regression"},
        "glue": {"train": {"epochs": 2}, "cola": {}},
        "out": "run",
    }
    assert renames.translate(old) == new
    assert renames.translate(new) == new


def test_a_persons_recipe_is_refused_with_every_new_name_and_a_runs_own_is_read(tmp_path):
    text = "[train]\npatience = 4\n\n[lora]\nbase_bits = 8\n"
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "mine.toml")
    for words in (
        "train.max_bad_steps",
        'lora.base_bits = 8 is now lora.base_dtype = "int8"',
        "recipes upgrade",
    ):
        assert words in str(refused.value)
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match="max_bad_steps"):
        load(tmp_path / "recipe.toml")
    (tmp_path / "environment.json").write_text("{}")  # beside every run's recipe
    assert load(tmp_path / "recipe.toml").train.max_bad_steps == 4
    assert load(tmp_path / "recipe.toml").lora.base_dtype == "int8"


@pytest.mark.parametrize(
    ("line", "new"),
    [
        ("pretrain --train.patience 4", "--train.max-bad-steps"),
        ("pretrain --train.wait_minutes=4", "--train.comm-timeout-minutes"),
        ("pretrain --train.no-reshard", "--train.no-reshard-after-forward"),
        ("pretrain --optim.kind muon", "--optim.name"),
        ("prepare --marks none", "--separator"),
        ("prepare --prepare.marks none", "--separator"),
        ("prepare --no-special-text", "--no-parse-special"),
        ("finetune classify --kind classes", "--problem-type (classification for classes"),
        ("finetune classify --batch 4", "--batch-examples"),
        ("finetune instruct --lora.base-bits 8", "--lora.base-dtype (fp32 for 32"),
        ("evaluate gpt2 --perplexity.skip-first 2", "--perplexity.ignore-first"),
        ("generate gpt2 --weights int8", "--dtype"),
    ],
)
def test_an_old_flag_is_refused_with_the_new_one(line, new, capsys):
    assert main(line.split()) == 2
    assert new in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "known", "new"),
    [
        ("--overflow", "--truncation", "--truncation (error for refuse, left for cut)"),
        ("--lookup", "--prompt-lookup", "--prompt-lookup"),
        ("--batch", "--max-batch", "--max-batch"),
        ("--queue", "--max-queue", "--max-queue"),
        ("--device", "--hardware", "--hardware"),
        ("--device", "--out", None),
        ("--lr", "--optim.lr", "--optim.lr"),
        ("--train.max-steps", "--train.max-steps", None),
    ],
)
def test_flags_of_no_recipe_have_new_names_where_a_command_has_them(flag, known, new):
    assert renames.new_flag(flag, {known}) == new
