"""Write docs/options.md from recipe.py: python scripts/options.py."""

import ast
import dataclasses
import inspect
import itertools
import re
import types
import typing
from pathlib import Path
from typing import Any

from gptworks import recipe

FILE = Path(__file__).parent.parent / "docs" / "options.md"


def table() -> str:
    """The page: a table for every table of a recipe."""
    page = [
        "# Options",
        "",
        "Made by `scripts/options.py` from `src/gptworks/recipe.py`. Each is a key of a recipe and a flag of the same",
        "dotted name: `lr` under `[optim]` is `--optim.lr`. (`prepare` and `tokenizer train` write the flags of",
        "their own table short: `--sources`, `--vocab-size`.) No default: settled when data and machine are known.",
        "",
        *rows(recipe.Recipe, "Top level"),
    ]
    for field in dataclasses.fields(recipe.Recipe):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            page += ["", *rows(field.type, f"[{field.name}]")]
    names = [
        field.name for field in dataclasses.fields(recipe.GlueOptions) if dataclasses.is_dataclass(field.type)
    ]
    page += ["", *rows(recipe.GlueTaskOptions, ", ".join(f"[glue.{name}]" for name in names))]
    return "\n".join(page) + "\n"


def rows(cls: Any, title: str) -> list[str]:
    """A heading, what the table is for, and a line a field."""
    docs, hints = field_docs(cls), typing.get_type_hints(cls)
    lines = [
        f"## {title}",
        "",
        inspect.cleandoc(cls.__doc__),
        "",
        "| name | what it does | values | default |",
        "|---|---|---|---|",
    ]
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            continue
        default = "" if field.default is None else f"`{shown(field.default)}`"
        lines.append(
            f"| `{field.name}` | {docs.get(field.name, '')} | {kind(hints[field.name])} | {default} |"
        )
    return lines


def shown(value: Any) -> str:
    """A default as TOML would have it, nearly."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    return repr(value).replace("'", '"')


def kind(hint: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        return " or ".join(kind(part) for part in inner if part is not types.NoneType)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {kind(inner[0])}" if inner[-1] is Ellipsis else f"{len(inner)} x {kind(inner[0])}"
    return {int: "whole number", float: "number", bool: "true, false", str: "text", Path: "path"}.get(
        hint, str(hint)
    )


def field_docs(cls: Any) -> dict[str, str]:
    """The docstring under each field, which Python drops at run time."""
    (body,) = [node.body for node in ast.parse(inspect.getsource(cls)).body if isinstance(node, ast.ClassDef)]
    docs = {}
    for node, after in itertools.pairwise(body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            name = node.target.id if isinstance(node.target, ast.Name) else ""
            docs[name] = re.sub(r"\s+", " ", str(after.value.value)).replace("|", "\\|")
    return docs


if __name__ == "__main__":
    FILE.write_text(table(), encoding="utf-8")
