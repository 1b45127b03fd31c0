"""Chat templates: how a conversation becomes the text a model reads, in training and in generation alike.

A template is data: a Jinja program of `messages`, as transformers has them, kept as chat_template.jinja beside the
tokenizer. It is run in Jinja's sandbox, for checkpoints come from strangers. One rule keeps training and generation
from disagreeing: what is learned of a conversation is what comes after the very text that generation would start from.

A message has a `role`, a `content` and, from data of Alpaca's shape, an `input`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gptworks.errors import ConfigError
from gptworks.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")

ADDED = {"chatml": ("<|im_start|>", "<|im_end|>")}
"""Special tokens that a template of ours brings along."""

MARK = "\ufdd0"
"""A noncharacter of Unicode, which no text holds: set into special tokens that people spell out."""

FOLDER = Path(__file__).with_name("chat")


@dataclass(frozen=True)
class Message:
    """What someone says."""

    role: str
    content: str
    input: str = ""
    """What the instruction in `content` is about."""


def names() -> list[str]:
    """Templates that come with gptworks."""
    return sorted(file.stem for file in FOLDER.glob("*.jinja"))


def find(wanted: str) -> str:
    """The template of a name, in a file, or given as text.

    Raises:
        ConfigError: there is no such template; the message lists those there are.
    """
    if wanted in names():
        return (FOLDER / f"{wanted}.jinja").read_text(encoding="utf-8")
    if "{{" in wanted or "{%" in wanted:
        return wanted
    try:
        return Path(wanted).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"--template {wanted} is neither a file nor one of {', '.join(names())}; "
            "your own may be a Jinja file, or its text"
        ) from None


class Chat:
    """A tokenizer's chat template at work."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Compile it.

        Raises:
            ConfigError: there is none, or it is no Jinja.
        """
        if tokenizer.chat_template is None:
            raise ConfigError("the tokenizer has no chat template")
        self.tokenizer = tokenizer
        try:
            self._template = _compiled(tokenizer.chat_template)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"the chat template is no Jinja: line {error.lineno}: {error.message}"
            ) from None

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """The text of a conversation; with `prompt`, as it asks for the assistant's next words.

        Raises:
            ConfigError: the template refuses the conversation, or fails.
        """
        return self._unmark(self._render(messages, prompt=prompt))

    def _render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """The same, with special tokens that people spell out marked."""
        names = {"eos_token": self.tokenizer.eos, "bos_token": self.tokenizer.bos}
        given = {name: token for name, token in names.items() if token is not None}
        try:
            return self._template.render(
                messages=[self._as_dict(message) for message in messages],
                add_generation_prompt=prompt,
                **given,
            )
        except Exception as error:  # a stranger's program: anything may come of it
            words = str(error).splitlines() or [type(error).__name__]
            raise ConfigError(f"the chat template does not render: {words[0]}") from None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids after which the assistant answers."""
        return [id for text, _ in self._pieces(messages, asks=True) for id in self._encode(text)]

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and which of them the assistant says: its answers, each with its end.

        Raises:
            ConfigError: an answer does not follow the text that asks for it.
        """
        ids: list[int] = []
        learned: list[bool] = []
        for text, said in self._pieces(messages, asks=False):
            new = self._encode(text)
            ids += new
            learned += [said] * len(new)
        return ids, learned

    @cached_property
    def end(self) -> str:
        """The special token after an answer.

        Raises:
            ConfigError: there is none, so nobody could say where an answer ends.
        """
        said = "an answer"
        text = self.render([Message("user", "a question"), Message("assistant", said)])
        after = text.rpartition(said)[2] if said in text else ""
        found = self._special.search(after) if self._special else None
        if found is None:
            raise ConfigError(
                "the chat template puts no special token after an answer, so generation would never stop: write "
                "{{ eos_token }} there, or name the one it writes with --add-tokens"
            )
        return found.group()

    @cached_property
    def reads_input(self) -> bool:
        """True if the template knows of Alpaca's `input`; otherwise it is put under the instruction."""
        sample = "an input"
        text = self._template.render(
            messages=[{"role": "user", "content": "x", "input": sample}],
            add_generation_prompt=True,
            eos_token="",
            bos_token="",
        )
        return sample in text

    @cached_property
    def takes_turns(self) -> bool:
        """True if special tokens tell who speaks; templates of Alpaca's kind write that out in plain text."""
        ids = self.prompt([Message("user", "a question")])
        begins = {self.tokenizer.bos_id, self.tokenizer.eos_id}
        return bool(set(ids) & (set(self.tokenizer.special_tokens.values()) - begins))

    def recent(self, messages: Sequence[Message], most: int) -> list[Message]:
        """The messages without the oldest turns, so that their prompt has at most so many tokens.

        System messages stay, and the last message does, even if they are too long.
        """
        kept = list(messages)
        while len(self.prompt(kept)) > most:
            old = next((n for n, one in enumerate(kept[:-1]) if one.role != "system"), None)
            if old is None:
                break
            del kept[old]
            if old < len(kept) - 1 and kept[old].role == "assistant":  # the answer to what is gone
                del kept[old]
        return kept

    def _as_dict(self, message: Message) -> dict[str, str]:
        content, input = self._mark(message.content), self._mark(message.input)
        if not input:
            return {"role": message.role, "content": content}
        if not self.reads_input:
            return {"role": message.role, "content": f"{content}\n\n{input}"}
        return {"role": message.role, "content": content, "input": input}

    def _pieces(self, messages: Sequence[Message], *, asks: bool) -> Iterator[tuple[str, bool]]:
        """(text, whether the assistant says it), cut wherever generation would begin or end.

        Ids never reach over a cut, in training as in generation.
        """
        done = text = ""
        for number, message in enumerate(messages):
            if message.role == "assistant":
                before = self._further(done, self._render(messages[:number], prompt=True))
                yield before, False
                text = self._render(messages[: number + 1])
                answer = self._further(done + before, text)
                stop = answer.find(self.end)
                if stop < 0:
                    raise ConfigError("the chat template leaves out the end of an answer")
                said = answer[: stop + len(self.end)]
                yield said, True
                done += before + said
        if asks or messages[-1].role != "assistant":
            text = self._render(messages, prompt=asks)
        if more := self._further(done, text):
            yield more, False

    def _further(self, done: str, text: str) -> str:
        if not text.startswith(done):
            raise ConfigError(
                "the chat template changes what it has said when a conversation goes on, so that training and "
                "generation would disagree"
            )
        return text[len(done) :]

    def _mark(self, text: str) -> str:
        """Special tokens that people spell out are text."""
        if self._special is None:
            return text
        return self._special.sub(lambda found: found.group()[0] + MARK + found.group()[1:], text)

    def _encode(self, text: str) -> list[int]:
        """Ids of a rendered text, whose special tokens are the template's own."""
        ids: list[int] = []
        for number, part in enumerate(self._special.split(text) if self._special else [text]):
            if number % 2:
                ids.append(self.tokenizer.special_tokens[part])
            elif part:
                ids += self.tokenizer.encode_batch([self._unmark(part)])[0].tolist()
        return ids

    def _unmark(self, text: str) -> str:
        if MARK not in text:
            return text
        for name in self.tokenizer.special_tokens:
            text = text.replace(name[0] + MARK + name[1:], name)
        return text

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        longest_first = sorted(self.tokenizer.special_tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None


def adopt(tokenizer: Tokenizer, source: str, added: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer with this template, the special tokens it needs, and as end of text what ends its answers.

    Raises:
        ConfigError: the template cannot be used.
        DataError: a special token that is an ordinary one.
    """
    grown = tokenizer.with_special_tokens(added) if added else tokenizer
    grown = grown.with_template(source)
    return grown.with_end(Chat(grown).end)


class _Generation(Extension):
    """`{% generation %}`, by which transformers' templates mark what the assistant says: here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 has it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    """As transformers compiles it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment.from_string(source)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
