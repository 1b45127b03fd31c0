from collections import Counter

import pytest
import scipy.stats
import torch

from gptworks.errors import CheckpointError, ConfigError
from gptworks.generation import engine
from gptworks.generation.engine import GenerateSettings, generate, generate_many, stream
from gptworks.model.build import build, grow_vocabulary
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from tests.conftest import CONTEXT, END, VOCABULARY
from tests.model.test_lora import FAMILIES, tiny

PROMPTS = ["Hello", "a", "A longer prompt of 30 letters."]
MANY_PROMPTS = ["", "a", "What is this?", "x" * (CONTEXT - 3), "tell me more about it", [104, 105]]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_equals_transformers(pair, byte_tokenizer, prompt: str):
    """Also where transformers' sampling would choose ids that our tokenizer has no token for: there we differ on
    purpose, so its logits of those are suppressed."""
    theirs, ours = pair
    ids = torch.tensor([byte_tokenizer.encode(prompt)])
    unknown = list(range(byte_tokenizer.vocab_size, VOCABULARY))
    wanted = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=15,
        do_sample=False,
        suppress_tokens=unknown,
        pad_token_id=END,
    )[0, ids.shape[1] :].tolist()
    sample = generate(ours, byte_tokenizer, prompt, GenerateSettings(max_tokens=15, temperature=0))[0]
    ended = [END] if sample.finish_reason == "eos" else []
    assert sample.ids + ended == wanted
    assert sample.text == byte_tokenizer.decode(sample.ids)
    assert sample.prompt == prompt


def test_samples_are_distributed_as_those_of_transformers(pair, full_tokenizer):
    """A chi-square test that 2,000 texts of either side come from one distribution, which they would fail with a
    probability of 1e-6; the seeds are fixed. Texts that say the same with another filter do fail it."""
    theirs, ours = pair
    n, ids = 2000, torch.tensor([full_tokenizer.encode("Hello")])
    options = {"temperature": 1.3, "top_k": 5, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2}

    def counted(**others: float) -> Counter[tuple[int, ...]]:
        settings = GenerateSettings(max_tokens=2, samples=n, seed=1, **options | others)
        samples = generate(ours, full_tokenizer, "Hello", settings)
        return Counter((*one.ids, END)[:2] for one in samples)

    torch.manual_seed(0)
    rows = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        num_return_sequences=n,
        max_new_tokens=2,
        pad_token_id=END,
        **options,
    )
    wanted = Counter(tuple(row) for row in rows[:, ids.shape[1] :].tolist())
    assert likeness(wanted, counted()) > 1e-6
    assert likeness(wanted, counted(temperature=1.0)) < 1e-6


def likeness(one: Counter[tuple[int, ...]], other: Counter[tuple[int, ...]]) -> float:
    """p of Pearson's chi-square that both are draws from one distribution; texts seen fewer than ten times are one."""
    seen = one + other
    often = [text for text, times in seen.items() if times >= 10]
    table = [[counts[text] for text in often] for counts in (one, other)]
    rest = [sum(counts.values()) - sum(row) for counts, row in zip((one, other), table, strict=True)]
    if any(rest):
        table = [[*row, more] for row, more in zip(table, rest, strict=True)]
    return scipy.stats.chi2_contingency(table).pvalue


def test_sample_i_is_the_same_however_many_there_are(model, byte_tokenizer):
    settings = {"max_tokens": 30, "temperature": 1.5, "top_k": 0, "seed": 3}
    five = generate(model, byte_tokenizer, "Hello", GenerateSettings(**settings, samples=5))
    two = generate(model, byte_tokenizer, "Hello", GenerateSettings(**settings, samples=2))
    assert five[:2] == two
    assert len({tuple(sample.ids) for sample in five}) == 5
    other = generate(model, byte_tokenizer, "Hello", GenerateSettings(**settings | {"seed": 4}))
    assert other[0] != five[0]


def test_samples_that_end_early_leave_the_others_alone(model, byte_tokenizer):
    """The end of text made likely: samples end at different tokens, and what remains is as if alone."""
    eager = build(model.config, seed=0).eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        eager.transformer.wte.weight[END] *= 1.4
    settings = {"max_tokens": 40, "temperature": 1.3, "top_k": 0}
    samples = generate(eager, byte_tokenizer, "Hi", GenerateSettings(**settings, samples=8))
    lengths = {len(sample.ids) for sample in samples if sample.finish_reason == "eos"}
    assert len(lengths) > 1
    for n in range(1, 8):
        assert generate(eager, byte_tokenizer, "Hi", GenerateSettings(**settings, samples=n)) == samples[:n]


