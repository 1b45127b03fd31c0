"""Pictures of a run, made from its metrics.jsonl. No torch."""

from pathlib import Path

from gptworks import runs

INK, TRAIN, VAL, QUIET = "#333333", "#9db8d2", "#c8553d", "#888888"


def loss_curve(run: Path, *, baselines: dict[str, float] | None = None, unit: str = "token") -> Path:
    """Training and validation loss against tokens, as RUN/plots/loss.png and .svg; horizontal lines for `baselines`.

    `unit` is what a loss is the mean over.
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
    axes.set_ylabel(f"loss (nats per {unit})")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title(run.name, loc="left", color=INK, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    if train or val:
        axes.legend(frameon=False)
    folder = run / "plots"
    folder.mkdir(exist_ok=True)
    for ending in ("svg", "png"):
        figure.savefig(folder / f"loss.{ending}")
    plt.close(figure)
    return folder / "loss.png"
