"""A GPT that names a text's class: a linear head on the hidden state of the last real token.

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.2. On disk it is
transformers' GPT2ForSequenceClassification or Qwen3ForSequenceClassification, which finds the last real token by the
padding's id: texts must not end with it, and ours do not. One output predicts a number.

Shapes: B texts, R rows, T tokens, C n_embd, K classes (or 1).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gptworks.errors import CheckpointError
from gptworks.model import adapter as adapters
from gptworks.model import checkpoint, lora
from gptworks.model.attention import packed
from gptworks.model.build import Model, skeleton
from gptworks.model.gpt2 import GPT2
from gptworks.model.hf_config import to_hf
from gptworks.model.layout import from_disk, laid_out
from gptworks.text.tokenizer import Tokenizer

NUMBER = ("value",)
"""The name of the one output of a model that predicts a number."""

BATCH_TOKENS = 4096
"""Padded tokens of a forward pass without gradients."""


class Classifier(nn.Module):
    """A language model's body, and a head that scores classes.

    While large or tiny numbers are learned, the head's weights are counted in a `unit`, a power of two: so they are as
    large as other weights, and the same to the bit when a folder counts them in ones.
    """

    def __init__(
        self, body: Model, labels: tuple[str, ...], *, regression: bool = False, unit: float = 1.0
    ) -> None:
        super().__init__()
        self.config, self.labels, self.regression, self.unit = body.config, labels, regression, unit
        self.body_name = "transformer" if isinstance(body, GPT2) else "model"
        self.add_module(self.body_name, body.get_submodule(self.body_name))
        weight = body.head_weight
        self.score = nn.Linear(
            body.config.n_embd, len(labels), bias=False, device=weight.device, dtype=weight.dtype
        )
        self.train(body.training)

    def forward(self, ids: Tensor, ends: Tensor, segments: Tensor | None = None) -> Tensor:
        """(R, T) token ids -> (B, K) float32 scores of the B texts whose last tokens are the `ends` of all R * T.

        Texts are padded on the right, or several share a row, which (R, T) `segments` tell apart.
        """
        layout = None if segments is None else packed(segments)
        hidden = self.get_submodule(self.body_name)(ids, None, layout)  # (R, T, C)
        with torch.autocast(
            hidden.device.type, enabled=False
        ):  # bf16 tells 200,000 from 201,024 and nothing between
            return self.score(hidden.flatten(0, 1)[ends].to(self.score.weight.dtype)).float() * self.unit

    @property
    def facts(self) -> dict[str, Any]:
        """What a folder says of the classes."""
        names = {str(number): name for number, name in enumerate(self.labels)}
        kind = "regression" if self.regression else "single_label_classification"
        return {
            "id2label": names,
            "label2id": {name: int(number) for number, name in names.items()},
            "problem_type": kind,
        }


def on(body: Model, labels: tuple[str, ...], *, seed: int, unit: float = 1.0) -> Classifier:
    """A classifier with this model's weights and a fresh head; without labels it predicts a number."""
    classifier = Classifier(body, labels or NUMBER, regression=not labels, unit=unit)
    fresh = torch.empty(classifier.score.weight.shape)
    fresh.normal_(0.0, body.config.init_std, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        classifier.score.weight.copy_(fresh)
    return classifier


def save(model: Classifier, folder: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a classifier as a folder that `AutoModelForSequenceClassification` opens as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    end = None if tokenizer is None else tokenizer.eos_id
    said = to_hf(model.config) | model.facts | {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    name = {"gpt2": "GPT2", "modern": "Qwen3"}[model.config.family]
    said["architectures"] = [f"{name}ForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    params = {**dict(model.named_parameters()), "score.weight": model.score.weight * model.unit}
    save_file(laid_out(params, model.config), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes 0600; clusters share folders
    if tokenizer is not None:
        tokenizer.save(folder)


def is_classifier(folder: Path) -> bool:
    """True if a model folder names classes, or predicts a number, instead of continuing texts.

    Raises:
        CheckpointError: no config.json, or a damaged one.
    """
    if adapters.is_adapter(folder):
        return "score.weight" in adapters.read(folder).whole
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json cannot be read: {error}") from None
    return any("SequenceClassification" in str(name) for name in said.get("architectures") or [])


def load(folder: Path) -> Classifier:
    """The classifier of a folder, its adapter merged if it is one, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: no classifier there, or a damaged one.
    """
    if adapters.is_adapter(folder):
        adapter = adapters.read(folder)
        if "score.weight" not in adapter.whole:
            raise CheckpointError(f"{folder} is an adapter for a language model, not a classifier")
        model = _empty(
            checkpoint.load(checkpoint.base_of(adapter)), adapter.labels, adapter.whole["score.weight"]
        )
        adapters.apply(adapter, model, adapter.base)
        lora.merge(model)
        return model.eval()
    tensors = checkpoint.read_tensors(folder)
    if "score.weight" not in tensors:
        raise CheckpointError(
            f"{folder} is no classifier: it has no score.weight; make one with gptworks finetune classify"
        )
    _, config = from_disk(tensors, checkpoint.read_config(folder))
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    checkpoint.check_size(tensors, config, folder)
    model = _empty(skeleton(config), facts, tensors["score.weight"])
    model.load_state_dict(_ours(model, folder), assign=True)
    return model.eval()


def load_into(model: Classifier, folder: Path) -> None:
    """Replace the weights of a classifier, wherever they are, by those of a folder.

    Raises:
        CheckpointError: damaged files, or a network of another shape.
    """
    model.load_state_dict(_ours(model, folder))


def _ours(model: Classifier, folder: Path) -> dict[str, Tensor]:
    tensors = checkpoint.read_tensors(folder)
    ours, _ = from_disk(tensors, model.config)
    ours.pop("lm_head.weight", None)
    params = dict(model.named_parameters())
    whole = ours | {name: tensor / model.unit for name, tensor in tensors.items() if name == "score.weight"}
    return checkpoint.fitted(whole, params, model.config.vocab_size, folder, torch.float32)


def _empty(body: Model, facts: dict[str, Any], score: Tensor) -> Classifier:
    """A classifier with as many outputs as `score`, its labels named where anyone named them."""
    if score.dim() != 2:
        raise CheckpointError(
            f"score.weight has shape {tuple(score.shape)}; a classifier's has two dimensions"
        )
    names = facts.get("id2label")
    names = names if isinstance(names, dict) else {}
    labels = tuple(str(names.get(str(number), f"LABEL_{number}")) for number in range(len(score)))
    return Classifier(body, labels, regression=facts.get("problem_type") == "regression")


def collate(rows: Sequence[np.ndarray], padding: int, room: int = 0) -> dict[str, Tensor]:
    """`ids` (R, T) of texts, and their `ends`: where each one's last token is among all R * T.

    Each has a row, padded on the right; or several share rows of up to `room` tokens, and `segments` tell them apart,
    where that makes the whole smaller by a tenth.
    """
    lengths = [len(row) for row in rows]
    places, (R, T) = shelve(lengths, room)
    ids, segments = np.full((R, T), padding, dtype=np.int64), np.zeros((R, T), dtype=np.int64)
    for number, (row, (line, start)) in enumerate(zip(rows, places, strict=True), 1):
        ids[line, start : start + len(row)] = row
        segments[line, start : start + len(row)] = number
    ends = [line * T + start + n - 1 for (line, start), n in zip(places, lengths, strict=True)]
    batch = {"ids": torch.from_numpy(ids), "ends": torch.tensor(ends)}
    shared = any(start for _, start in places)
    return batch | {"segments": torch.from_numpy(segments)} if shared else batch


def shelve(lengths: Sequence[int], room: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(row, start) of each text, and (R, T): where texts of these lengths go so that little is padded."""
    longest = max(lengths)
    alone = [(line, 0) for line in range(len(lengths))], (len(lengths), longest)
    shelves = (_first_fit(lengths, width) for width in range(longest, room + 1, 8))
    best = min(shelves, key=lambda made: made[1][0] * made[1][1], default=alone)
    worth = 10 * best[1][0] * best[1][1] < 9 * len(lengths) * longest  # a mask costs something, too
    return best if worth else alone


def _first_fit(lengths: Sequence[int], width: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The longest first, each into the first row that has room."""
    used: list[int] = []
    places = [(0, 0)] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        line = next((i for i, taken in enumerate(used) if taken + lengths[number] <= width), len(used))
        if line == len(used):
            used.append(0)
        places[number] = line, used[line]
        used[line] += lengths[number]
    return places, (len(used), max(used))


@torch.no_grad()
def predict(model: Classifier, rows: Sequence[np.ndarray], padding: int) -> Tensor:
    """(N, K) scores of texts' ids, on the CPU. Texts of like length go together, so that little is padded."""
    scores = torch.zeros(len(rows), len(model.labels))
    device = model.score.weight.device
    order = sorted(range(len(rows)), key=lambda number: (len(rows[number]), number))
    while order:
        # The longest first: how many fit is known, and memory is never short later on.
        size = max(1, BATCH_TOKENS // len(rows[order[-1]]))
        chosen, order = order[-size:], order[:-size]
        batch = collate([rows[number] for number in chosen], padding)
        made = model(batch["ids"].to(device), batch["ends"].to(device))
        scores[torch.tensor(chosen)] = made.cpu()
    return scores
