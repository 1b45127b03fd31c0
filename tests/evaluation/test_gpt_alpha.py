from gptworks import packaged
from gptworks.evaluation import gpt_alpha
from gptworks.recipe import Recipe
from gptworks.recipefile import load
from gptworks.results import Result

ROWS = [
    ("piqa", "acc_norm", 0.6),
    ("social_iqa", "acc", 0.4),
    ("openbookqa", "acc_norm", 0.3),
    ("triviaqa", "exact_match,remove_whitespace", 0.01),
    ("truthfulqa_mc1", "acc", 0.2),
    ("truthfulqa_mc2", "acc", 0.4),
    ("mmlu", "acc", 0.25),
    ("mmlu_stem", "acc", 0.30),
    ("mmlu_astronomy", "acc", 0.50),
    ("winogrande", "acc", 0.5),
    ("arc_challenge", "acc_norm", 0.2),
    ("hellaswag", "acc_norm", 0.3),
]


def rows():
    return [Result(task=f"harness:{task}", metric=metric, value=value) for task, metric, value in ROWS]


def cells(text):
    return {
        line.split("|")[1].strip(): line.split("|")[2].strip()
        for line in text.splitlines()
        if line[:1] == "|"
    }


def test_the_table_is_theirs_followed_by_the_corrected_figures():
    found = cells(gpt_alpha.table({"me": rows()}))
    assert found["truthfulqa_0shot"] == "30.00"
    assert found["mmlu_5shot"] == "35.00"  # subjects, groups and total alike
    assert found["gsm8k_5shot"] == "N/A"
    theirs = [60, 40, 30, 1, 30, 35, 50, 20, 30]
    assert found["Average Score"] == f"{sum(theirs) / 10:.2f}"  # by ten, though one is missing
    right = [60, 40, 30, 1, 40, 25, 50, 20, 30]
    assert found["average with these, over tasks run (9)"] == f"{sum(right) / 9:.2f}"
    assert found["mmlu, equal weight per question"] == "25.00"
    assert found["truthfulqa_mc2 alone"] == "40.00"


def test_the_recipe_runs_every_task_with_the_shots_in_its_label(repository):
    recipe: Recipe = load(packaged.find("gpt-alpha-tasks"))
    assert recipe.evaluate.table == "gpt-alpha"
    asked = [
        word.rpartition("@")
        for spec in recipe.evaluate.tasks
        for word in spec.removeprefix("harness:").split(",")
    ]
    shots = {name: int(number) for name, _, number in asked}
    for line in gpt_alpha.ROWS:
        assert {shots[task] for task in line.tasks} == {int(line.label.split("_")[-1].removesuffix("shot"))}
