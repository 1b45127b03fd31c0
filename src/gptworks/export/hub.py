"""A folder onto the Hugging Face Hub, and what goes wrong there said in one line.

Large files go by Xet, or Git LFS where that is off; what arrived is not sent again, so a push that was interrupted is
gone on with by giving the same command.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, get_token

from gptworks.errors import ConfigError
from gptworks.model.find import HUB_ID
from gptworks.wording import beginning

TRIES = 5
"""How often a request is made that the Hub is too busy for."""
PAUSE = 2.0
"""Seconds before the second try; each further one waits twice as long, or as long as the Hub says."""
LONGEST = 300.0

LIBRARIES = ("huggingface_hub", "httpx", "httpcore", "requests", "urllib3", "hf_xet")
"""Each version of the client lets its own HTTP library's errors through, so no list of types is complete."""

T = TypeVar("T")


def token() -> str:
    """The person's key to the Hub: HF_TOKEN's, or that of `hf auth login`.

    Raises:
        ConfigError: there is none.
    """
    found = get_token()
    if not found:
        raise ConfigError(
            "push needs a token of the Hugging Face Hub that may write: make one at "
            "https://huggingface.co/settings/tokens and set HF_TOKEN"
        )
    return found


def check(repo: str) -> None:
    """Refuse a name that no repository can have.

    Raises:
        ConfigError: with the way to write it.
    """
    if not HUB_ID.fullmatch(repo) or repo.count("/") != 1:
        raise ConfigError(f"--repo {repo} is no repository's name; write you/name")


def push(folder: Path, repo: str, *, private: bool, message: str, say: Callable[[str], None]) -> str:
    """Make the repository if it is not there, and commit a folder to it; returns the address of the commit.

    Raises:
        ConfigError: the Hub refuses, is too busy for too long, or cannot be reached.
    """
    api = HfApi(token=token())
    _insist(lambda: api.create_repo(repo, private=private, exist_ok=True), repo, say)
    info = _insist(lambda: api.model_info(repo), repo, say)
    if private and info.private is False:
        raise ConfigError(
            f"{repo} is there already and public: make it private in its settings on the Hub, or leave out --private"
        )
    if not private and info.private:
        say(f"{repo} is private and stays so")
    commit = _insist(
        lambda: api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message), repo, say
    )
    return str(commit.commit_url)


def _insist(ask: Callable[[], T], repo: str, say: Callable[[str], None]) -> T:
    """Ask again where the Hub is busy, or somebody else was faster."""
    for tried in range(1, TRIES + 1):
        try:
            return ask()
        except Exception as error:
            if not (isinstance(error, OSError | ValueError) or type(error).__module__.startswith(LIBRARIES)):
                raise
            response = getattr(error, "response", None)
            if response is None and isinstance(error, ValueError):  # such as a license that it does not know
                raise ConfigError(f"the Hub refuses {repo}: {_first_line(error)}") from None
            status = None if response is None else response.status_code
            if status is not None and status not in {409, 429} and status < 500:
                raise ConfigError(_refusal(status, repo, error)) from None
            why = f"answers {status}" if status else f"cannot be reached ({_first_line(error)})"
            if tried == TRIES:
                raise ConfigError(
                    f"the Hub {why}, {TRIES} times over; what arrived stays there: push again later"
                ) from None
            wait = _wait(None if response is None else response.headers.get("Retry-After"), tried)
            say(f"the Hub {why}; trying again in {wait:.0f} s")
            time.sleep(wait)
    raise AssertionError


def _wait(asked: str | None, tried: int) -> float:
    try:
        return min(LONGEST, max(0.0, float(asked or "")))
    except ValueError:
        return PAUSE * 2 ** (tried - 1)


def _refusal(status: int, repo: str, error: Exception) -> str:
    if status == 401:
        return "the Hub does not accept this token: make another at https://huggingface.co/settings/tokens (HF_TOKEN)"
    if status == 403:
        return f"the Hub does not let this token write to {repo}: it needs the right to, for that name"
    return f"the Hub refuses {repo} ({status}): {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return beginning(lines[-1], 200) if lines else type(error).__name__
