import dataclasses
import typing

import pytest

from gptworks import recipe, recipefile
from gptworks.cli import main
from gptworks.recipe import ModelOptions, Recipe, TrainOptions
from gptworks.recipefile import dumps, load


def refusal(capsys, *argv):
    assert main(list(argv)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model]\nn_layers = 3\n", ["[model] n_layers", "bad.toml", "--model.n-layer"]),
        ("[modle]\nn_layer = 3\n", ["[modle] n_layer", "bad.toml", "--model.n-layer"]),
        ("[model]\nn_layer = 'three'\n", ["[model] n_layer", "bad.toml", "three"]),
        ("[model]\nn_layer = true\n", ["[model] n_layer", "bad.toml", "True"]),
        ("[model]\nn_layer = 0\n", ["[model] n_layer", "bad.toml", "Must be > 0"]),
        ("[model]\ndropout = 1.0\n", ["[model] dropout", "bad.toml", "Must be < 1"]),
        ("[optim]\nname = 'adam'\n", ["[optim] name", "bad.toml", '"adamw"', '"muon"']),
        ("[optim]\nbetas = [0.9]\n", ["optim.betas", "bad.toml", "expected 2 but got 1"]),
        ("[prepare]\nval_fraction = 1.5\n", ["[prepare] val_fraction", "bad.toml", "Must be < 1"]),
        ("block_size = 8\n", ["bad.toml", "block_size", "--model.context"]),
        ("[train]\nlearning_rate = 8\n", ["learning_rate", "--optim.lr"]),
        ("model = 3\n", ["bad.toml", "model", "[model]"]),
        ("[out]\nx = 3\n", ["bad.toml", "out", "not a table"]),
        ("x = [", ["bad.toml", "not a recipe"]),
        ("out = 3\n", ["bad.toml: out = 3 must be text"]),
        ("[model]\npreset = 3\n", ["bad.toml: model.preset = 3 must be text"]),
        ("[optim]\nlr = inf\n", ["[optim] lr", "bad.toml", "Must be < inf"]),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line_that_names_key_file_and_way_out(tmp_path, capsys, text, said):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    line = refusal(capsys, "pretrain", str(file))
    assert all(words in line for words in said), line


def test_there_is_nothing_to_resume_where_no_run_is(tmp_path, capsys):
    (tmp_path / "small" / "checkpoints").mkdir(parents=True)
    for verb in ("pretrain", "finetune classify", "finetune instruct"):
        line = refusal(capsys, *verb.split(), "--out", str(tmp_path / "smal"), "--resume")
        assert str(tmp_path / "small") in line
    assert "--data DATASET" in refusal(capsys, "pretrain", "--out", str(tmp_path / "smal"))


