"""Every way to spoil a submission that we could think of, and thousands from hypothesis."""

import re
import struct
import zipfile
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptworks.errors import DataError
from gptworks.glue.check import MAX_PROBLEMS, check
from gptworks.glue.tasks import SUBMISSION
from tests.glue.campaigns import answer

ALL = {name: rows for name, (_, rows) in ((n, (t, p.rows)) for n, (t, p) in SUBMISSION.items())}
TEXTS = [name for name in ALL if name != "QQP.tsv"]
"""All but the longest file, for speed: a zip without it has one more problem."""
NO_QQP = "QQP.tsv is missing"


@cache
def sheet(name: str) -> str:
    """A valid file."""
    task, part = SUBMISSION[name]
    said = (answer(task.name, index) for index in range(part.rows))
    words = (f"{one:.3f}" if isinstance(one, float) else task.word_of[one] for one in said)
    return "index\tprediction\n" + "".join(f"{index}\t{word}\n" for index, word in enumerate(words))


@pytest.fixture
def zipped(tmp_path):
    """Writes a zip: the valid files, with some replaced (None: left out) or added; returns its path."""

    def write(changes=None, names=TEXTS):
        files = {name: sheet(name) for name in names} | (changes or {})
        with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                if text is not None:
                    archive.writestr(name, text)
        return tmp_path / "s.zip"

    return write


def test_a_valid_zip_has_nothing_wrong(zipped):
    assert check(zipped(names=list(ALL))) == []


def test_a_missing_file_is_named(zipped):
    for name in TEXTS[:3]:
        assert check(zipped({name: None})) == [f"{one} is missing" for one in ALL if one in (name, "QQP.tsv")]
    assert check(zipped(names=[])) == [f"{one} is missing" for one in ALL]


def edited(name, line, new):
    """A file whose line, counted from 1, is another (None: is gone)."""
    lines = sheet(name).splitlines(keepends=True)
    lines[line - 1 : line] = [] if new is None else [new]
    return {name: "".join(lines)}


