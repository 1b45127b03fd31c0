"""Chat templates: render a conversation as the text a model reads, identically in training and generation.

A template is a Jinja program over `messages`, as in transformers, saved as chat_template.jinja beside the tokenizer. It
runs in Jinja's sandbox, because checkpoints are untrusted. One rule keeps training and generation consistent: the
tokens trained on are those that follow exactly the text that generation would start from.

A message has a `role`, a `content` and, in Alpaca-style data, an `input`.
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

SPECIAL_TOKENS = {"chatml": ("<|im_start|>", "<|im_end|>")}
"""Special tokens that a built-in template needs."""

MARK = "\ufdd0"
"""A Unicode noncharacter, inserted into special tokens that users spell out in a message."""

FOLDER = Path(__file__).with_name("chat")


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str
    input: str = ""
    """Input for the instruction in `content` (Alpaca)."""


def names() -> list[str]:
    """Names of the built-in templates."""
    return sorted(file.stem for file in FOLDER.glob("*.jinja"))


def find(template: str) -> str:
    """The source of a template, given by built-in name, as a file, or as Jinja source.

    Raises:
        ConfigError: there is no such template; the message lists the built-in ones.
    """
    if template in names():
        return (FOLDER / f"{template}.jinja").read_text(encoding="utf-8")
    if "{{" in template or "{%" in template:
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"--template {template} is neither a file nor one of {', '.join(names())}; "
            "you can also pass Jinja source"
        ) from None


class Chat:
    """The compiled chat template of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Compile the template.

        Raises:
            ConfigError: the tokenizer has no template, or it is not valid Jinja.
        """
        if tokenizer.chat_template is None:
            raise ConfigError("the tokenizer has no chat template")
        self.tokenizer = tokenizer
        try:
            self._template = _compiled(tokenizer.chat_template)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
            ) from None

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """Render a conversation; with `prompt`, up to where the assistant's answer begins.

        Raises:
            ConfigError: the template refuses the conversation, or fails.
        """
        return self._unmark(self._render(messages, prompt=prompt))

    def _render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """Like `render`, but special tokens spelled out in a message contain MARK."""
        names = {"eos_token": self.tokenizer.eos, "bos_token": self.tokenizer.bos}
        defined = {name: token for name, token in names.items() if token is not None}
        try:
            return self._template.render(
                messages=[self._as_dict(message) for message in messages],
                add_generation_prompt=prompt,
                **defined,
            )
        except Exception as error:  # an untrusted program may raise anything
            lines = str(error).splitlines() or [type(error).__name__]
            raise ConfigError(f"the chat template does not render: {lines[0]}") from None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the assistant's next answer begins."""
        return [id for text, _ in self._segments(messages, prompt=True) for id in self._encode(text)]

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and for each id whether it belongs to an answer (its end token included).

        Raises:
            ConfigError: an answer does not follow the prompt for it.
        """
        ids: list[int] = []
        from_assistant: list[bool] = []
        for text, is_answer in self._segments(messages, prompt=False):
            new = self._encode(text)
            ids += new
            from_assistant += [is_answer] * len(new)
        return ids, from_assistant

    @cached_property
    def end_token(self) -> str:
        """The special token after an answer.

        Raises:
            ConfigError: there is none, so generation could not tell where an answer ends.
        """
        answer = "an answer"
        text = self.render([Message("user", "a question"), Message("assistant", answer)])
        after = text.rpartition(answer)[2] if answer in text else ""
        match = self._special.search(after) if self._special else None
        if match is None:
            raise ConfigError(
                "the chat template puts no special token after an answer, so generation would never stop: write "
                "{{ eos_token }} there, or add the token it writes with --add-tokens"
            )
        return match.group()

    @cached_property
    def reads_input(self) -> bool:
        """Whether the template uses Alpaca's `input`; if not, the input is appended to the instruction."""
        sample = "an input"
        text = self._template.render(
            messages=[{"role": "user", "content": "x", "input": sample}],
            add_generation_prompt=True,
            eos_token="",
            bos_token="",
        )
        return sample in text

    @cached_property
    def has_role_tokens(self) -> bool:
        """Whether special tokens mark who speaks; Alpaca-style templates mark it in plain text."""
        ids = self.prompt([Message("user", "a question")])
        start_ids = {self.tokenizer.bos_id, self.tokenizer.eos_id}
        return bool(set(ids) & (set(self.tokenizer.special_tokens.values()) - start_ids))

    def drop_oldest(self, messages: Sequence[Message], max_tokens: int) -> list[Message]:
        """Drop the oldest questions with their answers until the prompt has at most `max_tokens` tokens.

        System messages and the last message always stay, even if they are too long.
        """
        kept = list(messages)
        while len(self.prompt(kept)) > max_tokens:
            oldest = next((n for n, message in enumerate(kept[:-1]) if message.role != "system"), None)
            if oldest is None:
                break
            del kept[oldest]
            if oldest < len(kept) - 1 and kept[oldest].role == "assistant":
                del kept[oldest]  # the answer to the dropped question
        return kept

    def _as_dict(self, message: Message) -> dict[str, str]:
        content, input = self._mark(message.content), self._mark(message.input)
        if not input:
            return {"role": message.role, "content": content}
        if not self.reads_input:
            return {"role": message.role, "content": f"{content}\n\n{input}"}
        return {"role": message.role, "content": content, "input": input}

    def _segments(self, messages: Sequence[Message], *, prompt: bool) -> Iterator[tuple[str, bool]]:
        """(text, whether it is an answer), split wherever generation would begin or end.

        No token crosses a split, in training or in generation.
        """
        done = text = ""
        for index, message in enumerate(messages):
            if message.role == "assistant":
                before = self._remainder(done, self._render(messages[:index], prompt=True))
                yield before, False
                text = self._render(messages[: index + 1])
                rest = self._remainder(done + before, text)
                end = rest.find(self.end_token)
                if end < 0:
                    raise ConfigError(f"the chat template writes no {self.end_token} after an answer")
                answer = rest[: end + len(self.end_token)]
                yield answer, True
                done += before + answer
        if prompt or messages[-1].role != "assistant":
            text = self._render(messages, prompt=prompt)
        if rest := self._remainder(done, text):
            yield rest, False

    def _remainder(self, done: str, text: str) -> str:
        if not text.startswith(done):
            raise ConfigError(
                "the chat template renders earlier messages differently when a conversation continues, so training and "
                "generation would disagree"
            )
        return text[len(done) :]

    def _mark(self, text: str) -> str:
        """Insert MARK into special tokens that a message spells out, so that they are encoded as plain text."""
        if self._special is None:
            return text
        return self._special.sub(lambda match: match.group()[0] + MARK + match.group()[1:], text)

    def _encode(self, text: str) -> list[int]:
        """Encode rendered text; the special tokens in it are those the template wrote."""
        ids: list[int] = []
        for index, part in enumerate(self._special.split(text) if self._special else [text]):
            if index % 2:
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
    """Give a tokenizer this template, the special tokens it needs, and the template's end token as end of text.

    Raises:
        ConfigError: the template cannot be used.
        DataError: a special token is already an ordinary token.
    """
    grown = tokenizer.with_special_tokens(added) if added else tokenizer
    grown = grown.with_template(source)
    return grown.with_eos(Chat(grown).end_token)


class _Generation(Extension):
    """Ignores `{% generation %}`, with which transformers' templates mark the assistant's text."""

    tags = {"generation"}  # noqa: RUF012 - declared this way in jinja2

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    """Compile a template in the same environment as transformers."""
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
