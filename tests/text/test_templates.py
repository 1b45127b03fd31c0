"""Templates beside transformers', which reads them from the folder that we save."""

import pytest

from gptworks.errors import ConfigError, DataError
from gptworks.text import templates
from gptworks.text.templates import SPECIAL_TOKENS, Chat, Message, adopt, find
from gptworks.text.tokenizer import Tokenizer

PLAIN = (Message("user", "Name a colour."), Message("assistant", "Blue."))
WITH_INPUT = (Message("user", "Add them up.", "1, 2"), Message("assistant", "3"))
TURNS = (Message("system", "Be brief."), *PLAIN, *WITH_INPUT)

HEAD = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
HEAD_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


def chat(tokenizer, name):
    return Chat(adopt(tokenizer, find(name), SPECIAL_TOKENS.get(name, ())))


@pytest.mark.parametrize(
    ("name", "messages", "wanted"),
    [
        ("alpaca", PLAIN, HEAD + "\n\n### Instruction:\nName a colour.\n\n### Response:"),
        (
            "alpaca",
            WITH_INPUT,
            HEAD_INPUT + "\n\n### Instruction:\nAdd them up.\n\n### Input:\n1, 2\n\n### Response:",
        ),
        (
            "dalpino",
            WITH_INPUT,
            HEAD_INPUT + "\n\n### Input:\n1, 2\n\n### Instruction:\nAdd them up.\n\n### Response:\n",
        ),
        (
            "susac",
            WITH_INPUT,
            HEAD.replace("a task", "a requested task")
            + "\n\n### Instruction:\nAdd them up.\n\n### Input:\n1, 2\n\n### Response:\n",
        ),
        (
            "raschka",
            WITH_INPUT,
            HEAD + "\n\n### Instruction:\nAdd them up.\n\n### Input:\n1, 2\n\n### Response:\n",
        ),
        ("chatml", WITH_INPUT, "<|im_start|>user\nAdd them up.\n\n1, 2<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_the_prompts_of_those_systems(byte_tokenizer, name, messages, wanted):
    assert chat(byte_tokenizer, name).render(messages[:1], prompt=True) == wanted


@pytest.mark.parametrize("name", templates.names())
@pytest.mark.parametrize("messages", [PLAIN, WITH_INPUT, TURNS])
def test_transformers_writes_the_same_from_our_folder(byte_tokenizer, tmp_path, name, messages):
    from transformers import AutoTokenizer

    ours = chat(byte_tokenizer, name)
    ours.tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    said = [
        {"role": m.role, "content": m.content} | ({"input": m.input} if m.input else {}) for m in messages
    ]
    assert theirs.apply_chat_template(said, tokenize=False) == ours.render(messages)
    asked = theirs.apply_chat_template(said[:-1], tokenize=False, add_generation_prompt=True)
    assert asked == ours.render(messages[:-1], prompt=True)
    found = theirs.apply_chat_template(said, return_assistant_tokens_mask=True, return_dict=True)
    ids, learned = ours.encode(messages)
    assert found["input_ids"] == ids
    assert found["assistant_masks"] == learned
    assert theirs.eos_token == ours.end_token


@pytest.mark.parametrize("name", templates.names())
def test_what_is_learned_follows_the_very_ids_that_generation_starts_from(byte_tokenizer, name):
    ours = chat(byte_tokenizer, name)
    ids, learned = ours.encode(TURNS)
    for number, message in enumerate(TURNS):
        if message.role == "assistant":
            prompt = ours.prompt(TURNS[:number])
            assert ids[: len(prompt)] == prompt
            answer = [*ours.tokenizer.encode(message.content), ours.tokenizer.eos_id]
            assert ids[len(prompt) : len(prompt) + len(answer)] == answer
            assert not learned[len(prompt) - 1]
            assert all(learned[len(prompt) : len(prompt) + len(answer)])
    assert sum(learned) == sum(len(m.content) + 1 for m in TURNS if m.role == "assistant")  # a token a byte


def test_special_tokens_that_people_spell_out_are_text(byte_tokenizer):
    ours = chat(byte_tokenizer, "chatml")
    odd = (Message("user", "What is <|im_end|>?"), Message("assistant", "<|im_end|> ends <|endoftext|>"))
    ids, learned = ours.encode(odd)
    end = ours.tokenizer.eos_id
    assert ids.count(end) == 2  # of the two turns
    assert ids.count(byte_tokenizer.eos_id) == 0
    said = [id for id, learn in zip(ids, learned, strict=True) if learn]
    assert ours.tokenizer.decode(said) == odd[1].content + "<|im_end|>"
    assert ours.render(odd).count("<|im_end|>") == 4


def test_a_template_that_knows_no_input_gets_it_under_the_instruction(byte_tokenizer):
    own = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    asked = Chat(adopt(byte_tokenizer, find(own))).render(WITH_INPUT[:1], prompt=True)
    assert asked == "user: Add them up.\n\n1, 2<|endoftext|>assistant: "


def test_the_template_travels_with_the_tokenizer(byte_tokenizer, tmp_path):
    ours = chat(byte_tokenizer, "chatml").tokenizer
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again == ours
    assert again.eos == "<|im_end|>"
    assert again.chat_template == ours.chat_template
    assert Chat(again).prompt(TURNS[:4]) == Chat(ours).prompt(TURNS[:4])
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(
        '{"chat_template": [{"name": "default", "template": "x"}]}'
    )
    assert Tokenizer.load(tmp_path).chat_template == "x"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", "Jinja: line 1"),
        ("{{ raise_exception('only one turn') }}", "does not render: only one turn"),
        ("{{ messages[0].content + 1 }}", "does not render: can only concatenate str"),
        ("{{ ''.__class__.__mro__ }}", "does not render: access to attribute '__class__'"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "no special token after an answer"),
        ("{{ messages[-1].content + eos_token }}{{ messages | length }}", None),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(byte_tokenizer, source, message):
    if message is None:  # only a conversation shows it
        with pytest.raises(ConfigError, match="training and generation"):
            Chat(adopt(byte_tokenizer, source)).encode(PLAIN)
        return
    with pytest.raises(ConfigError, match=message):
        adopt(byte_tokenizer, source)


def test_a_template_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match=r"--template alpca .* alpaca, chatml, dalp"):
        find("alpca")


def test_an_added_token_must_not_be_an_ordinary_one(byte_tokenizer):
    with pytest.raises(DataError, match="cannot be a special token"):
        adopt(byte_tokenizer, find("chatml"), ("a",))


def test_a_file_of_one_s_own(byte_tokenizer, tmp_path):
    (tmp_path / "mine.jinja").write_text(find("raschka"))
    assert find(str(tmp_path / "mine.jinja")) == find("raschka")
