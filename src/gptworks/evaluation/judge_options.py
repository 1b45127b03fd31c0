"""The options of `gptworks judge`, in a module without slow imports so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from gptworks.errors import ConfigError

OPENAI = "https://api.openai.com/v1"

PRICES = {"gpt-4o-mini": (0.15, 0.60), "gpt-4o": (2.50, 10.00), "gpt-4.1-mini": (0.40, 1.60)}
"""US dollars per million input and output tokens, from OpenAI's price list of 2025; --price overrides them."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """The judge, the answers to judge, and the limits on requests."""

    judge: str = "openai:gpt-4o-mini"
    """openai:MODEL, at OpenAI or at any server with a compatible API (--base-url)."""
    base_url: str = OPENAI
    """URL of the API, including /v1: http://127.0.0.1:8000/v1."""
    key_env: str | None = None
    """Environment variable that holds the API key. Default: OPENAI_API_KEY for OpenAI, no key for other servers.
    The key is never written to disk."""
    against: str | None = None
    """Compare the answers instead of scoring them: with `reference` (the outputs in the data) or another file of
    responses. Each pair is judged in both orders."""
    n: PositiveInt = 200
    """Judge the first N answers."""
    concurrency: PositiveInt = 8
    """Requests in flight at once."""
    timeout: PositiveFloat = 60.0
    """Seconds to wait for a reply before retrying."""
    tries: PositiveInt = 6
    """Attempts per request while the server is down, slow or busy; the pause between them doubles."""
    pause: NonNegativeFloat = 1.0
    """Seconds of the first pause. A server's Retry-After takes precedence, up to a minute."""
    seed: NonNegativeInt = 123
    """Seed to send, for servers that support reproducible sampling. The temperature is 0."""
    price: Annotated[tuple[NonNegativeFloat, NonNegativeFloat] | None, Parameter(negative_iterable=())] = (
        field(default=None)
    )
    """US dollars per million input and output tokens. Default: known for some OpenAI models."""
    split: Literal["test", "dev", "train", "unknown"] = "unknown"
    """The split of the data, recorded with the score."""
    dry_run: Annotated[bool, Parameter(negative=())] = False
    """Print the number of requests and their cost, then exit."""

    @property
    def model(self) -> str:
        """The judge's name at its server.

        Raises:
            ConfigError: --judge is not of the form openai:MODEL, or --base-url is not a URL.
        """
        kind, _, name = self.judge.partition(":")
        if kind != "openai" or not name:
            raise ConfigError(
                f"--judge {self.judge} is not of the form openai:MODEL; add --base-url for another server with that API"
            )
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"--base-url {self.base_url} does not start with http:// or https://")
        return name

    @property
    def prices(self) -> tuple[float, float] | None:
        """US dollars per million input and output tokens, if known."""
        return self.price or (PRICES.get(self.model) if self.base_url == OPENAI else None)
