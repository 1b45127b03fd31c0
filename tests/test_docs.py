"""Every command in the guides runs (```bash) or at least parses (```sh); what is generated is fresh."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from gptworks import packaged, renames
from gptworks.cli import build, main
from gptworks.recipe import Recipe
from tests.glue import official


def guides(repository):
    return sorted((repository / "docs").glob("*.md"))


def commands(text, kind):
    for block in re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                yield shlex.split(line, comments=True)


GUIDES = [
    "data.md",
    "pretraining.md",
    "finetuning.md",
    "evaluation.md",
    "report.md",
    "serving.md",
    "sharing.md",
    "glue.md",
    "planning.md",
    "recipes.md",
]


@pytest.mark.e2e
@pytest.mark.parametrize("name", GUIDES)
def test_the_guides_commands_run(repository, tmp_path, monkeypatch, name):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, path in enumerate(sorted((repository / "src" / "gptworks").rglob("*.py"))):
        (texts / f"{number:03}.txt").write_text(path.read_text())
    kinds = {"spam": "win a prize now!!!", "ham": "see you at five"}
    messages = [(label, f"{text} {number}") for number in range(40) for label, text in kinds.items()]
    (tmp_path / "messages.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in messages))
    (tmp_path / "messages.txt").write_text("".join(f"{text}\n" for _, text in messages[:3]))
    counting = [
        {"instruction": f"Name the number after {n}.", "input": "", "output": str(n + 1)} for n in range(90)
    ]
    (tmp_path / "alpaca.json").write_text(json.dumps(counting))
    endings = ["it rains.", "the sun is hot.", "a man is seen.", "no."]
    question = {"activity_label": "Rain", "ctx": "A man looks up. He says that", "endings": endings}
    questions = [question | {"label": number % 4} for number in range(8)]
    (tmp_path / "hellaswag_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (tmp_path / "lambada_test.jsonl").write_text(
        json.dumps({"text": "he took the cup and drank from the cup"}) + "\n"
    )
    official.write(tmp_path / "GLUE", ("wnli",), whole=True)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for words in commands((repository / "docs" / name).read_text(), "bash"):
        assert words[0] == "gptworks", words
        if words[1] == "serve":
            serve_for_a_moment(words[1:])
        else:
            assert main(words[1:]) == 0, words
        ran += 1
    assert ran


def serve_for_a_moment(words):
    """Until it has said what models it has; on a free port. Told to stop, it ends well."""
    import httpx2

    port = words.index("--port")
    command = [sys.executable, "-m", "gptworks", *words[:port], "--port", "0", *words[port + 2 :]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            transport = httpx2.HTTPTransport(retries=3)
            with httpx2.Client(transport=transport, timeout=60) as client:
                listed = [one["id"] for one in client.get(url + "/v1/models").json()["data"]]
        finally:
            process.terminate()
        assert process.wait(60) == 0
    assert listed == words[1:port]


def test_commands_that_are_only_shown_parse(repository):
    for path in [*guides(repository), repository / "README.md"]:
        for words in commands(path.read_text(), "sh"):
            if "gptworks" not in words:
                continue
            argv = words[words.index("gptworks") + 1 :]
            argv = argv[: argv.index(">")] if ">" in argv else argv
            recipes = [word for word in argv if word.removesuffix(".toml") in packaged.names()]
            flags = [
                word
                for before, word in zip(["", *argv], argv, strict=False)
                if before.startswith("--")
                or argv[0] == "recipes"
                or (word not in recipes and not word.endswith(".toml"))
            ]
            build().parse_args(flags, exit_on_error=False, print_error=False)


def test_every_option_that_coming_from_names_is_there(repository):
    """In the columns that say what something is called here."""
    app, fields, flags = build(), set(), set()
    for table in dataclasses.fields(Recipe):
        kind = table.default_factory
        if dataclasses.is_dataclass(kind):
            fields |= {f"{table.name}.{field.name}" for field in dataclasses.fields(kind)}
    for path in VERBS:
        command = app
        for word in path.split():
            command = command[word]
        flags |= {name for argument in command.assemble_argument_collection() for name in argument.names}
    text = (repository / "docs" / "coming-from.md").read_text()
    cells = [line.split(" | ", 1)[1] for line in text.splitlines() if line.startswith("| ")]
    spans = {span for cell in cells for span in re.findall(r"`([^`]+)`", cell)}
    words = {word for span in spans for word in span.split() if not span.startswith("torchrun")}
    unknown = [word for word in words if word.startswith("--") and word not in flags]
    unknown += [
        span for span in spans if re.fullmatch(r"[a-z]+\.[a-z_]+", span) and span not in fields | FILES
    ]
    assert not unknown
    assert len(words & flags) > 40


VERBS = [
    "prepare", "tokenizer train", "pretrain", "finetune classify", "finetune instruct", "generate", "evaluate", "judge",
    "glue", "export", "import-config",
]  # fmt: skip
FILES = {"metrics.jsonl", "report.html", "tokenizer.json", "val.bin"}


def test_the_upgrading_guide_lists_every_renamed_option(repository):
    text = (repository / "docs" / "upgrading.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)`", text, re.MULTILINE)
    tasks = {f"glue.{task}.tries" for task in renames.GLUE_TASKS}
    flags = {"--" + old.replace("_", "-"): "--" + new.replace("_", "-") for old, new in renames.FLAGS.items()}
    options = {old: new for old, new in renames.OPTIONS.items() if old not in tasks}
    options["glue.TASK.tries"] = "glue.TASK.n_seeds"
    assert dict(rows) == options | flags
    for values in renames.VALUES.values():
        assert all(f"`{old}` is `{new}`" in text for old, new in values.items())


def test_links_between_guides_lead_somewhere(repository):
    for path in [*guides(repository), repository / "README.md"]:
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text()):
            if not link.startswith("http"):
                assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_site_builds_and_no_link_in_it_is_broken(repository, tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "coming-from" / "index.html").is_file()


def test_the_table_of_options_is_fresh(repository):
    import importlib.util

    spec = importlib.util.spec_from_file_location("options", repository / "scripts" / "options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (repository / "docs" / "options.md").read_text() == module.table(), "run scripts/options.py"


def test_the_readme_has_the_two_commands_of_a_fresh_machine(repository):
    lines = (repository / "README.md").read_text().splitlines()
    start = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e "
    assert start + ". && .venv/bin/gptworks quickstart" in lines
    assert start + "'.[dev]' && .venv/bin/pytest" in lines
