"""`gptworks chat` from a pipe, beside the engine's own answers, and on a terminal."""

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gptworks.cli import main
from gptworks.generation import engine
from gptworks.generation.conversation import Conversation
from gptworks.generation.requests import GenerateSettings
from gptworks.model import checkpoint, classifier
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from gptworks.text import templates
from gptworks.text.templates import Chat, Message
from tests import processes

pytestmark = pytest.mark.e2e

PIPE = ["--dtype", "fp32", "--max-tokens", "12"]


def letters_only(tokenizer, context):
    """A model that says letters and blanks, whatever it is told, and never ends by itself."""
    network = build(
        resolve_config(ModelOptions(n_layer=2, n_head=2, n_embd=32, context=context, init_std=0.3), 261),
        seed=0,
    )
    letters = [tokenizer.encode(letter)[0] for letter in "abcdefghijklmnopqrstuvwxyz "]
    with torch.no_grad():
        network.transformer.wte.weight[[id for id in range(261) if id not in letters], 1:] = 0.0
        network.transformer.wte.weight[:, 0] = -2.0
        network.transformer.wte.weight[letters, 0] = 2.0
        network.transformer.ln_f.bias[0] = 10.0
    return network


@pytest.fixture(scope="module")
def folders(byte_tokenizer, tmp_path_factory) -> dict[str, Path]:
    """Model folders: one that was taught to answer, one that was not."""
    place = tmp_path_factory.mktemp("chat")
    taught = templates.adopt(byte_tokenizer, templates.find("chatml"), templates.SPECIAL_TOKENS["chatml"])
    checkpoint.save(letters_only(taught, 256), place / "taught", taught)
    checkpoint.save(letters_only(taught, 20_000), place / "endless", taught)
    checkpoint.save(letters_only(byte_tokenizer, 256), place / "base", byte_tokenizer)
    return {name: place / name for name in ("taught", "endless", "base")}


def piped(monkeypatch, capsys, folder, lines, *more, status=0):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    assert main(["chat", str(folder), *PIPE, *more]) == status
    return capsys.readouterr()


def answers(folder, questions, system="", seeds=None, **settings):
    """What the engine says to each of these questions, asked one after the other."""
    model, tokenizer = checkpoint.load(folder), checkpoint.load_tokenizer(folder)
    said, talk = [], [Message("system", system)] if system else []
    for number, question in enumerate(questions):
        talk.append(Message("user", question))
        seed = number if seeds is None else seeds[number]
        chosen = GenerateSettings(**{"max_tokens": 12, "seed": seed} | settings)
        (sample,) = engine.generate(model, tokenizer, Chat(tokenizer).prompt(talk), chosen)
        said.append(sample.text)
        talk.append(Message("assistant", sample.text))
    return said


def test_a_line_of_a_pipe_is_a_turn_and_only_answers_are_printed(folders, monkeypatch, capsys):
    out, err = piped(
        monkeypatch, capsys, folders["taught"], ["Hi!", "", "Who are you?"], "--system", "Be brief."
    )
    assert out == "".join(
        f"{said}\n" for said in answers(folders["taught"], ["Hi!", "Who are you?"], "Be brief.")
    )
    assert err.count("max_tokens") == err.count("\n") == 2


def test_reset_and_system_begin_anew(folders, monkeypatch, capsys):
    lines = ["one", "/reset", "two", "/system Sing.", "three", "/system", "four"]
    out, _ = piped(monkeypatch, capsys, folders["taught"], lines)
    wanted = [
        *answers(folders["taught"], ["one"]),
        *answers(folders["taught"], ["two"], seeds=[1]),
        *answers(folders["taught"], ["three"], "Sing.", seeds=[2]),
        *answers(folders["taught"], ["four"], seeds=[3]),
    ]
    assert out.splitlines() == wanted


def test_settings_change_what_is_said(folders, monkeypatch, capsys):
    lines = [
        "/set temperature 0",
        "one",
        "/reset",
        "/set top-k 3",
        "/set temperature 1.5",
        "one",
        "/set",
        "/set max_tokens 2",
    ]
    out, err = piped(monkeypatch, capsys, folders["taught"], [*lines, "two"])
    first, second, third = out.splitlines()
    assert first == answers(folders["taught"], ["one"], temperature=0)[0]
    assert second == answers(folders["taught"], ["one"], seeds=[1], temperature=1.5, top_k=3)[0]
    assert len(third) == 2
    assert "top_k 3" in err
    assert "(temperature is 1.5)" in err


