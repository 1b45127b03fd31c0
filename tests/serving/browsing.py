"""A real browser for tests of the playground, where there is one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 360, "height": 740}


def executable() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"there is no browser: none of {', '.join(NAMES)} is on the path")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    path = executable()
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=path, args=list(FLAGS), env=dict(os.environ))
        try:
            yield browser
        finally:
            browser.close()


class Playground:
    """The page, opened, and what a person does on it."""

    def __init__(self, context: Any, url: str, fragment: str = "") -> None:
        self.url, self.complaints, self.asked = url, [], []
        self.page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request))
        self.page.goto(f"{url}/{fragment}")
        self.page.locator("#ask:not([hidden]), #key-form:not([hidden])").first.wait_for()

    def _note(self, message: Any) -> None:
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)  # a refused request is in the log of every browser

    def find(self, selector: str) -> Any:
        return self.page.locator(selector)

    def mode(self, name: str) -> None:
        self.find(f"#modes input[value={name}]").check()

    def set(self, name: str, value: float | str, lane: str = "a") -> None:
        """Move a setting's control, as a hand would: the settings are opened where they are folded away."""
        toggle = self.find(f"[aria-controls=panel-{lane}]")
        if toggle.is_visible() and toggle.get_attribute("aria-expanded") == "false":
            toggle.click()
        control = self.find(f"#setting-{lane}-{name}")
        if control.get_attribute("type") == "range":
            control.fill(str(value))
        elif control.evaluate("it => it.tagName") == "SELECT":
            control.select_option(str(value))
        else:
            control.fill(str(value))

    def run(self, prompt: str | None = None) -> None:
        if prompt is not None:
            self.find("#prompt").fill(prompt)
        self.find("#run").click()
        self.rest()

    def rest(self) -> None:
        """Until nothing is being written."""
        self.find("#run:not(.stop)").wait_for()

    def answer(self, lane: int = 0) -> str:
        """New text of the last answer of a side."""
        box = self.find(".lane").nth(lane).locator(".tokens").last
        return "".join(box.locator(".t:not(.given)").all_text_contents())

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """What was sent there."""
        return [request.post_data_json for request in self.asked if request.url.endswith(path)]
