"""/v1/chat/completions uses the checkpoint's own template."""

import openai
import pytest

from gptworks.generation.engine import GenerateSettings, generate
from gptworks.model import checkpoint
from gptworks.text.templates import Chat, Message
from tests.serving.conftest import CONTEXT

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "now?"}]},
]


@pytest.fixture(scope="module")
def official(up):
    with openai.OpenAI(base_url=up.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def alone(folder, messages: list[Message], **settings):
    model, tokenizer = checkpoint.load(folder), checkpoint.load_tokenizer(folder)
    settings = {"temperature": 1.0, "top_k": 0} | settings
    return generate(model, tokenizer, Chat(tokenizer).prompt(messages), GenerateSettings(**settings))


def test_an_answer_is_what_the_engine_says_to_the_templates_prompt(official, chat_folder):
    made = official.chat.completions.create(model="chat", messages=TALK, seed=3, n=2, max_tokens=20)
    said = [Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi!")]
    wanted = alone(chat_folder, [*said, Message("user", "And now?")], seed=3, samples=2, max_tokens=20)
    assert [choice.message.content for choice in made.choices] == [sample.text for sample in wanted]
    assert made.choices[0].message.role == "assistant"
    assert made.usage.completion_tokens == 40


def test_an_instruction_may_bring_its_input(client, instruct_folder):
    message = {"role": "user", "content": "Repeat.", "input": "this"}
    body = {"model": "instruct", "messages": [message], "seed": 1, "max_tokens": 10}
    made = client.post("/v1/chat/completions", json=body).json()
    (wanted,) = alone(instruct_folder, [Message("user", "Repeat.", "this")], seed=1, max_tokens=10)
    assert made["choices"][0]["message"]["content"] == wanted.text


def test_a_stream_adds_up_to_the_whole(official):
    asked = {"model": "chat", "messages": TALK, "seed": 5, "n": 2, "max_completion_tokens": 30}
    asked |= {"logprobs": True, "top_logprobs": 2, "stop": ["k"]}
    whole = official.chat.completions.create(**asked)
    texts, tokens, reasons, roles = ["", ""], [[], []], [None, None], [None, None]
    for chunk in official.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] = roles[choice.index] or choice.delta.role
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            tokens[choice.index] += choice.logprobs.content if choice.logprobs else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert roles == ["assistant", "assistant"]
    for mine, choice in zip(tokens, whole.choices, strict=True):
        assert [one.token for one in mine] == [one.token for one in choice.logprobs.content]
        said = b"".join(bytes(one.bytes) for one in choice.logprobs.content).decode(errors="replace")
        assert said.startswith(choice.message.content)
        for one in choice.logprobs.content:
            assert len(one.top_logprobs) == 2
            assert one.logprob <= one.top_logprobs[0].logprob


def test_without_a_limit_an_answer_may_fill_the_context(official):
    made = official.chat.completions.create(model="chat", messages=TALK[:2], seed=0)
    assert made.usage.total_tokens == CONTEXT
    assert made.choices[0].finish_reason == "length"


def test_a_long_conversation_is_refused_or_loses_its_oldest_turns(official, chat_folder):
    old = [{"role": role, "content": f"{n}" * 20} for n in range(9) for role in ("user", "assistant")]
    talk = [TALK[0], *old, {"role": "user", "content": "last"}]
    with pytest.raises(openai.BadRequestError) as caught:
        official.chat.completions.create(model="chat", messages=talk)
    assert caught.value.code == "context_length_exceeded"
    made = official.chat.completions.create(
        model="chat", messages=talk, seed=2, max_tokens=40, extra_body={"truncation": "auto"}
    )
    tokenizer = checkpoint.load_tokenizer(chat_folder)
    said = [Message(one["role"], one["content"]) for one in talk]
    kept = Chat(tokenizer).drop_oldest(said, CONTEXT - 40)
    assert (kept[0], kept[-1]) == (said[0], said[-1])
    assert 2 < len(kept) < len(said)
    assert kept[1].role == "user"
    (wanted,) = alone(chat_folder, kept, seed=2, max_tokens=40)
    assert made.choices[0].message.content == wanted.text


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"model": "base"}, "model", "/v1/completions"),
        ({"messages": []}, "messages", ""),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", ""),
        ({"tools": []}, "tools", "tools"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format", ""),
    ],
)
def test_bad_requests_are_refused_and_name_the_field(client, more, param, words):
    body = {"model": "chat", "messages": TALK[:2]} | more
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]
