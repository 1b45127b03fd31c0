"""The options of `gptworks serve`. Imports neither torch nor FastAPI, so that `--help` is fast."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt
from cyclopts.validators import Number

Seconds = Annotated[float, Parameter(validator=Number(gt=0, lt=float("inf")))]
Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65535))]


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Where to listen, which clients to accept, and how much work to accept."""

    host: str = "127.0.0.1"
    """Address to listen on. The default accepts connections from this machine only; 0.0.0.0 accepts all."""
    port: Port = 8000
    """Port to listen on. 0 picks a free one; the first line of output shows it."""
    api_key_env: str | None = None
    """Environment variable that holds the API key clients must send. Unset: no key is needed."""
    allow_host: Annotated[tuple[str, ...], Parameter(negative_iterable=())] = ()
    """Further host names (Host header) to accept, such as a reverse proxy's. On localhost, only localhost's own names
    and these are accepted, which keeps other websites out (DNS rebinding)."""
    max_batch: PositiveInt = 16
    """Texts that a model generates at the same time; further requests wait in the queue."""
    max_queue: NonNegativeInt = 64
    """Prompts that may wait for a model. When the queue is full, requests are refused with status 429."""
    max_tokens: PositiveInt | None = None
    """Most tokens a request may generate per text. Unset: up to the model's context."""
    max_body: PositiveInt = 1 << 20
    """Largest request body in bytes; larger ones are refused with status 413."""
    timeout: Seconds = 600.0
    """Seconds a request may take, including the time in the queue; then it fails with status 408."""
    grace: Seconds = 30.0
    """Seconds that running requests get to finish at shutdown. Waiting requests are refused with status 503."""

    @property
    def local(self) -> bool:
        """True if only this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
