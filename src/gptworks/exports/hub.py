"""Push a folder to the Hugging Face Hub, and report its errors in one line.

Large files are sent by Xet, or by Git LFS if Xet is off. Files that have arrived are not sent again, so running the
same command resumes an interrupted push.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, get_token

from gptworks.errors import ConfigError
from gptworks.hub import TOKENS_URL
from gptworks.messages import shorten
from gptworks.model.find import HUB_ID

ATTEMPTS = 5
"""How often a failing request is made."""
PAUSE = 2.0
"""Seconds before the second attempt. The pause doubles each time, unless the Hub's Retry-After sets it."""
MAX_PAUSE = 300.0

LIBRARIES = ("huggingface_hub", "httpx", "httpcore", "requests", "urllib3", "hf_xet")
"""Packages with errors to report. The client passes on errors of its HTTP library, so no list of types is complete."""

T = TypeVar("T")


def token() -> str:
    """The user's Hub token, from HF_TOKEN or `hf auth login`.

    Raises:
        ConfigError: there is none.
    """
    value = get_token()
    if not value:
        raise ConfigError(
            f"push needs a Hugging Face Hub token with write access: create one at {TOKENS_URL} and set HF_TOKEN"
        )
    return value


def check(repo: str) -> None:
    """Refuse an invalid repository name.

    Raises:
        ConfigError: the name is not of the form you/name.
    """
    if not HUB_ID.fullmatch(repo) or repo.count("/") != 1:
        raise ConfigError(f"--repo {repo} is not a valid repository name; write you/name")


def push(folder: Path, repo: str, *, private: bool, message: str, report: Callable[[str], None]) -> str:
    """Create the repository if needed and commit a folder to it; returns the URL of the commit.

    Raises:
        ConfigError: the Hub refuses, stays too busy, or cannot be reached.
    """
    api = HfApi(token=token())
    _retry(lambda: api.create_repo(repo, private=private, exist_ok=True), repo, report)
    info = _retry(lambda: api.model_info(repo), repo, report)
    if private and info.private is False:
        raise ConfigError(
            f"{repo} already exists and is public: make it private in its settings on the Hub, or leave out --private"
        )
    if not private and info.private:
        report(f"{repo} is private and stays private")
    commit = _retry(
        lambda: api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message), repo, report
    )
    return str(commit.commit_url)


def _retry(request: Callable[[], T], repo: str, report: Callable[[str], None]) -> T:
    """Repeat a request if the Hub is busy or cannot be reached, or if there is a concurrent commit."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except Exception as error:
            if not (isinstance(error, OSError | ValueError) or type(error).__module__.startswith(LIBRARIES)):
                raise
            response = getattr(error, "response", None)
            if response is None and isinstance(error, ValueError):  # such as an unknown license
                raise ConfigError(f"the Hub refuses {repo}: {_last_line(error)}") from None
            status = None if response is None else response.status_code
            if status is not None and status not in {409, 429} and status < 500:
                raise ConfigError(_refusal(status, repo, error)) from None
            problem = f"answers {status}" if status else f"cannot be reached ({_last_line(error)})"
            if attempt == ATTEMPTS:
                raise ConfigError(
                    f"the Hub {problem} after {ATTEMPTS} attempts; uploaded files are kept, so push again later"
                ) from None
            seconds = _pause(None if response is None else response.headers.get("Retry-After"), attempt)
            report(f"the Hub {problem}; trying again in {seconds:.0f} s")
            time.sleep(seconds)
    raise AssertionError


def _pause(retry_after: str | None, attempt: int) -> float:
    try:
        return min(MAX_PAUSE, max(0.0, float(retry_after or "")))
    except ValueError:
        return PAUSE * 2 ** (attempt - 1)


def _refusal(status: int, repo: str, error: Exception) -> str:
    if status == 401:
        return f"the Hub does not accept this token: create another at {TOKENS_URL} and set HF_TOKEN"
    if status == 403:
        return f"the Hub does not let this token write to {repo}: give it write access at {TOKENS_URL}"
    return f"the Hub refuses {repo} ({status}): {_last_line(error)}"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shorten(lines[-1], 200) if lines else type(error).__name__
