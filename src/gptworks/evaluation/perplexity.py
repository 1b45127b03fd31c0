"""Perplexity and bits per byte of texts. Each token is predicted once, from the tokens before it in its window.

    start t0 t1 t2 t3 t4 t5 t6      context 4, stride 2; a start token, then the text
    [          ]                    predicts t0 t1 t2 t3
             [          ]           predicts t4 t5: windows are full, so each token has at least 3 before it

With stride = context the windows do not overlap, as in lm-evaluation-harness (get_rolling_token_windows). A small
stride gives the sliding window of Radford et al. 2019, section 3.1 (32). algrshn/gpt-pytorch averages -log2 p over
documents, from the k-th token on; its 19.35 is not comparable with a perplexity per token.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gptworks.errors import CheckpointError, ConfigError, DataError
from gptworks.evaluation.questions import start_token
from gptworks.evaluation.scores import Score
from gptworks.evaluation.scoring import ScoreRequest, score
from gptworks.evaluation.texts import Text
from gptworks.messages import counted
from gptworks.model.build import Model
from gptworks.recipe import PerplexityOptions
from gptworks.text.tokenizer import Tokenizer

CHUNK_WINDOWS = 256
"""Windows whose requests are in memory at a time."""

FEW = 10
"""With fewer documents than this, the bootstrap draws windows instead of documents."""


@dataclass(frozen=True)
class Window:
    """Tokens of a document to predict, and the tokens before them to read."""

    document: int
    request: ScoreRequest
    start: int
    """Position of the first predicted token in its document."""


@dataclass(frozen=True)
class _Sums:
    """Sums over a document, or over a window of one."""

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
    """Perplexity, bits per byte, and (if every token is scored) perplexity per word.

    Raises:
        ConfigError: the stride is longer than the model's context.
        DataError: no document is longer than ignore_first.
    """
    context, start = model.config.context, start_token(tokenizer)
    if (options.stride or 0) > context:
        raise ConfigError(
            f"--perplexity.stride {options.stride} is more than the model's context of {context:,}"
        )
    documents = joined(documents, tokenizer) if options.joined else documents
    bytes_of_token = tokenizer.byte_lengths(specials=False)
    by_window, by_document = [], [[0.0, 0.0, 0.0, 0.0] for _ in documents]
    windows = make_windows(documents, start, context, options.stride)
    while chunk := list(itertools.islice(windows, CHUNK_WINDOWS)):
        answers = score(model, [[window.request] for window in chunk], batch_tokens=batch_tokens)
        for window, (answer,) in zip(chunk, answers, strict=True):
            document = documents[window.document]
            sums = _window_sums(window, answer.logprobs, document, bytes_of_token, options.ignore_first)
            if sums.tokens:
                by_window.append(sums)
                totals = by_document[window.document]
                for i, number in enumerate((sums.nats, sums.tokens, sums.n_bytes, sums.words)):
                    totals[i] += number
    scored = [_Sums(nats, int(n), size, words) for nats, n, size, words in by_document if n]
    if not scored:
        raise DataError(f"no document has more than perplexity.ignore_first={options.ignore_first} tokens")
    return _scores(scored, by_window, len(documents), options, _protocol(options, context, start))


def joined(documents: Sequence[Text], tokenizer: Tokenizer) -> list[Text]:
    """All documents as one, each followed by the end-of-text token.

    Raises:
        CheckpointError: the tokenizer has no end-of-text token.
    """
    if tokenizer.eos_id is None:
        raise CheckpointError("--perplexity.joined needs a tokenizer with an end-of-text token")
    ids = [part for text in documents for part in (text.ids, [tokenizer.eos_id])]
    n_bytes, n_words = sum(t.n_bytes for t in documents), sum(t.n_words for t in documents)
    return [Text(np.concatenate(ids).astype(np.int64), n_bytes, n_words)]


def make_windows(
    documents: Sequence[Text], start: int | None, context: int, stride: int | None
) -> Iterator[Window]:
    """The windows of documents. Without a `start` token, the first token of each is read but not predicted."""
    stride = stride or context
    for number, text in enumerate(documents):
        ids = [*([] if start is None else [start]), *text.ids.tolist()]
        done, last = 0, len(ids) - 1  # predictions of ids[1:]
        while done < last:
            end = min(done + (stride if done else context), last)
            begin = max(0, end - context)
            request = ScoreRequest(ids[begin : done + 1], ids[done + 1 : end + 1])
            yield Window(number, request, done + (start is None))
            done = end


def _window_sums(
    window: Window, logprobs: np.ndarray, text: Text, bytes_of_token: np.ndarray, ignore_first: int
) -> _Sums:
    """Sums over a window, without the document's first `ignore_first` tokens."""
    ignored = min(len(logprobs), max(0, ignore_first - window.start))
    scored = logprobs[ignored:].astype(np.float64)
    all_bytes = bytes_of_token[text.ids].sum()  # differs from n_bytes if a detokenizer removed some
    n_bytes = bytes_of_token[np.asarray(window.request.continuation[ignored:], dtype=np.int64)].sum()
    share = len(scored) / len(text.ids)
    return _Sums(
        float(-scored.sum()),
        len(scored),
        float(n_bytes) * text.n_bytes / max(1, all_bytes),
        text.n_words * share,
    )


