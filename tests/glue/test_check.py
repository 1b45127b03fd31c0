"""Every way of spoiling a submission that we could think of, and thousands that hypothesis did."""

import struct
import zipfile
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptworks.errors import DataError
from gptworks.glue.check import MOST, check
from gptworks.glue.tasks import SUBMISSION
from tests.glue.campaigns import answer

ALL = {name: rows for name, (_, rows) in ((n, (t, p.rows)) for n, (t, p) in SUBMISSION.items())}
TEXTS = [name for name in ALL if name != "QQP.tsv"]
"""All but the one that is long: a zip without it has one message more."""
NO_QQP = ["QQP.tsv is missing"]


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


HEADER = "and must be the header, index<TAB>prediction"
NUMBER = "is no number: write one from 0 to 5, such as 3.214"
NLI = "write entailment or neutral or contradiction"
TWO = "write entailment or not_entailment"

ROWS = [
    # swapped labels: another task's words, names for numbers, numbers for names
    ("RTE.tsv", 5, "3\tneutral\n", "'neutral' is no label of RTE: " + TWO),
    ("MNLI-m.tsv", 5, "3\tnot_entailment\n", "'not_entailment' is no label of MNLI: " + NLI),
    ("QNLI.tsv", 2, "0\t1\n", "'1' is no label of QNLI: " + TWO),
    ("AX.tsv", 2, "0\tEntailment\n", "'Entailment' is no label of MNLI: write entailment"),
    ("WNLI.tsv", 3, "1\tentailment\n", "'entailment' is no label of WNLI: write 1"),
    ("CoLA.tsv", 3, "1\tunacceptable\n", "'unacceptable' is no label of CoLA: write 0"),
    ("CoLA.tsv", 3, "1\tTrue\n", "'True' is no label of CoLA: write 1"),
    ("SST-2.tsv", 3, "1\tfalse\n", "'false' is no label of SST-2: write 0"),
    ("MRPC.tsv", 3, "1\t1.0\n", "'1.0' is no label of MRPC: write 1"),
    ("MRPC.tsv", 3, "1\t2\n", "'2' is no label of MRPC: write 0 or 1"),
    ("MRPC.tsv", 3, "1\t-1\n", "'-1' is no label of MRPC: write 0 or 1"),
    ("MRPC.tsv", 3, "1\t\n", "'' is no label of MRPC: write 0 or 1"),
    ("RTE.tsv", 3, '1\t"entailment"\n', "'\"entailment\"' is no label of RTE: write entailment"),
    ("RTE.tsv", 3, "1\tentailment \n", "'entailment ' is no label of RTE: write entailment"),
    ("RTE.tsv", 3, "1\tentail\x1b[31mment\n", "'entail\\x1b[31mment' is no label of RTE: " + TWO),
    # numbers
    ("STS-B.tsv", 4, "2\t5.001\n", "'5.001' lies outside 0 to 5"),
    ("STS-B.tsv", 4, "2\t-0.1\n", "'-0.1' lies outside 0 to 5"),
    ("STS-B.tsv", 4, "2\tnan\n", "'nan' " + NUMBER),
    ("STS-B.tsv", 4, "2\tinf\n", "'inf' " + NUMBER),
    ("STS-B.tsv", 4, "2\t1_0\n", "'1_0' " + NUMBER),
    ("STS-B.tsv", 4, "2\t3,2\n", "'3,2' " + NUMBER),
    ("STS-B.tsv", 4, "2\t[3.2]\n", "'[3.2]' " + NUMBER),
    ("STS-B.tsv", 4, "2\t 3.2\n", "' 3.2' is no number: write one from 0 to 5 without quotes or spaces, such as 3.214"),
    ("STS-B.tsv", 4, "2\t1e999\n", "'1e999' lies outside 0 to 5"),
    # indices
    ("CoLA.tsv", 9, "8\t1\n", "the index is '8' and must be 7"),
    ("CoLA.tsv", 9, "07\t1\n", "the index is '07' and must be 7"),
    ("CoLA.tsv", 9, "7.0\t1\n", "the index is '7.0' and must be 7"),
    ("CoLA.tsv", 9, '"7"\t1\n', "the index is '\"7\"' and must be 7"),
    # columns
    ("CoLA.tsv", 9, "7,1\n", "is '7,1': a tab must stand between index and prediction"),
    ("CoLA.tsv", 9, "7 1\n", "is '7 1': a tab must stand between index and prediction"),
    ("CoLA.tsv", 9, "7\t1\t1\n", "is '7\\t1\\t1': it must be an index, a tab, a prediction"),
    ("CoLA.tsv", 9, "\n", "is empty"),
    # header
    ("WNLI.tsv", 1, "index\tlabel\n", "is 'index\\tlabel' " + HEADER),
    ("WNLI.tsv", 1, "Index\tPrediction\n", "is 'Index\\tPrediction' " + HEADER),
    ("WNLI.tsv", 1, "index,prediction\n", "is 'index,prediction' " + HEADER),
    ("WNLI.tsv", 1, '"index"\t"prediction"\n', "is '\"index\"\\t\"prediction\"' " + HEADER),
    ("WNLI.tsv", 1, None, "is a row: the header, index<TAB>prediction, must stand before it"),
    # encoding
    ("WNLI.tsv", 1, "\ufeffindex\tprediction\n", "begins with a byte order mark: write UTF-8 without one"),
    ("WNLI.tsv", 3, "1\t1\r\n", "ends in CR LF, as on Windows: end lines in a newline alone"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "line", "new", "message"), ROWS)
