"""Pictures of a run, made from its metrics.jsonl and results. No torch."""

from pathlib import Path
from typing import Any

from gptworks import runs
from gptworks.report.letters import any_script, shortened, under
from gptworks.wording import counted

INK, TRAIN, VAL, QUIET = "#333333", "#9db8d2", "#c8553d", "#888888"


def loss_curve(run: Path, *, baselines: dict[str, float] | None = None, unit: str = "nats per token") -> Path:
    """Training and validation loss against tokens, as RUN/plots/loss.png and .svg; horizontal lines for `baselines`.

    `unit` is what a loss is counted in.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    rows = runs.read_rows(run / "metrics.jsonl")
    train = [(row["tokens"], row["loss"]) for row in rows if "loss" in row]
    val = [(row["tokens"], row["val_loss"]) for row in rows if "val_loss" in row]
    figure, axes = plt.subplots(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    if train:
        axes.plot(*zip(*train, strict=True), color=TRAIN, linewidth=0.8, label="training, each step")
    if val:
        axes.plot(
            *zip(*val, strict=True), color=VAL, linewidth=1.8, marker="o", markersize=3.5, label="validation"
        )
        tokens, loss = val[-1]
        axes.annotate(f"{loss:.2f}", (tokens, loss), (4, 6), textcoords="offset points", color=VAL, ha="left")
    for name, value in (baselines or {}).items():
        axes.axhline(value, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{name} {value:.2f}",
            (1, value),
            (-4, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=QUIET,
            fontsize=8.5,
        )
    axes.set_xlabel("tokens trained on")
    axes.set_ylabel(f"loss ({unit})")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title(run.name, loc="left", color=INK, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    if train or val:
        axes.legend(
            frameon=False, loc="upper right"
        )  # looking for the best place takes seconds in a long run
    folder = run / "plots"
    folder.mkdir(exist_ok=True)
    for ending in ("svg", "png"):
        figure.savefig(folder / f"loss.{ending}")
    plt.close(figure)
    return folder / "loss.png"


def classification(run: Path, name: str, result: dict[str, Any]) -> Path | None:
    """A classifier's scores as RUN/plots/NAME.png and .svg: confusion matrix, reliability, F1 of every class.

    `result` is what results/NAME.json holds; the last checkpoint's scores are drawn. Where a number is predicted
    there is no such picture, and None is returned.
    """
    if result["kind"] != "classes":
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels, scores = result["labels"], result["scores"]["last"]
    height = max(3.9, 1.6 + 0.28 * len(labels))
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12.6, height), dpi=150, layout="constrained", width_ratios=(1.15, 1, 1)
    )
    _confusion(left, labels, scores["confusion"])
    _reliability(middle, scores)
    _f1(right, labels, scores["classes"])
    guess, error = scores["baselines"]["majority_accuracy"], scores["accuracy_standard_error"]
    sure = "" if error is None else f" ± {error:.3f}"
    figure.suptitle(
        f"{run.name}, {result['split']}: accuracy {scores['accuracy']:.3f}{sure} "
        f"(always the most frequent: {guess:.3f}), n = {counted(scores['n'], 'text')}",
        x=0.01,
        ha="left",
        color=INK,
        fontsize=11,
    )
    folder = run / "plots"
    folder.mkdir(exist_ok=True)
    with any_script():
        for ending in ("svg", "png"):
            figure.savefig(folder / f"{name}.{ending}")
    plt.close(figure)
    return folder / f"{name}.png"


LETTERS = 30
"""Names of classes with more letters together have no room beside each other."""

WRITTEN = 12
"""Classes up to which the cells of a confusion matrix hold their counts."""


def _confusion(axes: Any, labels: list[str], counts: list[list[int]]) -> None:
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    places = range(len(labels))
    names = shortened(labels)
    axes.set_xticks(places, names, **under(names, LETTERS))
    axes.set_yticks(places, names)
    for i, j in ((i, j) for i in places for j in places if len(labels) <= WRITTEN):
        shade = "#222222" if shares[i][j] > 0.55 else "white"  # read on cividis' yellow, and on its blue
        axes.text(j, i, f"{counts[i][j]:,}", ha="center", va="center", color=shade)
    axes.set_xlabel("class named")
    axes.set_ylabel("true class")
    axes.set_title("texts; colour: share of the row", loc="left", color=INK, fontsize=9.5)


def _reliability(axes: Any, scores: dict[str, Any]) -> None:
    bins = scores["reliability"]
    most = max(b["n"] for b in bins)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), label="as sure as right")
    x, y = [b["probability"] for b in bins], [b["accuracy"] for b in bins]
    axes.plot(x, y, color=TRAIN, linewidth=1)
    axes.scatter(
        x, y, s=[12 + 110 * b["n"] / most for b in bins], color=VAL, zorder=3, label="a bin; area: its texts"
    )
    axes.set(xlim=(0, 1.03), ylim=(-0.03, 1.03))
    axes.set_xlabel("probability of the class named")
    axes.set_ylabel("share that is right")
    axes.set_title(f"calibration: ECE {scores['ece']:.3f}", loc="left", color=INK, fontsize=9.5)
    _plain(axes)
    axes.legend(frameon=False, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.25))  # covers no bin


def _f1(axes: Any, labels: list[str], classes: dict[str, dict[str, float]]) -> None:
    values = [classes[name]["f1"] for name in labels]
    axes.barh(range(len(labels)), values, color=TRAIN, height=0.6)
    for place, name in enumerate(labels):
        said = f"{classes[name]['f1']:.3f}  (n = {classes[name]['support']:,})"
        axes.annotate(
            said, (0, place), (5, 0), textcoords="offset points", va="center", color=INK, fontsize=8.5
        )
    axes.set_yticks(range(len(labels)), shortened(labels))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1")
    axes.set_title("F1 of each class", loc="left", color=INK, fontsize=9.5)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
