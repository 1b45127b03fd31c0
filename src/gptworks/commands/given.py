"""What a verb that trains is given on its command line, looked at before anything is begun."""

from __future__ import annotations

import tomllib
from pathlib import Path

from gptworks.errors import ConfigError


def needed(verb: str, *, resume: bool = False, **given: object) -> None:
    """Refuse to begin without what a verb cannot do without: {"data DATASET": its value}.

    Raises:
        ConfigError: naming the first that is missing; or what is the matter with the run whose recipe says it.
    """
    out = given.get("out_RUN")
    for name, value in given.items():
        option, _, kind = name.partition("_")
        if value is None:
            _recorded(out, resume=resume)
            raise ConfigError(f"{verb} needs --{option} {kind}, as a flag or in the recipe")
        if option == "data" and isinstance(value, Path) and isinstance(out, Path) and resume:
            _in_reach(value, out)


def _recorded(out: object, *, resume: bool) -> None:
    """Refuse to go on with a run that is not there, or to begin one where there is one.

    Raises:
        ConfigError: naming the nearest, or the option that goes on.
    """
    from gptworks import runs
    from gptworks.model.find import near

    if not isinstance(out, Path):
        return
    if resume and not (out / "recipe.toml").is_file():
        raise ConfigError(f"there is no run {out} to go on with{near(out)}")
    if not resume and runs.checkpoints(out):
        raise ConfigError(already_held(out))


def already_held(run: Path) -> str:
    """What to say where a run is to begin, and one is there."""
    return f"{run} already holds a run; add --resume to go on with it, or give another --out"


def _in_reach(data: Path, out: Path) -> None:
    """Refuse a folder that the run's recipe names as it was typed, by a person who stood elsewhere.

    Raises:
        ConfigError: it is not to be found from here.
    """
    try:
        recorded = tomllib.loads((out / "recipe.toml").read_text(encoding="utf-8")).get("data")
    except (OSError, ValueError):
        return
    typed = str(data)
    if recorded == typed and not typed.startswith(("hf:", "/")) and not data.exists():
        raise ConfigError(
            f"there is no {data} in {Path.cwd()}: the recipe of {out} names it as it was typed elsewhere; "
            "--data gives its place now"
        )
