"""Recipes that come with gptworks, found by name: `gptworks pretrain tiny-shakespeare`."""

from pathlib import Path

from gptworks.errors import ConfigError
from gptworks.messages import nearest

FOLDER = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """The names of the packaged recipes, in order."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def summary(name: str) -> str:
    """The first line of a packaged recipe: what it is for."""
    with (FOLDER / f"{name}.toml").open(encoding="utf-8") as lines:
        return next(lines).removeprefix("#").strip()


def find(recipe: str | Path) -> Path:
    """The file of a recipe: a file that exists, or else the packaged recipe of that name, with or without .toml.

    Raises:
        ConfigError: there is neither. The message has the nearest packaged name.
    """
    path, name = Path(recipe), str(recipe).removesuffix(".toml")
    if path.is_file():
        return path
    if name in names():
        return FOLDER / f"{name}.toml"
    if path.exists() or path.suffix not in {"", ".toml"}:
        return path  # a folder or another program's file: the reader says what to do with it
    raise ConfigError(
        f"there is no recipe {recipe}{nearest(Path(name).name, names())}; "
        "`gptworks recipes` lists those that come with gptworks"
    )
