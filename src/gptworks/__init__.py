"""gptworks takes a GPT through its whole life on the hardware a person has."""

__version__ = "0.1.0"
