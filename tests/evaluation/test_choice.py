"""Each task asked by us and by lm-evaluation-harness's `hf` backend with its own wording, on the same files."""

import lm_eval
import numpy as np
import pytest
from lm_eval.tasks import TaskManager

from gptworks.errors import ConfigError, DataError
from gptworks.evaluation import choice, suite
from gptworks.evaluation.questions import Question, encode_questions
from gptworks.evaluation.scoring import score
from gptworks.evaluation.tasks import TASKS, canonical
from gptworks.recipe import EvaluateOptions, PerplexityOptions
from tests.evaluation.conftest import HELLASWAG, open_ours, open_theirs, write_rows


def ask_theirs(folder, tasks, name):
    said = lm_eval.simple_evaluate(
        model=open_theirs(folder),
        tasks=[f"local_{name}"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=10,
    )
    return said["results"][f"local_{name}"], said["samples"][f"local_{name}"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    "name", ["hellaswag", "piqa", "arc_easy", "openbookqa", "winogrande", "boolq", "social_iqa", "lambada"]
)
def test_answers_and_scores_are_lm_evals(wide, harness_tasks, sets, name):
    results, samples = ask_theirs(wide, harness_tasks, name)
    quiz = suite.load(suite.parse(f"{name}:{sets[name]}"), EvaluateOptions(), PerplexityOptions())
    model, tokenizer = open_ours(wide)
    answers = score(model, quiz.encode(model.config.context, tokenizer).requests)
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    theirs = [float(answer[0]) for sample in samples for answer in sample["filtered_resps"]]
    ours = [answer.total for question in answers for answer in question]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    for found, _ in quiz.measure(model, tokenizer, None):
        assert found.estimate.value == pytest.approx(results[f"{found.metric},none"], rel=1e-5)
        if found.form == "mean":
            assert found.estimate.standard_error == pytest.approx(
                results[f"{found.metric}_stderr,none"], abs=1e-6
            )


def test_hellaswags_three_scorings_are_kept_apart(wide, sets):
    """Completion by sum and by token against the plain loop of build-nanogpt; lm-eval's divides by characters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network, words = AutoModelForCausalLM.from_pretrained(wide), AutoTokenizer.from_pretrained(wide)
    right, right_by_token = 0, 0
    for row in HELLASWAG:
        start, losses = words.encode(row["ctx"]), []
        for ending in row["endings"]:
            end = words.encode(" " + ending)
            with torch.no_grad():
                logits = network(torch.tensor([start + end])).logits[0, len(start) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(end), reduction="none"))
        right += int(np.argmin([loss.sum() for loss in losses]) == int(row["label"]))
        right_by_token += int(np.argmin([loss.mean() for loss in losses]) == int(row["label"]))
    wanted = suite.parse(f"hellaswag-completion:{sets['hellaswag']}")
    found = suite.load(wanted, EvaluateOptions(), PerplexityOptions()).measure(*open_ours(wide), None)
    assert {one.metric: one.estimate.value for one, _ in found} == {
        "acc": right / len(HELLASWAG),
        "acc_norm_token": right_by_token / len(HELLASWAG),
    }
    definitions = {one.definition for one, _ in found}
    definitions |= {
        one.definition
        for one, _ in suite.load(
            suite.parse(f"hellaswag:{sets['hellaswag']}"), EvaluateOptions(), PerplexityOptions()
        ).measure(*open_ours(wide), None)
    }
    assert len(definitions) == 4


def test_a_beginning_that_does_not_fit_is_cut_and_counted(narrow, sets):
    quiz = suite.load(suite.parse(f"hellaswag:{sets['hellaswag']}"), EvaluateOptions(), PerplexityOptions())
    found = quiz.measure(*open_ours(narrow), None)
    assert all(one.details["truncated"] == len(HELLASWAG) for one, _ in found)
    assert "cut at the beginning" in found[0][0].notes[0]


def test_an_answer_that_does_not_fit_is_scored_by_its_beginning_and_counted(narrow, tokenizer):
    """As the answer that ends where the model's context does, per token and per character alike."""

    def measured(answer):
        row = {"query": "q", "choices": [answer, "b"], "gold": 0}
        question = TASKS["choice"].question(suite.Record("file:1", row))
        encoded = encode_questions([question], tokenizer, 48)
        answers = score(model, encoded.requests)
        return answers[0][0].total, choice.scores(TASKS["choice"], [question], answers, encoded)

    model, _ = open_ours(narrow)
    cut, found = measured("a" * 60)
    whole, fits = measured("a" * 47)  # a byte a token, and the space before it
    assert cut == whole
    assert [one.value for one in found] == [one.value for one in fits]
    assert all("1 answer" in one.notes[-1] for one in found)
    assert [one.details["shortened"] for one in (*found, *fits)] == [1, 1, 0, 0]


def test_characters_of_an_answer_are_those_that_were_read(narrow, tokenizer):
    question = Question("file:1", ("q",), ("a" * 60,), lengths=(60,))
    encoded = encode_questions([question], tokenizer, 48)
    (scored,) = (choice._with_scored_lengths(question, requests) for requests in encoded.requests)
    assert scored.lengths == (48,)


def test_an_answer_without_a_token_is_refused(tokenizer):
    with pytest.raises(DataError, match="file:1"):
        encode_questions([Question("file:1", ("q",), ("",))], tokenizer, 48)


@pytest.mark.parametrize(
    ("name", "near"),
    [("helaswag", "hellaswag"), ("arc", "arc_easy"), ("boolqq", "boolq"), ("siga", "social_iqa")],
)
def test_a_task_that_does_not_exist_is_answered_with_the_nearest(name, near):
    with pytest.raises(ConfigError, match=f"'{name}'.*{near}"):
        canonical(name)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (['{"ctx": "a", "label": 0}'], "bad.jsonl:1 lacks 'endings'.*ctx, label"),
        (["", '"x"'], "bad.jsonl:2"),
        (["{"], "bad.jsonl:1"),
        ([""], "bad.jsonl"),
        (
            ['{"activity_label": "x", "ctx": "a", "endings": ["a", "b"], "label": 2}'],
            "bad.jsonl:1 .*hellaswag.* 3 of only 2",
        ),
        (['{"activity_label": "x", "ctx": "a", "endings": "ab", "label": 0}'], "bad.jsonl:1 .*'endings'"),
    ],
)
def test_a_file_without_what_is_needed_is_refused_with_the_line(tmp_path, rows, said):
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(rows))
    with pytest.raises(DataError, match=said):
        suite.load(suite.parse(f"hellaswag:{file}"), EvaluateOptions(), PerplexityOptions())


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("a_val.jsonl", [{}], "dev"),
        ("test.jsonl", [{}], "test"),
        ("latest.jsonl", [{}], "unknown"),
        ("a.jsonl", [{"split": "val"}], "dev"),
        ("dev-test.jsonl", [{}], "unknown"),
    ],
)
def test_the_split_is_what_the_file_says_or_not_known(name, rows, said):
    assert suite.split_of_records([suite.Record("", row) for row in rows], name) == said


def test_ai2s_original_files_are_read_like_the_hubs(tmp_path):
    inner = {"stem": "Which?", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]}
    file = write_rows(tmp_path / "a.jsonl", [{"id": 1, "question": inner, "answerKey": "B"}])
    quiz = suite.load(suite.parse(f"arc_easy:{file}"), EvaluateOptions(), PerplexityOptions())
    assert quiz.questions[0].continuations == (" x", " y")
    assert quiz.questions[0].gold == 1
    assert quiz.questions[0].contexts[0] == "Question: Which?\nAnswer:"
