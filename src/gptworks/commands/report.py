"""`gptworks report`: what runs did, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gptworks.errors import ConfigError


def report(
    *folders: Annotated[Path, Parameter(name="RUN", help="Run folders; several are compared.")],
    out: Annotated[
        Path | None,
        Parameter(help="HTML file to write. Default: RUN/report.html; of several runs, report.html here."),
    ] = None,
) -> None:
    """Write a page about a run, or about several beside each other: curves, scores, samples, data, recipe.

    It is one HTML file that needs no network, made from logs alone, and may be made while a run is going. Its pictures
    lie beside it as SVG and PNG: in RUN/plots, or in a folder named after --out.
    """
    if not folders:
        raise ConfigError("report needs a run: gptworks report RUN [RUN...]")
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name the HTML file to write: {out / 'report.html'}")
    from gptworks.report import page

    drawn = page.draw(folders)
    if out is None and len(folders) == 1:
        file, pictures = folders[0] / "report.html", folders[0] / "plots"
    else:
        file = out or Path("report.html")
        pictures = file.with_name(f"{file.stem}-plots")
    page.write(drawn, file, pictures)
    print(f"{file}; {len(drawn.pictures)} pictures in {pictures}")