def test_a_spoiled_line_is_named_with_its_file_and_number(zipped, name, line, new, message):
    found = [one for one in check(zipped(edited(name, line, new), names=[])) if one.startswith(name)]
    assert found[0] == f"{name} line {line}: {message}"
    # an index that jumps is seen twice: where it jumps, and where it comes back
    assert len(found) == (2 if "index is '8'" in message else 1)


def test_a_whole_file_from_windows_is_said_once(zipped):
    text = "\ufeff" + sheet("RTE.tsv").replace("\n", "\r\n")
    assert check(zipped({"RTE.tsv": text})) == [
        *NO_QQP,
        "RTE.tsv line 1: begins with a byte order mark: write UTF-8 without one",
        "RTE.tsv line 1: ends in CR LF, as on Windows: end lines in a newline alone",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (sheet("WNLI.tsv").encode("utf-16"), "is UTF-16: write it as UTF-8"),
        (sheet("WNLI.tsv").replace("\n", "\r").encode(), "line 1 does not end: lines end in a newline, and are short"),
        (sheet("WNLI.tsv").replace("1\t1", "1\t\xe9", 1).encode("latin-1"), "line 3: is not UTF-8"),
        (b"\0" * 5000, "line 1 does not end: lines end in a newline, and are short"),
    ],
)  # fmt: skip
def test_content_that_is_no_table_is_named(zipped, content, message):
    found = [one for one in check(zipped({"WNLI.tsv": content})) if one not in NO_QQP]
    assert found[0] == f"WNLI.tsv {message}"


def test_indices_that_begin_elsewhere_are_one_message(zipped):
    """jiant once let MNLI-mm's go on where MNLI-m's end (its issue 257), and others begin at 1."""
    lines = sheet("MNLI-mm.tsv").splitlines()
    moved = [lines[0], *(f"{9796 + n}\t{line.split(chr(9))[1]}" for n, line in enumerate(lines[1:]))]
    assert check(zipped({"MNLI-mm.tsv": "\n".join(moved)})) == [
        *NO_QQP,
        "MNLI-mm.tsv line 2: the index is '9796' and must be 0",
    ]


def test_two_halves_that_are_swapped_are_recognised_by_their_rows(zipped):
    swapped = {"MNLI-m.tsv": sheet("MNLI-mm.tsv"), "MNLI-mm.tsv": sheet("MNLI-m.tsv")}
    assert [one for one in check(zipped(swapped)) if one not in NO_QQP] == [
        "MNLI-m.tsv holds 9,847 rows and must hold 9,796 (so many has MNLI-mm.tsv)",
        "MNLI-mm.tsv holds 9,796 rows and must hold 9,847 (so many has MNLI-m.tsv)",
    ]


def test_a_row_that_is_missing_is_found_where_it_is(zipped):
    assert [one for one in check(zipped(edited("RTE.tsv", 100, None))) if one not in NO_QQP] == [
        "RTE.tsv line 100: the index is '99' and must be 98",
        "RTE.tsv holds 2,999 rows and must hold 3,000",
    ]


