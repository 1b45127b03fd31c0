"""Many prompts continued together, each as `generate` alone would continue it, to rounding.

A text that ends makes room for the next one, so that the last ones do not wait for company.
"""

from collections.abc import Sequence

from gptworks.errors import ConfigError
from gptworks.generate.continuation import evaluating
from gptworks.generate.engine import Sample, collect, fitted, prompt_ids
from gptworks.generate.requests import Piece, Request
from gptworks.generate.scheduler import Scheduler
from gptworks.generate.settings import GenerateSettings
from gptworks.model.build import Model
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
    requests = [
        Request(*fitted(model, prompt_ids(model, tokenizer, prompt), settings), settings)
        for prompt in prompts
    ]
    scheduler = Scheduler(model, tokenizer, AT_ONCE)
    # The longest first: memory is never short later on, and prompts that are read together are of like length.
    order = sorted(range(len(requests)), key=lambda number: (-len(requests[number].ids), number))
    whose = {scheduler.add(requests[number]): number for number in order}
    pieces: list[list[Piece]] = [[] for _ in requests]
    with evaluating(model):
        while scheduler.busy:
            for ticket, piece in scheduler.step():
                assert isinstance(piece, Piece)
                pieces[whose[ticket]].append(piece)
    said = [tokenizer.decode(request.ids) for request in requests]
    return [collect(*parts)[0] for parts in zip(said, [settings] * len(said), pieces, strict=True)]
