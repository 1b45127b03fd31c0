"""`gptworks serve` through the front door. (That it serves: tests/serving, and the guide's commands.)"""

import socket
import sys

import pytest

from gptworks.cli import main
from gptworks.model import checkpoint
from tests.model.test_lora import tiny

pytestmark = pytest.mark.e2e


@pytest.fixture
def folder(byte_tokenizer, tmp_path) -> str:
    checkpoint.save(tiny(), tmp_path / "model", byte_tokenizer)
    return str(tmp_path / "model")


def refused(capsys, *words: str) -> str:
    assert main(["serve", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "MODEL"),
        (["nowhere/at/all", "--port", "0"], "nowhere/at/all"),
        (["MODEL", "MODEL", "--port", "0"], "is named twice"),
        (["MODEL", "--api-key-env", "NO_SUCH_KEY"], "--api-key-env NO_SUCH_KEY"),
        (["MODEL", "--port", "70000"], "--port"),
        (["MODEL", "--max-batch", "0"], "--max-batch"),
        (["MODEL", "--host", "no.such.host.example", "--port", "0"], "--host no.such.host.example"),
    ],
)
def test_bad_input_is_refused_in_one_line(folder, words, message, capsys):
    assert message in refused(capsys, *(folder if word == "MODEL" else word for word in words))


def test_a_port_that_is_taken_is_named(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port}" in refused(capsys, folder, "--port", port)


def test_without_its_extra_it_says_how_to_get_it(folder, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gptworks.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "serve needs fastapi: pip install 'gptworks[serve]'" in refused(capsys, folder)
