"""`python -m gptworks` (and `torchrun -m gptworks`) is the command line."""

from gptworks.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