def _scores(
    documents: list[_Sums], windows: list[_Sums], n_documents: int, options: PerplexityOptions, protocol: str
) -> list[Score]:
    units, drawn = (documents, "documents") if len(documents) >= FEW else (windows, "windows")
    interval = f"interval from a bootstrap over {drawn}"
    too_short = n_documents - len(documents)
    notes = (f"{counted(too_short, 'document')} too short to score",) if too_short else ()
    scores = [_perplexity(documents, units, (protocol, interval), notes, options)]
    if n_bytes := round(sum(unit.n_bytes for unit in documents)):
        samples = np.array([(unit.nats / math.log(2), unit.n_bytes) for unit in units])
        definition = f"-log2 p of the text over its UTF-8 bytes as given; {protocol}; {interval}"
        scores.append(
            Score("bits_per_byte", samples, "ratio", definition, n_bytes, "bytes", False, notes=notes)
        )
    words = round(sum(unit.words for unit in documents))
    if not options.ignore_first and words:
        samples = np.array([(unit.nats, unit.words) for unit in units])
        definition = (
            f"exponential of nats over words between spaces, of the text as given; {protocol}; {interval}"
        )
        scores.append(
            Score("word_perplexity", samples, "exp", definition, words, "words", False, notes=notes)
        )
    details = {"tokens": sum(unit.tokens for unit in documents), "documents": len(documents)}
    return [replace(each, details=details) for each in scores]


def _perplexity(
    documents: list[_Sums],
    units: list[_Sums],
    method: tuple[str, str],
    notes: tuple[str, ...],
    options: PerplexityOptions,
) -> Score:
    protocol, interval = method
    if options.average == "documents":
        samples = np.array([(document.nats / document.tokens, 1.0) for document in documents])
        definition = (
            "2 to the mean over documents of each document's mean -log2 p per token, so a short document weighs as "
            f"much as a long one; {protocol}; interval from a bootstrap over documents"
        )
        n, of = len(documents), "documents"
    else:
        samples = np.array([(unit.nats, unit.tokens) for unit in units])
        definition = f"exponential of mean nats per token; {protocol}; {interval}"
        n, of = sum(unit.tokens for unit in documents), "tokens"
    return Score("perplexity", samples, "exp", definition, n, of, False, True, notes=notes)


def _protocol(options: PerplexityOptions, context: int, start: int | None) -> str:
    """The protocol as the definition of a score states it. Scores with another wording are not comparable: keep it."""
    stride = options.stride or context
    parts = [f"windows of {context:,} tokens, {stride:,} apart, each token predicted once"]
    parts.append(
        "documents joined by the end-of-text mark, which is predicted too"
        if options.joined
        else "each document by itself"
    )
    parts.append(
        "the first token not predicted"
        if start is None
        else "beginning after the mark that texts begin after"
    )
    if options.ignore_first:
        parts.append(f"the first {options.ignore_first} tokens of a document not counted")
    if options.detokenizer != "none":
        parts.append(f"{options.detokenizer} detokenizer")
    return ", ".join(parts)
