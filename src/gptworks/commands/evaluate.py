"""`gptworks evaluate MODEL [MODEL...]`: scores with their definitions, saved with the run."""

from __future__ import annotations

import functools
import json as jsons
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks import results
from gptworks.errors import ConfigError
from gptworks.recipe import DeviceOption, EvalOptions, EvaluateOptions, PerplexityOptions
from gptworks.results import Result

if TYPE_CHECKING:
    import torch

    from gptworks.evaluation.comparison import Scored
    from gptworks.evaluation.models import EvalModel
    from gptworks.evaluation.scores import Measurement
    from gptworks.evaluation.suite import TaskSpec
    from gptworks.evaluation.training import Measure, TaskEvaluator, TrainingEval
    from gptworks.model.build import Model
    from gptworks.processes import World
    from gptworks.text.tokenizer import Tokenizer


def evaluate(
    models: Annotated[
        tuple[str, ...],
        Parameter(name="MODEL", help="Runs, RUN@best, model folders or Hub ids; a recipe may come first."),
    ],
    /,
    *,
    evaluate: Annotated[EvaluateOptions, Parameter(name="*")] = EvaluateOptions(),  # noqa: B008 - frozen
    perplexity: PerplexityOptions = PerplexityOptions(),  # noqa: B008
    compare: Annotated[
        bool, Parameter(negative=(), help="Test the other models against the first on the same examples.")
    ] = False,
    out: Annotated[
        Path | None, Parameter(help="Also add the results to this JSON file. A run always keeps its own.")
    ] = None,
    json: Annotated[
        bool, Parameter(negative=(), help="Print the results, and the differences of --compare, as JSON.")
    ] = False,
    recipe: Annotated[  # noqa: ARG001 - read by cli
        Path | None,
        Parameter(help="Recipe whose [evaluate] and [perplexity] apply: a file or a packaged name."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Evaluate models: perplexity, multiple choice, LAMBADA, and lm-evaluation-harness's tasks."""
    from gptworks.evaluation import comparison
    from gptworks.evaluation.models import find

    models = models[1:] if models[:1] and models[0].endswith(".toml") else models
    _check(models, evaluate, out)
    if compare and len(models) < 2:
        raise ConfigError("--compare needs at least two models")
    found = [find(spec) for spec in models]
    if compare:
        comparison.refuse_per_token(
            {model.spec: model.tokenizer.fingerprint for model in found}, evaluate.tasks
        )
    scored = _evaluate(found, evaluate, perplexity, out, device=device, verbose=not json)
    first, *others = scored.values()
    differences = [row for other in others for row in comparison.compare(first, other)] if compare else []
    by_model = {spec: [result for _, result in pairs] for spec, pairs in scored.items()}
    if json:
        rows = [result.to_row() for model_results in by_model.values() for result in model_results]
        print(jsons.dumps({"rows": rows, "differences": differences}, indent=1))
    elif evaluate.table == "gpt-alpha":
        _print_gpt_alpha(
            by_model, [file for file in (out, *(model.results_folder for model in found)) if file]
        )
    else:
        _print(by_model, differences)


def evaluate_models(
    specs: tuple[str, ...],
    options: EvaluateOptions,
    perplexity: PerplexityOptions,
    *,
    out: Path | None = None,
    device: str = "auto",
) -> list[Result]:
    """Evaluate models on options.tasks; a run keeps its results, and `out` gets all of them.

    Raises:
        ConfigError, DataError, CheckpointError: there is no such task, data or model.
    """
    from gptworks.evaluation.models import find

    _check(specs, options, out)
    scored = _evaluate([find(spec) for spec in specs], options, perplexity, out, device=device)
    return [result for pairs in scored.values() for _, result in pairs]


def _check(models: tuple[str, ...], options: EvaluateOptions, out: Path | None) -> None:
    if not models or not options.tasks:
        raise ConfigError(f"evaluate needs {'a MODEL' if not models else '--tasks TASK...'}")
    if out is not None and out.exists():
        results.read(out)  # refuse a file we cannot add to before the work


def _evaluate(
    models: list[EvalModel],
    options: EvaluateOptions,
    perplexity: PerplexityOptions,
    out: Path | None,
    *,
    device: str,
    verbose: bool = False,
) -> dict[str, list[Scored]]:
    """Every model's results, saved as they come."""
    from gptworks.devices import choose_device
    from gptworks.evaluation import scores, suite
    from gptworks.reports import terminal

    place = choose_device(device)
    specs = [suite.parse(task) for task in options.tasks]
    evals = [task for spec in specs for task in load_evals(spec, options, perplexity)]
    scored: dict[str, list[Scored]] = {}
    for model in models:
        scored[model.spec] = []
        for pairs in _measure(model, [task.measure for task in evals], options, place):
            scored[model.spec] += pairs
            new = [result for _, result in pairs]
            _save(new, model.results_folder, out)
            for result in new if verbose and len(models) * len(evals) > 1 else ():
                terminal.say(f"{model.spec}: {scores.describe(result)}")
    return scored


def load_evals(
    spec: TaskSpec, options: EvaluateOptions, perplexity: PerplexityOptions, rank: int = 0, size: int = 1
) -> list[TrainingEval]:
    """Load a task, and find every error that can be found without a model."""
    from gptworks.evaluation import suite
    from gptworks.evaluation.training import TrainingEval

    if spec.task != "harness":
        task = suite.load(spec, options, perplexity).share(rank, size)
        measure = functools.partial(task.measure, batch_tokens=options.batch_tokens)
        return [TrainingEval(measure, task.encode, sharded=isinstance(task, suite.ChoiceEval))]
    try:
        from gptworks.evaluation import harness
    except ImportError:
        raise ConfigError("harness: needs lm-evaluation-harness: pip install 'gptworks[eval]'") from None
    groups = harness.fewshot_groups(spec.source, options.num_fewshot)
    manager = harness.task_manager([name for group in groups for name in group.tasks], options.include)

    def harness_eval(group: harness.FewshotGroup) -> TrainingEval:
        def measure(model: Model, tokenizer: Tokenizer) -> list[Measurement]:
            live = harness.LiveModel(model, tokenizer, options.batch_tokens)
            return harness.measure(live, group, manager, options.limit)

        return TrainingEval(measure, lambda context, tokenizer: None, sharded=False)  # noqa: ARG005

    return [harness_eval(group) for group in groups]


def _measure(
    model: EvalModel, measures: list[Measure], options: EvaluateOptions, device: torch.device
) -> Iterator[list[Scored]]:
    """A model's results, task by task."""
    from gptworks.evaluation.scores import make_result
    from gptworks.host_memory import tune_allocator

    tune_allocator()
    network, info = model.load(options.precision, device), model.info(options.precision)
    for measure in measures:
        measured = measure(network, model.tokenizer)
        yield [(score, make_result(score, data, info)) for score, data in measured]


def _save(new: list[Result], folder: Path | None, out: Path | None) -> None:
    """Add results to the run's files, one per task, and to --out."""
    if folder is not None:
        for task in dict.fromkeys(result.task for result in new):
            file = folder / f"{re.sub(r'[^a-z0-9_]+', '-', task.lower())}.json"
            results.add(file, [result for result in new if result.task == task])
    if out is not None:
        results.add(out, new)


def _print(by_model: dict[str, list[Result]], differences: list[dict[str, Any]]) -> None:
    from gptworks.evaluation import comparison, scores

    for spec, model_results in by_model.items():
        print((f"{spec}\n" if len(by_model) > 1 else "") + scores.table(model_results))
    if differences:
        print(comparison.table(differences))


def _print_gpt_alpha(by_model: dict[str, list[Result]], places: list[Path]) -> None:
    """Print GPT-alpha's table, and save it next to the results."""
    from gptworks import files
    from gptworks.evaluation import gpt_alpha

    text = gpt_alpha.table(by_model)
    print(text)
    for place in places:
        file = place / "gpt-alpha.md" if place.suffix != ".json" else place.with_suffix(".md")
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(file, text + "\n")


def training_evaluator(
    options: EvalOptions, context: int, tokenizer: Tokenizer, world: World
) -> TaskEvaluator | None:
    """The evaluator of eval.tasks, loaded and checked against the model's context and tokenizer before training."""
    from gptworks.evaluation import suite
    from gptworks.evaluation.training import TaskEvaluator

    if not options.tasks:
        return None
    limited, evals = EvaluateOptions(limit=options.task_limit), []
    for spec in map(suite.parse, options.tasks):
        evals += load_evals(spec, limited, PerplexityOptions(), world.rank, world.size)
    for task in evals:
        task.check(context, tokenizer)
    return TaskEvaluator(evals, tokenizer, world)
