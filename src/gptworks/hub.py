"""What the Hugging Face Hub's refusals mean, and what a person can do about them.

Its libraries raise their own types, wrap each other's, and change both from version to version; so an error is known by
the names and the HTTP status found along its causes.
"""

from collections.abc import Iterator
from typing import Any, Literal

from gptworks.wording import first_line

TOKENS = "https://huggingface.co/settings/tokens"

AWAY = {
    "CloseError", "ConnectError", "ConnectTimeout", "ConnectionError", "LocalEntryNotFoundError", "NetworkError",
    "OfflineModeIsEnabled", "PoolTimeout", "ReadError", "ReadTimeout", "RemoteProtocolError", "ServerDisconnectedError",
    "Timeout", "TimeoutError", "WriteTimeout",
}  # fmt: skip
"""Of httpx, requests, aiohttp and the Hub's own: nobody answered, or not to the end."""


def meaning(error: BaseException, name: str, kind: Literal["dataset", "model"]) -> str:
    """What an error says of repository `name`, in a line that ends with what to do."""
    chain = list(_chain(error))
    types = {type(one).__name__ for one in chain}
    said = " ".join(" ".join(str(one) for one in chain).split())
    status = next(filter(None, map(_status, chain)), None)
    if "GatedRepoError" in types or "is a gated dataset" in said:
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
        return f"it is gated: accept its terms at {page}, then set HF_TOKEN (a token is made at {TOKENS})"
    if "Invalid credentials" in said:
        return f"the Hub does not accept this token: make another at {TOKENS} and set HF_TOKEN, or set none"
    if "RevisionNotFoundError" in types or (said.startswith("Revision ") and "doesn't exist" in said):
        return "there is no such revision of it; without @REVISION the newest is taken"
    if types & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return f"there is no such {kind} on the Hugging Face Hub: check OWNER/NAME; if it is private, set HF_TOKEN"
    if "Dataset scripts are no longer supported" in said:
        return f"it is a program, which is not run; the Hub's own copy may do: hf:{name}@refs/convert/parquet"
    if "available configs:" in said:
        configs = said.partition("available configs:")[2].partition("]")[0]
        return f"it has several configurations, so name one, hf:{name}:CONFIG, of{configs}]"
    return _by_status(status) or _away(chain, types) or first_line(error)


def _by_status(status: int | None) -> str:
    if status == 403:
        return f"the Hub does not let this token read it (403): give the token the right to at {TOKENS}"
    if status == 429:
        return (
            "the Hub has had too many requests from here (429): wait some minutes and give the same command again; "
            "with HF_TOKEN set it allows more"
        )
    if status is not None and status >= 500:
        return f"the Hub is out of order ({status}): give the same command again later"
    return ""


def _away(chain: list[BaseException], types: set[str]) -> str:
    if not types & AWAY and not any(isinstance(one, ConnectionError | TimeoutError) for one in chain):
        return ""
    reason = first_line(chain[-1])
    return f"the Hub cannot be reached ({reason}): look at the connection, and give the same command again"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, until nothing is new."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _status(error: Any) -> int | None:
    """The HTTP status in an error of huggingface_hub and httpx, or of aiohttp."""
    found = getattr(getattr(error, "response", None), "status_code", getattr(error, "status", None))
    return found if isinstance(found, int) else None
