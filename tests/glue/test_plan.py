"""Which cell comes when, what a task's options come to, and how long the rest takes."""

import pytest

from gptworks.errors import ConfigError
from gptworks.glue import plan
from gptworks.glue.plan import Plan, Settings
from gptworks.glue.records import Grid, Subject
from gptworks.glue.tasks import TASKS, choose
from gptworks.recipe import GlueOptions, GlueTaskOptions, LoraOptions
from gptworks.recipefile import load


def steps(*numbers):
    return tuple(Subject(f"run@step-{n}", f"run@step-{n}", n, n / 10, n, "a") for n in numbers)


GPT2 = Subject("gpt2", "gpt2", fingerprint="b")


def test_the_curve_is_known_coarsely_before_it_is_known_finely():
    order = plan.by_value((*steps(*range(0, 90, 10)), GPT2))
    assert [subject.step for subject in order] == [80, 0, None, 40, 20, 60, 10, 30, 50, 70]
    assert plan.by_value(steps(5)) == list(steps(5))
    assert plan.by_value((GPT2,)) == [GPT2]


def test_cheap_tasks_come_first_and_a_model_is_finished_before_the_next():
    here = Plan(GlueOptions(), LoraOptions())
    cells = here.cells(here.grid(steps(0, 10), choose(["all"])))
    names = [task.name for _, task in cells[:9]]
    assert {subject.step for subject, _ in cells[:9]} == {10}
    assert set(names[:2]) == {"mrpc", "wnli"}
    assert {"qqp", "mnli"} < set(names[-4:])
    assert names == [task.name for _, task in cells[9:]]


def test_a_task_s_own_table_beats_what_is_said_of_all_and_that_the_profile():
    options = GlueOptions(tries=2, wnli=GlueTaskOptions(tries=4, epochs=0.5))
    here = Plan(options, LoraOptions())
    assert here.settings(TASKS["wnli"]) == Settings(0.5, 4, 5, 0.2, 5e-5, None)
    assert here.settings(TASKS["cola"]) == Settings(3, 2, 50, 0.0, 5e-5, None)
    assert Plan(options, LoraOptions(rank=8)).settings(TASKS["cola"]).lr == 5e-4
    assert Plan(GlueOptions(lr=1e-4), LoraOptions(rank=8)).settings(TASKS["cola"]).lr == 1e-4


@pytest.mark.parametrize(
    ("name", "tries", "epochs"),
    [
        ("small", 40, (3, 3, 3, 3, 1, 1, 2, 3, 6)),
        ("large", 40, (3, 3, 3, 3, 1, 1, 2, 3, 6)),
        ("short", 9, (3, 2, 3, 2, 0.5, 0.5, 1, 3, 4)),
        ("minimal", 9, (2, 2, 3, 2, 0.3, 0.3, 0.6, 3, 4)),
    ],
)
def test_the_recipes_are_gluept_s_setups(repository, name, tries, epochs):
    here = Plan(load(repository / f"recipes/gluept-{name}.toml").glue, LoraOptions())
    found = [here.settings(task) for task in TASKS.values()]
    assert sum(how.tries for how in found) == tries
    assert tuple(how.epochs for how in found) == epochs
    assert here.options.checkpoints == "all"
    assert here.options.pair_separator == ""


def test_fractions_of_an_epoch_have_a_schedule_that_ends(tmp_path):
    here = Plan(GlueOptions(epochs=0.5, warmup=0.1), LoraOptions())
    recipe = here.recipe(GPT2, TASKS["qqp"], 3, n_train=3200, run=tmp_path)
    assert (recipe.train.epochs, recipe.train.seed, recipe.optim.warmup_steps) == (0.5, 2, 5)
    assert (recipe.optim.schedule, recipe.optim.final_lr, recipe.optim.decay_steps) == ("linear", 0.0, None)


def test_what_is_asked_for_later_is_added():
    before = Grid(steps(0, 10), ("cola", "rte"), {"cola": 1, "rte": 1})
    now = Grid((*steps(5), GPT2), ("rte", "sst2"), {"rte": 3, "sst2": 1})
    grown = plan.grown(before, now)
    assert [subject.step for subject in grown.subjects] == [0, 5, 10, None]
    assert (grown.tasks, grown.tries) == (("cola", "sst2", "rte"), {"cola": 1, "rte": 3, "sst2": 1})
    changed = Grid((Subject("run@step-0", "run@step-0", 0, 0.0, 0, "other"),), ("rte",), {"rte": 1})
    with pytest.raises(ConfigError, match="run@step-0 has other weights"):
        plan.grown(before, changed)


def test_time_left_is_judged_by_the_same_task_or_else_by_cost():
    costs = {"cola": 10.0, "rte": 5.0}
    assert plan.time_left([], ["cola"], costs) is None
    assert plan.time_left([("cola", 20.0), ("cola", 40.0)], ["cola", "rte"], costs) == pytest.approx(30 + 15)
    assert plan.time_left([("cola", 20.0)], [], costs) == 0
