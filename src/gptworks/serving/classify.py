"""POST /v1/classify: predicted classes or values of texts, and on request the attribution of each token."""

import asyncio
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
from gptworks.evaluation import attribution
from gptworks.evaluation.prediction import Predictor
from gptworks.messages import counted
from gptworks.model.classifier import ClassifierModel
from gptworks.recipe import ClassifyOptions
from gptworks.serving import models
from gptworks.serving.errors import RESPONSES, ApiError, JsonResponse
from gptworks.serving.models import ServedModel
from gptworks.serving.schema import Strict
from gptworks.train.classifying import options_of

router = APIRouter()

MAX_TEXTS = 256
"""Most texts in one request."""

MAX_ATTRIBUTION_TOKENS = 1 << 16
"""Most tokens that leave_one_out may read in one request; a text of n tokens needs about n squared."""


class ClassifyRequest(Strict):
    """POST /v1/classify."""

    model: str
    input: str | Annotated[list[str], Field(min_length=1)]
    pair: str | list[str] | None = None
    """The second text of each pair, if the model was trained on pairs."""
    attribution: Literal["none", "leave_one_out", "gradient_x_input"] = "none"
    """How to attribute the prediction to the tokens."""
    target: str | None = None
    """The class to explain. Default: the predicted one."""


class Explanation(BaseModel):
    """How the attributions in `tokens` were computed."""

    method: Literal["leave_one_out", "gradient_x_input"]
    label: str | None
    """The class explained; null for regression."""
    unit: str


class TokenAttribution(BaseModel):
    """One token, or several that form one character together."""

    text: str
    attribution: float | None
    """Positive values support the label. Null if nothing is left without the token."""


class TextPrediction(BaseModel):
    """The prediction for one text: label and probabilities, or the value of a regression."""

    index: int
    label: str | None = None
    probabilities: dict[str, float] | None = None
    value: float | None = None
    n_tokens: int
    truncated: bool
    """True if the end of the text did not fit the context and was cut off."""
    attribution: Explanation | None = None
    tokens: list[TokenAttribution] | None = None


class ClassifyUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class ClassifyResponse(BaseModel):
    """The predictions for all texts."""

    id: str
    object: Literal["classification"]
    created: int
    model: str
    data: list[TextPrediction]
    usage: ClassifyUsage


@router.post(
    "/v1/classify",
    responses=RESPONSES | {200: {"model": ClassifyResponse, "description": "Predictions"}},
)
async def classify(body: ClassifyRequest, http: Request) -> Response:
    """Classify texts, or predict their values."""
    served = models.find(http, body.model, kinds=("classifier",))
    assert served.classifier is not None
    target = _target(body, served.classifier)
    texts = _texts(body)
    _check_pair(body, _options(served.folder))
    call = served.thread.call(_predict, served, served.classifier, texts, body.attribution, target)
    data = await asyncio.wrap_future(call)
    n_tokens = sum(row["n_tokens"] for row in data)
    fields = {"id": f"classify-{uuid.uuid4().hex}", "object": "classification", "created": int(time.time())}
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return JsonResponse(fields | {"model": served.name, "data": data, "usage": usage})


def _texts(body: ClassifyRequest) -> list[tuple[str, str | None]]:
    texts = [body.input] if isinstance(body.input, str) else body.input
    if len(texts) > MAX_TEXTS:
        raise ApiError(400, f"input: {len(texts)} texts; send at most {MAX_TEXTS} per request", param="input")
    if any(not text.strip() for text in texts):
        raise ApiError(400, "input: empty texts cannot be classified; leave them out", param="input")
    if body.pair is None:
        return [(text, None) for text in texts]
    pairs = [body.pair] if isinstance(body.pair, str) else body.pair
    if len(pairs) != len(texts):
        raise ApiError(
            400, f"pair has {counted(len(pairs), 'text')}, but input has {len(texts)}", param="pair"
        )
    return list(zip(texts, pairs, strict=True))


def _check_pair(body: ClassifyRequest, trained: ClassifyOptions) -> None:
    """Require second texts if and only if the model was trained on pairs; accept both if that is unknown."""
    pairs = on_pairs(trained)
    if pairs is False and body.pair is not None:
        raise ApiError(400, f"pair: {body.model} was trained on single texts; leave it out", param="pair")
    if pairs and body.pair is None:
        raise ApiError(
            400, f"pair: {body.model} was trained on pairs; send the second text of each", param="pair"
        )


def _target(body: ClassifyRequest, model: ClassifierModel) -> int | None:
    """The index of the class to explain, if the request names one."""
    if body.target is None:
        return None
    if body.attribution == "none":
        raise ApiError(
            400, "target needs attribution: send leave_one_out or gradient_x_input", param="target"
        )
    if model.regression:
        raise ApiError(
            400, f"target: {body.model} predicts a number and has no classes; leave it out", param="target"
        )
    if body.target not in model.labels:
        classes = ", ".join(model.labels)
        raise ApiError(400, f"target: {body.target} is not one of the classes {classes}", param="target")
    return model.labels.index(body.target)


@lru_cache(maxsize=64)
def _options(folder: Path) -> ClassifyOptions:
    """The classifier's training options, which never change."""
    return options_of(folder)


def _predict(
    served: ServedModel,
    model: ClassifierModel,
    texts: list[tuple[str, str | None]],
    method: str,
    target: int | None,
) -> list[dict[str, Any]]:
    reader = Predictor(model, served.tokenizer, _options(served.folder))
    rows, truncated = reader.encode(texts)
    n_read = sum(len(row) * (len(row) + 1) for row in rows)
    if method == "leave_one_out" and n_read > MAX_ATTRIBUTION_TOKENS:
        raise ApiError(
            400,
            f"attribution: leave_one_out would read {n_read:,} tokens, more than the limit of "
            f"{MAX_ATTRIBUTION_TOKENS:,}; use gradient_x_input, or send shorter texts",
            param="attribution",
        )
    predictions = [
        {"index": index} | verdict | {"n_tokens": len(row), "truncated": cut}
        for index, (verdict, row, cut) in enumerate(
            zip(reader.predict(texts)[0], rows, truncated, strict=True)
        )
    ]
    if method != "none":
        for prediction, row in zip(predictions, rows, strict=True):
            index = target
            if index is None:
                index = 0 if model.regression else model.labels.index(prediction["label"])
            prediction.update(_attribute(reader, row, method, index))
    return predictions


def _attribute(reader: Predictor, row: np.ndarray, method: str, target: int) -> dict[str, Any]:
    parts = attribution.units(row, reader.tokenizer)
    values = attribution.METHODS[method](reader.model, row, parts, target, reader.padding)
    regression = reader.model.regression
    return {
        "attribution": {
            "method": method,
            "label": None if regression else reader.model.labels[target],
            "unit": "units of the predicted value" if regression else "nats of log-odds",
        },
        "tokens": [
            {"text": text, "attribution": value} for (text, _), value in zip(parts, values, strict=True)
        ],
    }
