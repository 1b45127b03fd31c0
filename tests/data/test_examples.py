import json
import re
from collections import Counter

import pytest

from gptworks.data import examples
from gptworks.errors import ConfigError, DataError
from gptworks.recipe import ClassifyOptions

OPTIONS = ClassifyOptions()


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def messages(n=100, spam_every=5):
    return [{"text": f"message {i}", "label": "spam" if i % spam_every == 0 else "ham"} for i in range(n)]


def counts(found):
    return {split: Counter(example.label for example in found.splits[split]) for split in examples.SPLITS}


def test_splits_have_their_share_of_every_label_and_share_nothing(tmp_path):
    found = examples.load(write(tmp_path / "t", messages()), OPTIONS)
    assert counts(found) == {
        "train": {"ham": 56, "spam": 14},
        "val": {"ham": 8, "spam": 2},
        "test": {"ham": 16, "spam": 4},
    }
    texts = [example.text for split in found.splits.values() for example in split]
    assert len(set(texts)) == len(texts) == 100
    assert found.labels == ("ham", "spam")
    assert not found.remarks


def test_splits_depend_on_their_seed_alone(tmp_path):
    file = write(tmp_path / "t", messages())
    first, again = examples.load(file, OPTIONS), examples.load(file, OPTIONS)
    other = examples.load(file, ClassifyOptions(split_seed=1))
    assert first.splits == again.splits
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_sms_spam_balanced_is_split_as_published(shared_data):
    path = shared_data / "sms_spam" / "SMSSpamCollection"
    found = examples.load(path, ClassifyOptions(balance="sample"))
    # five-systems: 747 of each, 70/10/20, 1,045/149/300 rows
    assert [len(found.splits[split]) for split in examples.SPLITS] == [1045, 149, 300]
    assert sum(counts(found).values(), Counter()) == {"ham": 747, "spam": 747}


def test_given_splits_are_kept(tmp_path):
    for name, part in {"train": messages(20), "validation": messages(7), "test": messages(9)}.items():
        write(tmp_path / f"{name}.jsonl", part)
    (tmp_path / "notes.txt").write_text("not a split")
    found = examples.load(tmp_path, OPTIONS)
    assert [len(found.splits[split]) for split in examples.SPLITS] == [20, 7, 9]


def test_texts_in_training_and_held_out_are_counted_or_dropped(tmp_path):
    write(tmp_path / "train.jsonl", messages(20))
    write(tmp_path / "dev.jsonl", [{"text": " Message  3 ", "label": "ham"}, {"text": "new", "label": "ham"}])
    write(
        tmp_path / "test.jsonl", [{"text": "message 0", "label": "spam"}, {"text": "newer", "label": "ham"}]
    )
    found = examples.load(tmp_path, OPTIONS)
    assert found.remarks[0].startswith("2 texts of validation or test")
    assert "--duplicates drop" in found.remarks[0]
    found = examples.load(tmp_path, ClassifyOptions(duplicates="drop"))
    assert [len(found.splits[split]) for split in examples.SPLITS] == [20, 1, 1]
    assert found.remarks == ("dropped 2 repeated texts",)


def test_empty_texts_are_left_out_and_counted(tmp_path):
    rows = [*messages(20), {"text": "  ", "label": "ham"}, {"text": None, "label": "spam"}]
    found = examples.load(write(tmp_path / "t", rows), OPTIONS)
    assert found.remarks == ("dropped 2 examples without a text",)
    found = examples.load(write(tmp_path / "t", rows[:-1]), OPTIONS)
    assert found.remarks == ("dropped 1 example without a text",)


def test_labels_of_any_kind_keep_their_names(tmp_path):
    rows = [{"text": f"t{i}", "label": [2, 10, -1][i % 3]} for i in range(60)]
    found = examples.load(write(tmp_path / "t", rows), OPTIONS)
    assert found.labels == ("-1", "2", "10")
    assert set(found.targets("train").tolist()) == {0, 1, 2}


def test_numbers_that_are_not_whole_are_predicted_as_numbers(tmp_path):
    rows = [{"text": f"t{i}", "score": i / 4} for i in range(40)]
    found = examples.load(write(tmp_path / "t", rows), OPTIONS)
    assert found.labels == ()
    targets = [number for split in examples.SPLITS for number in found.targets(split)]
    assert sorted(targets) == [i / 4 for i in range(40)]
    named = examples.load(write(tmp_path / "t", rows[::4] * 5), ClassifyOptions(problem_type="classes"))
    assert len(named.labels) == 10


