"""Checks of a training command's options before anything starts."""

from __future__ import annotations

import tomllib
from pathlib import Path

from gptworks.errors import ConfigError
from gptworks.recipe import Recipe
from gptworks.runs import Run


def check_given(verb: str, recipe: Recipe, *, resume: bool) -> None:
    """Refuse to start without what training needs: a model for fine-tuning, data, and a run folder.

    Raises:
        ConfigError: names the first that is missing, or what is wrong with the run to resume.
    """
    model = {} if verb == "pretrain" else {"--model MODEL": recipe.base}
    data = "--data DATASET" if verb == "pretrain" else "--data FILE"
    for option, value in (model | {data: recipe.data, "--out RUN": recipe.out}).items():
        if value is None:
            if recipe.out is not None:
                _check_run(recipe.run, resume=resume)
            needed(verb, option, value)
    if resume and recipe.data is not None:
        _check_reachable(recipe.data, recipe.run)


def needed(verb: str, option: str, value: object) -> None:
    """Refuse to start without an option.

    Raises:
        ConfigError: the value is None.
    """
    if value is None:
        raise ConfigError(f"{verb} needs {option}, as a flag or in the recipe")


def _check_run(run: Run, *, resume: bool) -> None:
    """Refuse to resume a run that does not exist, or to start one where there is one.

    Raises:
        ConfigError: names the nearest run, or the option that resumes.
    """
    from gptworks.model.find import nearest_models

    if resume and not (run / "recipe.toml").is_file():
        raise ConfigError(f"there is no run {run} to resume{nearest_models(run.path)}")
    if not resume and run.checkpoints():
        raise ConfigError(already_held(run))


def already_held(run: Run) -> str:
    """The message for a new run where one exists."""
    return f"{run} already holds a run; add --resume to continue it, or choose another --out"


def _check_reachable(data: Path, run: Run) -> None:
    """Refuse a relative path that the run's recipe recorded in another working directory.

    Raises:
        ConfigError: it does not exist from here.
    """
    try:
        recorded = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8")).get("data")
    except (OSError, ValueError):
        return
    typed = str(data)
    if recorded == typed and not typed.startswith(("hf:", "/")) and not data.exists():
        raise ConfigError(
            f"{data} does not exist in {Path.cwd()}: the recipe of {run} recorded it in another working directory; "
            "--data gives its new place"
        )
