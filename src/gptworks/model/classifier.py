"""A GPT that classifies texts: a linear head on the hidden state of the last real token.

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.2. On disk it is
transformers' GPT2ForSequenceClassification or Qwen3ForSequenceClassification. Those find the last real token by the
padding id, so texts must not end with that id, and ours do not. A model with a single output predicts a number.

Shapes: B texts, R rows, T tokens, C n_embd, K classes (or 1).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gptworks.errors import CheckpointError
from gptworks.files import write_json
from gptworks.model import adapter as adapters
from gptworks.model import checkpoint, lora
from gptworks.model.attention import packed
from gptworks.model.build import Model, skeleton
from gptworks.model.gpt2 import GPT2
from gptworks.model.hf_config import read_json, to_hf
from gptworks.model.hf_weights import from_disk, params_to_disk, write_tensors
from gptworks.text.packing import first_fit
from gptworks.text.tokenizer import Tokenizer

REGRESSION_LABELS = ("value",)
"""The name of the single output of a model that predicts a number."""

BATCH_TOKENS = 4096
"""Padded tokens per forward pass without gradients."""


class ClassifierModel(nn.Module):
    """A language model's body with a head that scores classes.

    In training for regression the head's weights are stored divided by `target_scale`, a power of two near the size of
    the targets. They then have the size of other weights, and multiplying them back for a model folder is exact.
    """

    def __init__(
        self, body: Model, labels: tuple[str, ...], *, regression: bool = False, target_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.config, self.labels, self.regression = body.config, labels, regression
        self.target_scale = target_scale
        self.body_name = "transformer" if isinstance(body, GPT2) else "model"
        self.add_module(self.body_name, body.get_submodule(self.body_name))
        weight = body.head_weight
        self.score = nn.Linear(
            body.config.n_embd, len(labels), bias=False, device=weight.device, dtype=weight.dtype
        )
        self.train(body.training)

    def forward(self, ids: Tensor, ends: Tensor, segments: Tensor | None = None) -> Tensor:
        """(R, T) token ids -> (B, K) float32 scores; (B,) `ends` index each text's last token among all R * T.

        Texts are padded on the right, or several share a row and (R, T) `segments` tell them apart.
        """
        attention_input = None if segments is None else packed(segments)
        hidden = self.get_submodule(self.body_name)(ids, None, attention_input)  # (R, T, C)
        last = hidden.flatten(0, 1)[ends]  # (B, C)
        with torch.autocast(hidden.device.type, enabled=False):  # bf16 predictions have 8 significant bits
            return self.score(last.to(self.score.weight.dtype)).float() * self.target_scale

    @property
    def label_config(self) -> dict[str, Any]:
        """The entries of config.json that describe the labels."""
        names = {str(index): name for index, name in enumerate(self.labels)}
        return {
            "id2label": names,
            "label2id": {name: int(index) for index, name in names.items()},
            "problem_type": "regression" if self.regression else "single_label_classification",
        }


def with_head(
    body: Model, labels: tuple[str, ...], *, seed: int, target_scale: float = 1.0
) -> ClassifierModel:
    """A classifier with this model's weights and a fresh head. Without labels it predicts a number."""
    regression = not labels
    classifier = ClassifierModel(
        body, labels or REGRESSION_LABELS, regression=regression, target_scale=target_scale
    )
    fresh = torch.empty(classifier.score.weight.shape)
    fresh.normal_(0.0, body.config.init_std, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        classifier.score.weight.copy_(fresh)
    return classifier


def save(model: ClassifierModel, folder: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a classifier as a folder that `AutoModelForSequenceClassification` opens."""
    folder.mkdir(parents=True, exist_ok=True)
    end = None if tokenizer is None else tokenizer.eos_id
    architecture = {"gpt2": "GPT2", "modern": "Qwen3"}[model.config.family]
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    architectures = {"architectures": [f"{architecture}ForSequenceClassification"]}
    write_json(folder / "config.json", to_hf(model.config) | model.label_config | ids | architectures)
    params = {**dict(model.named_parameters()), "score.weight": model.score.weight * model.target_scale}
    write_tensors(params_to_disk(params, model.config), folder / "model.safetensors")
    if tokenizer is not None:
        tokenizer.save(folder)


def is_classifier(folder: Path) -> bool:
    """Whether a model folder holds a classifier or a regression model rather than a language model.

    Raises:
        CheckpointError: config.json is missing or damaged.
    """
    if adapters.is_adapter(folder):
        return "score.weight" in adapters.read(folder).full_params
    architectures = read_json(folder / "config.json").get("architectures") or []
    return any("SequenceClassification" in str(name) for name in architectures)


def load(folder: Path) -> ClassifierModel:
    """The classifier in a folder, on the CPU, in evaluation mode. An adapter is merged into its base.

    Raises:
        CheckpointError: the folder holds no classifier, or a damaged one.
    """
    if adapters.is_adapter(folder):
        adapter = adapters.read(folder)
        if "score.weight" not in adapter.full_params:
            raise CheckpointError(f"{folder} is an adapter for a language model, not a classifier")
        body = checkpoint.load(checkpoint.base_of(adapter))
        model = _with_empty_head(body, adapter.labels, adapter.full_params["score.weight"])
        adapters.apply(adapter, model, adapter.base)
        lora.merge(model)
        return model.eval()
    tensors = checkpoint.read_tensors(folder)
    if "score.weight" not in tensors:
        raise CheckpointError(
            f"{folder} is not a classifier: it has no score.weight; make one with gptworks finetune classify"
        )
    _, config = from_disk(tensors, checkpoint.read_config(folder))
    checkpoint.check_size(tensors, config, folder)
    model = _with_empty_head(skeleton(config), read_json(folder / "config.json"), tensors["score.weight"])
    model.load_state_dict(_read_params(model, folder), assign=True)
    return model.eval()


def load_into(model: ClassifierModel, folder: Path) -> None:
    """Replace a classifier's weights in place, on any device, by those of a folder.

    Raises:
        CheckpointError: damaged files, or a network of another shape.
    """
    model.load_state_dict(_read_params(model, folder))


def _read_params(model: ClassifierModel, folder: Path) -> dict[str, Tensor]:
    tensors = checkpoint.read_tensors(folder)
    ours, _ = from_disk(tensors, model.config)
    ours.pop("lm_head.weight", None)
    if "score.weight" in tensors:
        ours["score.weight"] = tensors["score.weight"] / model.target_scale
    params = dict(model.named_parameters())
    return checkpoint.match_params(ours, params, model.config.vocab_size, folder, torch.float32)


def _with_empty_head(body: Model, label_config: dict[str, Any], score: Tensor) -> ClassifierModel:
    """A classifier with as many outputs as `score` has rows; its head is not initialised."""
    if score.dim() != 2:
        raise CheckpointError(f"score.weight has shape {tuple(score.shape)}, expected two dimensions")
    names = label_config.get("id2label")
    names = names if isinstance(names, dict) else {}
    labels = tuple(str(names.get(str(index), f"LABEL_{index}")) for index in range(len(score)))
    return ClassifierModel(body, labels, regression=label_config.get("problem_type") == "regression")


def collate(rows: Sequence[np.ndarray], pad_id: int, max_row_tokens: int = 0) -> dict[str, Tensor]:
    """(R, T) `ids` of texts, and `ends`: the index of each text's last token among all R * T.

    Each text gets a row, padded on the right. If it saves a tenth of the tokens, several texts share rows of up to
    `max_row_tokens` tokens instead, and (R, T) `segments` tell them apart.
    """
    lengths = [len(row) for row in rows]
    places, (R, T) = pack_rows(lengths, max_row_tokens)
    ids, segments = np.full((R, T), pad_id, dtype=np.int64), np.zeros((R, T), dtype=np.int64)
    for number, (row, (r, start)) in enumerate(zip(rows, places, strict=True), 1):
        ids[r, start : start + len(row)] = row
        segments[r, start : start + len(row)] = number
    ends = [r * T + start + n - 1 for (r, start), n in zip(places, lengths, strict=True)]
    batch = {"ids": torch.from_numpy(ids), "ends": torch.tensor(ends)}
    is_packed = any(start for _, start in places)
    return batch | {"segments": torch.from_numpy(segments)} if is_packed else batch


def pack_rows(lengths: Sequence[int], max_row_tokens: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(row, start) of each text, and (R, T), with little padding for texts of these lengths."""
    longest = max(lengths)
    unpacked = [(row, 0) for row in range(len(lengths))], (len(lengths), longest)
    candidates = (first_fit(lengths, width) for width in range(longest, max_row_tokens + 1, 8))
    best = min(candidates, key=lambda packing: packing[1][0] * packing[1][1], default=unpacked)
    pays = 10 * best[1][0] * best[1][1] < 9 * len(lengths) * longest  # packing needs a mask, which costs time
    return best if pays else unpacked


@torch.no_grad()
def predict(model: ClassifierModel, rows: Sequence[np.ndarray], pad_id: int) -> Tensor:
    """(N, K) scores of N texts, on the CPU. Batches hold texts of similar length, to save padding."""
    scores = torch.zeros(len(rows), len(model.labels))
    device = model.score.weight.device
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), index))
    while order:
        # The longest first: it fixes the batch size, and later batches need no more memory.
        size = max(1, BATCH_TOKENS // len(rows[order[-1]]))
        chosen, order = order[-size:], order[:-size]
        batch = collate([rows[index] for index in chosen], pad_id)
        outputs = model(batch["ids"].to(device), batch["ends"].to(device))
        scores[torch.tensor(chosen)] = outputs.cpu()
    return scores
