"""`python`: the text of the installed Python, a corpus that every machine has.

The library's modules without tests, the language reference that `help()` shows, and the docstrings of everything built
in C. Docstrings of Python modules are part of the modules and not taken twice, so that no text is in both training and
validation. Order and content depend on the Python version only.
"""

import builtins
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gptworks.data.documents import Document

SKIPPED_FOLDERS = frozenset(
    [
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "lib-dynload",
        "encodings",
    ]
)
"""Tests, other people's packages, and `encodings`, which is tables."""

SKIPPED_FILES = ("topics.py", "_sysconfigdata")
"""Topics are documents of their own; the other file holds this machine's compiler flags."""


def modules() -> list[Path]:
    """The library's Python files, sorted by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in root.rglob("*.py") if _wanted(path.relative_to(root))]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _wanted(path: Path) -> bool:
    skipped = any(part in SKIPPED_FOLDERS or part.startswith("config-") for part in path.parts[:-1])
    return not skipped and not path.name.startswith(SKIPPED_FILES)


def reference() -> Iterator[Document]:
    """The language reference, one document per topic; then docstrings, one document per built-in module."""
    topics = importlib.import_module("pydoc_data.topics").topics
    texts = [topics[name] for name in sorted(topics)]
    texts += [
        _docstrings(name) for name in ("builtins", *sorted(sys.builtin_module_names)) if name != "__main__"
    ]
    for number, text in enumerate(filter(None, dict.fromkeys(texts)), start=1):
        yield Document(text, None, number)


def _docstrings(module_name: str) -> str:
    """The docstrings of a module built in C and of its functions and classes."""
    if module_name != "builtins" and module_name.startswith("_"):
        return ""
    module = builtins if module_name == "builtins" else importlib.import_module(module_name)
    entries = [inspect.getdoc(module) or ""]
    for name in sorted(vars(module)):
        value = getattr(module, name)
        if not name.startswith("_") and callable(value) and (text := inspect.getdoc(value)):
            entries.append(f"{module_name}.{name}\n{text}")
    return "\n\n".join(filter(None, entries))