def test_pieces_together_are_the_samples(model, byte_tokenizer):
    settings = GenerateSettings(max_tokens=40, temperature=1.5, top_k=0, samples=3, stop=("a", "b"))
    samples = generate(model, byte_tokenizer, "Hello", settings)
    texts, reasons = ["", "", ""], [None, None, None]
    for piece in stream(model, byte_tokenizer, "Hello", settings):
        assert reasons[piece.sample] is None
        texts[piece.sample] += piece.text
        reasons[piece.sample] = piece.finish_reason
    assert texts == [sample.text for sample in samples]
    assert reasons == [sample.finish_reason for sample in samples]


def test_a_pause_between_pieces_changes_nothing_around_it(model, byte_tokenizer):
    """A stream that waits to be read leaves gradients on and the model's mode to be restored."""
    model.train()
    pieces = stream(model, byte_tokenizer, "Hello", GenerateSettings(max_tokens=5, temperature=0))
    next(pieces)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    weight = torch.ones(1, requires_grad=True)
    (weight * 2).backward()
    pieces.close()
    assert model.training
    model.eval()


def test_a_stop_string_ends_the_text_before_it(never_ending, byte_tokenizer):
    free = generate(never_ending, byte_tokenizer, "Hello", GenerateSettings(max_tokens=30))[0]
    assert free.finish_reason == "length"
    stop = free.text[10:12]
    cut = generate(never_ending, byte_tokenizer, "Hello", GenerateSettings(max_tokens=30, stop=(stop,)))[0]
    assert cut.finish_reason == "stop"
    assert cut.text == free.text[: free.text.index(stop)]
    assert free.ids[: len(cut.ids)] == cut.ids


def test_generation_ends_at_the_context(never_ending, byte_tokenizer):
    sample = generate(never_ending, byte_tokenizer, "x" * 40, GenerateSettings(max_tokens=1000))[0]
    assert len(sample.ids) == CONTEXT - 40
    assert sample.finish_reason == "length"


def test_an_empty_prompt_begins_where_a_text_would(never_ending, byte_tokenizer):
    """After the end of the text before, or after the beginning mark where the tokenizer has one of its own."""
    settings = GenerateSettings(max_tokens=8, temperature=0)
    marked = byte_tokenizer.with_special_tokens(["<|bos|>"])
    for tokenizer, prompt, first in (
        (byte_tokenizer, "", [END]),
        (marked, "", [END + 1]),
        (marked, "Hi", [END + 1, *byte_tokenizer.encode("Hi")]),
    ):
        ids = torch.tensor([first])
        with torch.no_grad():
            for _ in range(8):
                logits = never_ending.logits(never_ending(ids)[:, -1])[:, : tokenizer.vocab_size]
                ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        assert generate(never_ending, tokenizer, prompt, settings)[0].ids == ids[0, len(first) :].tolist()


def test_ids_without_a_token_are_never_drawn(byte_tokenizer):
    """The model has 4 ids more than the tokenizer, and 123 rows of padding, all of them made likely."""
    model = build(
        resolve_config(ModelOptions(n_layer=1, n_head=2, n_embd=16, context=300), VOCABULARY), seed=0
    ).eval()
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.transformer.wte.weight[byte_tokenizer.vocab_size :] = 1.0
    settings = GenerateSettings(max_tokens=200, temperature=1.0, top_k=0, stop=())
    samples = generate(model, byte_tokenizer, "", settings)
    assert samples[0].ids
    assert max(samples[0].ids) <= END


def test_dropout_is_off_while_generating(byte_tokenizer):
    model = build(
        resolve_config(ModelOptions(n_layer=2, n_head=2, n_embd=16, context=32, dropout=0.5), VOCABULARY),
        seed=0,
    )
    settings = GenerateSettings(max_tokens=10)
    assert generate(model.train(), byte_tokenizer, "a", settings) == generate(
        model.eval(), byte_tokenizer, "a", settings
    )