def test_messages_are_bounded_and_the_rest_is_counted(zipped):
    found = [
        one
        for one in check(zipped({"RTE.tsv": sheet("RTE.tsv").replace("entailment", "ja")}))
        if one not in NO_QQP
    ]
    assert len(found) == MOST + 1
    assert found[-1] == f"RTE.tsv: and {3000 - MOST:,} more"
    extras = check(zipped({f"extra-{n}.txt": "" for n in range(500)}))
    assert [one for one in extras if one not in NO_QQP][-1] == f"and {500 - MOST} more entries"
    assert len(extras) == MOST + 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "submission/",
            "'submission/' is a folder: put the eleven files themselves into the zip, in no folder",
        ),
        (".ipynb_checkpoints/", "'.ipynb_checkpoints/' is a folder: put the eleven"),
        ("__MACOSX/._CoLA.tsv", "'__MACOSX/._CoLA.tsv' is no file of a submission: leave it out"),
        ("notes.txt", "'notes.txt' is no file of a submission: leave it out"),
        ("MNLI.tsv", "'MNLI.tsv' is no file of a submission: leave it out"),
        ("CoLA.TSV", "'CoLA.TSV' is a second CoLA.tsv"),
        ("../CoLA.tsv", "'../CoLA.tsv' leads out of the zip: leave it out"),
        ("/etc/CoLA.tsv", "'/etc/CoLA.tsv' leads out of the zip: leave it out"),
        ("C:\\CoLA.tsv", "'C:\\\\CoLA.tsv' leads out of the zip: leave it out"),
        ("a\\..\\CoLA.tsv", "'a\\\\..\\\\CoLA.tsv' leads out of the zip: leave it out"),
    ],
)
def test_an_entry_too_many_is_named(zipped, entry, message):
    found = [one for one in check(zipped({entry: ""})) if one not in NO_QQP]
    assert found[0].startswith(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "submission/CoLA.tsv",
            "'submission/CoLA.tsv' stands in a folder: CoLA.tsv must stand at the top of the zip",
        ),
        ("cola.tsv", "'cola.tsv' must be called CoLA.tsv"),
        ("diagnostic.tsv", "'diagnostic.tsv' must be called AX.tsv"),
        ("STSB.tsv", "'STSB.tsv' must be called STS-B.tsv"),
    ],
)
def test_a_file_in_the_wrong_place_is_said_to_be_that_and_not_missing(zipped, name, message):
    right = message.split(": ")[-1].split()[0] if "folder" in message else message.split()[-1]
    assert check(zipped({right: None, name: sheet(right)})) == [message, *NO_QQP]


def test_a_file_that_is_there_twice_is_named(zipped):
    path = zipped()
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("CoLA.tsv", sheet("CoLA.tsv"))
    assert check(path) == ["'CoLA.tsv' is a second CoLA.tsv", *NO_QQP]


def test_a_link_is_no_file(zipped):
    path = zipped({"CoLA.tsv": None})
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("CoLA.tsv")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert "'CoLA.tsv' is a link: put the file itself into the zip" in check(path)


def test_a_bomb_is_not_unpacked(zipped, monkeypatch):
    """16 MB of rows, and as much without a newline, are both left early."""
    read = 0
    inside = zipfile.ZipExtFile.read

    def counted(self, n=-1):
        nonlocal read
        data = inside(self, n)
        read += len(data)
        return data

    rows = zipped({"WNLI.tsv": "index\tprediction\n" + "0\t1\n" * 2**22}, names=[])
    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    assert "WNLI.tsv holds far more than 146 rows; the rest was not read" in check(rows)
    endless = check(zipped({"RTE.tsv": "0" * 2**24}, names=[]))
    assert "RTE.tsv line 1 does not end: lines end in a newline, and are short" in endless
    assert 0 < read < 2**20


def test_what_is_no_zip_is_said(tmp_path, zipped):
    with pytest.raises(DataError, match="no file"):
        check(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("index\tprediction\n")
    assert "no zip" in check(tmp_path / "text.zip")[0]
    data = zipped().read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    assert "no zip" in check(tmp_path / "cut.zip")[0]


def test_damage_to_a_packed_file_is_said(tmp_path, zipped):
    path = zipped()
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("RTE.tsv").header_offset + 200
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    assert any(one.startswith("RTE.tsv") for one in check(path))


def test_encryption_and_odd_compression_are_said(tmp_path, zipped):
    path = zipped()
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, central + 8, 1)  # the first entry's flags
    path.write_bytes(data)
    assert f"{TEXTS[0]} is encrypted: make the zip without a password" in check(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("RTE.tsv", sheet("RTE.tsv"))
    assert "RTE.tsv is compressed by method 14: use deflate, as every zip program can" in check(path)


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
    assert len(found) <= MOST + 2


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
