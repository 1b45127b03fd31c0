"""`python`: the text of the installed Python, a corpus that is on every machine.

The library's modules without tests, the language reference that `help()` shows, and the docstrings of what is
built in C, which stand in no module. Docstrings of modules are in the modules and not taken twice, so that no
text is in training and validation at once. Order and content depend on the Python version only.
"""

import builtins
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gptworks.data.records import Document

SKIPPED_FOLDERS = frozenset(
    {
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "lib-dynload",
        "encodings",
    }
)
"""Tests; what is not Python's own; and encodings, which is tables."""

SKIPPED_FILES = ("topics.py", "_sysconfigdata")
"""Topics come as documents of their own; the other is this machine's compiler flags."""


def modules() -> list[Path]:
    """The library's Python files, in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in root.rglob("*.py") if _wanted(path.relative_to(root))]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _wanted(path: Path) -> bool:
    skipped = any(part in SKIPPED_FOLDERS or part.startswith("config-") for part in path.parts[:-1])
    return not skipped and not path.name.startswith(SKIPPED_FILES)


def reference() -> Iterator[Document]:
    """The language reference, a document a topic; then docstrings, a document a built-in module."""
    topics = importlib.import_module("pydoc_data.topics").topics
    texts = [topics[name] for name in sorted(topics)]
    texts += [
        _docstrings(name) for name in ("builtins", *sorted(sys.builtin_module_names)) if name != "__main__"
    ]
    for number, text in enumerate(filter(None, dict.fromkeys(texts)), start=1):
        yield Document(text, None, number)


def _docstrings(module_name: str) -> str:
    """What a module built in C says about itself and what it holds."""
    if module_name != "builtins" and module_name.startswith("_"):
        return ""
    module = builtins if module_name == "builtins" else importlib.import_module(module_name)
    entries = [inspect.getdoc(module) or ""]
    for name in sorted(vars(module)):
        thing = getattr(module, name)
        if not name.startswith("_") and callable(thing) and (text := inspect.getdoc(thing)):
            entries.append(f"{module_name}.{name}\n{text}")
    return "\n\n".join(filter(None, entries))
