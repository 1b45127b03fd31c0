from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from gptworks.generation.engine import GenerateSettings, generate
from tests.conftest import END


def theirs_say(theirs, tokenizer, prompt: str, **options) -> list[list[int]]:
    ids = torch.tensor([tokenizer.encode(prompt)])
    out = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=END, **options
    )
    rows = [row[ids.shape[1] :].tolist() for row in out]
    return [row[: row.index(END)] if END in row else row for row in rows]


@pytest.mark.parametrize("prompt", ["Hello", "a", "The end is near"])
@pytest.mark.parametrize(("beams", "samples"), [(1, 1), (2, 1), (4, 4), (5, 2)])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.5, -1.0])
def test_beams_equal_transformers(
    pair, full_tokenizer, prompt: str, beams: int, samples: int, length_penalty: float
):
    theirs, ours = pair
    wanted = theirs_say(
        theirs,
        full_tokenizer,
        prompt,
        max_new_tokens=12,
        num_beams=beams,
        num_return_sequences=samples,
        length_penalty=length_penalty,
    )
    settings = GenerateSettings(max_tokens=12, beams=beams, samples=samples, length_penalty=length_penalty)
    assert [sample.ids for sample in generate(ours, full_tokenizer, prompt, settings)] == wanted


@pytest.mark.parametrize("beams", [0, 3])
@pytest.mark.parametrize("penalty", [1.8, 0.6])
def test_a_penalty_for_repetition_is_that_of_transformers(pair, full_tokenizer, beams: int, penalty: float):
    theirs, ours = pair
    options = {"num_beams": beams} if beams else {}
    wanted = theirs_say(
        theirs, full_tokenizer, "aabba", max_new_tokens=14, repetition_penalty=penalty, **options
    )
    settings = GenerateSettings(max_tokens=14, temperature=0, beams=beams, repetition_penalty=penalty)
    assert [sample.ids for sample in generate(ours, full_tokenizer, "aabba", settings)] == wanted


@contextmanager
def likelier_end(*heads: torch.Tensor) -> Iterator[None]:
    """Logits of the end of text that vary four times as much as others: now and then it is the likeliest."""
    with torch.no_grad():
        before = [head[END].clone() for head in heads]
        for head in heads:
            head[END] = head[:16].sum(0)
        yield
        for head, row in zip(heads, before, strict=True):
            head[END] = row


@pytest.mark.parametrize("length_penalty", [1.0, -1.0, 2.0])
def test_beams_that_end_equal_transformers(pair, full_tokenizer, length_penalty: float):
    """The end of text made likely, so that beams end on the way and the search stops before max_tokens."""
    theirs, ours = pair
    ended = 0
    with likelier_end(theirs.get_output_embeddings().weight, ours.head_weight):
        for prompt in ("Hello", "a", "b", "The end is near", "0123"):
            wanted = theirs_say(
                theirs,
                full_tokenizer,
                prompt,
                max_new_tokens=20,
                num_beams=3,
                num_return_sequences=3,
                length_penalty=length_penalty,
            )
            settings = GenerateSettings(max_tokens=20, beams=3, samples=3, length_penalty=length_penalty)
            found = generate(ours, full_tokenizer, prompt, settings)
            assert [sample.ids for sample in found] == wanted
            ended += sum(sample.finish_reason == "eos" for sample in found)
    assert ended >= 3


def test_one_beam_without_ends_is_greedy(never_ending, byte_tokenizer):
    beam = generate(never_ending, byte_tokenizer, "Hello", GenerateSettings(max_tokens=20, beams=1))
    greedy = generate(never_ending, byte_tokenizer, "Hello", GenerateSettings(max_tokens=20, temperature=0))
    assert beam == greedy


def test_more_beams_find_likelier_texts(never_ending, byte_tokenizer):
    """As many beams as there are texts of two tokens with a likely beginning find the likeliest pair of all."""
    ids = torch.tensor([byte_tokenizer.encode("Hello")])
    V = byte_tokenizer.vocab_size
    with torch.no_grad():
        first = never_ending.logits(never_ending(ids))[0, -1, :V].log_softmax(-1)
        pairs = torch.cat([ids.expand(V, -1), torch.arange(V)[:, None]], 1)
        totals = first[:, None] + never_ending.logits(never_ending(pairs))[:, -1, :V].log_softmax(-1)
    best = divmod(int(totals.argmax()), V)
    settings = GenerateSettings(max_tokens=2, beams=V)
    assert generate(never_ending, byte_tokenizer, "Hello", settings)[0].ids == list(best)


def test_a_stop_string_cuts_the_text_found(never_ending, byte_tokenizer):
    free = generate(never_ending, byte_tokenizer, "Hello", GenerateSettings(max_tokens=20, beams=3))[0]
    settings = GenerateSettings(max_tokens=20, beams=3, stop=(free.text[5],))
    cut = generate(never_ending, byte_tokenizer, "Hello", settings)[0]
    assert (cut.text, cut.finish_reason) == (free.text[: free.text.index(free.text[5])], "stop")
