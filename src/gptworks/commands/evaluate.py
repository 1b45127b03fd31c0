"""`gptworks evaluate MODEL [MODEL...]`: scores that say what they are, kept with the run."""

from __future__ import annotations

import functools
import json as jsons
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks.errors import ConfigError
from gptworks.recipe import EvalOptions, EvaluateOptions, PerplexityOptions

if TYPE_CHECKING:
    from gptworks.evaluate.comparison import Scored
    from gptworks.evaluate.subjects import Measured
    from gptworks.evaluate.suite import Found, Wanted
    from gptworks.evaluate.training import Step, TaskScores, Work
    from gptworks.model.build import Model
    from gptworks.text.tokenizer import Tokenizer
    from gptworks.world import World


def evaluate(
    models: Annotated[
        tuple[str, ...],
        Parameter(name="MODEL", help="Runs, RUN@best, model folders or Hub ids; first a recipe, if any."),
    ],
    /,
    *,
    evaluate: Annotated[EvaluateOptions, Parameter(name="*")] = EvaluateOptions(),  # noqa: B008 - frozen
    perplexity: PerplexityOptions = PerplexityOptions(),  # noqa: B008
    compare: Annotated[
        bool, Parameter(negative=(), help="Test the other models against the first, on the same examples.")
    ] = False,
    out: Annotated[
        Path | None, Parameter(help="Also add the rows to this JSON file. A run keeps its own anyway.")
    ] = None,
    json: Annotated[
        bool, Parameter(negative=(), help="Print the rows, and what --compare found, as JSON.")
    ] = False,
) -> None:
    """Measure finished models: perplexity, multiple choice, LAMBADA, and lm-evaluation-harness's tasks."""
    models = models[1:] if models[0].endswith(".toml") else models
    if not models or not evaluate.tasks:
        raise ConfigError(f"evaluate needs {'a MODEL' if not models else '--tasks TASK...'}")
    if compare and len(models) < 2:
        raise ConfigError("--compare needs two models or more")
    from gptworks.evaluate import comparison, results, subjects, suite
    from gptworks.report import terminal

    wanted = [suite.parse(spec) for spec in evaluate.tasks]
    found = [subjects.find(spec) for spec in models]
    if compare:
        comparison.refuse_per_token({one.spec: one.tokenizer.fingerprint for one in found}, evaluate.tasks)
    if out is not None and out.exists():
        results.read(out)  # what cannot be added to is said now, not after the work
    steps = [work.step for one in wanted for work in works(one, evaluate, perplexity)]
    scored: dict[str, list[Scored]] = {}
    for one in found:
        scored[one.spec] = []
        for pairs in _measure(one, steps, evaluate):
            scored[one.spec] += pairs
            measured = [dict(row) for _, row in pairs]
            _keep(measured, one.results, out)
            for row in measured if not json and len(found) * len(steps) > 1 else ():
                terminal.say(f"{one.spec}: {results.describe(row)}")
    first, *others = scored.values()
    differences = [row for other in others for row in comparison.compare(first, other)] if compare else []
    rows: dict[str, list[dict[str, Any]]] = {
        spec: [dict(row) for _, row in pairs] for spec, pairs in scored.items()
    }
    if json:
        every = [row for mine in rows.values() for row in mine]
        print(jsons.dumps({"rows": every, "differences": differences}, indent=1))
    elif evaluate.table == "gpt-alpha":
        _print_ten(rows, [file for file in (out, *(one.results for one in found)) if file])
    else:
        _print(rows, differences)


def works(
    wanted: Wanted, options: EvaluateOptions, perplexity: PerplexityOptions, rank: int = 0, size: int = 1
) -> list[Work]:
    """What to do with each model; everything that can be wrong without one is found here."""
    from gptworks.evaluate import suite
    from gptworks.evaluate.training import Work

    if wanted.task != "harness":
        part = suite.load(wanted, options, perplexity).share(rank, size)
        measure = functools.partial(part.measure, batch_tokens=options.batch_tokens)
        return [Work(measure, part.asked, shared=isinstance(part, suite.Quiz))]
    try:
        from gptworks.evaluate import harness
    except ImportError:
        raise ConfigError("harness: needs lm-evaluation-harness: pip install 'gptworks[eval]'") from None
    plans = harness.plans(wanted.source, options.shots)
    known = harness.manager([name for plan in plans for name in plan.tasks], options.include)

    def work(plan: harness.Plan) -> Work:
        def step(model: Model, tokenizer: Tokenizer) -> Found:
            live = harness.LiveModel(model, tokenizer, options.batch_tokens)
            return harness.measure(live, plan, known, options.limit)

        return Work(step, lambda context, tokenizer: None, shared=False)  # noqa: ARG005

    return [work(plan) for plan in plans]


def _measure(one: Measured, steps: list[Step], options: EvaluateOptions) -> Iterator[list[Scored]]:
    """A model's scores, task by task."""
    from gptworks.evaluate import results
    from gptworks.world import default_device, tune_allocator

    tune_allocator()
    model, subject = one.load(options.precision, default_device()), one.subject(options.precision)
    for step in steps:
        found = step(model, one.tokenizer)
        yield [(score, results.row(score, material, subject)) for score, material in found]


def _keep(rows: list[dict[str, Any]], folder: Path | None, out: Path | None) -> None:
    """Add rows to the run's files, one a task, and to --out."""
    from gptworks.evaluate import results

    for task in dict.fromkeys(row["task"] for row in rows) if folder else ():
        assert folder is not None
        file = folder / f"{re.sub(r'[^a-z0-9_]+', '-', task.lower())}.json"
        results.keep(file, [row for row in rows if row["task"] == task])
    if out is not None:
        results.keep(out, rows)


def _print(rows: dict[str, list[dict[str, Any]]], differences: list[dict[str, Any]]) -> None:
    from gptworks.evaluate import comparison, results

    for spec, mine in rows.items():
        print((f"{spec}\n" if len(rows) > 1 else "") + results.table(mine))
    if differences:
        print(comparison.table(differences))


def _print_ten(rows: dict[str, list[dict[str, Any]]], places: list[Path]) -> None:
    """GPT-alpha's table, also saved beside the rows."""
    from gptworks.evaluate import gpt_alpha

    text = gpt_alpha.table(rows)
    print(text)
    for place in places:
        file = place / "gpt-alpha.md" if place.suffix != ".json" else place.with_suffix(".md")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")


def while_training(
    options: EvalOptions, context: int, tokenizer: Tokenizer, world: World
) -> TaskScores | None:
    """What eval.tasks names, loaded now; what cannot be asked of the model is refused now as well."""
    from gptworks.evaluate import suite
    from gptworks.evaluate.training import TaskScores

    if not options.tasks:
        return None
    found = []
    for spec in options.tasks:
        limited = EvaluateOptions(limit=options.task_limit)
        found += works(suite.parse(spec), limited, PerplexityOptions(), world.rank, world.size)
    for one in found:
        one.check(context, tokenizer)
    return TaskScores(found, tokenizer, world)