def test_with_fewer_bits_it_answers_all_the_same(folders, monkeypatch, capsys):
    out, _ = piped(
        monkeypatch, capsys, folders["taught"], ["/set repetition_penalty 1.1", "one"], "--dtype", "int8"
    )
    assert len(out.strip("\n")) == 12


def test_regenerate_answers_the_same_question_otherwise(folders, monkeypatch, capsys, tmp_path):
    lines = [
        "one",
        "two",
        "/regenerate",
        f"/save {tmp_path / 'talk.jsonl'}",
        f"/save {tmp_path / 'talk.jsonl'}",
    ]
    out, _ = piped(monkeypatch, capsys, folders["taught"], lines)
    first, second, again = out.splitlines()
    assert second != again
    talk = [("user", "one"), ("assistant", first), ("user", "two"), ("assistant", again)]
    saved = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert saved == [{"messages": [{"role": role, "content": text} for role, text in talk]}] * 2


def test_a_base_model_is_said_to_be_one_and_continues(folders, monkeypatch, capsys):
    out, err = piped(monkeypatch, capsys, folders["base"], ["Once upon", "a time"])
    model, tokenizer = checkpoint.load(folders["base"]), checkpoint.load_tokenizer(folders["base"])
    settings = [GenerateSettings(max_tokens=12, seed=seed) for seed in (0, 1)]
    wanted = [
        engine.generate(model, tokenizer, text, s)[0].text
        for text, s in zip(["Once upon", "a time"], settings, strict=True)
    ]
    assert out.splitlines() == wanted
    assert "is a base model" in err


def test_a_full_context_drops_the_oldest_questions_and_says_so(folders, monkeypatch, capsys):
    questions = [f"{number} " + "x" * 60 for number in range(4)]
    out, err = piped(monkeypatch, capsys, folders["taught"], questions, "--system", "Stay.")
    assert "the context is full" in err
    tokenizer = checkpoint.load_tokenizer(folders["taught"])
    said, talk = out.splitlines(), []
    for question, answer in zip(questions, said, strict=True):
        talk += [Message("user", question), Message("assistant", answer)]
    (system, dropped), model = (Message("system", "Stay."), 0), checkpoint.load(folders["taught"])
    while len(ids := Chat(tokenizer).prompt([system, *talk[dropped:-1]])) > 256 - 12:
        dropped += 2
    assert dropped
    (sample,) = engine.generate(model, tokenizer, ids, GenerateSettings(max_tokens=12, seed=3))
    assert sample.text == said[-1]


def test_a_question_that_is_refused_is_not_part_of_the_conversation(folders):
    tokenizer = checkpoint.load_tokenizer(folders["taught"])
    talk = Conversation(tokenizer, 256)
    talk.ask("one", GenerateSettings())
    talk.answer("two")
    before = list(talk.messages)
    with pytest.raises(Exception, match=r"\d+ tokens .* 16 .* 256"):
        talk.ask("x" * 300, GenerateSettings())
    assert talk.messages == before


def test_a_classifier_is_nobody_to_talk_to(folders, byte_tokenizer, tmp_path, capsys):
    model = classifier.with_head(checkpoint.load(folders["base"]), ("ham", "spam"), seed=0)
    classifier.save(model, tmp_path / "classifier", byte_tokenizer)
    assert main(["chat", str(tmp_path / "classifier")]) == 2
    assert "gptworks classify" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "lines", "more", "message"),
    [
        ("taught", ["/regenerate"], [], "/regenerate"),
        ("taught", ["/set temperature -1"], [], "--temperature"),
        ("taught", ["/set beams 3"], [], "setting beams"),
        ("taught", ["/save"], [], "/save"),
        ("taught", ["x" * 300], [], "shorten it"),
        ("base", ["/system Be nice."], [], "a base model"),
        ("base", [], ["--system", "Be nice."], "a base model"),
        ("taught", [], ["--samples", "2"], "--samples"),
    ],
)
def test_bad_input_from_a_pipe_ends_it_in_one_line(folders, monkeypatch, capsys, name, lines, more, message):
    out, err = piped(monkeypatch, capsys, folders[name], lines, *more, status=2)
    assert out == ""
    assert message in err.splitlines()[-1]


