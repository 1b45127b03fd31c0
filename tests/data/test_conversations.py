import json

import pytest

from gptworks.data.conversations import load, prompt_key
from gptworks.errors import ConfigError, DataError
from gptworks.recipe import InstructOptions
from gptworks.text.templates import Message


def alpaca(n, first=0):
    return [
        {"instruction": f"Say {i}.", "input": "" if i % 2 else f"about {i}", "output": f"It is {i}."}
        for i in range(first, first + n)
    ]


def written(folder, rows, name="data.json"):
    """As a JSON list, or one a line."""
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text)
    return folder / name


def loaded(path, **options):
    return load(path, InstructOptions(**options))


@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "no-ending"])
def test_alpaca_s_shape(tmp_path, name):
    found = loaded(written(tmp_path, alpaca(3), name), val_fraction=0, test_fraction=0)
    assert found.splits["train"][0] == (
        Message("user", "Say 0.", "about 0"),
        Message("assistant", "It is 0."),
    )
    assert found.splits["train"][1][0].input == ""
    assert found.kind == "instruction in instruction, answer in output, input in input"


@pytest.mark.parametrize(("asks", "says"), [("prompt", "response"), ("Question", "Answer")])
def test_other_people_s_names_for_it(tmp_path, asks, says):
    found = loaded(written(tmp_path, [{asks: "a", says: "b"}]), val_fraction=0, test_fraction=0)
    assert found.splits["train"] == [(Message("user", "a"), Message("assistant", "b"))]


@pytest.mark.parametrize("keys", [("messages", "role", "content"), ("conversations", "from", "value")])
def test_chats_of_several_turns(tmp_path, keys):
    column, role, content = keys
    names = ("system", "user", "assistant") if role == "role" else ("system", "human", "gpt")
    said = [
        (names[0], "Be brief."),
        (names[1], "Hi"),
        (names[2], "Hello"),
        (names[1], "Bye"),
        (names[2], "Bye!"),
    ]
    rows = [{column: [{role: who, content: what} for who, what in said]}]
    (one,) = loaded(written(tmp_path, rows, "chat.jsonl"), val_fraction=0, test_fraction=0).splits["train"]
    assert [m.role for m in one] == ["system", "user", "assistant", "user", "assistant"]
    assert [m.content for m in one] == [what for _, what in said]


def test_what_is_held_out_is_in_no_other_split_and_stays_when_data_is_added(tmp_path):
    rows = alpaca(400)
    doubled = [
        *rows,
        *({**row, "output": "Something else.", "instruction": row["instruction"].upper()} for row in rows),
    ]
    found = loaded(written(tmp_path, doubled), val_fraction=0.1, test_fraction=0.2)
    questions = {split: {prompt_key(one) for one in found.splits[split]} for split in found.splits}
    assert not questions["train"] & questions["val"]
    assert not questions["train"] & questions["test"]
    assert not questions["val"] & questions["test"]
    assert sum(map(len, questions.values())) == 400
    assert sum(map(len, found.splits.values())) == 800  # a question's two answers are on one side
    assert 20 < len(questions["val"]) < 60  # 40 +- 6
    assert 50 < len(questions["test"]) < 110  # 80 +- 8
    shuffled = loaded(
        written(tmp_path, [*alpaca(300, first=400), *reversed(rows)]), val_fraction=0.1, test_fraction=0.2
    )
    later = {split: {prompt_key(one) for one in shuffled.splits[split]} for split in shuffled.splits}
    assert all(questions[split] <= later[split] for split in questions)
    other = loaded(written(tmp_path, rows), val_fraction=0.1, test_fraction=0.2, split_seed=1)
    assert {prompt_key(one) for one in other.splits["test"]} != questions["test"]


