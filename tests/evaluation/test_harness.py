"""The harness asking our live model, and its own `hf` backend on the same weights: the same numbers."""

import json

import pytest
from lm_eval.evaluator import simple_evaluate

from gptworks.errors import ConfigError
from gptworks.evaluation import harness
from tests.evaluation.conftest import open_ours, open_theirs, write_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

QA = [
    {"question": f"What is {i} and {i}?", "answer": f"a{i}", "text": f"Some text {i}. " * (i + 1)}
    for i in range(6)
]


@pytest.fixture(scope="module")
def tasks(harness_tasks, tmp_path_factory):
    """The tasks of every kind: multiple choice with examples, generation, rolling, and a group of them."""
    folder = tmp_path_factory.mktemp("more")
    data = {"data_files": {"test": str(write_rows(folder / "qa.jsonl", QA))}}
    shared = {"dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
    generation = {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "num_fewshot": 1,
        "fewshot_split": "test",
    }
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    }
    group = {
        "group": "local_group",
        "task": ["local_piqa", "local_arc_easy"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        "metadata": {"version": 2},
    }
    for name, task in {"qa": generation, "rolling": rolling}.items():
        (folder / f"{name}.yaml").write_text(json.dumps(shared | task | {"task": f"local_{name}"}))
    (folder / "group.yaml").write_text(json.dumps(group))
    return [harness_tasks, folder]


def ours_and_theirs(folder, tasks, names, num_fewshot=None, limit=None):
    manager = harness.task_manager(names, tasks)
    live = harness.LiveModel(*open_ours(folder))
    found = harness.measure(live, harness.FewshotGroup(tuple(names), num_fewshot), manager, limit)
    theirs = simple_evaluate(
        model=open_theirs(folder),
        tasks=list(names),
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
    )
    return found, theirs, live


@pytest.mark.parametrize(
    "names", [("local_hellaswag", "local_group"), ("local_rolling",), ("local_lambada",)]
)
def test_numbers_are_those_of_the_hf_backend(wide, tasks, names):
    found, theirs, _ = ours_and_theirs(wide, tasks, names)
    compared = 0
    for score, data in found:
        value = theirs["results"][data.task.removeprefix("harness:")][f"{score.metric},none"]
        error = theirs["results"][data.task.removeprefix("harness:")][f"{score.metric}_stderr,none"]
        assert score.value == pytest.approx(value, rel=1e-5)
        if score.form == "mean" and data.task != "harness:local_group":  # pooled there, of all questions here
            assert score.estimate.standard_error == pytest.approx(error)
        compared += 1
    assert compared == sum(
        not key.partition(",")[0].endswith("_stderr")
        for results in theirs["results"].values()
        for key, value in results.items()
        if "," in key
    )


def test_examples_before_a_question_are_the_harness_s(wide, tasks):
    found, theirs, _ = ours_and_theirs(wide, tasks, ("local_qa",), num_fewshot=2)
    ((score, data),) = found
    assert data.num_fewshot == 2
    assert score.value == theirs["results"]["local_qa"]["exact_match,none"]


def test_generated_texts_are_those_of_the_hf_backend(narrow, tasks):
    """Also where the question does not fit and loses its beginning."""
    from lm_eval.api.instance import Instance

    options = {"until": ["q", "\n\n"], "max_gen_toks": 20, "do_sample": False}
    prompts = ["Question: what?", "a", "long " * 20, ""]
    requests = [Instance("generate_until", {}, (prompt, dict(options)), 0) for prompt in prompts]
    live = harness.LiveModel(*open_ours(narrow))
    ours = live.generate_until(requests)
    theirs = open_theirs(narrow, batch_size=1).generate_until(requests[:3], disable_tqdm=True)
    assert ours[:3] == theirs
    assert live.truncated == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_answers_longer_than_the_context_are_cut_and_said(narrow, tasks):
    model, tokenizer = open_ours(narrow)
    from gptworks.evaluation.scoring import ScoreRequest, score

    live = harness.LiveModel(model, tokenizer)
    ((nats, _),) = live._loglikelihood_tokens([(("", ""), [65], [66] * 70)])
    ((answer,),) = score(model, [[ScoreRequest([65], [66] * model.config.context)]])
    assert nats == answer.total
    assert live.shortened == 1


def test_scores_say_split_definition_and_number(wide, tasks):
    found, _, _ = ours_and_theirs(wide, tasks, ("local_piqa",), limit=3)
    score, data = found[0]
    assert (data.split, data.limit, score.n) == ("dev", 3, 3)
    assert "task local_piqa version 1.0, metric acc, filter none" in score.definition


def test_a_task_that_does_not_exist_is_answered_with_the_nearest(tasks, monkeypatch):
    known = harness.TaskManager(include_path=[str(folder) for folder in tasks], include_defaults=False)
    monkeypatch.setattr(
        harness, "TaskManager", lambda **_: known
    )  # the harness's own 13,000 take half a minute
    with pytest.raises(ConfigError, match=r"'local_piqua'.*local_piqa"):
        harness.task_manager(["local_piqua"], tasks)
    with pytest.raises(ConfigError, match="--include nowhere"):
        harness.task_manager(["local_piqa"], [harness.Path("nowhere")])


def test_few_shot_examples_are_set_for_all_tasks_or_for_each():
    groups = harness.fewshot_groups("piqa,arc_easy,mmlu@5,gsm8k@5", 0)
    assert [(group.tasks, group.num_fewshot) for group in groups] == [
        (("piqa", "arc_easy"), 0),
        (("mmlu", "gsm8k"), 5),
    ]
    with pytest.raises(ConfigError, match="harness:mmlu@x"):
        harness.fewshot_groups("mmlu@x", None)


def test_a_context_too_short_to_answer_in_is_refused(narrow):
    live = harness.LiveModel(*open_ours(narrow))
    with pytest.raises(ConfigError, match=r"256 tokens.*context of 48"):
        live._generate("a question", {"until": ["\n"]})
