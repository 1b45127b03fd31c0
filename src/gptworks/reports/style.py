"""The common style of all plots: size, palette, and SVG that takes its colours from the surrounding page.

The colours are those of Okabe and Ito 2008, "Color Universal Design", which are safe for colour-blind readers. Every
run also has its own line style and marker. Text in the SVG stays text, so that it is sharp, searchable and small.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, ScalarFormatter
from matplotlib.transforms import Bbox

from gptworks.reports.class_labels import without_glyph_warnings

INK, QUIET, GRID, PAGE = "#24292f", "#5f6872", "#e4e7ea", "#fffffe"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00")
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

THEME = {INK: "ink", QUIET: "quiet", GRID: "grid", PAGE: "page"} | {
    colour: f"c{number}" for number, colour in enumerate(COLOURS)
}
"""Colour in a plot -> CSS variable of the page."""

FONT = "sans-serif"
RC: dict[Any, Any] = {
    "font.family": FONT,
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "gptworks",
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.6,
    "legend.borderaxespad": 0.0,
    "figure.facecolor": PAGE,
    "axes.facecolor": PAGE,
    "savefig.facecolor": PAGE,
}
WIDTH, HEIGHT, LEGEND_ROW = 4.3, 2.75, 0.19
START = 0.02
"""Share of a run whose high initial losses may be cropped."""

LARGE, SMALL = 1e4, 1e-3
"""Values from LARGE and below SMALL get short labels such as 5M."""

LEFT, RIGHT, BOTTOM, TOP = 0.58, 0.14, 0.5, 0.38
"""Margins in inches, small enough for a phone."""

TICK, TICK_HEIGHT = 0.08, 0.2
"""Inches between an axis and its tick labels, and the height of one line of labels."""

MARGIN = 0.08
"""Inches around a PNG."""


@dataclass(frozen=True)
class Picture:
    """A finished plot."""

    name: str
    """File name without extension."""
    title: str
    caption: str
    svg: str
    """Standalone SVG."""
    figure: Figure

    @property
    def inline(self) -> str:
        """SVG for a page that defines --ink, --quiet, --grid, --page and --c0 to --c6. Its ids start with `name`."""
        svg = re.sub(
            r"<metadata>.*?</metadata>|<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->", "", self.svg, flags=re.S
        )
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        for colour, name in THEME.items():
            svg = svg.replace(colour, f"var(--{name})")
        svg = re.sub(r'<svg ([^>]*?)width="\S+" height="\S+"', r'<svg \1role="img"', svg, count=1)
        svg = re.sub(r"(<svg [^>]*>)", rf"\1<title>{_escape(self.title)}</title>", svg, count=1)
        return re.sub(r"\n\s*", "\n", svg).strip()

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.svg").write_text(self.svg, encoding="utf-8")
        width, height = self.figure.get_size_inches()
        around = Bbox.from_extents(-MARGIN, -MARGIN, width + MARGIN, height + MARGIN)
        with mpl.rc_context(RC), without_glyph_warnings():
            canvas = FigureCanvasAgg(self.figure)
            canvas.print_figure(str(folder / f"{self.name}.png"), format="png", bbox_inches=around)


def draw(
    name: str,
    title: str,
    paint: Callable[[Axes], str | None],
    *,
    x: str,
    caption: str = "",
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> Picture:
    """A plot that `paint` draws; it may return a note for the caption. `title` labels the y axis, `x` the x axis."""
    width, height = size
    with mpl.rc_context(RC), without_glyph_warnings():
        figure = Figure(figsize=size, dpi=160)
        axes = figure.add_subplot()
        note = paint(axes)
        _without_offset(axes.yaxis)
        caption = " ".join(filter(None, (caption, note)))
        axes.set_xlabel(x, loc="right")
        handles, labels = axes.get_legend_handles_labels()
        columns = 2 if max(map(len, labels), default=0) > 18 else 3
        rows = -(-len(labels) // columns)
        left, bottom = _label_margins(figure, axes)
        height += LEGEND_ROW * rows + bottom - BOTTOM
        figure.set_figheight(height)
        edge = -left / (width - left - RIGHT)  # left edge of the figure in axes coordinates
        if labels:
            axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(edge - 0.005, 1.03), ncols=columns)
        axes.set_title(title, loc="left", x=edge, pad=9 + 72 * LEGEND_ROW * rows, color=INK)
        figure.subplots_adjust(
            left=left / width,
            right=1 - RIGHT / width,
            bottom=bottom / height,
            top=1 - (TOP + LEGEND_ROW * rows) / height,
        )
    return render(name, title, figure, caption)


def _label_margins(figure: Figure, axes: Axes) -> tuple[float, float]:
    """Left and bottom margins in inches: LEFT and BOTTOM, or more if tick labels are long."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    wide = [label.get_window_extent(renderer).width for label in axes.get_yticklabels()]
    high = [label.get_window_extent(renderer).height for label in axes.get_xticklabels()]
    left = max(wide, default=0) / figure.dpi + TICK
    return max(LEFT, left), BOTTOM + max(0.0, max(high, default=0) / figure.dpi - TICK_HEIGHT)


def render(name: str, title: str, figure: Figure, caption: str = "") -> Picture:
    """Turn a figure that was drawn under RC into a Picture."""
    out = io.StringIO()
    with mpl.rc_context(RC), without_glyph_warnings():
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue().replace("font-family: sans-serif", "font-family: system-ui, sans-serif")
    return Picture(name, title, caption, svg, figure)


def look(number: int) -> dict[str, Any]:
    """Colour and line style of run `number`."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}


def marker(number: int) -> str:
    """Marker of run `number`."""
    return MARKERS[number % len(MARKERS)]


def plain_log(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers as labels."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def powers(axis: Axis) -> None:
    """Label a logarithmic axis 1e14, 1e15."""
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+0", "e").replace("e+", "e"))
    )


def short_numbers(axis: Axis) -> None:
    """Label an axis 10k, 2.5M, 3B."""
    axis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short_log(axis: Axis) -> None:
    """Label a logarithmic axis 100k, 1M, 10M."""
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _without_offset(axis: Axis) -> None:
    """Label 4.9M instead of 4.9 with a separate power of ten, which would overlap the legend."""
    if not isinstance(axis.get_major_formatter(), ScalarFormatter):
        return
    most = max(map(abs, axis.get_view_interval()))
    if most >= LARGE or most < SMALL:
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    else:
        axis.set_major_formatter(ScalarFormatter(useOffset=False))


def crop_start(axes: Axes) -> str | None:
    """Crop the steep start of falling curves if it would take most of the plot's height. -> a note if cropped"""
    curves = [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.lines]
    curves = [(x, y) for x, y in curves if len(x) > 2]
    if not curves:
        return None
    end = max(x.max() for x, _ in curves)
    later = np.concatenate([y[x >= START * end] for x, y in curves])
    if len(later) < 2:
        return None
    highest, low, high = max(y.max() for _, y in curves), later.min(), later.max()
    if high <= low or highest - high < high - low:
        return None
    margin = 0.08 * (high - low)
    bottom = low - margin
    if axes.get_yscale() == "log" and bottom <= 0:
        bottom = 0.8 * later[later > 0].min()
    axes.set_ylim(bottom, high + margin)
    return f"The first values are cropped (up to {short(float(highest))})."


def value(number: float) -> str:
    """A score as text: 0.312, 4.85M."""
    return f"{number:.3f}" if abs(number) < LARGE / 10 else short(number)


def short(number: float) -> str:
    """A number as text: 124M, 9.9B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
