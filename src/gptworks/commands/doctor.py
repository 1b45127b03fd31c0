"""`gptworks doctor`: what this machine has, which kernels work on it, and what gptworks chooses because of that."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter


def doctor(
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
) -> None:
    """Show what this machine has, test what training and generation depend on, and suggest improvements.

    Takes some seconds, trains nothing and writes nothing.
    """
    from gptworks.host_memory import tune_allocator
    from gptworks.planning import doctor

    tune_allocator()
    report = doctor.examine()
    print(json.dumps(report, indent=1) if as_json else doctor.as_text(report))
