"""How text is generated: the options of `gptworks generate`, and of everything else that calls the engine.

No torch here, so that `--help` is instant.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveInt
from cyclopts.validators import Number

from gptworks.errors import ConfigError

Weights = Literal["auto", "fp32", "bf16", "fp16", "int8"]
"""What a model opened for generation keeps its weights in: most of a token's time goes into reading them."""

WeightsOption = Annotated[
    Weights,
    Parameter(
        name="--weights",
        help="auto: bf16 (fp16) where the hardware reads and multiplies them faster, else fp32, in which a text is the "
        "same alone and among others. int8: half the bytes again; a little is lost.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """What to draw, how much, and where to stop."""

    max_tokens: PositiveInt | None = None
    """Tokens per sample at most; fewer at a stop string, the end of text, or the model's context.
    Default: 64; an answer to an instruction may fill the context."""
    temperature: NonNegativeFloat = 0.8
    """Below 1 sharpens, above 1 flattens the distribution; 0 always takes the likeliest token."""
    top_k: NonNegativeInt = 50
    """Draw from the k likeliest tokens; 0: from all."""
    top_p: Annotated[float, Parameter(validator=Number(gt=0, lte=1))] = 1.0
    """Draw from the fewest likeliest tokens that together have this probability; 1: from all."""
    min_p: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.0
    """Leave out tokens less likely than this times the likeliest; 0: none."""
    repetition_penalty: Annotated[float, Parameter(validator=Number(gt=0, lt=float("inf")))] = 1.0
    """Above 1 makes tokens of the prompt and of the text so far less likely, below 1 likelier; 1: neither."""
    samples: PositiveInt = 1
    """Continuations of the prompt. Sample i is the same however many are asked for."""
    seed: NonNegativeInt = 0
    """Another seed draws other samples."""
    stop: Annotated[tuple[str, ...], Parameter(negative_iterable=())] = ()
    r"""End before any of these strings. Escapes such as \n are interpreted."""
    stop_tokens: Annotated[tuple[NonNegativeInt, ...], Parameter(negative_iterable=())] = ()
    """Token ids that end a text as the end of text does."""
    beams: NonNegativeInt = 0
    """Search for the likeliest text with this many beams instead of drawing (temperature, top-k, top-p, min-p
    and seed then do nothing); 0: draw."""
    length_penalty: float = 1.0
    """With beams: a text's log-probability is divided by its length to this power; above 0 favours long."""
    logprobs: NonNegativeInt | None = None
    """Also say how likely the model itself, before temperature and filters, held each token, and so many others
    that could have stood in its place."""
    lookup: NonNegativeInt = 0
    """Guess up to so many tokens ahead where a text says again what it or its prompt has said, and check them in one
    step: the same text in fewer steps. For a text that is written alone; 0: never."""
    overflow: Literal["refuse", "cut"] = "refuse"
    """A prompt that leaves no room for an answer in the model's context: refuse it, or cut its beginning so that
    max_tokens fit."""

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ConfigError: more samples than beams, log-probabilities of beams, or an empty stop string.
        """
        if self.beams and self.samples > self.beams:
            raise ConfigError(
                f"--samples {self.samples} needs at least as many beams, not --beams {self.beams}"
            )
        if self.beams and self.logprobs is not None:
            raise ConfigError("--logprobs are those of drawn texts; leave out --beams")
        if "" in self.stop:
            raise ConfigError("--stop '' would end every text before it begins; give at least one character")
