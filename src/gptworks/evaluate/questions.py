"""Questions with given answers, and how their text becomes the tokens a model is asked about.

The boundary is lm-evaluation-harness's (lm_eval/api/model.py, TemplateLM._encode_pair): spaces that end a context
belong to what follows, context and continuation are encoded together, and as many tokens as the context alone has are
the context's. Nothing else is added, but for an empty context, which becomes the mark a text begins after.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gptworks.errors import CheckpointError, DataError
from gptworks.evaluate.scoring import Request, fitting, overflow
from gptworks.text.tokenizer import Tokenizer

MARKERS = re.compile(r"(?:^|\n)(?:Question|Q|Answer|A):")


@dataclass(frozen=True)
class Question:
    """What is asked, as text."""

    place: str
    """Where it is from, for a person: FILE:LINE."""
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    """One for each context: a model says how likely it follows."""
    gold: int = 0
    """Which is right."""
    lengths: tuple[float, ...] = ()
    """Characters of each answer."""

    @property
    def text(self) -> str:
        """The question with its right answer, without the words a task puts around them."""
        right = self.gold if self.gold < len(self.contexts) else 0
        return MARKERS.sub(" ", self.contexts[right] + self.continuations[right]).strip()

    @property
    def identity(self) -> str:
        """The same for the same text, wherever it is from."""
        return hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True)
class Asked:
    """Questions as tokens."""

    requests: list[list[Request]]
    truncated: int
    """Questions whose beginning does not fit the model's context and is left out."""

    @property
    def shortened(self) -> int:
        """Answers that alone are longer than the model's context: only their first tokens are asked about."""
        return sum(request.left_out > 0 for question in self.requests for request in question)


def start_mark(tokenizer: Tokenizer) -> int | None:
    """The token that a text begins after; None if the tokenizer has none."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def ask(questions: Sequence[Question], tokenizer: Tokenizer, context: int, *, apart: bool = False) -> Asked:
    """Questions as tokens for a model with `context`; `apart` encodes contexts and continuations by themselves.

    Raises:
        DataError: an answer without a token.
    """
    pairs = [_moved(*pair) for q in questions for pair in zip(q.contexts, q.continuations, strict=True)]
    starts = dict.fromkeys(start for start, _ in pairs)
    encoded = dict(zip(starts, encode_all(tokenizer, starts), strict=True))
    wholes = encode_all(tokenizer, (rest if apart or not start else start + rest for start, rest in pairs))
    flat = iter(zip(pairs, wholes, strict=True))
    requests, truncated = [], 0
    for question in questions:
        asked = []
        for _ in question.contexts:
            (start, _), ids = next(flat)
            request = _split(encoded[start], ids, apart=apart or not start, tokenizer=tokenizer)
            if not len(request.continuation):
                raise DataError(
                    f"{question.place}: an answer without a token cannot be scored; give it some text"
                )
            asked.append(fitting(request, context))
        truncated += any(overflow(request, context) for request in asked)
        requests.append(asked)
    return Asked(requests, truncated)


def encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """Ids of each text; special tokens that it spells out count as such, as transformers reads them."""
    texts = list(texts)
    specials = tuple(tokenizer.special_tokens)
    found = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    for number, text in enumerate(texts):
        if any(name in text for name in specials):
            found[number] = tokenizer.encode(text, specials=True)
    return found


def _moved(context: str, continuation: str) -> tuple[str, str]:
    """Spaces that end the context begin what follows."""
    start = context.rstrip()
    return start, context[len(start) :] + continuation


def _split(start: list[int], ids: list[int], *, apart: bool, tokenizer: Tokenizer) -> Request:
    """`ids` are the continuation's if it was encoded `apart`, else of both together."""
    rest = ids if apart else ids[len(start) :]
    if start:
        return Request(start, rest)
    mark = start_mark(tokenizer)
    if mark is None:
        raise CheckpointError(
            "a question has no context, and this tokenizer has no mark that a text could begin after"
        )
    if rest[:1] == [mark]:  # as lm-evaluation-harness: the mark is not asked for after itself
        return Request([mark], rest[1:])
    return Request([mark], rest)
