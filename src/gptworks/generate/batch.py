"""Many prompts continued together, each as `generate` alone would continue it, to rounding.

Prompts of several lengths stand in one cache: the shorter ones are padded on the left, and positions and mask see to
it that nobody notices. A row leaves when its text ends, so that the last ones do not wait for company.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptworks.errors import ConfigError
from gptworks.generate.continuation import eager, evaluating
from gptworks.generate.engine import FinishReason, Sample, prompt_ids, room
from gptworks.generate.sampling import draw, noise
from gptworks.generate.settings import GenerateSettings
from gptworks.generate.stopping import SampleText
from gptworks.model.attention import left_padded
from gptworks.model.build import Model
from gptworks.model.cache import KVCache
from gptworks.text.tokenizer import Tokenizer

AT_ONCE = 32
"""Prompts that go through the network together."""


def generate_many(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[str | list[int]], settings: GenerateSettings
) -> list[Sample]:
    """A continuation of each prompt, given as text or as ids.

    Raises:
        ConfigError: several samples or beams are asked for, or a prompt fills the model's context.
        CheckpointError: the tokenizer is not this model's.
    """
    settings.check()
    if settings.beams or settings.samples > 1:
        raise ConfigError("several prompts together get one sample each: leave out --beams and --samples")
    ids = [prompt_ids(model, tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda number: (-len(ids[number]), number))
    made: dict[int, Sample] = {}
    with evaluating(model):
        for start in range(0, len(order), AT_ONCE):
            numbers = order[start : start + AT_ONCE]
            found = _together(model, tokenizer, [ids[number] for number in numbers], settings)
            made |= dict(zip(numbers, found, strict=True))
    return [made[number] for number in range(len(ids))]


def _together(
    model: Model, tokenizer: Tokenizer, prompts: list[list[int]], settings: GenerateSettings
) -> list[Sample]:
    """Continue prompts, the longest of which comes first."""
    rooms = [room(model, ids, settings) for ids in prompts]
    rows = _Rows(model, prompts, max(rooms), tokenizer.vocab_size)
    uniform = noise(settings, max(rooms), rows.device)  # (1, n): every prompt has the noise it has alone
    said = [SampleText(tokenizer, settings.stop) for _ in prompts]
    texts = [""] * len(prompts)
    new_ids: list[list[int]] = [[] for _ in prompts]
    reasons: list[FinishReason] = ["length"] * len(prompts)
    alive = list(range(len(prompts)))  # row -> prompt
    for index in range(max(rooms)):
        new = draw(rows.logits, settings, uniform[:, index].expand(len(alive)))
        going = []
        for row, (number, id) in enumerate(zip(alive, new.tolist(), strict=True)):
            ends, last = id == tokenizer.eos_id, index == rooms[number] - 1
            if not ends:
                texts[number] += said[number].push(id)
                new_ids[number].append(id)
            if ends or last:
                texts[number] += said[number].end()
            if said[number].stopped or ends:
                reasons[number] = "stop" if said[number].stopped else "eos"
            elif not last:
                going.append(row)
        if not going:
            break
        alive = [alive[row] for row in going]
        rows.step(new, going)
    return [
        Sample(tokenizer.decode(ids), text, new, reason)
        for ids, text, new, reason in zip(prompts, texts, new_ids, reasons, strict=True)
    ]


class _Rows:
    """The network's side: prompts read together, and logits of each one's next token."""

    def __init__(self, model: Model, prompts: list[list[int]], n_new: int, vocab_size: int) -> None:
        self.model, self.vocab_size = model, vocab_size
        self.device = model.head_weight.device
        longest = max(map(len, prompts))
        self.padding = torch.tensor([longest - len(ids) for ids in prompts], device=self.device)
        dtype = model.head_weight.dtype
        self.cache = KVCache(model.config, len(prompts), longest + n_new, dtype, self.device)
        padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts], device=self.device)
        self.logits = self._read(padded)  # (n, V)

    def step(self, new: Tensor, going: list[int]) -> None:
        """Take in one new id of each row that goes on."""
        rows = torch.tensor(going, device=self.device)
        if len(going) < len(new):
            self.take(rows)
        self.logits = self._read(new[rows, None])

    @torch.inference_mode()
    def take(self, rows: Tensor) -> None:
        """Keep these rows alone."""
        self.cache.take(rows)
        self.padding = self.padding[rows]

    @torch.inference_mode()
    def _read(self, ids: Tensor) -> Tensor:
        layout = left_padded(self.padding, len(self.cache), ids.shape[1])
        with eager():
            hidden = self.model(ids, self.cache, layout)[:, -1]  # (n, C)
        return self.model.logits(hidden)[:, : self.vocab_size]
