"""How answers are judged: the options of `gptworks judge`. Nothing is imported here, so that `--help` is instant."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from gptworks.errors import ConfigError

OPENAI = "https://api.openai.com/v1"

PRICES = {"gpt-4o-mini": (0.15, 0.60), "gpt-4o": (2.50, 10.00), "gpt-4.1-mini": (0.40, 1.60)}
"""US dollars for a million tokens in and out, as OpenAI listed them in 2025; --price says what holds today."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """Who judges, how many answers, and how the server is treated."""

    judge: str = "openai:gpt-4o-mini"
    """openai:MODEL, at OpenAI or at any server that speaks its API (--base-url)."""
    base_url: str = OPENAI
    """Where the API is, up to and with /v1: http://127.0.0.1:8000/v1."""
    key_env: str | None = None
    """Environment variable that holds the key. Default: OPENAI_API_KEY for OpenAI; for other servers no key is sent.
    A key is never written anywhere."""
    against: str | None = None
    """Compare instead of scoring: with `reference`, the data's own outputs, or with another file of responses.
    Each pair is shown in both orders."""
    n: PositiveInt = 200
    """Judge the first N answers."""
    concurrency: PositiveInt = 8
    """Questions under way at once."""
    timeout: PositiveFloat = 60.0
    """Seconds to wait for an answer before asking again."""
    tries: PositiveInt = 6
    """How often a question is asked while the server is down, slow or busy; the pause between doubles."""
    pause: NonNegativeFloat = 1.0
    """Seconds of the first pause. A server's own Retry-After counts, up to a minute."""
    seed: NonNegativeInt = 123
    """Sent along, for servers that can repeat themselves. Temperature is 0."""
    price: Annotated[tuple[NonNegativeFloat, NonNegativeFloat] | None, Parameter(negative_iterable=())] = (
        field(default=None)
    )
    """US dollars for a million tokens in, and out. Known for a few of OpenAI's models."""
    split: Literal["test", "dev", "train", "unknown"] = "unknown"
    """What the data are, as every table says."""
    dry_run: Annotated[bool, Parameter(negative=())] = False
    """Say how many calls it would take and what they cost, and stop."""

    @property
    def model(self) -> str:
        """The judge's name at its server.

        Raises:
            ConfigError: --judge is not of the form openai:MODEL, or --base-url no address.
        """
        kind, _, name = self.judge.partition(":")
        if kind != "openai" or not name:
            raise ConfigError(
                f"--judge {self.judge} is not openai:MODEL; any server with that API will do: add --base-url"
            )
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"--base-url {self.base_url} does not begin with http:// or https://")
        return name

    @property
    def prices(self) -> tuple[float, float] | None:
        """US dollars for a million tokens in and out, if known."""
        return self.price or (PRICES.get(self.model) if self.base_url == OPENAI else None)
