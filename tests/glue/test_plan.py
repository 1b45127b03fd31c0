"""The settings of each task, the order of the cells, and the time left."""

import pytest

from gptworks import packaged
from gptworks.errors import ConfigError
from gptworks.glue import plan
from gptworks.glue.plan import CampaignPlan, task_tables, with_flags
from gptworks.glue.records import GlueModel, Grid
from gptworks.glue.tasks import TASKS, choose
from gptworks.recipe import GlueOptions, LoraOptions
from gptworks.recipefile import as_tables, load, tables
from gptworks.runs import Run


def plan_of(glue=None, *, rank=0):
    return CampaignPlan(GlueOptions(), LoraOptions(rank=rank), glue or {})


def steps(*numbers):
    return tuple(GlueModel(f"run@step-{n}", f"run@step-{n}", n, n / 10, n, "a") for n in numbers)


GPT2 = GlueModel("gpt2", "gpt2", fingerprint="b")


def test_the_curve_appears_coarsely_before_it_gets_finer():
    order = plan.by_value((*steps(*range(0, 90, 10)), GPT2))
    assert [subject.step for subject in order] == [80, 0, None, 40, 20, 60, 10, 30, 50, 70]
    assert plan.by_value(steps(5)) == list(steps(5))
    assert plan.by_value((GPT2,)) == [GPT2]


def test_cheap_tasks_come_first_and_a_model_is_finished_before_the_next():
    here = plan_of()
    cells = here.cells(here.grid(steps(0, 10), choose(["all"])))
    names = [task.name for _, task in cells[:9]]
    assert {subject.step for subject, _ in cells[:9]} == {10}
    assert set(names[:2]) == {"mrpc", "wnli"}
    assert {"qqp", "mnli"} < set(names[-4:])
    assert names == [task.name for _, task in cells[9:]]


def test_a_task_has_its_built_in_recipe():
    assert task_tables({}, "wnli") == {
        "train": {"epochs": 6, "dropout": 0.2},
        "optim": {
            "lr": 5e-5,
            "schedule": "linear",
            "final_lr": 0.0,
            "weight_decay": 0.01,
            "warmup_fraction": 0.002,
        },
        "classify": {"batch_examples": 32},
        "eval": {"every": 5},
        "n_seeds": 10,
    }
    recipe = plan_of().settings(TASKS["wnli"])
    assert (recipe.optim.betas, recipe.optim.grad_clip, recipe.train.precision) == ((0.9, 0.95), 1.0, "auto")
    assert (recipe.save.best, recipe.save.keep) == (False, 1)


ALL = {
    "n_seeds": 2,
    "train": {"epochs": 7.0, "dropout": 0.1, "seed": 5},
    "optim": {"lr": 2e-4, "betas": [0.8, 0.9]},
    "classify": {"limit": 9, "train_layers": "head"},
    "eval": {"every": 0},
}
WNLI = {"n_seeds": 4, "epochs": 0.5, "dropout": 0.3, "lr": 1e-3, "limit": 8, "eval_every": 3}


def six(tables):
    """The options that a task's own table has, in its order."""
    return [
        tables["n_seeds"],
        tables["train"]["epochs"],
        tables["train"]["dropout"],
        tables["optim"]["lr"],
        tables["classify"].get("limit"),
        tables["eval"]["every"],
    ]


def test_a_task_s_own_table_beats_the_tables_for_all_tasks_and_these_the_built_in_recipe():
    assert six(task_tables({}, "wnli")) == [10, 6, 0.2, 5e-5, None, 5]
    assert six(task_tables(ALL, "wnli")) == six(task_tables(ALL, "cola")) == [2, 7.0, 0.1, 2e-4, 9, 0]
    glue = ALL | {"wnli": WNLI}
    assert six(task_tables(glue, "wnli")) == [4, 0.5, 0.3, 1e-3, 8, 3]
    assert six(task_tables(glue, "cola")) == [2, 7.0, 0.1, 2e-4, 9, 0]
    recipe = CampaignPlan(GlueOptions(), LoraOptions(), glue).settings(TASKS["wnli"])
    assert (recipe.train.seed, recipe.optim.betas, recipe.classify.train_layers) == (5, (0.8, 0.9), "head")


def test_a_flag_for_all_tasks_beats_a_task_s_own_table():
    file = {"wnli": WNLI, "cola": {"lr": 2e-3}}
    flags = ALL | {"lora": {"rank": 8}, "resume": True}
    glue = with_flags(file, flags)
    assert six(task_tables(glue, "wnli")) == six(task_tables(glue, "cola")) == [2, 7.0, 0.1, 2e-4, 9, 0]
    assert not {"lora", "resume"} & glue.keys()
    assert file == {"wnli": WNLI, "cola": {"lr": 2e-3}}  # is not changed


def test_a_flag_for_one_task_beats_a_flag_for_all():
    glue = with_flags({"wnli": WNLI}, {"optim": {"lr": 3e-3}, "rte": {"lr": 2e-3}, "wnli": {"epochs": 9.0}})
    assert six(task_tables(glue, "wnli")) == [4, 9.0, 0.3, 3e-3, 8, 3]
    assert task_tables(glue, "rte")["optim"]["lr"] == 2e-3
    assert task_tables(glue, "cola")["optim"]["lr"] == 3e-3