def test_pairs_and_columns_are_found_or_named(tmp_path):
    rows = [
        {"premise": f"a{i}", "hypothesis": f"b{i}", "gold_label": "yn"[i % 2], "x": f"c{i}"}
        for i in range(20)
    ]
    file = write(tmp_path / "t", rows)
    assert examples.load(file, OPTIONS).columns == ("premise", "hypothesis", "gold_label")
    assert examples.load(file, ClassifyOptions(text="x")).columns == ("x", None, "gold_label")
    assert examples.load(file, ClassifyOptions(text="x", text_pair="premise")).columns == (
        "x",
        "premise",
        "gold_label",
    )


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("column_0,Review_Text,Sentiment", ("Review_Text", None, "Sentiment")),
        ("Id,Description,kind", ("Description", None, "kind")),
        ("Unnamed: 0,what was said,by whom", ("what was said", None, "by whom")),
        ("Text_A,Text B,Gold Label", ("Text_A", "Text B", "Gold Label")),
    ],
)
def test_columns_are_found_by_names_as_people_write_them_or_by_what_they_hold(names, wanted, tmp_path):
    rows = "".join(f"{i},the words of {i},{'yn'[i % 2]}\n" for i in range(20))
    (tmp_path / "t.csv").write_text(f"{names}\n{rows}")
    assert examples.load(tmp_path / "t.csv", OPTIONS).columns == wanted


def test_an_index_is_no_label(tmp_path):
    (tmp_path / "t.csv").write_text("text,id\n" + "".join(f"word {i % 5},{i}\n" for i in range(20)))
    with pytest.raises(DataError, match=r"--label .*text, id"):
        examples.load(tmp_path / "t.csv", OPTIONS)


