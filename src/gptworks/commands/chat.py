"""`gptworks chat`: talk to a MODEL in the terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter

from gptworks.errors import ConfigError, UserError
from gptworks.generate.settings import GenerateSettings, WeightsOption
from gptworks.recipefile import one_line

if TYPE_CHECKING:
    from gptworks.generate.conversation import Conversation
    from gptworks.model.build import Model

HELP = """\
/reset              begin anew; the system text and the settings stay
/system TEXT        say who the model is to be, and begin anew; without TEXT: no more of it
/set NAME VALUE     change a setting, such as /set temperature 0.7; /set alone shows them all
/regenerate         answer the last question again, otherwise
/save FILE          add the conversation to FILE, a line that `finetune instruct` can train on
/help               this
/quit               leave, as Ctrl-D does
Ctrl-C stops an answer. A line that ends with \\ goes on in the next; \"\"\" begins and ends several."""

SETTINGS = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")
"""What /set sets."""

DEFAULTS = GenerateSettings()

QUOTES = '"""'


class Leave(Exception):  # noqa: N818 - no error
    """The person has had enough."""


def chat(
    spec: Annotated[
        str, Parameter(name="MODEL", help="A run, RUN@best, RUN@step-400, a model folder or a Hub id.")
    ],
    /,
    *,
    system: Annotated[str, Parameter(help="Who the model is to be, in its own words.")] = "",
    settings: Annotated[GenerateSettings, Parameter(name="*")] = DEFAULTS,
    weights: WeightsOption = "auto",
) -> None:
    """Talk to a model in the terminal; /help says what else can be typed. From a pipe, a line is a turn."""
    if settings.beams or settings.samples > 1:
        raise ConfigError("chat gives one answer as it comes: leave out --beams and --samples")
    settings.check()
    from gptworks.generate import loading
    from gptworks.generate.conversation import Conversation

    folder = loading.writer(spec)
    tokenizer = loading.matching_tokenizer(folder, spec)
    model = loading.open_model(folder, weights)
    conversation = Conversation(tokenizer, model.config.context)
    if system:
        conversation.instruct(system)
    talk = Talk(model, conversation, settings, live=sys.stdin.isatty())
    talk.greet(spec)
    talk.run()


