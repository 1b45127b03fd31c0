"""`gptworks classify`: a fine-tuned classifier says what texts are."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks.errors import ConfigError, DataError

if TYPE_CHECKING:
    from gptworks.data.examples import Example


def classify(
    spec: Annotated[
        str, Parameter(name="MODEL", help="A run of `finetune classify`, RUN@best, or a folder.")
    ],
    /,
    *,
    text: Annotated[tuple[str, ...], Parameter(help="A text; several are several texts.")] = (),
    file: Annotated[Path | None, Parameter(help="A file of texts, one a line.")] = None,
    pair: Annotated[
        str | None, Parameter(help="The second text, where the model was trained on pairs.")
    ] = None,
    json: Annotated[
        bool, Parameter(negative=(), help="Print an object a text, with every class's probability.")
    ] = False,
) -> None:
    """Say the class of texts, or the number a model predicts for them."""
    texts = [*text, *(_lines(file) if file else [])]
    if not texts:
        raise ConfigError("classify needs --text TEXT or --file FILE")
    if any(not one.strip() for one in texts):
        raise DataError("an empty text has no class; leave it out")
    from gptworks.data.examples import Example

    examples = [Example(one, pair, "") for one in texts]
    for one, answer in zip(texts, _answers(spec, examples), strict=True):
        if json:
            print(jsons.dumps({"text": one} | answer, ensure_ascii=False))
        elif "value" in answer:
            print(f"{answer['value']:.4f}" + (f"\t{one}" if len(texts) > 1 else ""))
        else:
            sure = answer["probabilities"][answer["label"]]
            print(f"{answer['label']}\t{sure:.4f}" + (f"\t{one}" if len(texts) > 1 else ""))


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}") from None


def _answers(spec: str, examples: list[Example]) -> list[dict[str, Any]]:
    import numpy as np

    from gptworks.evaluate.classification import softmax
    from gptworks.model import checkpoint, classifier
    from gptworks.train import classifying
    from gptworks.world import default_device

    folder = checkpoint.resolve(spec)
    model = classifier.load(folder).to(default_device())
    tokenizer = checkpoint.load_tokenizer(folder)
    options = classifying.options_of(folder)
    longest = options.max_tokens or model.config.context
    texts, _ = classifying.labelled(examples, np.zeros(len(examples)), tokenizer, longest, options)
    scores = texts.scores(model).numpy()
    if model.regression:
        return [{"value": float(score)} for score in scores[:, 0]]
    return [
        {
            "label": model.labels[chances.argmax()],
            "probabilities": dict(zip(model.labels, chances.tolist(), strict=True)),
        }
        for chances in softmax(scores)
    ]