def test_a_folder_is_no_recipe(tmp_path, capsys):
    line = refusal(capsys, "prepare", str(tmp_path))
    assert f"--sources {tmp_path}" in line
    (tmp_path / "recipe.toml").touch()
    assert refusal(capsys, "plan", str(tmp_path)).endswith(f"its recipe is {tmp_path / 'recipe.toml'}")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["pretrain", "--model.n-layers", "3"], "Did you mean --model.n-layer?"),
        (["pretrain", "--data", "x", "--out", "run", "late.toml"], "late.toml"),
        (["pretrain", "--model.n-layer", "2.5"], "--model.n-layer"),
        (
            ["pretrain", "--batch_size=12"],
            "--train.batch-tokens or --train.micro-batch",
        ),
        (["pretrain", "--train.learning-rate", "1"], "--optim.lr"),
        (["generate", "x", "--max-new-tokens", "1"], "--max-tokens."),
        (["pretrain", "--device=tpu"], "--device"),
        (["pretrain", "--backend=nccl"], "--backend"),
        (["pretrain", "--grad_clip", "1"], "--optim.grad-clip"),
        (["pretrain", "--train.grad-accum", "8"], "--train.batch-tokens"),
        (["pretrain", "--min_lr=1e-4"], "--optim.final-lr"),
        (["pretrain", "--eval_iters=9"], "--eval.tokens"),
        (["pretrain", "--dropout=0.1"], "--model.dropout"),
        (["finetune", "classify", "--dropout=0.1"], "--train.dropout"),
        (["finetune", "classify", "--base", "gpt2"], "--model"),
        (
            ["pretrain", "--out=x", "--block_size=8", "--n_layer=4", "--device=cpu", "--compile=False"],
            "--block_size: use --model.context; --n_layer: use --model.n-layer; --compile: use --train.compile",
        ),
        (["pretrain", "--beta1=0.9"], "--optim.betas"),
        (["finetune", "classify", "--label-column", "x"], "--label"),
        (["classify", "run", "free prize"], "free prize"),
        (["pretrian"], 'Did you mean "pretrain"?'),
        (["sample", "--out_dir=x"], "generate"),
        (["train"], "pretrain"),
        (["eval"], "evaluate"),
        (["finetune", "train"], "Available commands: classify, instruct."),
        (["pretrain", "config/train_x.py"], "config/train_x.py is not a recipe"),
        (["pretrain", "config.txt"], "import-config"),
        (["pretrain", "nothere.toml"], "nothere.toml"),
        (["pretrain", "--train.micro-batch", "many"], "--train.micro-batch"),
        (["pretrain", "--optim.lr=-3"], "Must be > 0"),
        (["pretrain"], "--data DATASET"),
        (["pretrain", "--data", "x"], "--out RUN"),
        (["pretrain", "--data", "nowhere", "--out", "run"], "nowhere"),
    ],
)
def test_a_bad_command_line_is_refused_in_one_line(tmp_path, capsys, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    assert said in refusal(capsys, *argv)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_flags_beat_the_file_and_the_file_beats_defaults(tmp_path, monkeypatch):
    import gptworks.commands.pretrain as verb

    seen = []
    monkeypatch.setattr(verb, "train_run", lambda recipe, resume, **_: seen.append((recipe, resume)))
    file = tmp_path / "r.toml"
    file.write_text(
        'data = "d"\nout = "o"\n[model]\nn_layer = 3\nn_head = 2\n[prepare]\nsources = ["x"]\n[optim]\nlr = 1\n'
    )
    assert (
        main(["pretrain", str(file), "--model.n_layer", "5", "--optim.betas", "0.8", "0.9", "--resume"]) == 0
    )
    recipe, resume = seen[0]
    assert resume
    assert (recipe.model.n_layer, recipe.model.n_head, recipe.model.n_embd) == (5, 2, None)
    assert (recipe.optim.betas, recipe.optim.lr) == ((0.8, 0.9), 1.0)
    assert str(recipe.data) == "d"


def test_glue_gets_the_flags_apart_from_the_file(tmp_path, monkeypatch):
    from gptworks.glue import subjects

    seen = []

    def chosen(options):
        seen.append(options)
        raise SystemExit(0)

    monkeypatch.setattr(subjects, "chosen", chosen)
    file = tmp_path / "r.toml"
    file.write_text(
        f'[glue]\nout = "{tmp_path / "c"}"\nmodel = ["{tmp_path}"]\n[glue.train]\nepochs = 7\n'
        "[glue.cola]\nepochs = 2\nn_seeds = 3\n[glue.rte]\nlr = 1e-3\n"
    )
    assert main(["glue", str(file), "--train.epochs", "1", "--rte.lr", "2e-3", "--optim.lr=3e-3"]) == 0
    assert main(["glue", str(file)]) == 0
    flags, alone = seen
    assert (flags.train.epochs, flags.cola.n_seeds, flags.optim.lr, flags.rte.lr) == (1, 3, 3e-3, 2e-3)
    assert (alone.train.epochs, alone.cola.epochs, alone.rte.lr) == (7, 2, 1e-3)


def test_resuming_without_a_recipe_takes_the_runs_own(tmp_path, monkeypatch):
    import gptworks.commands.pretrain as verb

    seen = []
    monkeypatch.setattr(verb, "train_run", lambda recipe, **_: seen.append(recipe))
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (run / "recipe.toml").write_text(f'data = "d"\nout = "{run}"\n[train]\nmax_steps = 7\n')
    assert main(["pretrain", "--out", str(run), "--resume"]) == 0
    assert seen[0].train.max_steps == 7


def test_a_recipe_written_and_read_is_the_same(tmp_path):
    recipe = Recipe(
        out=tmp_path,
        model=ModelOptions(preset="gpt2", dropout_at=("mlp_out",), tied=False, dropout=0.1),
        train=TrainOptions(max_steps=3, micro_batch=4),
    )
    (tmp_path / "r.toml").write_text(dumps(recipe))
    assert load(tmp_path / "r.toml") == recipe


def test_version(capsys):
    import gptworks

    assert main(["--version"]) == 0
    assert gptworks.__version__ in capsys.readouterr().out


def test_one_recipe_names_what_each_verb_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number}.txt").write_text(
            f"the cat number {number} sat on mat {number * number}. " * 5
        )
    (tmp_path / "r.toml").write_text(
        'data = "made/set"\nout = "made/run"\ntokenizer = "made/bpe"\n[prepare]\nsources = ["texts"]\n'
        "val_fraction = 0.2\nworkers = 1\n[bpe]\nvocab_size = 280\n[model]\nn_layer = 1\nn_head = 1\nn_embd = 16\n"
        "context = 8\n[train]\nmax_steps = 2\nbatch_tokens = 64\n"
    )
    assert main(["tokenizer", "train", "r.toml"]) == 0
    assert main(["prepare", "r.toml", "--prepare.val-fraction", "0.3"]) == 0  # long names work as well
    assert main(["pretrain", "r.toml"]) == 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["bpe", "run", "set"]
    assert load(tmp_path / "made" / "run" / "recipe.toml").train.batch_tokens == 64


