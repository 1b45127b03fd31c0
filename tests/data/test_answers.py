import numpy as np
import pytest
import torch

from gptworks.data.answers import encode
from gptworks.data.conversations import Conversation
from gptworks.errors import ConfigError
from gptworks.model.loss import linear_cross_entropy
from gptworks.text.templates import SPECIAL_TOKENS, Chat, Message, adopt, find
from gptworks.text.vocabulary import IGNORE
from gptworks.train.tasks import token_loss
from tests.model.test_lora import FAMILIES, tiny

SHORT = "{% for m in messages %}{{ m.content }}{{ '>' if m.role == 'user' else eos_token }}{% endfor %}"
"""A template of few tokens, so that conversations fit the tiny models' context of 48."""


@pytest.fixture
def chat(byte_tokenizer):
    return Chat(adopt(byte_tokenizer, SHORT))


def conversation(asks, *more) -> Conversation:
    said = (asks, *more)
    return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said))


SOME = [
    conversation("name a colour", "blue"),
    conversation("a", "b", "c", "d"),
    conversation("hello there", "hi"),
    conversation("q", "a long answer indeed"),
    conversation("and", "so on"),
]


def test_answers_alone_are_learned_each_with_its_end(chat):
    end = chat.tokenizer.eos_id
    examples = encode(SOME, chat, 48, mask_prompt=True, shorten=True)
    for one, row, targets in zip(SOME, examples.rows, examples.targets, strict=True):
        learned = targets[targets != IGNORE]
        wanted = [id for m in one if m.role == "assistant" for id in [*chat.tokenizer.encode(m.content), end]]
        assert learned.tolist() == wanted
        assert (targets[targets != IGNORE] == row[1:][targets != IGNORE]).all()
    everything = encode(SOME, chat, 48, mask_prompt=False, shorten=True)
    assert all((t == row[1:]).all() for t, row in zip(everything.targets, everything.rows, strict=True))


def test_a_long_example_keeps_its_answer_or_is_left_out(chat):
    many = [
        conversation("x" * 60, "the answer"),  # less is asked
        conversation("a", "b", "c" * 30, "d" * 30),  # the second turn goes
        conversation("short", "y" * 60),  # does not fit
        conversation("fits", "it does"),
    ]
    examples = encode(many, chat, 48, mask_prompt=True, shorten=True)
    assert (examples.shortened, examples.dropped, len(examples)) == (2, 1, 3)
    assert examples.conversations == [
        conversation("x" * 37, "the answer"),  # 37 + 1 + 10 tokens are read, and the end predicted
        conversation("a", "b"),
        many[3],
    ]
    assert max(examples.lengths) == 48
    dropped = encode(many, chat, 48, mask_prompt=True, shorten=False)
    assert (dropped.shortened, dropped.dropped) == (0, 3)
    assert dropped.conversations == [many[3]]


def test_the_longer_of_what_is_asked_is_shortened(byte_tokenizer):
    chat = Chat(adopt(byte_tokenizer, find("raschka")))
    whole = (Message("user", "Sum up.", "word " * 100), Message("assistant", "Words."))
    (cut,) = encode([whole], chat, 250, mask_prompt=True, shorten=True).conversations
    assert cut[0].content == "Sum up."
    assert whole[0].input.startswith(cut[0].input)
    assert len(chat.encode(cut)[0]) == 251


def test_a_template_s_refusal_names_the_conversation(byte_tokenizer):
    picky = SHORT + "{% if messages | length > 2 %}{{ raise_exception('two at most') }}{% endif %}"
    with pytest.raises(ConfigError, match=r"does not render: two at most \(conversation 2\)"):
        encode(SOME, Chat(adopt(byte_tokenizer, picky)), 48, mask_prompt=True, shorten=True)


@FAMILIES
@pytest.mark.parametrize("name", ["short", "chatml"])
def test_packed_padded_and_alone_have_one_loss_and_one_gradient(byte_tokenizer, family, name):
    source = SHORT if name == "short" else find(name)
    chat = Chat(adopt(byte_tokenizer, source, SPECIAL_TOKENS.get(name, ())))
    examples = encode(SOME, chat, 130, mask_prompt=True, shorten=True)
    model = tiny(family, context=160)

    def measured(batches):
        model.zero_grad()
        losses = [token_loss(model, batch) for batch in batches]
        torch.stack(losses).sum().backward()
        assert model.head_weight.grad is not None
        return sum(loss.item() for loss in losses), model.head_weight.grad.clone()

    numbers = range(len(SOME))
    packed = examples.packed(numbers, 130)
    assert len(packed["ids"]) < len(SOME)
    assert (packed["targets"] != IGNORE).sum() == sum((t != IGNORE).sum() for t in examples.targets)
    alone, alone_grad = measured([examples.padded([number]) for number in numbers])
    for batches in (
        [packed],
        [examples.padded(numbers)],
        [examples.packed(numbers[:2], 130), examples.packed(numbers[2:], 130)],
    ):
        loss, grad = measured(batches)
        assert loss == pytest.approx(alone, rel=1e-5)
        torch.testing.assert_close(grad, alone_grad, rtol=0, atol=1e-4 * float(alone_grad.abs().max()))


def test_nothing_sees_its_neighbour_in_a_row(chat):
    model = tiny()
    losses = []
    for other in ("blue", "red!"):
        some = [conversation("name a colour", other), SOME[1]]
        batch = encode(some, chat, 48, mask_prompt=True, shorten=True).packed([0, 1], 48)
        assert len(batch["ids"]) == 1
        keep = batch["segments"] == 2  # the shorter one comes second
        targets = torch.where(keep, batch["targets"], IGNORE)
        losses.append(token_loss(model, batch | {"targets": targets}).item())
    assert losses[0] == losses[1]


def test_rows_are_never_longer_than_there_is_room(chat):
    chance = np.random.default_rng(0)
    many = [conversation("q" * chance.integers(1, 30), "a" * chance.integers(1, 15)) for _ in range(60)]
    examples = encode(many, chat, 48, mask_prompt=True, shorten=True)
    batch = examples.packed(range(60), 48)
    fewest = -(-int(examples.lengths.sum()) // 48)
    assert batch["ids"].shape[1] <= 48
    assert len(batch["ids"]) <= 11 / 9 * fewest + 1
    kept = sorted(row.tolist() for row in examples.rows)
    found = []
    for ids, segments in zip(batch["ids"], batch["segments"], strict=True):
        found += [ids[segments == n].tolist() for n in range(1, int(segments.max()) + 1)]
    assert sorted(found) == sorted(row[:-1] for row in kept)


def test_a_batch_with_nothing_to_learn_adds_nothing():
    model = tiny()
    hidden = model(torch.zeros(1, 5, dtype=torch.int64))
    targets = torch.full((5,), IGNORE)
    loss = linear_cross_entropy(hidden.flatten(0, 1), model.head_weight, targets, model.config.vocab_size)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
