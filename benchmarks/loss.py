"""Compare recipes by validation loss: python benchmarks/loss.py --data DATASET a.toml b.toml [--runs RUNS].

Each recipe is trained on the Dataset with `gptworks pretrain`, one after the other. A run that already exists in RUNS
is resumed, or only read if it is finished. Losses are plotted against tokens, FLOPs (6N + 12LCT per token) and time
(of steps, without evaluations and checkpoints). Every run is compared with the first: what had it spent when it
reached the first run's final loss? (While the learning rate decays, a run's loss at some point is worse than that of
a shorter run that ended there.)

A file can also contain several recipes. Each is a table with a name, `from`, and what it changes in that file:

    [without-muon]
    from = "modern-muon.toml"
    optim.name = "adamw"
"""

import argparse
import dataclasses
import itertools
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import machine
import tomli_w

AXES = {"tokens": "tokens trained on", "flops": "FLOPs", "seconds": "seconds of training"}


def recipes(files: list[Path], folder: Path) -> dict[str, Path]:
    """The recipe files by name. Recipes that change another one are first written to `folder`."""
    named: list[tuple[str, Path]] = []
    for file in files:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        variants = {
            name: table for name, table in tables.items() if isinstance(table, dict) and "from" in table
        }
        for name, table in variants.items():
            recipe = tomllib.loads((file.parent / table.pop("from")).read_text(encoding="utf-8"))
            for key, options in table.items():
                recipe[key] = recipe.get(key, {}) | options
            folder.mkdir(parents=True, exist_ok=True)
            named.append((name, folder / f"{name}.toml"))
            named[-1][1].write_text(tomli_w.dumps(recipe), encoding="utf-8")
        if not variants:
            named.append((file.stem, file))
    if duplicates := {name for name, _ in named if [n for n, _ in named].count(name) > 1}:
        raise SystemExit(f"several recipes have the same name: {' '.join(sorted(duplicates))}")
    return dict(named)


def train(recipe_file: Path, data: Path, run: Path) -> dict[str, Any]:
    """Train one recipe; returns its curve and facts about its model."""
    from gptworks import files, recipefile, runs
    from gptworks.commands.pretrain import train_run
    from gptworks.model import checkpoint, sizing
    from gptworks.recipe import SaveOptions

    recipe = recipefile.load(recipe_file)
    keep_last = SaveOptions(every=recipe.save.every, best=False, keep=1)
    stopped = train_run(dataclasses.replace(recipe, data=data, out=run, save=keep_last), resume=True)
    if stopped is not None:
        raise SystemExit(f"{recipe_file} was stopped by {stopped}; run this again to complete it")
    config = checkpoint.read_config(runs.Run(run).checkpoints()[-1].path)
    flops = sizing.flops_per_token(config)
    rows = files.read_rows(run / "metrics.jsonl")
    points = curve(rows, flops)
    return {
        "recipe": recipefile.as_tables(recipe),
        "family": config.family,
        "parameters": sizing.parameters(config),
        "flops_per_token": flops,
        "peak_memory": max((row["peak_memory"] or 0 for row in rows if "peak_memory" in row), default=0),
        "val_loss": points[-1]["val_loss"],
        "curve": points,
    }


def curve(rows: list[dict[str, Any]], flops_per_token: int) -> list[dict[str, float]]:
    """The evaluations, with the tokens, FLOPs and seconds spent until then."""
    points, tokens, seconds = [], 0, 0.0
    for row in rows:
        if "tokens_per_second" in row:
            seconds += (row["tokens"] - tokens) / row["tokens_per_second"]
            tokens = row["tokens"]
        elif "val_loss" in row:
            spent = {
                "step": row["step"],
                "tokens": tokens,
                "flops": tokens * flops_per_token,
                "seconds": seconds,
            }
            points.append(spent | {"val_loss": row["val_loss"]})
    return points


def spent_at(points: list[dict[str, float]], loss: float, axis: str) -> float | None:
    """What was spent when the curve first reached `loss`, interpolated linearly between two evaluations."""
    for before, after in itertools.pairwise(points):
        if after["val_loss"] <= loss:
            drop = before["val_loss"] - after["val_loss"]
            part = (before["val_loss"] - loss) / drop if drop > 0 else 1.0
            return before[axis] + max(0.0, part) * (after[axis] - before[axis])
    return None


def compare(results: dict[str, dict[str, Any]]) -> None:
    """Add to every run how many times less it spent than the first run, to reach the first run's final loss."""
    first = next(iter(results.values()))
    for result in results.values():
        spent = {axis: spent_at(result["curve"], first["val_loss"], axis) for axis in AXES}
        result["times_less"] = {
            axis: first["curve"][-1][axis] / value if value else None for axis, value in spent.items()
        }


def picture(results: dict[str, dict[str, Any]], file: Path) -> None:
    """Plot the curves against each axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, panels = plt.subplots(1, len(AXES), figsize=(13, 4.2), dpi=150, layout="constrained", sharey=True)
    for axes, (axis, label) in zip(panels, AXES.items(), strict=True):
        for name, result in results.items():
            points = result["curve"][1:]  # the loss of the untrained model would flatten the curves
            title = f"{name}: {result['val_loss']:.3f}"
            x, y = [point[axis] for point in points], [point["val_loss"] for point in points]
            axes.plot(x, y, marker="o", markersize=3, label=title)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
    panels[0].set_ylabel("validation loss (nats per token)")
    panels[0].legend(frameon=False)
    figure.savefig(file)
    plt.close(figure)


def main() -> None:
    """Train every recipe, and write the table and the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "recipes", nargs="+", type=Path, help="TOML files; the others are compared with the first"
    )
    parser.add_argument("--data", type=Path, required=True, help="Dataset folder")
    parser.add_argument("--runs", type=Path, help="folder for the runs; default: a temporary one")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--name", default="loss", help="name of the result file, between date and machine")
    options = parser.parse_args()

    from gptworks.data.dataset import Dataset
    from gptworks.errors import UserError

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.runs or Path(scratch)
        try:
            files = recipes(options.recipes, folder)
            results = {name: train(file, options.data, folder / name) for name, file in files.items()}
        except UserError as error:
            parser.error(str(error))
    compare(results)
    dataset = Dataset.open(options.data, verify=False)
    facts = {
        "dataset": options.data.name,
        "dataset_fingerprint": dataset.fingerprint,
        "formula": "6N + 12LCT",
    }
    file = machine.write(options.name, facts | {"runs": results}, options.out)
    picture(results, file.with_suffix(".png"))
    for name, result in results.items():
        ratios = {
            axis: "-" if times is None else f"{times:.2f}" for axis, times in result["times_less"].items()
        }
        print(
            f"{name:<24} {result['parameters']:>13,} parameters  validation loss {result['val_loss']:.4f}  reaches "
            f"the first run's loss with {ratios['flops']}x fewer FLOPs, {ratios['tokens']}x fewer tokens, "
            f"{ratios['seconds']}x faster"
        )
    print(file)


if __name__ == "__main__":
    main()
