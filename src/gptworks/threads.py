"""Thread settings that must be made before torch is imported."""

import os


def share_cores() -> None:
    """Let threads that wait for each other sleep soon.

    They spin by default: beside any other busy program, training on a CPU is then 5 to 20 times slower. A user's own
    setting wins.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault(
            "GOMP_SPINCOUNT", "10000"
        )  # GNU OpenMP: at first, as long as Python takes between products