ROWS = [
    # swapped labels: another task's words, names for numbers, numbers for names
    ("RTE.tsv", 5, "3\tneutral\n", "'neutral'", "RTE", "entailment or not_entailment"),
    ("MNLI-m.tsv", 5, "3\tnot_entailment\n", "'not_entailment'", "MNLI", "entailment or neutral or contradiction"),
    ("QNLI.tsv", 2, "0\t1\n", "'1'", "QNLI", "entailment or not_entailment"),
    ("AX.tsv", 2, "0\tEntailment\n", "'Entailment'", "MNLI", "write entailment"),
    ("WNLI.tsv", 3, "1\tentailment\n", "'entailment'", "WNLI", "write 1"),
    ("CoLA.tsv", 3, "1\tunacceptable\n", "'unacceptable'", "CoLA", "write 0"),
    ("CoLA.tsv", 3, "1\tTrue\n", "'True'", "CoLA", "write 1"),
    ("SST-2.tsv", 3, "1\tfalse\n", "'false'", "SST-2", "write 0"),
    ("MRPC.tsv", 3, "1\t1.0\n", "'1.0'", "MRPC", "write 1"),
    ("MRPC.tsv", 3, "1\t2\n", "'2'", "MRPC", "write 0 or 1"),
    ("MRPC.tsv", 3, "1\t-1\n", "'-1'", "MRPC", "write 0 or 1"),
    ("MRPC.tsv", 3, "1\t\n", "''", "MRPC", "write 0 or 1"),
    ("RTE.tsv", 3, '1\t"entailment"\n', "'\"entailment\"'", "RTE", "write entailment"),
    ("RTE.tsv", 3, "1\tentailment \n", "'entailment '", "RTE", "write entailment"),
    ("RTE.tsv", 3, "1\tentail\x1b[31mment\n", "'entail\\x1b[31mment'", "RTE", "entailment or not_entailment"),
    # numbers
    ("STS-B.tsv", 4, "2\t5.001\n", "'5.001'", "0 to 5"),
    ("STS-B.tsv", 4, "2\t-0.1\n", "'-0.1'", "0 to 5"),
    ("STS-B.tsv", 4, "2\tnan\n", "'nan'", "not a number", "0 to 5"),
    ("STS-B.tsv", 4, "2\tinf\n", "'inf'", "not a number", "0 to 5"),
    ("STS-B.tsv", 4, "2\t1_0\n", "'1_0'", "not a number", "0 to 5"),
    ("STS-B.tsv", 4, "2\t3,2\n", "'3,2'", "not a number", "0 to 5"),
    ("STS-B.tsv", 4, "2\t[3.2]\n", "'[3.2]'", "not a number", "0 to 5"),
    ("STS-B.tsv", 4, "2\t 3.2\n", "' 3.2'", "not a number", "without quotes or spaces"),
    ("STS-B.tsv", 4, "2\t1e999\n", "'1e999'", "0 to 5"),
    # indices
    ("CoLA.tsv", 9, "8\t1\n", "index is '8'", "7"),
    ("CoLA.tsv", 9, "07\t1\n", "index is '07'", "7"),
    ("CoLA.tsv", 9, "7.0\t1\n", "index is '7.0'", "7"),
    ("CoLA.tsv", 9, '"7"\t1\n', "index is '\"7\"'", "7"),
    # columns
    ("CoLA.tsv", 9, "7,1\n", "'7,1'", "tab"),
    ("CoLA.tsv", 9, "7 1\n", "'7 1'", "tab"),
    ("CoLA.tsv", 9, "7\t1\t1\n", "'7\\t1\\t1'", "tab"),
    ("CoLA.tsv", 9, "\n", "empty"),
    # header
    ("WNLI.tsv", 1, "index\tlabel\n", "'index\\tlabel'", "index<TAB>prediction"),
    ("WNLI.tsv", 1, "Index\tPrediction\n", "'Index\\tPrediction'", "index<TAB>prediction"),
    ("WNLI.tsv", 1, "index,prediction\n", "'index,prediction'", "index<TAB>prediction"),
    ("WNLI.tsv", 1, '"index"\t"prediction"\n', "'\"index\"\\t\"prediction\"'", "index<TAB>prediction"),
    ("WNLI.tsv", 1, None, "is a row", "index<TAB>prediction"),
    # encoding
    ("WNLI.tsv", 1, "\ufeffindex\tprediction\n", "byte order mark"),
    ("WNLI.tsv", 3, "1\t1\r\n", "CR LF"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[f"{name}-{new!r}" for name, _, new, *_ in ROWS])
def test_a_spoiled_line_is_named_with_its_file_and_number(zipped, row):
    name, line, new, *parts = row
    found = [one for one in check(zipped(edited(name, line, new), names=[])) if one.startswith(name)]
    assert found[0].startswith(f"{name} line {line}: ")
    assert all(part in found[0] for part in parts), found[0]
    # an index that jumps is seen twice: where it jumps, and where it comes back
    assert len(found) == (2 if "index is '8'" in parts else 1)


def problems(path):
    """The problems besides the file that is left out for speed."""
    found = check(path)
    assert NO_QQP in found
    return [one for one in found if one != NO_QQP]


def test_the_line_ends_of_a_whole_file_are_reported_once(zipped):
    text = "\ufeff" + sheet("RTE.tsv").replace("\n", "\r\n")
    mark, ends = problems(zipped({"RTE.tsv": text}))
    assert mark.startswith("RTE.tsv line 1: ")
    assert "byte order mark" in mark
    assert ends.startswith("RTE.tsv line 1: ")
    assert "CR LF" in ends


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "WNLI.tsv is empty"),
        (sheet("WNLI.tsv").encode("utf-16"), "WNLI.tsv is UTF-16"),
        (sheet("WNLI.tsv").replace("\n", "\r").encode(), "WNLI.tsv line 1 is too long"),
        (sheet("WNLI.tsv").replace("1\t1", "1\t\xe9", 1).encode("latin-1"), "WNLI.tsv line 3: is not UTF-8"),
        (b"\0" * 5000, "WNLI.tsv line 1 is too long"),
    ],
)  # fmt: skip
def test_content_that_is_not_a_table_is_named(zipped, content, message):
    assert problems(zipped({"WNLI.tsv": content}))[0].startswith(message)


