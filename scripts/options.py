"""Generate docs/options.md from recipe.py: python scripts/options.py."""

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
    """The page, with one table per table of a recipe."""
    page = [
        "# Options",
        "",
        "This page is generated from `src/gptworks/recipe.py`. Every option is a key of a recipe and a flag with the",
        "same dotted name: `lr` under `[optim]` is `--optim.lr`. A command's own table needs no prefix, as in",
        "`prepare --sources`, `finetune classify --label` or `evaluate --tasks`. If a default is empty, it depends on",
        "the command, the data or the machine, and the description says how.",
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
    """A heading, the purpose of the table, and one row per option."""
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
    """A default value, roughly as in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    return repr(value).replace("'", '"')


def kind(hint: Any) -> str:
    """The allowed values of a type, in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        return " or ".join(kind(part) for part in inner if part is not types.NoneType)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {kind(inner[0])}" if inner[-1] is Ellipsis else f"{len(inner)} x {kind(inner[0])}"
    return {int: "integer", float: "number", bool: "true, false", str: "text", Path: "path"}.get(
        hint, str(hint)
    )


def field_docs(cls: Any) -> dict[str, str]:
    """The docstring below each field, which Python does not keep at run time."""
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
