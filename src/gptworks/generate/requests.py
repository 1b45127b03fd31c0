"""What is asked of the scheduler, and what comes back of it while texts grow."""

from dataclasses import dataclass
from typing import Literal

from gptworks.generate.logprobs import TokenLogprob
from gptworks.generate.settings import GenerateSettings

FinishReason = Literal["stop", "length", "eos"]
"""Why a sample ended: a stop string or token, max_tokens or the context, or the model's own end of text."""


@dataclass(frozen=True)
class Piece:
    """What one token adds to one sample."""

    sample: int
    text: str
    """Whole characters; may be empty."""
    id: int | None
    """The token; None for the one that ends a text."""
    finish_reason: FinishReason | None
    """Set on a sample's last piece."""
    logprob: TokenLogprob | None = None
    """Where the settings ask for it."""


@dataclass(frozen=True)
class Request:
    """A prompt, and what is to come of it."""

    ids: list[int]
    n_new: int
    """Tokens at most; together with the prompt they fit the context. 0: the prompt is scored, no more."""
    settings: GenerateSettings
    score_prompt: bool = False
    """Also say how likely the prompt's own tokens are, as the settings' `logprobs` asks."""

    @property
    def rows(self) -> int:
        """Texts that are written at once."""
        return self.settings.beams or self.settings.samples


Event = Piece | list[TokenLogprob]
"""Something of a request: a piece of a sample; or, before all pieces, the prompt's tokens but the first."""