def test_indices_that_start_elsewhere_are_one_message(zipped):
    """jiant once continued MNLI-mm's indices after MNLI-m's (its issue 257); others start at 1."""
    lines = sheet("MNLI-mm.tsv").splitlines()
    moved = [lines[0], *(f"{9796 + n}\t{line.split(chr(9))[1]}" for n, line in enumerate(lines[1:]))]
    (found,) = problems(zipped({"MNLI-mm.tsv": "\n".join(moved)}))
    assert found.startswith("MNLI-mm.tsv line 2: ")
    assert "'9796'" in found


def test_two_halves_that_are_swapped_are_recognised_by_their_rows(zipped):
    swapped = {"MNLI-m.tsv": sheet("MNLI-mm.tsv"), "MNLI-mm.tsv": sheet("MNLI-m.tsv")}
    first, second = problems(zipped(swapped))
    assert re.match(r"MNLI-m.tsv .*9,847 rows .*9,796 .*MNLI-mm.tsv", first)
    assert re.match(r"MNLI-mm.tsv .*9,796 rows .*9,847 .*MNLI-m.tsv", second)


def test_a_missing_row_is_found_where_it_is(zipped):
    where, count = problems(zipped(edited("RTE.tsv", 100, None)))
    assert re.match(r"RTE.tsv line 100: .*'99'.* 98", where)
    assert re.match(r"RTE.tsv .*2,999 rows .*3,000", count)


def test_messages_are_bounded_and_the_rest_is_counted(zipped):
    found = problems(zipped({"RTE.tsv": sheet("RTE.tsv").replace("entailment", "ja")}))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == f"RTE.tsv: and {3000 - MAX_PROBLEMS:,} more"
    extras = problems(zipped({f"extra-{n}.txt": "" for n in range(500)}))
    assert extras[-1] == f"and {500 - MAX_PROBLEMS} more entries"
    assert len(extras) == MAX_PROBLEMS + 1


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ("submission/", "'submission/' is a folder"),
        (".ipynb_checkpoints/", "'.ipynb_checkpoints/' is a folder"),
        ("__MACOSX/._CoLA.tsv", "'__MACOSX/._CoLA.tsv' does not belong"),
        ("notes.txt", "'notes.txt' does not belong"),
        ("MNLI.tsv", "'MNLI.tsv' does not belong"),
        ("CoLA.TSV", "'CoLA.TSV' is a second CoLA.tsv"),
        ("../CoLA.tsv", "'../CoLA.tsv' points outside"),
        ("/etc/CoLA.tsv", "'/etc/CoLA.tsv' points outside"),
        ("C:\\CoLA.tsv", "'C:\\\\CoLA.tsv' points outside"),
        ("a\\..\\CoLA.tsv", "'a\\\\..\\\\CoLA.tsv' points outside"),
    ],
)
def test_an_unexpected_entry_is_named(zipped, entry, shown):
    assert problems(zipped({entry: ""}))[0].startswith(shown)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("submission/CoLA.tsv", "CoLA.tsv"),
        ("cola.tsv", "CoLA.tsv"),
        ("diagnostic.tsv", "AX.tsv"),
        ("STSB.tsv", "STS-B.tsv"),
    ],
)
def test_a_file_with_the_wrong_name_or_place_is_not_reported_as_missing(zipped, name, right):
    (found,) = problems(zipped({right: None, name: sheet(right)}))
    assert found.startswith(f"'{name}' ")
    assert right in found.removeprefix(f"'{name}'")


def test_a_second_file_with_the_same_name_is_named(zipped):
    path = zipped()
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("CoLA.tsv", sheet("CoLA.tsv"))
    assert problems(path) == ["'CoLA.tsv' is a second CoLA.tsv"]


def test_a_link_is_not_followed(zipped):
    path = zipped({"CoLA.tsv": None})
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("CoLA.tsv")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    link, missing = problems(path)
    assert link.startswith("'CoLA.tsv' is a link")
    assert missing == "CoLA.tsv is missing"