def test_an_unknown_command_in_a_pipe_is_said_and_the_next_line_answered(folders, monkeypatch, capsys):
    out, err = piped(monkeypatch, capsys, folders["taught"], ["/rest", "hello"])
    assert "/rest" in err
    assert out.strip()


def test_a_question_that_fills_most_of_a_small_context_is_answered_with_what_is_left(
    monkeypatch, capsys, folders
):
    tokens = 256 - 40  # more than half is no room by rights; 40 are left
    stood = len(Chat(checkpoint.load_tokenizer(folders["taught"])).prompt([Message("user", "")]))
    out, err = piped(monkeypatch, capsys, folders["taught"], ["x" * (tokens - stood)])
    assert len(out.strip("\n")) == 12
    _, err = piped(monkeypatch, capsys, folders["taught"], ["x" * (256 - 8 - stood)], status=2)
    assert "less than 16" in err


class Terminal:
    """`gptworks chat` on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        import pty

        self.side, there = pty.openpty()
        command = [sys.executable, "-m", "gptworks", "chat", *words]
        self.process = subprocess.Popen(
            command, stdin=there, stdout=there, stderr=there, start_new_session=True, env=os.environ | {"TERM": "dumb"},
            preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(there)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.side, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C at the prompt, again when nothing came of it.

        Python's readline shows its prompt before it waits with signals unblocked: one that comes between is seen
        only with the next key (CPython, Modules/readline.c, readline_until_enter_or_signal).
        """
        for _ in range(10):
            self.type("\x03")
            if select.select([self.side], [], [], 5.0)[0]:
                return

    def wait_for(self, wanted: str, seconds: float = 120) -> str:
        """What was shown until and with `wanted`, since the last wait."""
        end = time.monotonic() + seconds
        while wanted not in self.seen:
            ready, _, _ = select.select([self.side], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"never saw {wanted!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.side, 4096).decode(errors="replace")
            except OSError:  # Linux says so when the other side has closed
                assert wanted in self.seen, self.seen
        shown, _, self.seen = self.seen.partition(wanted)
        return shown + wanted


def _own_terminal() -> None:
    import fcntl
    import termios

    processes.reset_signals()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C goes to whom the terminal belongs


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_on_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves(folders, tmp_path):
    terminal = Terminal(str(folders["endless"]))
    try:
        assert "20,000 tokens" in terminal.wait_for("> ")
        terminal.type("tell me\n")
        terminal.wait_for("tell me")
        time.sleep(1.0)
        terminal.type("\x03")
        stopped = terminal.wait_for("> ")
        assert "(stopped)" in stopped
        terminal.interrupt()
        assert "(Ctrl-D quits)" in terminal.wait_for("> ")
        terminal.type("/nonsense\n")
        assert "unknown command /nonsense" in terminal.wait_for("\n> ")
        terminal.type("/set max_tokens 5\n")
        assert "(max_tokens is 5)" in terminal.wait_for("\n> ")
        terminal.type("two\\\nlines\n")
        terminal.wait_for("(cut off")
        terminal.wait_for("> ")
        terminal.type('"""\nthree\n\nlines"""\n')
        terminal.wait_for("(cut off")
        terminal.wait_for("> ")
        terminal.type(f"/save {tmp_path / 'talk.jsonl'}\n")
        terminal.wait_for("(saved to")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        if terminal.process.poll() is None:
            terminal.process.send_signal(signal.SIGKILL)
        terminal.process.wait()
        os.close(terminal.side)
    said = json.loads((tmp_path / "talk.jsonl").read_text())["messages"]
    assert [message["content"] for message in said[::2]] == ["tell me", "two\nlines", "three\n\nlines"]
    assert len(said[1]["content"]) > 0
    assert len(said[3]["content"]) == 5
