"""`gptworks chat`: chat with a MODEL in the terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter

from gptworks.errors import ConfigError, UserError
from gptworks.generation.requests import DTypeOption, GenerateSettings
from gptworks.recipe import DeviceOption
from gptworks.recipefile import one_line

if TYPE_CHECKING:
    from gptworks.generation.conversation import Conversation
    from gptworks.model.build import Model

HELP = """\
/reset              start a new conversation; keeps the system message and the settings
/system TEXT        set the system message and start a new conversation; without TEXT: remove it
/set NAME VALUE     change a setting, such as /set temperature 0.7; /set alone lists them
/regenerate         answer the last question again
/save FILE          append the conversation to FILE, as a line that `finetune instruct` can train on
/help               show this help
/quit               quit; so does Ctrl-D
Ctrl-C stops an answer. End a line with \\ to continue it, or put several lines between \"\"\" and \"\"\"."""

SETTINGS = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")
"""The settings that /set can change."""

DEFAULTS = GenerateSettings()

QUOTES = '"""'


class Quit(Exception):  # noqa: N818 - not an error
    """The user ends the chat."""


def chat(
    spec: Annotated[
        str, Parameter(name="MODEL", help="A run, RUN@best, RUN@step-400, a model folder or a Hub id.")
    ],
    /,
    *,
    system: Annotated[str, Parameter(help="System message.")] = "",
    settings: Annotated[GenerateSettings, Parameter(name="*")] = DEFAULTS,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
) -> None:
    """Chat with a model in the terminal; type /help for the commands. In a pipe, each line is a question."""
    if settings.beams or settings.samples > 1:
        raise ConfigError("chat streams a single answer: leave out --beams and --samples")
    settings.check()
    from gptworks.devices import choose_device
    from gptworks.generation import loading
    from gptworks.generation.conversation import Conversation

    folder = loading.find_language_model(spec)
    tokenizer = loading.matching_tokenizer(folder, spec)
    model = loading.open_model(folder, dtype, choose_device(device))
    conversation = Conversation(tokenizer, model.config.context)
    if system:
        conversation.set_system(system)
    session = ChatSession(model, conversation, settings, interactive=sys.stdin.isatty())
    session.greet(spec)
    session.run()