def test_splits_that_are_given_are_kept_and_what_they_share_leaves_training(tmp_path):
    for name, rows in (("train", alpaca(10)), ("validation", alpaca(4, 8)), ("test", alpaca(3, 10))):
        written(tmp_path, rows, f"{name}.jsonl")
    found = loaded(tmp_path)
    assert {split: len(one) for split, one in found.splits.items()} == {"train": 8, "val": 2, "test": 3}
    assert found.remarks == ("dropped 4 examples with the same prompt as a held-out example",)


def test_an_empty_answer_teaches_nothing_and_is_counted(tmp_path):
    rows = [*alpaca(3), {"instruction": "Draw.", "input": "", "output": " "}]
    found = loaded(written(tmp_path, rows), val_fraction=0, test_fraction=0)
    assert len(found.splits["train"]) == 3
    assert "1 example of" in found.remarks[0]


def test_only_the_first(tmp_path):
    assert (
        len(loaded(written(tmp_path, alpaca(9)), limit=4, val_fraction=0, test_fraction=0).splits["train"])
        == 4
    )


def test_the_fingerprint_is_of_what_is_said_and_where_it_is_held(tmp_path):
    first = loaded(written(tmp_path, alpaca(40)))
    assert loaded(written(tmp_path, alpaca(40), "same.jsonl")).fingerprint == first.fingerprint
    assert loaded(written(tmp_path, alpaca(41))).fingerprint != first.fingerprint
    assert loaded(written(tmp_path, alpaca(40)), split_seed=2).fingerprint != first.fingerprint


def chat(*said):
    return [{"messages": [{"role": role, "content": content} for role, content in said]}]


BAD = [
    ([{"instruction": "a", "output": "b"}, {"instruction": "c"}], "row 2 has no output"),
    ([{"instruction": "a", "output": 3}], "row 1 has a int for output"),
    ([{"instruction": "a", "input": 3, "output": "b"}], "row 1 has a int for input"),
    ([{"text": "a", "label": "b"}], "has the columns text, label; it needs instruction, output"),
    (
        chat(("user", "a"), ("assistant", "b")) + chat(("user", "a")),
        "row 2 ends with the user: there is no answer",
    ),
    (chat(("user", "a"), ("assistant", "b"), ("user", "c")), "row 1 ends with the user: there is no answer"),
    (chat(("assistant", "b")), "row 1: message 1 .*assistant, .*user"),
    (chat(("user", "a"), ("user", "b")), "row 1: message 2 .*user, .*assistant"),
    (
        chat(("user", "a"), ("robot", "b")),
        "row 1 .*'robot'; .*system, user, human, assist",
    ),
    (chat(("user", "a"), ("assistant", None)), "row 1 .*assistant .*content"),
    ([{"messages": []}], "row 1 is not a list of messages"),
    ([{"messages": ["hello"]}], "row 1 .*'hello'"),
    ([{"instruction": "a", "output": ""}], "leaves nothing to train on"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
def test_a_row_that_is_not_whole_is_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message) as found:
        loaded(written(tmp_path, rows, "bad.jsonl"), val_fraction=0, test_fraction=0)
    assert "bad.jsonl" in str(found.value)
    assert "\n" not in str(found.value)


def test_an_empty_file_a_broken_line_and_a_folder_without_training(tmp_path):
    (tmp_path / "empty").write_text("")
    with pytest.raises(DataError, match="empty has no rows"):
        loaded(tmp_path / "empty")
    (tmp_path / "broken.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": \n')
    with pytest.raises(DataError, match=r"broken\.jsonl:2 is not JSON"):
        loaded(tmp_path / "broken.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="has no train, validation or test file"):
        loaded(tmp_path / "folder")
    for name in ("val", "test"):
        written(tmp_path / "folder", alpaca(2), f"{name}.json")
    with pytest.raises(DataError, match="has test, val, but nothing called train"):
        loaded(tmp_path / "folder")


def test_shares_that_leave_nothing(tmp_path):
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        loaded(written(tmp_path, alpaca(9)), val_fraction=0.5, test_fraction=0.5)
