"""`gptworks recipes`: list the packaged recipes, print one, or rewrite one of version 0.1."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from gptworks.errors import ConfigError

app = App(
    name="recipes",
    help="List the recipes that come with gptworks, show one, or upgrade an old file.",
    help_format="markdown",
)


@app.default
def recipes() -> None:
    """List the recipes that come with gptworks. Their names work wherever a recipe is expected."""
    from gptworks import packaged

    width = max(map(len, packaged.names()))
    for name in packaged.names():
        print(f"{name:{width}}  {packaged.summary(name)}")


@app.command
def show(name: Annotated[str, Parameter(help="Name of a packaged recipe, or a TOML file.")], /) -> None:
    """Print a recipe, for example to start your own: `gptworks recipes show quickstart > mine.toml`."""
    from gptworks import packaged

    print(packaged.find(name).read_text(encoding="utf-8"), end="")


@app.command
def upgrade(
    file: Annotated[Path, Parameter(name="OLD.toml", help="Recipe with option names of version 0.1.")],
    /,
    *,
    out: Annotated[
        Path | None, Parameter(help="File to write; may be OLD.toml itself. Default: standard output.")
    ] = None,
) -> None:
    """Print a recipe of version 0.1 with the option names of today. Comments and order stay as they are."""
    from gptworks import files, renames

    if out is not None and out.exists() and out.resolve() != file.resolve():
        raise ConfigError(f"{out} already exists; give another --out")
    try:
        text = renames.upgrade(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    if out is None:
        print(text, end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(out, text)
    print(f"wrote {out}")