@dataclasses.dataclass
class Talk:
    """Somebody at a keyboard, or a pipe, and a model."""

    model: Model
    conversation: Conversation
    settings: GenerateSettings
    live: bool
    """A person is there, who can be told and asked; a pipe only wants answers."""
    answers: int = 0
    """Given so far: each has a seed of its own."""

    def greet(self, spec: str) -> None:
        """Say what there is to talk to, and what becomes of a long conversation."""
        base = self.conversation.chat is None
        if base:
            note = (
                f"{spec} is a base model: it continues what you type, each text by itself, and was not taught to "
                "answer."
            )
        else:
            note = (
                f"{spec} reads {self.conversation.context:,} tokens. When a conversation gets longer, its oldest "
                "questions and answers are dropped, and you are told."
            )
        if self.live:
            self.tell(f"{note} /help says what else can be typed.")
        elif base:
            self.tell(note)

    def run(self) -> None:
        """Turn after turn until the end of input."""
        lines = typed() if self.live else (line.rstrip("\n") for line in sys.stdin)
        while True:
            try:
                text = turn(lines) if self.live else next(lines)
            except (EOFError, StopIteration):
                if self.live:
                    print()
                return
            except KeyboardInterrupt:
                if not self.live:
                    raise
                print("\n(Ctrl-D leaves)")
                lines = typed()  # an interrupted generator is at its end
                continue
            if not text.strip():
                continue
            try:
                self.take(text)
            except Leave:
                return
            except UserError as error:
                if not self.live:
                    raise
                self.tell(str(error))

    def take(self, text: str) -> None:
        """One turn: a command, or something said."""
        word, _, rest = text.strip().partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self.tell(HELP),
            "/reset": lambda _: self.reset(),
            "/system": self.instruct,
            "/set": self.set,
            "/regenerate": lambda _: self.regenerate(),
            "/save": self.save,
            "/quit": leave,
            "/exit": leave,
        }
        if word in commands:
            commands[word](rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            self.tell(f"{word} is no command; /help lists them")  # a pipe goes on as well
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Ask, and print the answer as it comes; Ctrl-C ends the answer, and what was said of it stays."""
        from gptworks.generate import engine

        prompt, dropped = self.conversation.ask(text, self.settings)
        if dropped:
            self.tell(
                f"(the context is full: {dropped // 2} of the oldest questions and their answers are dropped)"
            )
        limit = self.settings.max_tokens or (
            None if self.conversation.chat is None else self.model.config.context
        )
        settings = dataclasses.replace(
            self.settings, max_tokens=limit, seed=self.settings.seed + self.answers
        )
        self.answers += 1
        said: list[str] = []
        note = ""
        try:
            for piece in engine.stream(self.model, self.conversation.tokenizer, prompt, settings):
                said.append(piece.text)
                print(piece.text, end="", flush=True)
                if piece.finish_reason == "length" and self.conversation.chat is not None:
                    note = "(cut off: max_tokens, or the context, is full)"
        except KeyboardInterrupt:
            if not self.live:
                raise
            note = "(stopped)"
        print()
        self.conversation.answer("".join(said))
        if note:
            self.tell(note)

    def reset(self) -> None:
        """Begin anew."""
        self.conversation.messages = []
        self.tell("(begun anew)")

    def instruct(self, text: str) -> None:
        """Another system text."""
        self.conversation.instruct(text)
        self.reset()

    def regenerate(self) -> None:
        """The last question, answered otherwise."""
        question = self.conversation.take_back()
        if question is None:
            raise ConfigError("nothing was asked yet that could be answered again")
        self.say(question)

    def save(self, name: str) -> None:
        """Add the conversation to a file."""
        if not name:
            raise ConfigError("/save needs the name of a file")
        if not self.conversation.messages:
            raise ConfigError("nothing was said yet that could be saved")
        try:
            with Path(name).expanduser().open("a", encoding="utf-8") as file:
                file.write(self.conversation.saved())
        except OSError as error:
            raise ConfigError(f"{name} cannot be written: {error.strerror}") from None
        self.tell(f"(saved in {name})")

    def set(self, words: str) -> None:
        """Change a setting, or show them."""
        if not words:
            self.tell("\n".join(f"{name} {getattr(self.settings, name)}" for name in SETTINGS))
            return
        name, _, value = words.partition(" ")
        name = name.lstrip("-").replace("-", "_").rstrip("=")
        if name not in SETTINGS:
            raise ConfigError(f"{name} is no setting; there are {', '.join(SETTINGS)}")
        found = parsed(name, value.strip())
        found.check()
        self.settings = dataclasses.replace(self.settings, **{name: getattr(found, name)})
        self.tell(f"({name} is {getattr(self.settings, name)})")

    def tell(self, text: str) -> None:
        """A remark: on stderr, so that a pipe has answers alone."""
        print(text, file=sys.stdout if self.live else sys.stderr, flush=True)


def leave(_: str) -> None:
    """End the talk."""
    raise Leave


def parsed(name: str, value: str) -> GenerateSettings:
    """Settings of which one is as typed, checked as a flag of that name is."""
    app = App(result_action="return_value", default_parameter=Parameter(negative=()))

    @app.default
    def _(settings: Annotated[GenerateSettings, Parameter(name="*")] = DEFAULTS) -> GenerateSettings:
        return settings

    try:
        return app([f"--{name.replace('_', '-')}", value], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise ConfigError(one_line(error)) from None


def typed() -> Iterator[str]:
    """Lines from the keyboard, with the editing and the history that Python has where it has them."""
    with contextlib.suppress(ImportError):  # as on Windows
        import readline  # noqa: F401 - importing it is all
    while True:
        yield input("> ")


def turn(lines: Iterator[str]) -> str:
    r"""A turn that may have several lines: each ends with \, or all stand between triple quotes."""
    text = next(lines)
    if text.strip().startswith(QUOTES):
        text = text.strip().removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + next(lines)
        return text.rstrip().removesuffix(QUOTES).strip("\n")
    while text.endswith("\\"):
        text = text[:-1] + "\n" + next(lines)
    return text
