"""Questions with given answers, and how their text becomes tokens.

The boundary between context and continuation is lm-evaluation-harness's (lm_eval/api/model.py,
TemplateLM._encode_pair): spaces at the end of a context move to the continuation, both are encoded together, and the
first tokens, as many as the context alone has, are the context's. Nothing else is added, except that an empty context
becomes the start token.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gptworks.errors import CheckpointError, DataError
from gptworks.evaluation.scoring import ScoreRequest, overflow, truncate
from gptworks.text.tokenizer import Tokenizer

MARKERS = re.compile(r"(?:^|\n)(?:Question|Q|Answer|A):")


@dataclass(frozen=True)
class Question:
    """A question and its answers, as text."""

    place: str
    """Its source, for error messages: FILE:LINE."""
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    """One per context."""
    gold: int = 0
    """Index of the right answer."""
    lengths: tuple[float, ...] = ()
    """Characters of each answer."""

    @property
    def text(self) -> str:
        """The question with its right answer, without the task's markers."""
        right = self.gold if self.gold < len(self.contexts) else 0
        return MARKERS.sub(" ", self.contexts[right] + self.continuations[right]).strip()

    @property
    def identity(self) -> str:
        """Hash of the text, equal for the same text from another file."""
        return hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True)
class EncodedQuestions:
    """Questions as tokens."""

    requests: list[list[ScoreRequest]]
    truncated: int
    """Questions that lose their beginning to fit the model's context."""

    @property
    def shortened(self) -> int:
        """Answers longer than the model's context, of which only the first tokens are scored."""
        return sum(request.n_dropped > 0 for question in self.requests for request in question)


def start_token(tokenizer: Tokenizer) -> int | None:
    """The token that texts start after: bos, else eos, else None."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def encode_questions(
    questions: Sequence[Question], tokenizer: Tokenizer, context: int, *, separately: bool = False
) -> EncodedQuestions:
    """Questions as tokens for a model with `context`; `separately` encodes continuations without their contexts.

    Raises:
        DataError: an answer has no token.
    """
    pairs = [_move_spaces(*pair) for q in questions for pair in zip(q.contexts, q.continuations, strict=True)]
    starts = dict.fromkeys(start for start, _ in pairs)
    encoded = dict(zip(starts, encode_all(tokenizer, starts), strict=True))
    wholes = encode_all(
        tokenizer, (rest if separately or not start else start + rest for start, rest in pairs)
    )
    remaining = iter(zip(pairs, wholes, strict=True))
    requests, truncated = [], 0
    for question in questions:
        answers = []
        for _ in question.contexts:
            (start, _), ids = next(remaining)
            rest = ids if separately or not start else ids[len(encoded[start]) :]
            request = _request(encoded[start], rest, tokenizer)
            if not len(request.continuation):
                raise DataError(f"{question.place}: an answer has no token to score; give it some text")
            answers.append(truncate(request, context))
        truncated += any(overflow(request, context) for request in answers)
        requests.append(answers)
    return EncodedQuestions(requests, truncated)


def encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """Ids of each text. Special tokens spelled out in a text are parsed, as transformers does."""
    texts = list(texts)
    specials = tuple(tokenizer.special_tokens)
    encoded = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    for number, text in enumerate(texts):
        if any(name in text for name in specials):
            encoded[number] = tokenizer.encode(text, specials=True)
    return encoded


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Move spaces from the end of the context to the start of the continuation."""
    start = context.rstrip()
    return start, context[len(start) :] + continuation


def _request(start: list[int], rest: list[int], tokenizer: Tokenizer) -> ScoreRequest:
    if start:
        return ScoreRequest(start, rest)
    token = start_token(tokenizer)
    if token is None:
        raise CheckpointError(
            "a question has no context, and this tokenizer has no start token to use instead"
        )
    if rest[:1] == [token]:  # as in lm-evaluation-harness, the start token is not scored after itself
        return ScoreRequest([token], rest[1:])
    return ScoreRequest([token], rest)
