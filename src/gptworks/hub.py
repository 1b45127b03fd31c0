"""Turn errors from the Hugging Face Hub into one line that says what to do.

The Hub's libraries raise their own error types, wrap each other's, and change both between versions. So an error is
recognized by the type names, messages and HTTP status along its chain of causes.
"""

from collections.abc import Iterator
from typing import Any, Literal

from gptworks.messages import first_line

TOKENS_URL = "https://huggingface.co/settings/tokens"

UNREACHABLE = {
    "CloseError", "ConnectError", "ConnectTimeout", "ConnectionError", "LocalEntryNotFoundError", "NetworkError",
    "OfflineModeIsEnabled", "PoolTimeout", "ReadError", "ReadTimeout", "RemoteProtocolError", "ServerDisconnectedError",
    "Timeout", "TimeoutError", "WriteTimeout",
}  # fmt: skip
"""Error types of httpx, requests, aiohttp and huggingface_hub for a server that does not answer completely."""


def explain_error(error: BaseException, name: str, kind: Literal["dataset", "model"]) -> str:
    """Explain an error about repository `name` in one line that ends with what to do."""
    chain = list(_chain(error))
    types = {type(cause).__name__ for cause in chain}
    text = " ".join(" ".join(str(cause) for cause in chain).split())
    status = next(filter(None, map(_status, chain)), None)
    if "GatedRepoError" in types or "is a gated dataset" in text:
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
        return f"access to it is gated: accept its terms at {page}, then set HF_TOKEN (create one at {TOKENS_URL})"
    if "Invalid credentials" in text:
        return f"the Hub does not accept this token: create another at {TOKENS_URL} and set HF_TOKEN, or unset it"
    if "RevisionNotFoundError" in types or (text.startswith("Revision ") and "doesn't exist" in text):
        return "there is no such revision of it; leave out @REVISION for the newest"
    if types & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return f"there is no such {kind} on the Hugging Face Hub: check OWNER/NAME; if it is private, set HF_TOKEN"
    if "Dataset scripts are no longer supported" in text:
        return f"it is a script, which gptworks does not run; try the Hub's own copy: hf:{name}@refs/convert/parquet"
    if "available configs:" in text:
        configs = text.partition("available configs:")[2].partition("]")[0].strip()
        return f"it has several configurations; name one as hf:{name}:CONFIG, out of {configs}]"
    return _explain_status(status) or _explain_unreachable(chain, types) or first_line(error)


def _explain_status(status: int | None) -> str:
    if status == 403:
        return f"the Hub does not let this token read it (403): give the token read access at {TOKENS_URL}"
    if status == 429:
        return (
            "the Hub has received too many requests from this address (429): wait a few minutes and run the same "
            "command again; with HF_TOKEN set, the limit is higher"
        )
    if status is not None and status >= 500:
        return f"the Hub has a server error ({status}): run the same command again later"
    return ""


def _explain_unreachable(chain: list[BaseException], types: set[str]) -> str:
    if not types & UNREACHABLE and not any(
        isinstance(cause, ConnectionError | TimeoutError) for cause in chain
    ):
        return ""
    reason = first_line(chain[-1])
    return f"the Hub cannot be reached ({reason}): check the connection and run the same command again"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes; stops at a cycle."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _status(error: Any) -> int | None:
    """The HTTP status in an error of huggingface_hub, httpx or aiohttp."""
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "status", None))
    return status if isinstance(status, int) else None
