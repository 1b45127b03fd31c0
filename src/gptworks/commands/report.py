"""`gptworks report`: one page about one run or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gptworks.errors import ConfigError
from gptworks.runs import Run


def report(
    *folders: Annotated[Path, Parameter(name="RUN", help="Run folders. Several runs are compared.")],
    out: Annotated[
        Path | None,
        Parameter(
            help="HTML file to write. Default: RUN/report.html; for several runs, report.html in the current folder."
        ),
    ] = None,
) -> None:
    """Write an HTML report about a run, or compare several: curves, scores, samples, data and recipe.

    The report is a single HTML file that works offline. It is made from logs alone, so it also works while a run is
    still training. The plots are also saved as SVG and PNG: in RUN/plots, or in a folder named after --out.
    """
    write_report(folders, out)


def write_report(folders: tuple[Path, ...], out: Path | None) -> Path:
    """Write the report of runs and its plots; returns the HTML file.

    Raises:
        ConfigError: there is no run, or nothing to show.
    """
    if not folders:
        raise ConfigError("report needs a run: gptworks report RUN [RUN...]")
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name the HTML file to write: {out / 'report.html'}")
    from gptworks.reports import page, terminal

    drawn = page.draw([Run(folder) for folder in folders])
    if out is None and len(folders) == 1:
        file, plots = folders[0] / "report.html", folders[0] / "plots"
    else:
        file = out or Path("report.html")
        plots = file.with_name(f"{file.stem}-plots")
    page.write(drawn, file, plots)
    terminal.show(f"{file}; {len(drawn.pictures)} plots in {plots}")
    return file
