"""Perplexity and bits per byte of texts: each token predicted once, from as much text before it as is asked for.

    mark t0 t1 t2 t3 t4 t5 t6       context 4, stride 2; the mark that texts begin after, then the text
    [         ]                     predicts t0 t1 t2 t3
           [         ]              predicts t4 t5: a window is always full, so each has 3 tokens before it at least

With stride = context windows lie side by side, as in lm-evaluation-harness (get_rolling_token_windows). A small stride
is the sliding window of Radford et al. 2019, section 3.1 (32). Averages over documents of -log2 p from the k-th token
on are those of algrshn/gpt-pytorch, whose 19.35 is not comparable with a perplexity per token.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gptworks.errors import CheckpointError, ConfigError, DataError
from gptworks.evaluate.questions import start_mark
from gptworks.evaluate.results import Score
from gptworks.evaluate.scoring import Request, score
from gptworks.evaluate.texts import Text
from gptworks.model.build import Model
from gptworks.recipe import PerplexityOptions
from gptworks.text.tokenizer import Tokenizer
from gptworks.train.pretraining import token_bytes
from gptworks.wording import counted

AT_ONCE = 256
"""Windows whose requests are in memory at a time."""

FEW = 10
"""With fewer documents than this, windows are what is drawn for the interval."""


@dataclass(frozen=True)
class Window:
    """Some tokens of a document to predict, and those before them that are read."""

    document: int
    request: Request
    start: int
    """Place of the first predicted token in its document."""


@dataclass(frozen=True)
class _Unit:
    """A document, or a window of one: what was summed over it."""

    nats: float
    tokens: int
    n_bytes: float
    words: float


def measure(
    model: Model,
    tokenizer: Tokenizer,
    documents: Sequence[Text],
    options: PerplexityOptions,
    batch_tokens: int | None = None,
) -> list[Score]:
    """Perplexity, bits per byte and (where every token is scored) perplexity per word.

    Raises:
        ConfigError: a stride longer than the model's context.
        DataError: no document is longer than skip_first.
    """
    context, mark = model.config.context, start_mark(tokenizer)
    if (options.stride or 0) > context:
        raise ConfigError(
            f"--perplexity.stride {options.stride} is more than the model's context of {context:,}"
        )
    documents = joined(documents, tokenizer) if options.joined else documents
    of_token = token_bytes(tokenizer)
    by_window, by_document = [], [[0.0, 0.0, 0.0, 0.0] for _ in documents]
    windows = cut(documents, mark, context, options.stride)
    for chunk in _chunks(windows):
        answers = score(model, [[window.request] for window in chunk], batch_tokens=batch_tokens)
        for window, (answer,) in zip(chunk, answers, strict=True):
            unit = _unit(window, answer.logprobs, documents[window.document], of_token, options.skip_first)
            if unit.tokens:
                by_window.append(unit)
                sums = by_document[window.document]
                for place, number in enumerate((unit.nats, unit.tokens, unit.n_bytes, unit.words)):
                    sums[place] += number
    whole = [_Unit(nats, int(n), size, words) for nats, n, size, words in by_document if n]
    if not whole:
        raise DataError(f"no document has more than skip_first={options.skip_first} tokens")
    return _scores(whole, by_window, len(documents), options, _how(options, context, mark))


def joined(documents: Sequence[Text], tokenizer: Tokenizer) -> list[Text]:
    """All as one, with the end-of-text mark after each.

    Raises:
        CheckpointError: the tokenizer has none.
    """
    if tokenizer.eos_id is None:
        raise CheckpointError("this tokenizer has no end-of-text mark to join documents with")
    ids = [part for text in documents for part in (text.ids, [tokenizer.eos_id])]
    n_bytes, n_words = sum(t.n_bytes for t in documents), sum(t.n_words for t in documents)
    return [Text(np.concatenate(ids).astype(np.int64), n_bytes, n_words)]


def cut(documents: Sequence[Text], mark: int | None, context: int, stride: int | None) -> Iterator[Window]:
    """The windows of documents. Without a `mark` the first token of each is read and not predicted."""
    stride = stride or context
    for number, text in enumerate(documents):
        ids = [*([] if mark is None else [mark]), *text.ids.tolist()]
        done, last = 0, len(ids) - 1  # predictions of ids[1:]
        while done < last:
            end = min(done + (stride if done else context), last)
            begin = max(0, end - context)
            request = Request(ids[begin : done + 1], ids[done + 1 : end + 1])
            yield Window(number, request, done + (mark is None))
            done = end


def _chunks(windows: Iterator[Window]) -> Iterator[list[Window]]:
    chunk: list[Window] = []
    for window in windows:
        chunk.append(window)
        if len(chunk) == AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _unit(window: Window, logprobs: np.ndarray, text: Text, of_token: np.ndarray, skip_first: int) -> _Unit:
    """A window's sums, without the document's first `skip_first` tokens."""
    skipped = min(len(logprobs), max(0, skip_first - window.start))
    scored = logprobs[skipped:].astype(np.float64)
    all_bytes = of_token[text.ids].sum()  # differs from n_bytes where a detokenizer took some away
    n_bytes = of_token[np.asarray(window.request.continuation[skipped:], dtype=np.int64)].sum()
    share = len(scored) / len(text.ids)
    return _Unit(
        float(-scored.sum()),
        len(scored),
        float(n_bytes) * text.n_bytes / max(1, all_bytes),
        text.n_words * share,
    )


def _scores(
    whole: list[_Unit], windows: list[_Unit], n_documents: int, options: PerplexityOptions, how: str
) -> list[Score]:
    units, drawn = (whole, "documents") if len(whole) >= FEW else (windows, "windows")
    tokens = sum(unit.tokens for unit in whole)
    sure = f"interval from a bootstrap over {drawn}"
    left_out = n_documents - len(whole)
    notes = (f"{counted(left_out, 'document')} too short to be scored",) if left_out else ()
    bits = [(unit.nats / math.log(2), unit.n_bytes) for unit in units]
    found = [_perplexity(whole, units, how, sure, notes, options)]
    if n_bytes := round(sum(unit.n_bytes for unit in whole)):
        definition = f"-log2 p of the text over its UTF-8 bytes as given; {how}; {sure}"
        found.append(
            Score("bits_per_byte", np.array(bits), "ratio", definition, n_bytes, "bytes", False, notes=notes)
        )
    words = round(sum(unit.words for unit in whole))
    if not options.skip_first and words:
        definition = f"exponential of nats over words between spaces, of the text as given; {how}; {sure}"
        samples = np.array([(unit.nats, unit.words) for unit in units])
        found.append(Score("word_perplexity", samples, "exp", definition, words, "words", False, notes=notes))
    counts = {"tokens": tokens, "documents": len(whole)}
    return [replace(one, details=counts) for one in found]


def _perplexity(
    whole: list[_Unit],
    units: list[_Unit],
    how: str,
    sure: str,
    notes: tuple[str, ...],
    options: PerplexityOptions,
) -> Score:
    if options.average == "documents":
        samples = np.array([(unit.nats / unit.tokens, 1.0) for unit in whole])
        definition = (
            "2 to the mean over documents of each document's mean -log2 p per token, so a short document weighs as "
            f"much as a long one; {how}; interval from a bootstrap over documents"
        )
        return Score(
            "perplexity", samples, "exp", definition, len(whole), "documents", False, True, notes=notes
        )
    samples = np.array([(unit.nats, unit.tokens) for unit in units])
    definition = f"exponential of mean nats per token; {how}; {sure}"
    n = sum(unit.tokens for unit in whole)
    return Score("perplexity", samples, "exp", definition, n, "tokens", False, True, notes=notes)


def _how(options: PerplexityOptions, context: int, mark: int | None) -> str:
    """The protocol in words."""
    stride = options.stride or context
    parts = [f"windows of {context:,} tokens, {stride:,} apart, each token predicted once"]
    parts.append(
        "documents joined by the end-of-text mark, which is predicted too"
        if options.joined
        else "each document by itself"
    )
    parts.append(
        "the first token not predicted" if mark is None else "beginning after the mark that texts begin after"
    )
    if options.skip_first:
        parts.append(f"the first {options.skip_first} tokens of a document not counted")
    if options.detokenizer != "none":
        parts.append(f"{options.detokenizer} detokenizer")
    return ", ".join(parts)