def test_the_limit_takes_the_first(tmp_path):
    found = examples.load(write(tmp_path / "t", messages()), ClassifyOptions(limit=10))
    texts = {example.text for split in found.splits.values() for example in split}
    assert texts == {f"message {i}" for i in range(10)}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (messages(), {"text": "body"}, "--text body: .*text, label"),
        (messages(), {"label": "y"}, "--label y: .*text, label"),
        ([{"a": "x", "b": "y", "c": "z"}], {}, "--text .*a, b, c"),
        ([{"text": "x", "b": "y", "c": "z"}], {}, "--label .*text, b, c"),
        (messages(spam_every=1), {}, "only one class, spam"),
        ([{"text": "", "label": "a"}], {}, "has no example with a text"),
        (
            [{"text": "", "label": 1}, *messages()],
            {"problem_type": "regression"},
            r"row 2 .*'spam' \(and 99 more\)",
        ),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(rows, options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        examples.load(write(tmp_path / "t", rows), ClassifyOptions(**options))


def test_labels_that_training_never_sees_are_refused(tmp_path):
    write(tmp_path / "train.jsonl", messages())
    write(tmp_path / "test.jsonl", [{"text": "x", "label": "eggs"}])
    with pytest.raises(DataError, match=r"test has labels .*: eggs$"):
        examples.load(tmp_path, OPTIONS)


@pytest.mark.parametrize("shares", [{}, {"val_fraction": 0, "test_fraction": 0}])
def test_swapped_columns_are_suspected_where_there_are_more_labels_than_texts(tmp_path, shares):
    rows = [{"text": f"{'word ' * 20}{number}", "label": "ham"} for number in range(60)]
    with pytest.raises(DataError) as caught:
        examples.load(write(tmp_path / "t", rows), ClassifyOptions(text="label", label="text", **shares))
    said = f"60 labels and only 1 text, such as label '{'word ' * 8}...' of text 'ham': --text and --label may be"
    assert str(caught.value) == f"{tmp_path / 't'} has {said} swapped"


def test_many_classes_that_are_numbers_are_asked_about(tmp_path):
    file = tmp_path / "ages.csv"
    file.write_text("text,label\n" + "".join(f"of {age % 30} years,{age % 30}\n" for age in range(600)))
    remark = examples.load(file, OPTIONS).remarks[0]
    assert re.search("30 classes .*--problem-type regression", remark)


def test_classes_that_differ_in_capitals_alone_are_named(tmp_path):
    rows = [{"text": f"a text {number}", "label": ("ham", "Ham", "spam")[number % 3]} for number in range(60)]
    (remark,) = examples.load(write(tmp_path / "t", rows), OPTIONS).remarks
    assert "Ham and ham" in remark


def test_empty_labels_are_left_out_and_counted_if_most_are_there(tmp_path):
    rows = [{"text": "", "label": "ham"}, *messages(11)]
    for row in rows[3:8]:
        row["label"] = (" ", None)[row is rows[4]]
    found = examples.load(write(tmp_path / "t", rows), OPTIONS)
    assert found.remarks[:2] == ("dropped 1 example without a text", "dropped 5 examples without a label")
    assert sum(counts(found).values(), Counter()) == {"ham": 4, "spam": 2}
    rows[8]["label"] = ""
    with pytest.raises(DataError, match=r"6 of 11 examples .*row 4"):
        examples.load(write(tmp_path / "t", rows), OPTIONS)
    numbers = [{"text": f"t{i}", "score": "" if i % 4 == 0 else i / 4} for i in range(40)]
    assert not examples.load(write(tmp_path / "t", numbers), OPTIONS).labels


@pytest.mark.parametrize("test", ["text\nhi there\n", "id,text\n1,hi\n", "text,label\nhi,\nho, \n"])
def test_a_split_without_labels_is_left_out(test, tmp_path):
    rows = "".join(f"{i},hello {i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "train.csv").write_text("id,text,label\n" + rows)
    (tmp_path / "test.csv").write_text(test)
    found = examples.load(tmp_path, OPTIONS)
    assert found.remarks == ("test has no labels and is not used",)
    assert [len(found.splits[split]) for split in examples.SPLITS] == [14, 2, 4]


def test_classes_too_rare_to_be_held_out_are_named_and_numbers_asked_about(tmp_path):
    rows = [{"text": f"house {i}", "label": 100_000 + i} for i in range(40)]
    with pytest.raises(DataError, match=r"too few examples.*: 1000\d\d.* more; --problem-type regression"):
        examples.load(write(tmp_path / "t", rows), OPTIONS)
    with pytest.raises(DataError, match=r"too few examples.*label 1.*; add examples"):
        examples.load(
            write(tmp_path / "t", [row | {"label": f"label {row['label']}"} for row in rows]), OPTIONS
        )
    write(tmp_path / "train.jsonl", rows[:20])
    write(tmp_path / "test.jsonl", rows[20:])
    (tmp_path / "t").unlink()
    with pytest.raises(DataError, match=r"test has labels .*; --problem-type regression"):
        examples.load(tmp_path, ClassifyOptions(val_fraction=0))


def test_classes_that_look_like_missing_values_are_counted(tmp_path):
    rows = [{"text": f"text {i}", "label": ("ham", "N/A", "ham", "spam", "null")[i % 5]} for i in range(50)]
    (remark,) = examples.load(write(tmp_path / "t", rows), OPTIONS).remarks
    assert "N/A (10), null (10)" in remark


def test_texts_with_different_labels_are_counted(tmp_path):
    rows = [*messages(), {"text": "Message  0", "label": "ham"}, {"text": "message 1", "label": "ham"}]
    found = examples.load(write(tmp_path / "t", rows), ClassifyOptions(val_fraction=0, test_fraction=0))
    assert found.remarks == ("1 text with different labels in different rows",)


def test_balancing_says_what_it_leaves_out_and_from_where(tmp_path):
    file, options = write(tmp_path / "train.jsonl", messages()), ClassifyOptions(balance="sample")
    assert examples.load(file, options).remarks == (
        "--balance sample drops 60 examples, also from validation and test",
    )
    write(tmp_path / "test.jsonl", [{"text": f"new {i}", "label": "ham"} for i in range(9)])
    found = examples.load(tmp_path, options)
    assert found.remarks == ("--balance sample drops 60 examples, also from validation",)
    assert len(found.splits["test"]) == 9


def test_a_share_that_is_none_is_said(tmp_path):
    found = examples.load(write(tmp_path / "t", messages(6, 2)), OPTIONS)
    assert [len(found.splits[split]) for split in examples.SPLITS] == [4, 0, 2]
    assert found.remarks == ("val is empty: --val-fraction 0.1 of 6 examples rounds to none",)


def test_a_column_missing_from_one_split_is_refused(tmp_path):
    write(tmp_path / "train.jsonl", messages())
    write(tmp_path / "test.jsonl", [{"text": "x", "y": "ham"}])
    with pytest.raises(DataError, match=r"test\.jsonl has no column 'label'.*text, y"):
        examples.load(tmp_path, OPTIONS)


def test_shares_that_leave_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        examples.load(write(tmp_path / "t", messages()), ClassifyOptions(val_fraction=0.5, test_fraction=0.5))


def test_a_folder_without_training_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no train, validation or test file"):
        examples.load(tmp_path, OPTIONS)
    write(tmp_path / "test.jsonl", messages())
    write(tmp_path / "dev.jsonl", messages())
    with pytest.raises(DataError, match="nothing called train"):
        examples.load(tmp_path, OPTIONS)
