"""ONNX files in ONNX Runtime, beside our own network: read whole, in steps, in batches with padding."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from gptworks.exports import onnx as exporter

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="session")
def session(known, tmp_path_factory):
    """(ONNX Runtime's session, our model, tokenizer)"""
    _, model, tokenizer = known
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "EXTERNAL_BYTES", 1000 if model.config.family == "modern" else 10**9)
        exporter.write(model, file)
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]), model, tokenizer


def step(session, model, ids, past=None, padding=(0,)):
    """Logits and cache after (B, T) ids, of which the first `padding` of each row are none."""
    config, B = model.config, len(ids)
    empty = np.zeros((B, config.n_kv_head, 0, config.head_dim), np.float32)
    past = [empty] * (2 * config.n_layer) if past is None else past
    P, T = past[0].shape[2], ids.shape[1]
    place = np.arange(P + T)[None]
    real = place >= np.asarray(padding)[:, None]
    positions = np.maximum(place - np.asarray(padding)[:, None], 0)[:, P:]
    feed = {
        "input_ids": ids,
        "attention_mask": np.broadcast_to(real, (B, P + T)).astype(np.int64),
        "position_ids": np.broadcast_to(positions, (B, T)).astype(np.int64),
    }
    names = [node.name for node in session.get_inputs()][3:]
    logits, *present = session.run(None, feed | dict(zip(names, past, strict=True)))
    return logits, present


def ours(model, ids):
    with torch.no_grad():
        return model.logits(model(torch.from_numpy(ids))).numpy()


@pytest.mark.parametrize("shape", [(1, 1), (1, 100), (3, 9)])
def test_a_prompt_read_whole_has_our_logits(session, shape):
    runtime, model, _ = session
    ids = np.random.default_rng(0).integers(0, 700, shape)
    logits, _ = step(runtime, model, ids)
    assert logits.shape == (*shape, 700)
    assert np.allclose(logits, ours(model, ids), rtol=0, atol=1e-4)


def test_steps_through_the_cache_have_our_logits(session):
    runtime, model, _ = session
    ids = np.random.default_rng(1).integers(0, 700, (2, 12))
    first, cache = step(runtime, model, ids[:, :7])
    chunk, cache = step(runtime, model, ids[:, 7:11], cache)
    last, cache = step(runtime, model, ids[:, 11:], cache)
    assert cache[0].shape[2] == 12
    assert np.allclose(np.concatenate([first, chunk, last], 1), ours(model, ids), rtol=0, atol=1e-4)


def test_padded_rows_have_the_logits_they_have_alone(session):
    runtime, model, _ = session
    long, short = (np.random.default_rng(2).integers(0, 700, (1, n)) for n in (9, 5))
    both = np.concatenate([long, np.concatenate([np.zeros((1, 4), np.int64), short], 1)])
    logits, cache = step(runtime, model, both, padding=(0, 4))
    more, _ = step(runtime, model, np.array([[5], [6]]), cache, padding=(0, 4))
    for row, (alone, new) in enumerate([(long, 5), (short, 6)]):
        wanted = ours(model, np.concatenate([alone, [[new]]], 1))[0]
        assert np.allclose(logits[row, -alone.shape[1] :], wanted[:-1], rtol=0, atol=1e-4)
        assert np.allclose(more[row], wanted[-1:], rtol=0, atol=1e-4)


def test_inputs_have_the_names_and_free_lengths_that_others_look_for(session):
    runtime, *_ = session
    shapes = {node.name: node.shape for node in [*runtime.get_inputs(), *runtime.get_outputs()]}
    assert [name for name in shapes if ".1." in name] == [
        "past_key_values.1.key",
        "past_key_values.1.value",
        "present.1.key",
        "present.1.value",
    ]
    free = {
        name: [at for at, size in enumerate(shape) if not isinstance(size, int)]
        for name, shape in shapes.items()
    }
    assert (free["input_ids"], free["logits"], free["present.0.key"]) == ([0, 1], [0, 1], [0, 2])
    assert free["attention_mask"] == free["position_ids"] == [0, 1]


def test_large_weights_stand_beside_the_graph(session):
    """The modern model's do; GPT-2's are small enough to stand in it."""
    runtime, model, _ = session
    file = Path(runtime._model_path)
    weights = sum(param.numel() * 4 for param in model.parameters())
    beside = file.with_name(f"{file.name}.data")
    assert beside.exists() == (model.config.family == "modern")
    assert (beside if beside.exists() else file).stat().st_size >= 0.99 * weights


def test_nothing_says_where_it_was_made(session, repository):
    runtime, *_ = session
    made = Path(runtime._model_path).read_bytes()
    assert str(repository).encode() not in made
    assert str(Path(torch.__file__).parent).encode() not in made
    assert b"site-packages" not in made
