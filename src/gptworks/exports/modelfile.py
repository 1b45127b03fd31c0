"""Write an Ollama Modelfile: the GGUF file, the prompt format of a conversation, and where an answer ends.

Ollama renders conversations with a Go template, not with the Jinja template in the GGUF file. A Jinja program cannot be
translated in general. So we render sample conversations with it, read its fixed texts off the results, and build a Go
template from them. It is kept only if it renders a set of test conversations exactly like the Jinja template.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass, replace

from gptworks.errors import ConfigError
from gptworks.text.templates import Chat, Message
from gptworks.text.tokenizer import Tokenizer

SYSTEM, USER, AGAIN, ANSWER = "<system text>", "<user text>", "<user text again>", "<answer text>"
"""The messages of the sample conversation from which the fixed texts of a template are read."""


@dataclass(frozen=True)
class PromptFormat:
    """The fixed texts that a template writes around the messages."""

    opening: str
    """At the start, if there is no system message."""
    system: tuple[str, str]
    """Before and after a system message."""
    user: tuple[str, str]
    """Before and after a user message; the latter includes the prompt for the answer."""
    answer: str
    """After an answer."""

    def render(self, messages: list[Message]) -> str:
        """Render a conversation that starts with a system or user message and ends with a question or an answer."""
        text = "" if messages[0].role == "system" else self.opening
        around = {"system": self.system, "user": self.user, "assistant": ("", self.answer)}
        return text + "".join(
            message.content.join(around[message.role])  # before + content + after
            for message in messages
        )

    def go_template(self) -> str:
        """The same as an Ollama Go template. It leaves a last answer open, so that the model continues it."""
        (before, after), (before_user, after_user) = self.system, self.user
        return (
            "{{ if .System }}" + _literal(before) + "{{ .System }}" + _literal(after)
            + "{{ else }}" + _literal(self.opening) + "{{ end }}"
            "{{ range $i, $_ := .Messages }}"
            '{{ if eq .Role "user" }}' + _literal(before_user) + "{{ .Content }}" + _literal(after_user)
            + '{{ else if eq .Role "assistant" }}{{ .Content }}'
            "{{ if gt (len (slice $.Messages $i)) 1 }}" + _literal(self.answer) + "{{ end }}"
            "{{ end }}{{ end }}"
        )  # fmt: skip


def _literal(text: str) -> str:
    """Escape text for a Go template."""
    return text.replace("{{", '{{ "{{" }}')


def prompt_format(tokenizer: Tokenizer) -> PromptFormat | None:
    """The prompt format of a tokenizer's chat template; None if the template cannot be expressed as one."""
    chat = Chat(tokenizer)
    try:
        format = _read_format(chat)
        if any(format.render(test) != chat.render(test, prompt=True) for test in _test_conversations()):
            return None
    except (ConfigError, ValueError):  # it refuses a conversation, or leaves out a message
        return None
    return format


def _read_format(chat: Chat) -> PromptFormat:
    user, answer, again = Message("user", USER), Message("assistant", ANSWER), Message("user", AGAIN)
    one_turn = chat.render([user, answer])
    two_turns = chat.render([user, answer, again], prompt=True)
    if not two_turns.startswith(one_turn):
        raise ValueError
    before_user, after_user = _split(two_turns.removeprefix(one_turn), AGAIN)
    first, _ = _split(chat.render([user], prompt=True), USER)
    before_system, between = _split(_split(chat.render([Message("system", SYSTEM), user]), USER)[0], SYSTEM)
    return PromptFormat(
        opening=_remove_end(first, before_user),
        system=(before_system, _remove_end(between, before_user)),
        user=(before_user, after_user),
        answer=_split(one_turn, ANSWER)[1],
    )


def _split(text: str, content: str) -> tuple[str, str]:
    before, match, after = text.partition(content)
    if not match:
        raise ValueError
    return before, after


def _remove_end(text: str, end: str) -> str:
    if not text.endswith(end):
        raise ValueError
    return text[: len(text) - len(end)]


def _test_conversations() -> list[list[Message]]:
    """Conversations of one to three questions, with and without a system message, with plain and unusual texts."""
    conversations = []
    texts = ("x", "two\nlines", " blanks ", 'a "quote" {{ x }}')
    for text, system in itertools.product(texts, (True, False)):
        messages = [Message("system", f"s {text}")] if system else []
        for index in range(3):
            messages = [*messages, Message("user", f"{text}{index}")]
            conversations.append(messages)
            messages = [*messages, Message("assistant", f"{index}{text}")]
    return conversations


def write(tokenizer: Tokenizer, weights: str, context: int) -> tuple[str, list[str]]:
    """The Modelfile for the GGUF file named `weights`, and remarks about what it leaves out."""
    lines = [f"FROM ./{weights}", f"PARAMETER num_ctx {context}"]
    remarks = []
    stops = [] if tokenizer.eos is None else [tokenizer.eos]
    if tokenizer.chat_template is None:
        lines.append('TEMPLATE """{{ .Prompt }}"""')  # a base model continues texts
    else:
        format = prompt_format(tokenizer)
        with suppress(ConfigError):  # the template writes no special token after an answer
            stops = list(dict.fromkeys([*stops, Chat(tokenizer).end_token]))
        if format is None or '"""' in format.go_template():
            remarks.append("the Modelfile has no TEMPLATE: Ollama cannot express this chat template")
        else:
            lines.append(f'TEMPLATE """{_without_bos(format, tokenizer).go_template()}"""')
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    return "\n".join(lines) + "\n", remarks


def _without_bos(format: PromptFormat, tokenizer: Tokenizer) -> PromptFormat:
    """Leave out the beginning-of-text token, which llama.cpp adds itself."""
    bos, (before, after) = tokenizer.bos or "", format.system
    return replace(format, opening=format.opening.removeprefix(bos), system=(before.removeprefix(bos), after))


def _quoted(text: str) -> str:
    return f'"""{text}"""' if '"' in text else f'"{text}"'
