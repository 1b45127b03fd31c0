"""A conversation with a model: its messages, and the ids that the next answer follows.

The checkpoint's own chat template renders the whole conversation before each answer. When it no longer fits the
context, the oldest question and its answer are dropped, as often as needed; the system message and the newest question
always stay. A base model has no template: it continues each text you type, independently of the others.
"""

import json
from dataclasses import dataclass, field

from gptworks.errors import ConfigError
from gptworks.generation.requests import GenerateSettings
from gptworks.text.templates import Chat, Message
from gptworks.text.tokenizer import Tokenizer

ANSWER_TOKENS = 256
"""Tokens reserved for an answer without max_tokens; never more than half of the context."""
MIN_ANSWER_TOKENS = 16
"""Tokens that must remain for an answer after a question that cannot be shortened."""


@dataclass
class Conversation:
    """The messages so far."""

    tokenizer: Tokenizer
    context: int
    """The model's context, in tokens."""
    system: str = ""
    messages: list[Message] = field(default_factory=list)
    """Alternating questions and answers, without the system message."""

    @property
    def chat(self) -> Chat | None:
        """The chat template; None for a base model."""
        return None if self.tokenizer.chat_template is None else Chat(self.tokenizer)

    def ask(self, text: str, settings: GenerateSettings) -> tuple[str | list[int], int]:
        """Add a question; returns the prompt to continue, and how many old messages were dropped.

        Raises:
            ConfigError: the question alone is too long, or the template refuses it. Nothing is added then.
        """
        if self.chat is None:
            self.messages = [Message("user", text)]
            return text, 0
        before, self.messages = self.messages, [*self.messages, Message("user", text)]
        try:
            ids, dropped = self._fit(self.chat, settings)
        except ConfigError:
            self.messages = before
            raise
        self.messages = self.messages[dropped:]
        return ids, dropped

    def answer(self, text: str) -> None:
        """Add the model's answer, complete or not."""
        self.messages.append(Message("assistant", text))

    def undo(self) -> str | None:
        """Remove the last question and its answer; returns the question, if there is one."""
        while self.messages:
            last = self.messages.pop()
            if last.role == "user":
                return last.content
        return None

    def set_system(self, system: str) -> None:
        """Replace the system message; "" removes it.

        Raises:
            ConfigError: the model has no template, or its template ignores system messages.
        """
        if self.chat is None:
            raise ConfigError("a base model takes no system message: it continues the text you type")
        if system and system not in self.chat.render([Message("system", system), Message("user", "x")]):
            raise ConfigError("this model's chat template ignores system messages")
        self.system = system

    def to_jsonl(self) -> str:
        """The conversation as one line of JSON that `finetune instruct` can train on."""
        rows = [
            {"role": message.role, "content": message.content} for message in self._with_system(self.messages)
        ]
        return json.dumps({"messages": rows}, ensure_ascii=False) + "\n"

    def _with_system(self, messages: list[Message]) -> list[Message]:
        return [*([Message("system", self.system)] if self.system else []), *messages]

    def _fit(self, chat: Chat, settings: GenerateSettings) -> tuple[list[int], int]:
        """Render the newest messages that fit; returns their ids and how many old messages do not."""
        prompt_tokens = self.context - min(settings.max_tokens or ANSWER_TOKENS, self.context // 2)
        ids: list[int] = []
        dropped = 0
        for dropped in range(0, len(self.messages), 2):
            ids = chat.prompt(self._with_system(self.messages[dropped:]))
            if len(ids) <= prompt_tokens:
                return ids, dropped
        # in a small context, the template alone may take more than half
        if len(ids) + MIN_ANSWER_TOKENS <= self.context:
            return ids, dropped
        raise ConfigError(
            f"the question has {len(ids):,} tokens with the chat template, which leaves less than {MIN_ANSWER_TOKENS} "
            f"for an answer in the model's context of {self.context:,}: shorten it"
        )
