"""POST /v1/classify: a classifier says what texts are, and on request which of their tokens mattered."""

import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gptworks.data.columns import on_pairs
from gptworks.evaluate import attribution
from gptworks.evaluate.verdicts import Reader
from gptworks.model.classifier import Classifier
from gptworks.recipe import ClassifyOptions
from gptworks.serve import models
from gptworks.serve.errors import RESPONSES, ApiError, Json
from gptworks.serve.models import Served
from gptworks.serve.schema import Strict
from gptworks.train.classifying import options_of
from gptworks.wording import counted

router = APIRouter()

TEXTS = 256
"""In one request."""

EXPLAINED = 1 << 16
"""Tokens that leaving one out may read in one request: about the square of a text's length."""


class ClassifyRequest(Strict):
    """POST /v1/classify."""

    model: str
    input: str | Annotated[list[str], Field(min_length=1)]
    pair: str | list[str] | None = None
    """The second text of each, where the model was trained on pairs."""
    attribution: Literal["none", "leave_one_out", "gradient_x_input"] = "none"
    """How to say which tokens mattered."""
    target: str | None = None
    """The class they are to have mattered for. Default: the one that is named."""


class Explanation(BaseModel):
    """What `tokens` say."""

    method: Literal["leave_one_out", "gradient_x_input"]
    label: str | None
    """The class explained; null for a number."""
    unit: str


class TokenAttribution(BaseModel):
    """One token; or several, where only together they are a character."""

    text: str
    attribution: float | None
    """Above 0, it spoke for the label. Null where leaving it out leaves nothing."""


class Classified(BaseModel):
    """What the model says of one text: label and probabilities, or the value it predicts."""

    index: int
    label: str | None = None
    probabilities: dict[str, float] | None = None
    value: float | None = None
    n_tokens: int
    truncated: bool
    """It was cut at its end to what the model reads."""
    attribution: Explanation | None = None
    tokens: list[TokenAttribution] | None = None


class ClassifyUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class ClassifyResponse(BaseModel):
    """What the model says of every text."""

    id: str
    object: Literal["classification"]
    created: int
    model: str
    data: list[Classified]
    usage: ClassifyUsage


@router.post(
    "/v1/classify",
    responses=RESPONSES | {200: {"model": ClassifyResponse, "description": "What the texts are"}},
)
async def classify(body: ClassifyRequest, http: Request) -> Response:
    """Name the class of a text or several, or predict their numbers; and say which tokens mattered."""
    served = models.find(http, body.model, kinds=("classifier",))
    assert served.classifier is not None
    target = _target(body, served.classifier)
    texts = _texts(body)
    _check_pair(body, _options(served.folder))
    data = await models.in_thread(
        served, _answers, served, served.classifier, texts, body.attribution, target
    )
    n_tokens = sum(one["n_tokens"] for one in data)
    made = {"id": f"classify-{uuid.uuid4().hex}", "object": "classification", "created": int(time.time())}
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return Json(made | {"model": served.name, "data": data, "usage": usage})


def _texts(body: ClassifyRequest) -> list[tuple[str, str | None]]:
    texts = [body.input] if isinstance(body.input, str) else body.input
    if len(texts) > TEXTS:
        raise ApiError(
            400, f"input: {len(texts)} texts are more than {TEXTS}; send them in parts", param="input"
        )
    if any(not text.strip() for text in texts):
        raise ApiError(400, "input: an empty text has no class; leave it out", param="input")
    if body.pair is None:
        return [(text, None) for text in texts]
    pairs = [body.pair] if isinstance(body.pair, str) else body.pair
    if len(pairs) != len(texts):
        raise ApiError(
            400, f"pair: {counted(len(pairs), 'text')} cannot go with the {len(texts)} of input", param="pair"
        )
    return list(zip(texts, pairs, strict=True))


def _check_pair(body: ClassifyRequest, trained: ClassifyOptions) -> None:
    """Refuse a second text where training had none, and a single one where it had two; what is unknown is let be."""
    pairs = on_pairs(trained)
    if pairs is False and body.pair is not None:
        raise ApiError(400, f"pair: {body.model} was trained on single texts: leave it out", param="pair")
    if pairs and body.pair is None:
        raise ApiError(
            400, f"pair: {body.model} was trained on pairs: give the second text of each", param="pair"
        )


def _target(body: ClassifyRequest, model: Classifier) -> int | None:
    """The number of the class to explain, if the request names one."""
    if body.target is None:
        return None
    if body.attribution == "none":
        raise ApiError(
            400, "target goes with attribution: say leave_one_out or gradient_x_input", param="target"
        )
    if model.regression:
        raise ApiError(400, f"target: {body.model} predicts a number, so leave it out", param="target")
    if body.target not in model.labels:
        known = ", ".join(model.labels)
        raise ApiError(400, f"target: there is no class {body.target}; there is {known}", param="target")
    return model.labels.index(body.target)


@lru_cache(maxsize=64)
def _options(folder: Path) -> ClassifyOptions:
    """How a folder's classifier reads texts, which its run's recipe says once and for all."""
    return options_of(folder)


def _answers(
    served: Served, model: Classifier, texts: list[tuple[str, str | None]], method: str, target: int | None
) -> list[dict[str, Any]]:
    reader = Reader(model, served.tokenizer, _options(served.folder))
    rows, cut = reader.rows(texts)
    if method == "leave_one_out" and (n := sum(len(row) * (len(row) + 1) for row in rows)) > EXPLAINED:
        raise ApiError(
            400,
            f"attribution: leaving out each token once would read {n:,} tokens, and {EXPLAINED:,} is the most; "
            "ask for gradient_x_input, or send shorter texts",
            param="attribution",
        )
    answers = [
        {"index": index} | verdict | {"n_tokens": len(row), "truncated": short}
        for index, (verdict, row, short) in enumerate(zip(reader.verdicts(texts), rows, cut, strict=True))
    ]
    if method == "none":
        return answers
    return [
        answer | _explained(reader, row, method, _explained_class(answer, model, target))
        for answer, row in zip(answers, rows, strict=True)
    ]


def _explained_class(answer: dict[str, Any], model: Classifier, target: int | None) -> int:
    if target is not None:
        return target
    return 0 if model.regression else model.labels.index(answer["label"])


def _explained(reader: Reader, row: np.ndarray, method: str, target: int) -> dict[str, Any]:
    parts = attribution.units(row, reader.tokenizer)
    values = attribution.METHODS[method](reader.model, row, parts, target, reader.padding)
    number = reader.model.regression
    label, unit = (
        (None, "units of the number") if number else (reader.model.labels[target], "nats of log-odds")
    )
    return {
        "attribution": {"method": method, "label": label, "unit": unit},
        "tokens": [
            {"text": text, "attribution": value} for (text, _), value in zip(parts, values, strict=True)
        ],
    }
