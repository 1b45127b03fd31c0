"""Take a GPT through its whole life on your hardware: `import gptworks as gw`.

The names below are the public Python API. They are imported when first used, so that `import gptworks` is instant and
loads no torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "Classifier",
    "ConfigError",
    "DataError",
    "Dataset",
    "LanguageModel",
    "Loss",
    "Prediction",
    "Result",
    "Run",
    "Sample",
    "UserError",
    "evaluate",
    "export",
    "finetune",
    "load",
    "merge",
    "plot",
    "prepare",
    "pretrain",
    "report",
    "train_tokenizer",
]

if TYPE_CHECKING:
    from gptworks.api import (
        Classifier,
        ConfigError,
        DataError,
        Dataset,
        LanguageModel,
        Loss,
        Prediction,
        Result,
        Run,
        Sample,
        UserError,
        evaluate,
        export,
        finetune,
        load,
        merge,
        plot,
        prepare,
        pretrain,
        report,
        train_tokenizer,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gptworks' has no attribute {name!r}")
    from gptworks import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
