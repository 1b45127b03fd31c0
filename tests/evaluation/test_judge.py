import json

import pytest

from gptworks.errors import ConfigError, DataError
from gptworks.evaluation import judge
from gptworks.evaluation.endpoint import EndpointReply
from gptworks.evaluation.judge_options import JudgeOptions


@pytest.mark.parametrize(
    ("text", "found"),
    [("85", 85), (" 85.\n", 85), ("**70**", 70), ("Score: 12.5", 12.5), ("100/100", 100), ("0", 0)]
    + [
        (text, None)
        for text in ("101", "-5", "about 80", "85 because it is 10 times better", "", "eighty", "8 5")
    ],
)
def test_points_are_a_number_from_0_to_100_and_nothing_else(text, found):
    assert judge.points(text) == found


def test_what_cannot_be_read_and_what_never_came_is_counted_apart():
    answers = [
        EndpointReply("80"),
        EndpointReply("I cannot say"),
        EndpointReply(None, error="HTTP 503"),
        EndpointReply("20"),
    ]
    found = judge.parse_scores(answers)
    assert found.values == [80, None, None, 20]
    assert (found.unparsed, found.unanswered) == (1, 1)
    assert found.known.tolist() == [80, 20]


def test_a_judge_that_favours_a_place_finds_no_winner():
    always_a = [EndpointReply("A"), EndpointReply("A")]
    wins = [EndpointReply("A"), EndpointReply("B")]
    loses = [EndpointReply("B"), EndpointReply("A.")]
    half = [EndpointReply("tie"), EndpointReply("B")]
    nonsense = [EndpointReply("A"), EndpointReply("both")]
    found = judge.parse_comparisons([*always_a, *wins, *loses, *half, *nonsense])
    assert found.values == [0.5, 1.0, 0.0, 0.75, None]
    assert (found.contradictory, found.unparsed, found.unanswered) == (1, 1, 0)


def test_the_question_is_the_one_of_the_system_it_is_compared_with():
    one = judge.JudgeExample("Add.", "2 and 2", "4", "5")
    assert judge.score_prompt(one) == (
        "Given the input `Below is an instruction that describes a requested task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n2 and 2` and correct output `4`, score the "
        "model response `5` on a scale from 0 to 100, where 100 is the best score. Respond with the number only."
    )
    assert "Input" not in judge.JudgeExample("Add.", "", "4").prompt


def test_responses_are_read_as_the_other_system_released_them(tmp_path):
    file = tmp_path / "responses.json"
    rows = [{"instruction": "Add.", "input": "", "output": "4", "model response": "four"}]
    file.write_text(json.dumps(rows))
    assert judge.read(file)[0].response == "four"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "bad.json"),
        ("[]", "bad.json"),
        ('[{"instruction": "x", "output": "y"}, {"output": "y"}]', "example 2 .*`instruction`"),
        ("[3]", "example 1"),
    ],
)
def test_a_bad_file_is_refused_by_the_number_of_its_example(tmp_path, text, said):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        judge.read(file)


def test_cost_is_known_where_prices_are():
    assert judge.cost(1_000_000, 500_000, JudgeOptions().prices) == pytest.approx(0.15 + 0.30)
    assert JudgeOptions(base_url="http://127.0.0.1:1/v1").prices is None
    with pytest.raises(ConfigError, match="openai:MODEL"):
        _ = JudgeOptions(judge="gpt-4o").model
