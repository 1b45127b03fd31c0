import json
import zipfile

import pytest

from gptworks.data import tables
from gptworks.errors import DataError

ROWS = [("ham", "see you at 5, ok?"), ("spam", 'WIN "£100" now'), ("ham", "über\u2028den")]
WANTED = {"label": [row[0] for row in ROWS], "text": [row[1] for row in ROWS]}


def as_csv(file):
    import csv

    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("label", "text"), *ROWS])


def as_parquet(file):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(WANTED), file)


def as_text(text):
    return lambda file: file.write_text(text, encoding="utf-8")


def lines(rows, between="\t"):
    return "".join(between.join(row) + "\n" for row in rows)


RECORDS = [{"label": label, "text": text} for label, text in ROWS]


def as_zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme", "see SMSSpamCollection,\nfor messages")
        archive.writestr("SMSSpamCollection", lines(ROWS))


@pytest.mark.parametrize(
    "write",
    [
        as_csv,
        as_parquet,
        as_zip,
        as_text(lines([("label", "text"), *ROWS])),
        as_text("\ufeff" + lines([("label", "text"), *ROWS]).replace("\n", "\r\n")),
        as_text(lines(ROWS) + "\n\n"),
        as_text(lines([("label", "text"), *ROWS], "|")),
        as_text(
            "label;text;;\n"
            + "".join(f'{label};"{text.replace(chr(34), chr(34) * 2)}";;\n' for label, text in ROWS)
        ),
        as_text(json.dumps(RECORDS)),
        as_text("".join(json.dumps(record) + "\n" for record in RECORDS)),
    ],
)
def test_the_same_table_in_every_format_whatever_its_name(write, tmp_path):
    write(tmp_path / "messages")
    (table,) = tables.read(tmp_path / "messages")
    assert {name: table.columns[name] for name in ("label", "text")} == WANTED
    assert len(table) == 3


def test_a_table_without_header_has_its_columns_named_by_what_repeats(tmp_path):
    (tmp_path / "t").write_text(lines([(text, label) for label, text in ROWS]))
    assert tables.read(tmp_path / "t")[0].columns["label"] == ["ham", "spam", "ham"]
    (tmp_path / "cola").write_text(lines([("gj04", "1", "", "A cat."), ("gj04", "0", "*", "Cat a.")]))
    assert list(tables.read(tmp_path / "cola")[0].columns) == ["column_0", "column_1", "column_2", "column_3"]


def test_an_index_without_a_heading_as_pandas_writes_it(tmp_path):
    (tmp_path / "t.csv").write_text(",Review Text,Sentiment\n0,Lovely.,1\n1,Awful.,0\n2,Nice.,1\n")
    assert tables.read(tmp_path / "t.csv")[0].columns == {
        "column_0": ["0", "1", "2"],
        "Review Text": ["Lovely.", "Awful.", "Nice."],
        "Sentiment": ["1", "0", "1"],
    }


def test_a_csv_of_one_column_has_a_heading_and_a_text_may_hold_commas(tmp_path):
    (tmp_path / "t.csv").write_text('message\n"see you, ok?"\nok\n\nok\n')
    assert tables.read(tmp_path / "t.csv")[0].columns == {"message": ["see you, ok?", "ok", "ok"]}


def test_a_key_that_a_record_lacks_is_none(tmp_path):
    (tmp_path / "t").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')
    assert tables.read(tmp_path / "t")[0].columns == {"text": ["a", "b"], "label": [1, None]}


def test_sms_spam_as_it_comes(shared_data):
    (table,) = tables.read(shared_data / "sms_spam" / "SMSSpamCollection")
    assert len(table) == 5574
    assert table.columns["label"].count("spam") == 747
    assert table.columns["text"][1] == "Ok lar... Joking wif u oni..."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"label,text\n", "has no rows"),
        (b"one\ntwo\n", "is not a table"),
        (b"label,text\nham,hi,there\n", "t:2 has 3 cells, .* 2"),
        (b'label,text\nham,"hi\n', "cannot read .*t:2"),
        (b"label,text\nham,caf\xe9\n", "t:2 is not UTF-8 text"),
        (b'{"text": "a"}\n{"text": \n', "t:2 is not JSON"),
        (b"[1, 2]", r"t\[0\] is not a JSON object"),
        (b"[1, ", "is not JSON"),
        (b"PAR1 and no more", "is not readable as Parquet"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(content, message, tmp_path):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(DataError, match=message):
        tables.read(tmp_path / "t")


def test_no_file_and_an_empty_zip(tmp_path):
    with pytest.raises(DataError, match="no file"):
        tables.read(tmp_path / "t")
    with zipfile.ZipFile(tmp_path / "t", "w") as archive:
        archive.writestr("README.md", "nothing")
    with pytest.raises(DataError, match="without a table"):
        tables.read(tmp_path / "t")
