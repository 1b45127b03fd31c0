"""Validation loss against tokens, FLOPs and time: python benchmarks/loss.py --data DATASET a.toml b.toml [--runs RUNS].

Each recipe is trained on the Dataset as `gptworks pretrain` would, one after the other; a run that is already in
RUNS goes on, or is only read if it is finished. FLOPs are 6N + 12LCT a token; time is that of steps, without
evaluations and checkpoints. Every run is compared with the first: what it had spent when it passed the loss at which
the first ended. (Where the learning rate decays, a loss on the way is worse than a shorter run would have reached.)

A file may instead hold several recipes, each a table with its name, `from` and what is changed of that file:

    [without-muon]
    from = "modern-muon.toml"
    optim.kind = "adamw"
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
    """Each recipe's file by its name; those that change another are written into `folder` first."""
    named: list[tuple[str, Path]] = []
    for file in files:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        changed = {
            name: table for name, table in tables.items() if isinstance(table, dict) and "from" in table
        }
        for name, table in changed.items():
            whole = tomllib.loads((file.parent / table.pop("from")).read_text(encoding="utf-8"))
            for key, options in table.items():
                whole[key] = whole.get(key, {}) | options
            folder.mkdir(parents=True, exist_ok=True)
            named.append((name, folder / f"{name}.toml"))
            named[-1][1].write_text(tomli_w.dumps(whole), encoding="utf-8")
        if not changed:
            named.append((file.stem, file))
    if twice := {name for name, _ in named if [n for n, _ in named].count(name) > 1}:
        raise SystemExit(f"two recipes have one name: {' '.join(sorted(twice))}")
    return dict(named)


def train(recipe_file: Path, data: Path, run: Path) -> dict[str, Any]:
    """One recipe's curve, and what its network is."""
    from gptworks import recipefile, runs
    from gptworks.commands.pretrain import train_run
    from gptworks.model import checkpoint, sizing
    from gptworks.recipe import SaveOptions

    recipe = recipefile.load(recipe_file)
    keep_last = SaveOptions(every=recipe.save.every, best=False, keep=1)
    stopped = train_run(dataclasses.replace(recipe, data=data, out=run, save=keep_last), resume=True)
    if stopped is not None:
        raise SystemExit(f"{recipe_file} was stopped by {stopped}; a comparison needs it whole")
    config = checkpoint.read_config(runs.checkpoints(run)[-1].path)
    flops = sizing.flops_per_token(config)
    rows = runs.read_rows(run / "metrics.jsonl")
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
    """Evaluations, with what had been spent until then."""
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
    """What had been spent when the curve first passed `loss`, between two evaluations by a straight line."""
    for before, after in itertools.pairwise(points):
        if after["val_loss"] <= loss:
            drop = before["val_loss"] - after["val_loss"]
            part = (before["val_loss"] - loss) / drop if drop > 0 else 1.0
            return before[axis] + max(0.0, part) * (after[axis] - before[axis])
    return None


def compare(found: dict[str, dict[str, Any]]) -> None:
    """Add to every run how many times less than the first it spent to get to the first's last loss."""
    first = next(iter(found.values()))
    for result in found.values():
        spent = {axis: spent_at(result["curve"], first["val_loss"], axis) for axis in AXES}
        result["times_less"] = {
            axis: first["curve"][-1][axis] / value if value else None for axis, value in spent.items()
        }


def picture(found: dict[str, dict[str, Any]], file: Path) -> None:
    """The curves against each axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, panels = plt.subplots(1, len(AXES), figsize=(13, 4.2), dpi=150, layout="constrained", sharey=True)
    for axes, (axis, words) in zip(panels, AXES.items(), strict=True):
        for name, result in found.items():
            points = result["curve"][1:]  # the untrained model's loss would flatten the rest
            label = f"{name}: {result['val_loss']:.3f}"
            x, y = [point[axis] for point in points], [point["val_loss"] for point in points]
            axes.plot(x, y, marker="o", markersize=3, label=label)
        axes.set_xlabel(words)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
    panels[0].set_ylabel("validation loss (nats per token)")
    panels[0].legend(frameon=False)
    figure.savefig(file)
    plt.close(figure)


def main() -> None:
    """Train every recipe, write the table and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "recipes", nargs="+", type=Path, help="TOML files; the first is what others are compared with"
    )
    parser.add_argument("--data", type=Path, required=True, help="Dataset folder")
    parser.add_argument("--runs", type=Path, help="folder to keep the runs in (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument(
        "--name", default="loss", help="what the result's file is called, beside date and machine"
    )
    options = parser.parse_args()

    from gptworks.data.dataset import Dataset
    from gptworks.errors import UserError

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.runs or Path(scratch)
        try:
            files = recipes(options.recipes, folder)
            found = {name: train(file, options.data, folder / name) for name, file in files.items()}
        except UserError as error:
            parser.error(str(error))
    compare(found)
    dataset = Dataset.open(options.data, verify=False)
    facts = {
        "dataset": options.data.name,
        "dataset_fingerprint": dataset.fingerprint,
        "formula": "6N + 12LCT",
    }
    file = machine.write(options.name, facts | {"runs": found}, options.out)
    picture(found, file.with_suffix(".png"))
    for name, result in found.items():
        ratios = {
            axis: "-" if times is None else f"{times:.2f}" for axis, times in result["times_less"].items()
        }
        print(
            f"{name:<24} {result['parameters']:>13,} parameters  validation loss {result['val_loss']:.4f}  to the "
            f"first's: {ratios['flops']}x fewer FLOPs, {ratios['tokens']}x fewer tokens, {ratios['seconds']}x faster"
        )
    print(file)


if __name__ == "__main__":
    main()
