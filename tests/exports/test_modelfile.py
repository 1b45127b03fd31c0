"""What a Modelfile says, and that its Go template writes what the model was taught."""

import re

import pytest

from gptworks.exports import modelfile
from gptworks.text import templates
from gptworks.text.templates import Chat, Message


def go(template: str, messages: list[Message]) -> str:  # noqa: C901 - a small interpreter
    """The few words of Go's text/template that Modelfiles of ours use, read one by one."""
    tokens = re.split(r"(\{\{.*?\}\})", template)

    def run(at: int, message: Message | None, number: int, *, live: bool) -> tuple[str, int]:
        out = ""
        while at < len(tokens):
            token = tokens[at]
            if not token.startswith("{{"):
                out += token if live else ""
                at += 1
                continue
            word = token[2:-2].strip()
            if word.startswith('"'):
                out += word[1:-1] if live else ""
                at += 1
            elif word in {".System", ".Content"}:
                said = system if word == ".System" else message.content if message else ""
                out += said if live else ""
                at += 1
            elif word.startswith("if"):
                part, at = branch(at, message, number, live=live)
                out += part
            elif word.startswith("range"):
                end = at
                for index, one in enumerate(messages if live else [Message("", "")]):
                    part, end = run(at + 1, one, index, live=live)
                    out += part
                at = end + 1
            else:
                return out, at  # end, or else
        return out, at

    def branch(at, message, number, *, live):
        out, done = "", False
        while True:
            word = tokens[at][2:-2].strip()
            if word == "end":
                return out, at + 1
            holds = (
                live and not done and (word == "else" or true(word.removeprefix("else "), message, number))
            )
            part, at = run(at + 1, message, number, live=holds)
            out, done = out + part, done or holds

    def true(word, message, number):
        if word == "if .System":
            return bool(system)
        if word == "if gt (len (slice $.Messages $i)) 1":
            return len(messages) - number > 1
        role = re.fullmatch(r'if eq \.Role "(\w+)"', word)
        assert role, word
        return message.role == role[1]

    system = next((one.content for one in messages if one.role == "system"), "")
    return run(0, None, 0, live=True)[0]


@pytest.mark.parametrize("name", templates.names())
def test_the_go_template_writes_what_the_jinja_writes(own_bpe, name):
    for plain in own_bpe.values():  # with and without a mark where texts begin
        tokenizer = templates.adopt(plain, templates.find(name), templates.SPECIAL_TOKENS.get(name, ()))
        text, remarks = modelfile.write(tokenizer, "x.gguf", 64)
        assert remarks == []
        template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)[1]
        user, answer, system = Message("user", "a {{ b"), Message("assistant", "c\n"), Message("system", "d")
        for talk in (
            [user],
            [system, user],
            [user, answer, user],
            [system, user, answer, user, answer, user],
        ):
            wanted = Chat(tokenizer).render(talk, prompt=True)
            assert (tokenizer.bos or "") + go(template, talk) == wanted
        continued = Chat(tokenizer).render([user], prompt=True) + answer.content
        assert (tokenizer.bos or "") + go(template, [user, answer]) == continued


def test_it_says_file_context_and_where_an_answer_ends(own_bpe):
    tokenizer = templates.adopt(own_bpe["gpt2"], templates.find("chatml"), templates.SPECIAL_TOKENS["chatml"])
    lines = modelfile.write(tokenizer, "small.gguf", 512)[0].splitlines()
    assert lines[:2] == ["FROM ./small.gguf", "PARAMETER num_ctx 512"]
    assert lines[-1] == 'PARAMETER stop "<|im_end|>"'


def test_a_base_model_continues_texts(own_bpe):
    text, remarks = modelfile.write(own_bpe["gpt2"], "x.gguf", 64)
    assert 'TEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "<|endoftext|>"\n' in text
    assert remarks == []


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}: {{ m.content }}{{ eos_token }}{% endfor %}",  # counts turns
        "{% for m in messages %}{{ m.content | trim }}{{ eos_token }}{% endfor %}",  # changes what is said
        "{{ messages[-1].content | upper }}{{ eos_token }}",
    ],
)
def test_a_template_that_follows_no_such_plan_is_left_out_and_that_is_said(own_bpe, template):
    text, remarks = modelfile.write(own_bpe["gpt2"].with_template(template), "x.gguf", 64)
    assert "TEMPLATE" not in text
    assert len(remarks) == 1
    assert "TEMPLATE" in remarks[0]
