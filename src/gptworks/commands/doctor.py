"""`gptworks doctor`: what this machine has, which kernels really run, and what was chosen and why."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter


def doctor(
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
) -> None:
    """Say what this machine has, try what training and generation depend on, and name what would help.

    It takes some seconds, trains nothing, and writes nothing.
    """
    from gptworks.plan import doctor
    from gptworks.world import tune_allocator

    tune_allocator()
    found = doctor.examine()
    print(json.dumps(found, indent=1) if as_json else doctor.as_text(found))
