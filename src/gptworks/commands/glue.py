"""`gptworks glue`: checkpoints and models in, a campaign's folder out; and what becomes of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from gptworks.commands.given import needed
from gptworks.commands.leaving import between_runs
from gptworks.commands.start import RecipeFile, Resume, finish
from gptworks.errors import ConfigError
from gptworks.recipe import GlueOptions, LoraOptions

app = App(
    name="glue",
    help="Fine-tune models on GLUE's nine tasks; submit and draw what came out.",
    help_format="markdown",
)

Folder = Annotated[Path, Parameter(help="What `gptworks glue` made.")]


@app.default
def glue(
    recipe: RecipeFile = None,  # noqa: ARG001 - read by cli
    /,
    *,
    resume: Resume = False,
    glue: Annotated[GlueOptions, Parameter(name="*")] = GlueOptions(),  # noqa: B008 - frozen
    lora: LoraOptions = LoraOptions(),  # noqa: B008
) -> None:
    """Fine-tune checkpoints of a run, or models, on GLUE's nine tasks: a table that fills as it goes.

    Started again with --resume it goes on; started several times with --resume, the processes share the cells.
    """
    needed("glue", out_CAMPAIGN=glue.out)
    assert glue.out is not None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "glue is not for torchrun: start it once per GPU with --resume, and they share the cells"
        )
    from gptworks import runs
    from gptworks.commands.campaign import Campaign
    from gptworks.glue import subjects, table, tasks
    from gptworks.glue.data import Source
    from gptworks.glue.plan import Plan
    from gptworks.report import terminal
    from gptworks.train.guard import leaving_at_once
    from gptworks.world import keep_few_products, world

    keep_few_products(16)
    plan, chosen = Plan(glue, lora), tasks.choose(glue.tasks)
    source = Source(glue.data, glue.out / "data", glue.official_rows)
    grid = plan.grid(subjects.chosen(glue), chosen)
    if glue.checkpoints == "all" and glue.run and not any(one.kept for one in runs.checkpoints(glue.run)):
        terminal.say(
            f"{glue.run} has only those of its checkpoints that save.keep left: pretrain --save.every-epochs 0.5 marks "
            "one every half epoch to be kept"
        )
    campaign = Campaign(glue.out, plan, source, grid)
    with leaving_at_once(between_runs), world() as w:
        campaign.check(resume=resume)
        campaign.begin(w, resume=resume)
        reason = campaign.go(w)
    print(table.write(glue.out), end="")
    finish(reason)


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
        Parameter(
            negative=(), help="Fill tasks that were not run with their most frequent class, and say so."
        ),
    ] = False,
) -> None:
    """Write a campaign's predictions as the zip that GLUE's server takes."""
    from gptworks.glue import records, submission, table
    from gptworks.report import terminal

    made = submission.write(campaign, out, subject=subject, fill_majority=fill_majority)
    if made.filled:
        terminal.say(submission.warning(made.filled))
    done = records.results(campaign)
    if less := table.less(result for (name, _), result in done.items() if name == made.subject.name):
        terminal.say(less)
    print(f"{made.file}: eleven files, of {made.subject.name}")


@app.command
def check(file: Annotated[Path, Parameter(help="A submission.")], /) -> None:
    """Say what is wrong with a submission, line by line; exit 2 if anything is."""
    from gptworks.glue import check

    wrong = check.check(file)
    for line in wrong:
        print(line)
    if wrong:
        raise SystemExit(2)
    print(f"{file}: a submission as GLUE's server wants it")


@app.command
def plot(
    campaign: Folder,
    /,
    *others: Annotated[Path, Parameter(help="More campaigns to draw beside it.")],
) -> None:
    """Draw what a campaign has measured, as PNG and SVG in its plots/."""
    from gptworks.glue import plots

    for file in plots.plot(campaign, *others):
        print(file)


@app.command
def compare(campaign: Folder, /) -> None:
    """Set what a campaign has measured beside GluePT's thesis: each model, the line it is like, the difference."""
    from gptworks.glue import comparison

    print(comparison.table(campaign))