@dataclasses.dataclass
class ChatSession:
    """A conversation between the terminal, or a pipe, and a model."""

    model: Model
    conversation: Conversation
    settings: GenerateSettings
    interactive: bool
    """A user is at the terminal. Otherwise input comes from a pipe, and only answers go to stdout."""
    n_answers: int = 0
    """Answers so far; each has its own seed."""

    def greet(self, spec: str) -> None:
        """Print the kind of model, and what happens when the context is full."""
        base = self.conversation.chat is None
        if base:
            note = (
                f"{spec} is a base model: it continues each text that you type and was not trained to answer."
            )
        else:
            note = (
                f"{spec} has a context of {self.conversation.context:,} tokens. In a longer conversation, the oldest "
                "questions and answers are dropped, with a note."
            )
        if self.interactive:
            self.note(f"{note} Type /help for the commands.")
        elif base:
            self.note(note)

    def run(self) -> None:
        lines = keyboard_lines() if self.interactive else (line.rstrip("\n") for line in sys.stdin)
        while True:
            try:
                text = read_turn(lines) if self.interactive else next(lines)
            except (EOFError, StopIteration):
                if self.interactive:
                    print()
                return
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                print("\n(Ctrl-D quits)")
                lines = keyboard_lines()  # an interrupted generator yields nothing more
                continue
            if not text.strip():
                continue
            try:
                self.handle(text)
            except Quit:
                return
            except UserError as error:
                if not self.interactive:
                    raise
                self.note(str(error))

    def handle(self, text: str) -> None:
        word, _, rest = text.strip().partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self.note(HELP),
            "/reset": lambda _: self.reset(),
            "/system": self.set_system,
            "/set": self.set,
            "/regenerate": lambda _: self.regenerate(),
            "/save": self.save,
            "/quit": quit_chat,
            "/exit": quit_chat,
        }
        if word in commands:
            commands[word](rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            self.note(f"unknown command {word}; /help lists the commands")  # no error, so a pipe continues
        else:
            self.answer(text)

    def answer(self, text: str) -> None:
        """Print the answer to a question as it is generated. Ctrl-C stops it but keeps what was printed."""
        from gptworks.generation import engine

        prompt, dropped = self.conversation.ask(text, self.settings)
        if dropped:
            self.note(
                f"(the context is full: dropped the oldest questions with their answers: {dropped // 2})"
            )
        limit = self.settings.max_tokens or (
            None if self.conversation.chat is None else self.model.config.context
        )
        settings = dataclasses.replace(
            self.settings, max_tokens=limit, seed=self.settings.seed + self.n_answers
        )
        self.n_answers += 1
        texts: list[str] = []
        note = ""
        try:
            for delta in engine.stream(self.model, self.conversation.tokenizer, prompt, settings):
                texts.append(delta.text)
                print(delta.text, end="", flush=True)
                if delta.finish_reason == "length" and self.conversation.chat is not None:
                    note = "(cut off at max_tokens or the end of the context)"
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            note = "(stopped)"
        print()
        self.conversation.answer("".join(texts))
        if note:
            self.note(note)

    def reset(self) -> None:
        self.conversation.messages = []
        self.note("(new conversation)")

    def set_system(self, text: str) -> None:
        self.conversation.set_system(text)
        self.reset()

    def regenerate(self) -> None:
        """Answer the last question again, with another seed."""
        question = self.conversation.undo()
        if question is None:
            raise ConfigError("/regenerate: there is no question to answer again")
        self.answer(question)

    def save(self, name: str) -> None:
        if not name:
            raise ConfigError("/save needs a file name")
        if not self.conversation.messages:
            raise ConfigError("/save: the conversation is empty")
        try:
            with Path(name).expanduser().open("a", encoding="utf-8") as file:
                file.write(self.conversation.to_jsonl())
        except OSError as error:
            raise ConfigError(f"cannot write to {name}: {error.strerror}") from None
        self.note(f"(saved to {name})")

    def set(self, words: str) -> None:
        if not words:
            self.note("\n".join(f"{name} {getattr(self.settings, name)}" for name in SETTINGS))
            return
        name, _, value = words.partition(" ")
        name = name.lstrip("-").replace("-", "_").rstrip("=")
        if name not in SETTINGS:
            raise ConfigError(f"unknown setting {name}; the settings are {', '.join(SETTINGS)}")
        parsed = parse_setting(name, value.strip())
        parsed.check()
        self.settings = dataclasses.replace(self.settings, **{name: getattr(parsed, name)})
        self.note(f"({name} is {getattr(self.settings, name)})")

    def note(self, text: str) -> None:
        """Print a remark; in a pipe to stderr, so that stdout has only answers."""
        print(text, file=sys.stdout if self.interactive else sys.stderr, flush=True)


def quit_chat(_: str) -> None:
    """End the chat."""
    raise Quit


def parse_setting(name: str, value: str) -> GenerateSettings:
    """Settings with one value parsed and checked as the flag of the same name would be."""
    app = App(result_action="return_value", default_parameter=Parameter(negative=()))

    @app.default
    def _(settings: Annotated[GenerateSettings, Parameter(name="*")] = DEFAULTS) -> GenerateSettings:
        return settings

    try:
        return app([f"--{name.replace('_', '-')}", value], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise ConfigError(one_line(error)) from None


def keyboard_lines() -> Iterator[str]:
    """Lines from the keyboard, with line editing and history if Python has readline."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - importing it enables it
    while True:
        yield input("> ")


def read_turn(lines: Iterator[str]) -> str:
    r"""Read one input, which may have several lines: each ends with \, or all are between triple quotes."""
    text = next(lines)
    if text.strip().startswith(QUOTES):
        text = text.strip().removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + next(lines)
        return text.rstrip().removesuffix(QUOTES).strip("\n")
    while text.endswith("\\"):
        text = text[:-1] + "\n" + next(lines)
    return text
