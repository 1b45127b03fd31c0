import dataclasses
import json

import pytest

from gptworks import results
from gptworks.errors import DataError
from gptworks.results import Result
from gptworks.runs import Run

ROW = {
    "task": "piqa",
    "metric": "acc",
    "value": 0.5,
    "standard_error": 0.1,
    "interval_95": [0.3, 0.7],
    "n": 25,
    "of": "examples",
    "higher_is_better": True,
    "per_token": False,
    "definition": "share of right answers",
    "split": "dev",
    "shots": 5,
    "limit": 25,
    "notes": ["1 context cut"],
    "details": {"truncated": 1},
    "data": "piqa.jsonl",
    "data_fingerprint": "d",
    "model": "run",
    "model_fingerprint": "m",
    "tokenizer_fingerprint": "t",
    "precision": "fp32",
    "step": 10,
    "versions": {"gptworks": "0.1"},
    "time": "2025-01-01T00:00:00+00:00",
}


def test_a_row_that_is_read_and_written_is_unchanged():
    newer = ROW | {"from_a_newer_version": [1]}
    for row in (ROW, newer, {key: ROW[key] for key in ROW if key != "details"}):
        assert json.loads(json.dumps(Result.from_row(row).to_row())) == row
    assert list(Result.from_row(ROW).to_row()) == list(ROW)
    assert Result.from_row(ROW).num_fewshot == 5


@pytest.mark.parametrize("missing", ["task", "metric", "value"])
def test_a_row_without_task_metric_or_value_is_refused(missing):
    with pytest.raises(DataError):
        Result.from_row({key: ROW[key] for key in ROW if key != missing})


@pytest.mark.parametrize("key", results.MEASURE)
def test_results_that_differ_in_their_measure_are_not_comparable(key):
    first, second = Result.from_row(ROW), Result.from_row(ROW | {key: "other"})
    assert first.differs_in(second) == [key]
    assert first.differs_in(Result.from_row(ROW | {"value": 0.9, "model": "other"})) == []


def test_per_token_results_need_the_same_tokenizer():
    per_token = Result.from_row(ROW | {"per_token": True})
    other = dataclasses.replace(per_token, tokenizer_fingerprint="other")
    assert per_token.differs_in(other) == ["tokenizer_fingerprint"]
    assert Result.from_row(ROW).differs_in(dataclasses.replace(other, per_token=False)) == []


def test_a_new_result_replaces_the_same_measure_and_the_rest_of_the_file_stays(tmp_path):
    file = tmp_path / "results" / "piqa.json"
    results.add(file, [Result.from_row(ROW)])
    content = json.loads(file.read_text()) | {"judged": [1]}
    file.write_text(json.dumps(content))
    again, other_model = ROW | {"value": 0.6}, ROW | {"model_fingerprint": "other"}
    results.add(file, [Result.from_row(again), Result.from_row(other_model)])
    assert json.loads(file.read_text()) == {"rows": [again, other_model], "judged": [1]}


@pytest.mark.parametrize("content", ["[", "[]", "{}", '{"rows": 3}', '{"rows": [3]}', '{"rows": [{}]}'])
def test_another_file_is_refused_and_not_overwritten(tmp_path, content):
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(DataError):
        results.add(file, [Result.from_row(ROW)])
    assert file.read_text() == content


def test_a_run_lists_the_results_of_all_its_files(tmp_path):
    run = Run(tmp_path)
    assert run.results() == []
    results.add(run / "results" / "piqa.json", [Result.from_row(ROW)])
    results.add(run / "results" / "arc.json", [Result.from_row(ROW | {"task": "arc_easy"})])
    (tmp_path / "results" / "classify-test.json").write_text('{"scores": {}}')
    (tmp_path / "results" / "half.json").write_text('{"rows": [')
    assert [result.task for result in run.results()] == ["arc_easy", "piqa"]
