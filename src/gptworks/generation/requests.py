"""What the engine is asked for and what it returns: settings, requests and token deltas.

`GenerateSettings` holds the options of `gptworks generate` and of everything else that calls the engine. This module
does not import torch, so `--help` is fast.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveInt
from cyclopts.validators import Number

from gptworks.errors import ConfigError

DType = Literal["auto", "fp32", "bf16", "fp16", "int8"]
"""What a model opened for generation stores its weights in. Reading them takes most of the time of a token."""

DTypeOption = Annotated[
    DType,
    Parameter(
        name="--dtype",
        help="Storage dtype of the weights. auto: bf16 or fp16 if this hardware is faster with it, else fp32. "
        "fp32: results do not depend on batching. int8: half the memory of bf16, at a small loss of quality.",
    ),
]

FinishReason = Literal["stop", "length", "eos"]
"""Why a sample ended: a stop string or token, max_tokens or the context, or the model's own end-of-text token."""


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """How to sample, how many tokens, and where to stop."""

    max_tokens: PositiveInt | None = None
    """Maximum new tokens per sample. A stop string, the end of text or the model's context may end it earlier.
    Default: 64; the answer to an instruction may fill the context."""
    temperature: NonNegativeFloat = 0.8
    """Sampling temperature. Below 1 sharpens the distribution, above 1 flattens it; 0 is greedy decoding."""
    top_k: NonNegativeInt = 50
    """Sample from the k most likely tokens; 0 disables it."""
    top_p: Annotated[float, Parameter(validator=Number(gt=0, lte=1))] = 1.0
    """Sample from the smallest set of tokens with this total probability; 1 disables it."""
    min_p: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.0
    """Exclude tokens less likely than this fraction of the most likely token; 0 disables it."""
    repetition_penalty: Annotated[float, Parameter(validator=Number(gt=0, lt=float("inf")))] = 1.0
    """Above 1 makes tokens that are already in the prompt or the text less likely, below 1 more likely."""
    samples: PositiveInt = 1
    """Number of continuations. Sample i does not depend on how many you ask for."""
    seed: NonNegativeInt = 0
    """Random seed of the samples."""
    stop: Annotated[tuple[str, ...], Parameter(negative_iterable=())] = ()
    r"""Stop before any of these strings. Escapes such as \n are interpreted."""
    stop_tokens: Annotated[tuple[NonNegativeInt, ...], Parameter(negative_iterable=())] = ()
    """Token ids that end a sample, in addition to the end-of-text token."""
    beams: NonNegativeInt = 0
    """Use beam search with this many beams instead of sampling (temperature, top-k, top-p, min-p and seed are
    ignored); 0: sample."""
    length_penalty: float = 1.0
    """Beam search divides a text's log-probability by its length to this power; above 0 favors long texts."""
    logprobs: NonNegativeInt | None = None
    """Also return the log-probability of each token, before temperature and filters, and this many of the most
    likely alternatives."""
    prompt_lookup: NonNegativeInt = 0
    """Draft up to this many tokens by looking up repeated text (prompt lookup decoding) and verify them in one
    step: the same text in fewer steps. Applies while one sample is generated alone; 0 disables it."""
    truncation: Literal["error", "left"] = "error"
    """If the prompt leaves no room for an answer in the model's context: stop with an error, or drop tokens from
    the left until max_tokens fit."""

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ConfigError: more samples than beams, log-probabilities with beams, or an empty stop string.
        """
        if self.beams and self.samples > self.beams:
            raise ConfigError(
                f"--samples {self.samples} needs at least as many beams; --beams is {self.beams}"
            )
        if self.beams and self.logprobs is not None:
            raise ConfigError(
                f"--logprobs {self.logprobs} is not available with beam search; leave out --beams"
            )
        if "" in self.stop:
            raise ConfigError("--stop '' would end every text immediately; give at least one character")


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it."""

    ids: list[int]
    n_new: int
    """Maximum new tokens; prompt and new tokens together fit the context. 0: only score the prompt."""
    settings: GenerateSettings
    score_prompt: bool = False
    """Also return the log-probabilities of the prompt's tokens, with `settings.logprobs` alternatives."""

    @property
    def rows(self) -> int:
        """Batch rows that the request takes."""
        return self.settings.beams or self.settings.samples


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of a token and of its alternatives."""

    id: int
    logprob: float
    """In nats."""
    top: tuple[tuple[int, float], ...] = ()
    """(id, nats) of the most likely tokens, most likely first."""


@dataclass(frozen=True)
class TokenDelta:
    """What one token adds to one sample."""

    sample: int
    text: str
    """Complete characters; may be empty."""
    id: int | None
    """The token; None for the one that ends a text."""
    finish_reason: FinishReason | None
    """Set on the last delta of a sample."""
    logprob: TokenLogprob | None = None
    """Set if the settings ask for it."""


Event = TokenDelta | list[TokenLogprob]
"""Output for a request: a delta of a sample or, before all deltas, the scores of the prompt's tokens but the first."""