def test_a_bomb_is_not_unpacked(zipped, monkeypatch):
    """Reading stops early in 16 MB of rows, and in as much without a newline."""
    read = 0
    inside = zipfile.ZipExtFile.read

    def counted(self, n=-1):
        nonlocal read
        data = inside(self, n)
        read += len(data)
        return data

    rows = zipped({"WNLI.tsv": "index\tprediction\n" + "0\t1\n" * 2**22}, names=[])
    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    assert any(re.match("WNLI.tsv .*more than 146 rows", one) for one in check(rows))
    endless = check(zipped({"RTE.tsv": "0" * 2**24}, names=[]))
    assert any(one.startswith("RTE.tsv line 1 is too long") for one in endless)
    assert 0 < read < 2**20


def test_a_file_that_is_not_a_zip_is_named(tmp_path, zipped):
    with pytest.raises(DataError, match=r"none\.zip"):
        check(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("index\tprediction\n")
    data = zipped().read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    for name in ("text.zip", "cut.zip"):
        (found,) = check(tmp_path / name)
        assert found.startswith(f"{name} is not a readable zip")


def test_damage_to_a_compressed_file_is_reported(zipped):
    path = zipped()
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("RTE.tsv").header_offset + 200
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    assert any(one.startswith("RTE.tsv") for one in check(path))


def test_encryption_and_other_compression_are_reported(zipped):
    path = zipped()
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, central + 8, 1)  # the first entry's flags
    path.write_bytes(data)
    assert any(one.startswith(f"{TEXTS[0]} is encrypted") for one in check(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("RTE.tsv", sheet("RTE.tsv"))
    assert any(re.match("RTE.tsv .*method 14.*deflate", one) for one in check(path))


EDITS = st.one_of(
    st.tuples(st.just("byte"), st.integers(0, 2000), st.binary(min_size=1, max_size=3)),
    st.tuples(st.just("insert"), st.integers(0, 2000), st.text(min_size=1, max_size=6).map(str.encode)),
    st.tuples(st.just("cut"), st.integers(0, 2000), st.integers(1, 30)),
    st.tuples(st.just("line"), st.integers(0, 146), st.integers(0, 146)),
)


def spoil(text: bytes, edit) -> bytes:
    kind, at, what = edit
    if kind == "line":  # two lines change places
        lines = text.split(b"\n")
        at, what = at % len(lines), what % len(lines)  # an edit before this one may have joined two
        lines[at], lines[what] = lines[what], lines[at]
        return b"\n".join(lines)
    at %= len(text)
    if kind == "byte":
        return text[:at] + what + text[at + len(what) :]
    return text[:at] + what + text[at:] if kind == "insert" else text[:at] + text[at + what :]


def valid(text: bytes) -> bool:
    """The rule, the short way."""
    lines = text.removesuffix(b"\n").split(b"\n")
    rows = [line.split(b"\t") for line in lines[1:]]
    return (
        lines[0] == b"index\tprediction"
        and [row[0] for row in rows] == [str(n).encode() for n in range(146)]
        and all(len(row) == 2 and row[1] in (b"0", b"1") for row in rows)
    )


@settings(max_examples=150, deadline=None)
@given(edits=st.lists(EDITS, min_size=1, max_size=3))
def test_whatever_is_done_to_a_file_is_seen_or_harmless(tmp_path_factory, edits):
    text = sheet("WNLI.tsv").encode()
    for edit in edits:
        text = spoil(text, edit)
    path = tmp_path_factory.getbasetemp() / "spoiled.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("WNLI.tsv", text)
    found = [one for one in check(path) if one.startswith("WNLI")]
    assert bool(found) != valid(text)
    assert all(one.isascii() and one.isprintable() and len(one) < 300 for one in found)
    assert len(found) <= MAX_PROBLEMS + 2


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 10**6), what=st.binary(min_size=1, max_size=8))
def test_a_damaged_zip_never_crashes_the_check(tmp_path_factory, at, what):
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("WNLI.tsv", "CoLA.tsv"):
            archive.writestr(name, sheet(name))
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(what)] = what
    path.write_bytes(data)
    assert all(isinstance(one, str) for one in check(path))