@pytest.mark.parametrize(
    ("prompt", "settings", "parts"),
    [
        ("x" * CONTEXT, {}, [f"{CONTEXT} tokens", f"context of {CONTEXT}"]),
        ("x", {"beams": 2, "samples": 3}, ["--samples 3", "--beams is 2"]),
        ("x", {"stop": ("\n", "")}, ["--stop ''"]),
        ("x", {"beams": 2, "logprobs": 1}, ["--logprobs 1", "--beams"]),
    ],
)
def test_what_cannot_be_is_refused(model, byte_tokenizer, prompt: str, settings: dict, parts: list[str]):
    for options in (settings, settings | {"beams": settings.get("beams", 3)}):
        with pytest.raises(ConfigError) as caught:
            generate(model, byte_tokenizer, prompt, GenerateSettings(**options))
        assert all(part in str(caught.value) for part in parts)


def test_a_prompt_that_is_too_long_may_lose_its_beginning(never_ending, byte_tokenizer):
    prompt = "".join(chr(97 + n % 26) for n in range(CONTEXT + 9))
    settings = GenerateSettings(max_tokens=5, temperature=0, truncation="left")
    (cut,) = generate(never_ending, byte_tokenizer, prompt, settings)
    (short,) = generate(never_ending, byte_tokenizer, prompt[-(CONTEXT - 5) :], settings)
    assert (cut.ids, cut.prompt) == (short.ids, prompt)
    assert len(cut.ids) == 5


def test_stop_tokens_end_a_text_as_the_end_of_text_does(never_ending, byte_tokenizer):
    settings = {"max_tokens": 20, "temperature": 1.0, "seed": 1}
    (free,) = generate(never_ending, byte_tokenizer, "Hello", GenerateSettings(**settings))
    token = free.ids[8]
    (ended,) = generate(
        never_ending, byte_tokenizer, "Hello", GenerateSettings(**settings, stop_tokens=(token, 3))
    )
    assert ended.ids == free.ids[: min(free.ids.index(id) for id in (token, 3) if id in free.ids)]
    assert ended.finish_reason == "stop"


def test_beams_do_not_stream(model, byte_tokenizer):
    with pytest.raises(ConfigError, match="--beams"):
        stream(model, byte_tokenizer, "x", GenerateSettings(beams=2))


def test_another_models_tokenizer_is_refused(model, byte_tokenizer):
    more = byte_tokenizer.with_special_tokens([f"<{i}>" for i in range(9)])
    with pytest.raises(CheckpointError, match=r"266 ids .* 261"):
        generate(model, more, "x", GenerateSettings())
    assert generate(grow_vocabulary(model, 266), more, "x", GenerateSettings())


@FAMILIES
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("max_batch", [2, 32])
def test_each_is_continued_as_it_would_be_alone(byte_tokenizer, monkeypatch, family, temperature, max_batch):
    monkeypatch.setattr(engine, "MAX_BATCH", max_batch)
    model = tiny(family)
    settings = GenerateSettings(max_tokens=12, temperature=temperature, seed=3, stop=("Q",))
    together = generate_many(model, byte_tokenizer, MANY_PROMPTS, settings)
    for prompt, found in zip(MANY_PROMPTS, together, strict=True):
        (alone,) = generate(model, byte_tokenizer, prompt, settings)
        assert (found.text, found.ids, found.finish_reason) == (alone.text, alone.ids, alone.finish_reason)
    assert len(together[3].ids) == 3  # the context leaves it less room than its company


def test_a_row_that_ends_leaves_the_others_alone(byte_tokenizer):
    """With an end of text as likely as anything, rows end at different times."""
    model = tiny(init_std=0.02)
    settings = GenerateSettings(max_tokens=40, temperature=1.0, top_k=0, seed=1)
    with torch.no_grad():
        model.head_weight[byte_tokenizer.eos_id] *= 0
    prompts = [str(number) for number in range(8)]
    reasons = set()
    for prompt, found in zip(prompts, generate_many(model, byte_tokenizer, prompts, settings), strict=True):
        (alone,) = generate(model, byte_tokenizer, prompt, settings)
        assert (found.ids, found.finish_reason) == (alone.ids, alone.finish_reason)
        reasons.add(found.finish_reason)
    assert reasons


def test_no_prompts_no_samples(byte_tokenizer):
    assert generate_many(tiny(), byte_tokenizer, [], GenerateSettings()) == []


def test_one_sample_each(byte_tokenizer):
    with pytest.raises(ConfigError, match="--beams and --samples"):
        generate_many(tiny(), byte_tokenizer, ["a"], GenerateSettings(samples=2))
