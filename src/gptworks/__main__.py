"""`python -m gptworks` (and `torchrun -m gptworks`) is the command line."""

import sys

from gptworks.cli import main

if __name__ == "__main__":
    status = main()
    world = sys.modules.get("gptworks.processes")  # which imports torch: not for --help
    if world is not None:
        world.exit_process(status)
    raise SystemExit(status)