def test_adapters_have_their_own_learning_rate_unless_one_is_given():
    assert plan_of(rank=8).settings(TASKS["cola"]).optim.lr == 5e-4
    assert plan_of({"optim": {"lr": 1e-4}}, rank=8).settings(TASKS["cola"]).optim.lr == 1e-4


def test_steps_replace_epochs_and_warm_up_steps_their_fraction():
    glue = {"train": {"max_steps": 40}, "optim": {"warmup_steps": 4}, "rte": {"epochs": 1.0}}
    cola, rte = task_tables(glue, "cola"), task_tables(glue, "rte")
    assert (cola["train"], rte["train"]["epochs"]) == ({"dropout": 0.0, "max_steps": 40}, 1.0)
    assert "max_steps" not in rte["train"]
    assert "warmup_fraction" not in cola["optim"]
    glue = with_flags({"rte": {"epochs": 1.0}}, {"train": {"max_steps": 40}})
    assert task_tables(glue, "rte")["train"] == {"dropout": 0.0, "max_steps": 40}


@pytest.mark.parametrize(
    ("glue", "option"),
    [
        ({"classify": {"label": "y"}}, "glue.classify.label"),
        ({"classify": {"n_seeds": 3}}, "glue.n_seeds"),
        ({"train": {"batch_tokens": 512}}, "glue.train.batch_tokens"),
        ({"eval": {"tasks": ["hellaswag"]}}, "glue.eval.tasks"),
    ],
)
def test_options_without_effect_are_refused(glue, option):
    with pytest.raises(ConfigError, match=option):
        plan_of(glue).check()


def test_two_lengths_are_refused():
    with pytest.raises(ConfigError, match=r"train.max_steps and train.epochs"):
        plan_of({"train": {"epochs": 1.0, "max_steps": 3}}).cost(TASKS["rte"])


def test_a_campaign_s_recipe_gives_its_plan_back():
    here = plan_of(ALL | {"wnli": WNLI, "model": ["gpt2"], "out": "campaign"}, rank=4)
    again = plan.from_tables({"glue": here.tables, "lora": as_tables(here.lora)})
    for task in TASKS.values():
        assert again.settings(task) == here.settings(task)
    assert (again.options.model, again.n_seeds(TASKS["wnli"])) == (("gpt2",), 4)


@pytest.mark.parametrize(
    ("name", "tries", "epochs"),
    [
        ("small", 40, (3, 3, 3, 3, 1, 1, 2, 3, 6)),
        ("large", 40, (3, 3, 3, 3, 1, 1, 2, 3, 6)),
        ("short", 9, (3, 2, 3, 2, 0.5, 0.5, 1, 3, 4)),
        ("minimal", 9, (2, 2, 3, 2, 0.3, 0.3, 0.6, 3, 4)),
    ],
)
def test_the_recipes_are_gluept_s_setups(name, tries, epochs):
    file = packaged.find(f"gluept-{name}")
    here = CampaignPlan(load(file).glue, LoraOptions(), tables(file)["glue"])
    settings = [here.settings(task) for task in TASKS.values()]
    assert sum(here.n_seeds(task) for task in TASKS.values()) == tries
    assert tuple(recipe.train.epochs for recipe in settings) == epochs
    assert here.options.checkpoints == "all"
    assert {recipe.classify.text_pair_separator for recipe in settings} == {""}


def test_fractions_of_an_epoch_have_a_schedule_that_ends(tmp_path):
    here = plan_of({"train": {"epochs": 0.5}, "optim": {"warmup_fraction": 0.1}})
    recipe = here.recipe(GPT2, TASKS["qqp"], 3, n_train=3200, run=Run(tmp_path))
    assert (recipe.train.epochs, recipe.train.seed, recipe.optim.warmup_steps) == (0.5, 2, 5)
    assert recipe.optim.warmup_fraction is None
    assert (recipe.optim.schedule, recipe.optim.final_lr, recipe.optim.decay_steps) == ("linear", 0.0, None)


def test_later_requests_extend_the_grid():
    before = Grid(steps(0, 10), ("cola", "rte"), {"cola": 1, "rte": 1})
    now = Grid((*steps(5), GPT2), ("rte", "sst2"), {"rte": 3, "sst2": 1})
    extended = plan.extend(before, now)
    assert [subject.step for subject in extended.subjects] == [0, 5, 10, None]
    assert (extended.tasks, extended.tries) == (("cola", "sst2", "rte"), {"cola": 1, "rte": 3, "sst2": 1})
    changed = Grid((GlueModel("run@step-0", "run@step-0", 0, 0.0, 0, "other"),), ("rte",), {"rte": 1})
    with pytest.raises(ConfigError, match="run@step-0"):
        plan.extend(before, changed)


def test_time_left_is_judged_by_the_same_task_or_else_by_cost():
    costs = {"cola": 10.0, "rte": 5.0}
    assert plan.time_left([], ["cola"], costs) is None
    assert plan.time_left([("cola", 20.0), ("cola", 40.0)], ["cola", "rte"], costs) == pytest.approx(30 + 15)
    assert plan.time_left([("cola", 20.0)], [], costs) == 0