FINETUNE = ["finetune", "classify", "--model", "m", "--data", "d", "--out", "o"]


@pytest.mark.parametrize(
    ("more", "lr", "schedule", "every"),
    [
        ([], 5e-5, "linear", 50),
        (["--lora.rank", "4"], 5e-4, "linear", 50),
        (["--lora.rank", "4", "--optim.lr", "1e-3", "--eval.every", "7"], 1e-3, "linear", 7),
        (["--optim.schedule", "cosine"], 5e-5, "cosine", 50),
    ],
)
def test_fine_tuning_has_its_own_defaults(monkeypatch, more, lr, schedule, every):
    import gptworks.commands.finetune as verb

    seen = []
    monkeypatch.setattr(verb, "train_classifier", lambda recipe, **_: seen.append(recipe))
    assert main([*FINETUNE, *more]) == 0
    recipe = seen[0]
    assert (recipe.optim.lr, recipe.optim.schedule, recipe.eval.every) == (lr, schedule, every)
    assert recipe.optim.final_lr == 0.0
    tables = {"lora": {"rank": 4}} if "--lora.rank" in more else {}
    if "--optim.lr" not in more and "--optim.schedule" not in more:  # the API takes the same path
        assert recipefile.build(recipefile.merged("finetune classify", {}, tables)).optim.lr == lr


def test_a_flag_for_the_length_of_training_replaces_the_recipe_s_other_way(tmp_path, monkeypatch):
    import gptworks.commands.pretrain as verb

    seen = []
    monkeypatch.setattr(verb, "train_run", lambda recipe, **_: seen.append(recipe.train))
    (tmp_path / "r.toml").write_text('data = "d"\nout = "o"\n[train]\nepochs = 2\n')
    assert main(["pretrain", str(tmp_path / "r.toml"), "--train.max-steps", "5"]) == 0
    assert (seen[0].max_steps, seen[0].epochs) == (5, None)


def test_help_lists_what_people_set_first_and_hides_the_empty_switches(capsys):
    assert main(["pretrain", "--help"]) == 0
    shown = capsys.readouterr().out
    places = [
        shown.index(word) for word in ("--data", "--out", "--model.preset", "--train.max-steps", "--optim.lr")
    ]
    assert places == sorted(places)
    assert "--sample.empty-prompts" not in shown
    assert (
        main(["pretrain", "--data", "x", "--eval.empty-tasks"]) == 2
    )  # it still works: --out is what is missing
    assert "--out" in capsys.readouterr().err


def test_what_may_be_a_fraction_is_one_by_default_too():
    """Or a run's recipe.toml would say 10 at first and 10.0 once it went on."""
    tables = [made for made in vars(recipe).values() if dataclasses.is_dataclass(made)]
    assert Recipe in tables
    for table in tables:
        hints = typing.get_type_hints(table)
        for field in dataclasses.fields(table):
            if hints[field.name] in {float, float | None}:
                assert type(field.default) in {float, type(None)}, (table, field.name)


def test_of_torchrun_s_processes_the_first_alone_does_what_needs_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, by_torchrun, said in (("0", True, True), ("1", False, True), ("1", True, False)):
        monkeypatch.setenv("RANK", rank)
        if by_torchrun:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
        else:
            monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        assert main(["inspect", str(tmp_path)]) == (2 if said else 0)
        assert bool(capsys.readouterr().err) == said
    assert "--data" in refusal(capsys, "pretrain", "--out", str(tmp_path / "run"))
