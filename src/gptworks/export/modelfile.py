"""An Ollama Modelfile: which GGUF file, how a conversation is written, where an answer ends.

Ollama writes conversations by a Go template, not by the Jinja in the file. A Jinja program cannot be translated in
general, so its words are found out by asking it, and the Go template made of them is kept only if it would write every
one of some trial conversations exactly as the Jinja does.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass

from gptworks.errors import ConfigError
from gptworks.text.templates import Chat, Message
from gptworks.text.tokenizer import Tokenizer

SYSTEM, USER, AGAIN, ANSWER = "<system text>", "<user text>", "<user text again>", "<answer text>"
"""What is said in the conversation by which a template's own words are found."""


@dataclass(frozen=True)
class Turns:
    """What a template writes around what is said."""

    opening: str
    """Before everything, where there is no system message."""
    system: tuple[str, str]
    """Before and after a system message."""
    user: tuple[str, str]
    """Before and after what a person says; the latter asks for the answer."""
    answer: str
    """After an answer."""

    def render(self, messages: list[Message]) -> str:
        """A conversation that begins with a system message or a person, and ends with a person or an answer."""
        text = "" if messages[0].role == "system" else self.opening
        around = {"system": self.system, "user": self.user, "assistant": ("", self.answer)}
        return text + "".join(
            message.content.join(around[message.role])  # before + content + after
            for message in messages
        )

    def go(self) -> str:
        """The same as a Go template of Ollama's. An answer that comes last is one to be continued."""
        (before, after), (ask, tell) = self.system, self.user
        return (
            "{{ if .System }}" + _literal(before) + "{{ .System }}" + _literal(after)
            + "{{ else }}" + _literal(self.opening) + "{{ end }}"
            "{{ range $i, $_ := .Messages }}"
            '{{ if eq .Role "user" }}' + _literal(ask) + "{{ .Content }}" + _literal(tell)
            + '{{ else if eq .Role "assistant" }}{{ .Content }}'
            "{{ if gt (len (slice $.Messages $i)) 1 }}" + _literal(self.answer) + "{{ end }}"
            "{{ end }}{{ end }}"
        )  # fmt: skip


def _literal(text: str) -> str:
    """Text that stands for itself in a Go template."""
    return text.replace("{{", '{{ "{{" }}')


def turns(tokenizer: Tokenizer) -> Turns | None:
    """What a tokenizer's chat template writes around what is said; None where it does not follow such a plan."""
    chat = Chat(tokenizer)
    try:
        found = _ask(chat)
        if not all(found.render(trial) == chat.render(trial, prompt=True) for trial in _questions()):
            return None
    except (ConfigError, ValueError):  # it refuses a conversation, or leaves out what is said
        return None
    return found


def _ask(chat: Chat) -> Turns:
    user, answer, again = Message("user", USER), Message("assistant", ANSWER), Message("user", AGAIN)
    so_far = chat.render([user, answer])
    further = chat.render([user, answer, again], prompt=True)
    if not further.startswith(so_far):
        raise ValueError
    ask, tell = _around(further.removeprefix(so_far), AGAIN)
    first, _ = _around(chat.render([user], prompt=True), USER)
    named, between = _around(_around(chat.render([Message("system", SYSTEM), user]), USER)[0], SYSTEM)
    return Turns(
        _without_end(first, ask), (named, _without_end(between, ask)), (ask, tell), _around(so_far, ANSWER)[1]
    )


def _around(text: str, said: str) -> tuple[str, str]:
    before, found, after = text.partition(said)
    if not found:
        raise ValueError
    return before, after


def _without_end(text: str, end: str) -> str:
    if not text.endswith(end):
        raise ValueError
    return text[: len(text) - len(end)]


def _questions() -> list[list[Message]]:
    """Conversations of one to three questions, with and without a system message, of harmless and of odd texts."""
    trials = []
    for said, system in itertools.product(
        ("x", "two\nlines", " blanks ", 'a "quote" {{ x }}'), (True, False)
    ):
        trial = [Message("system", f"s {said}")] if system else []
        for number in range(3):
            trial = [*trial, Message("user", f"{said}{number}")]
            trials.append(trial)
            trial = [*trial, Message("assistant", f"{number}{said}")]
    return trials


def write(tokenizer: Tokenizer, weights: str, context: int) -> tuple[str, list[str]]:
    """The Modelfile for the GGUF file called `weights`, and remarks on what it leaves out."""
    lines = [f"FROM ./{weights}", f"PARAMETER num_ctx {context}"]
    remarks = []
    stops = [] if tokenizer.eos is None else [tokenizer.eos]
    if tokenizer.chat_template is None:
        lines.append('TEMPLATE """{{ .Prompt }}"""')  # it continues texts
    else:
        found = turns(tokenizer)
        with suppress(ConfigError):  # no special token of its own ends an answer
            stops = list(dict.fromkeys([*stops, Chat(tokenizer).end]))
        if found is None or '"""' in found.go():
            remarks.append(
                "the Modelfile has no TEMPLATE: the chat template is none that Ollama's could express"
            )
        else:
            lines.append(f'TEMPLATE """{_without_bos(found, tokenizer).go()}"""')
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    return "\n".join(lines) + "\n", remarks


def _without_bos(found: Turns, tokenizer: Tokenizer) -> Turns:
    """llama.cpp puts the beginning of a text there itself."""
    bos = tokenizer.bos or ""
    return Turns(
        found.opening.removeprefix(bos),
        (found.system[0].removeprefix(bos), found.system[1]),
        found.user,
        found.answer,
    )


def _quoted(text: str) -> str:
    return f'"""{text}"""' if '"' in text else f'"{text}"'
