"""A conversation with a model: what was said, and the ids that the next answer follows.

The whole conversation is written by the checkpoint's own template before each answer. What no longer fits the context
is dropped from the front, a question with its answer at a time; the system text and the newest question always stay.
A base model has no template: what is typed is a text that it continues, each by itself.
"""

import json
from dataclasses import dataclass, field

from gptworks.errors import ConfigError
from gptworks.generate.settings import GenerateSettings
from gptworks.text.templates import Chat, Message
from gptworks.text.tokenizer import Tokenizer

ROOM, LEAST = 256, 16
"""Tokens that are kept free for an answer, where nobody says: at most half the context; and of what is left by a
question that cannot be shorter."""


@dataclass
class Conversation:
    """What was said so far."""

    tokenizer: Tokenizer
    context: int
    """The model's, in tokens."""
    system: str = ""
    messages: list[Message] = field(default_factory=list)
    """Questions and answers in turn, without the system text."""

    @property
    def chat(self) -> Chat | None:
        """The template at work; None for a base model."""
        return None if self.tokenizer.chat_template is None else Chat(self.tokenizer)

    def ask(self, text: str, settings: GenerateSettings) -> tuple[str | list[int], int]:
        """Add a question. What to generate after, and how many messages the context has no more room for.

        Raises:
            ConfigError: the question alone is too long, or the template refuses it; then nothing is added.
        """
        if self.chat is None:
            self.messages = [Message("user", text)]
            return text, 0
        kept, self.messages = self.messages, [*self.messages, Message("user", text)]
        try:
            ids, dropped = self._fitting(settings)
        except ConfigError:
            self.messages = kept
            raise
        self.messages = self.messages[dropped:]
        return ids, dropped

    def answer(self, text: str) -> None:
        """Add what was answered, whole or not."""
        self.messages.append(Message("assistant", text))

    def take_back(self) -> str | None:
        """Forget the last question and its answer; the question, if there is one."""
        while self.messages:
            last = self.messages.pop()
            if last.role == "user":
                return last.content
        return None

    def instruct(self, system: str) -> None:
        """Begin with another system text; "" for none.

        Raises:
            ConfigError: the model has no template, or its template no place for it.
        """
        if self.chat is None:
            raise ConfigError("a base model has no system text: it continues what is typed")
        if system and system not in self.chat.render([Message("system", system), Message("user", "x")]):
            raise ConfigError("this model's template has no place for a system text")
        self.system = system

    def saved(self) -> str:
        """The conversation as a line that `finetune instruct` can train on."""
        said = [{"role": message.role, "content": message.content} for message in self._all(self.messages)]
        return json.dumps({"messages": said}, ensure_ascii=False) + "\n"

    def _all(self, messages: list[Message]) -> list[Message]:
        return [*([Message("system", self.system)] if self.system else []), *messages]

    def _fitting(self, settings: GenerateSettings) -> tuple[list[int], int]:
        assert self.chat is not None
        room = self.context - min(settings.max_tokens or ROOM, self.context // 2)
        ids: list[int] = []
        dropped = 0
        for dropped in range(0, len(self.messages), 2):
            ids = self.chat.prompt(self._all(self.messages[dropped:]))
            if len(ids) <= room:
                return ids, dropped
        if len(ids) + LEAST <= self.context:  # a template may take half of a small context by itself
            return ids, dropped
        raise ConfigError(
            f"this has {len(ids):,} tokens with what must stand around it, and the model's context of {self.context:,} "
            f"would leave less than {LEAST} for an answer: shorten it"
        )
