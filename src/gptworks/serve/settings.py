"""What a server allows: the options of `gptworks serve`. No torch and no FastAPI here, so that `--help` is instant."""

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
    """Where to listen, whom to let in, and how much to take on."""

    host: str = "127.0.0.1"
    """The address to listen at. The default is reached from this machine only; 0.0.0.0 from everywhere."""
    port: Port = 8000
    """The port; 0 takes a free one, which the first line of output names."""
    api_key_env: str | None = None
    """The environment variable with the key that clients must send. Without it, everyone who gets here may ask."""
    allow_host: Annotated[tuple[str, ...], Parameter(negative_iterable=())] = ()
    """More names this server may be called by (the Host header), such as a proxy's. On localhost its own names and
    these are the only ones, which keeps other sites' pages out."""
    batch: PositiveInt = 16
    """Texts that a model writes at once; further requests wait."""
    queue: NonNegativeInt = 64
    """Prompts that may wait for a model; beyond, requests are refused (429)."""
    max_tokens: PositiveInt | None = None
    """Tokens a request may ask for, per text. Default: as many as the model's context holds."""
    max_body: PositiveInt = 1 << 20
    """Bytes of a request (413)."""
    timeout: Seconds = 600.0
    """Seconds after which a request is given up, waiting included (408)."""
    grace: Seconds = 30.0
    """Seconds that texts under way may take to end when the server is told to stop; what waits is refused (503)."""

    @property
    def local(self) -> bool:
        """Only this machine reaches the server."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
