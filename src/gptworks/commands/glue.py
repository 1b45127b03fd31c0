"""`gptworks glue`: from checkpoints and models to a campaign's folder, and from there to a submission and plots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from gptworks.commands.cli_checks import needed
from gptworks.commands.exit_status import between_runs
from gptworks.commands.training import RecipeFile, Resume, exit_if_stopped
from gptworks.errors import ConfigError
from gptworks.recipe import DeviceOption, GlueOptions, LoraOptions

app = App(
    name="glue",
    help="Fine-tune models on GLUE's nine tasks; submit and plot the results.",
    help_format="markdown",
)

Folder = Annotated[Path, Parameter(help="A campaign: the folder that `gptworks glue` created.")]


@app.default
def glue(
    recipe: RecipeFile = None,
    /,
    *,
    resume: Resume = False,
    device: DeviceOption = "auto",
    glue: Annotated[GlueOptions, Parameter(name="*")] = GlueOptions(),  # noqa: B008 - frozen
    lora: LoraOptions = LoraOptions(),  # noqa: B008
    given: Annotated[frozenset[str], Parameter(parse=False)] = frozenset(),
) -> None:
    """Fine-tune checkpoints of a run, or models, on GLUE's nine tasks, and print a table of the scores.

    --resume continues a campaign. Several processes started with --resume share its cells.
    """
    needed("glue", "--out CAMPAIGN", glue.out)
    assert glue.out is not None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "glue does not run under torchrun: start it once per GPU with --resume; they share the cells"
        )
    from gptworks.commands.campaign import Campaign
    from gptworks.devices import set_onednn_cache
    from gptworks.glue import subjects, table, tasks
    from gptworks.glue.data import GlueSource
    from gptworks.glue.plan import CampaignPlan
    from gptworks.processes import world
    from gptworks.train.guard import exit_on_signal

    set_onednn_cache(16)
    chosen = tasks.choose(glue.tasks)
    plan = CampaignPlan(glue, lora, _tables(recipe, glue, given))
    plan.check()
    grid = plan.grid(subjects.chosen(glue), chosen)
    if glue.checkpoints == "all" and glue.run:
        _warn_without_marked(glue.run)
    campaign = Campaign(glue.out, plan, GlueSource(glue.data, glue.out / "data", glue.official_rows), grid)
    with exit_on_signal(between_runs), world(device_name=device) as w:
        campaign.check(resume=resume)
        campaign.begin(w, resume=resume)
        reason = campaign.go(w)
    print(table.write(glue.out), end="")
    exit_if_stopped(reason)


def _tables(recipe: Path | None, options: GlueOptions, given: frozenset[str]) -> dict[str, Any]:
    """The tables of `[glue]` with only what was set: in the recipe, or else in the campaign's own, and by flags."""
    from gptworks import packaged, recipefile
    from gptworks.glue import plan, records

    assert options.out is not None
    tables = {}
    if recipe is not None:
        tables = recipefile.tables(packaged.find(str(recipe)))
    elif records.is_campaign(options.out):
        tables = records.read_recipe(options.out)
    flags = recipefile.pick(recipefile.as_tables(options), given)
    run = {"run": str(options.run)} if options.run else {}  # may come from the recipe's `out`
    return plan.with_flags(tables.get("glue", {}), flags) | run


def _warn_without_marked(run: Path) -> None:
    from gptworks.reports import terminal
    from gptworks.runs import Run

    if not any(checkpoint.kept for checkpoint in Run(run).checkpoints()):
        terminal.say(
            f"{run} only has the checkpoints that save.keep left; pretrain with --save.every-epochs 0.5 to keep one "
            "every half epoch"
        )


@app.command
def submit(
    campaign: Folder,
    /,
    *,
    out: Annotated[Path, Parameter(help="The zip to write.")],
    subject: Annotated[
        str | None, Parameter(help="Model of the campaign. Default: the checkpoint pretrained longest.")
    ] = None,
    fill_majority: Annotated[
        bool,
        Parameter(negative=(), help="Fill missing tasks with their most frequent class, with a warning."),
    ] = False,
) -> None:
    """Write a campaign's predictions as the zip that GLUE's server accepts."""
    from gptworks.glue import records, submission, table
    from gptworks.reports import terminal

    written = submission.write(campaign, out, subject=subject, fill_majority=fill_majority)
    if written.filled:
        terminal.say(submission.warning(written.filled))
    results = records.results(campaign)
    if reduced := table.reduced(
        result for (name, _), result in results.items() if name == written.subject.name
    ):
        terminal.say(reduced)
    print(f"{written.file}: eleven files with the predictions of {written.subject.name}")


@app.command
def check(file: Annotated[Path, Parameter(help="A submission.")], /) -> None:
    """Check a submission line by line, and print its problems; exit status 2 if there are any."""
    from gptworks.glue import check

    problems = check.check(file)
    for problem in problems:
        print(problem)
    if problems:
        raise SystemExit(2)
    print(f"{file}: a valid submission for GLUE's server")


@app.command
def plot(
    campaign: Folder, /, *others: Annotated[Path, Parameter(help="More campaigns for the same plots.")]
) -> None:
    """Plot a campaign's scores as PNG and SVG files in its plots/ folder."""
    from gptworks.glue import plots

    for file in plots.plot(campaign, *others):
        print(file)


@app.command
def compare(campaign: Folder, /) -> None:
    """Compare a campaign with GluePT's thesis: each model, the matching row of the thesis, and the difference."""
    from gptworks.glue import comparison

    print(comparison.table(campaign))
