"""Files from strangers: whatever is in them, the answer is a UserError in bounded time and memory, or a valid object.

Every reader is given files that are whole, with bits flipped, cut short, with pieces written over, and JSON whose
values are replaced by others; and some that lie on purpose.
"""

import json
import os
import random
import resource
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gptworks import recipefile, runs
from gptworks.data.dataset import Dataset, fingerprint
from gptworks.data.order import Shuffled
from gptworks.data.shards import map_tokens, open_shard
from gptworks.errors import DataError, UserError
from gptworks.model import adapter, checkpoint, classifier
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import saving
from tests.model.test_lora import tiny
from tests.train.test_precision import trained

TRIES = int(os.environ.get("HOSTILE_TRIES", "25"))
"""Of each reader; more than these are others each time."""

FEW = settings(
    max_examples=TRIES,
    deadline=None,
    derandomize=TRIES == 25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
harm = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "write", "grow"]),
        st.integers(0, 2**32),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=3,
)
"""What happens to a file: kind, where, and with what."""

odd = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
) | st.sampled_from(
    ["../../etc/passwd", "/etc/passwd", "model.safetensors/..", "\0", "a" * 5000, 2**63, -1, 10**12]
)
"""JSON that does not belong there."""


def harmed(raw: bytes, how) -> bytes:
    data = bytearray(raw)
    for kind, place, content in how:
        at = place % max(1, len(data))
        if kind == "flip" and data:
            data[at] ^= 1 << (content[0] % 8)
        elif kind == "cut":
            del data[at:]
        elif kind == "write":
            data[at : at + len(content)] = content
        else:
            data += content
    return bytes(data)


def replaced(value, place: int, by):
    """A copy of some JSON with one of its values, whichever, replaced."""
    paths = list(every(value, ()))
    path = paths[place % len(paths)]
    copy = json.loads(json.dumps(value))
    if not path:
        return by
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = by
    return copy


def every(value, path):
    yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from every(inner, (*path, key))


def answers(read, *given):
    """What reading gives, or the UserError that it is refused with; anything else is a failure of ours."""
    try:
        return read(*given)
    except UserError as refused:
        error = refused
    assert 0 < len(str(error)) < 3000
    return error


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Nothing here may take much more memory than the test process has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, byte_tokenizer):
    """A Dataset, a model, a classifier, an adapter on the model: all whole."""
    from gptworks.data.prepare import prepare
    from gptworks.model import lora
    from gptworks.recipe import LoraOptions, PrepareOptions

    here = tmp_path_factory.mktemp("whole")
    (here / "a.txt").write_text("the cat sat on the mat. " * 40)
    options = PrepareOptions(sources=(str(here / "a.txt"),), val_fraction=0.2, shard_tokens=400)
    prepare(options, byte_tokenizer, here / "set")
    checkpoint.save(tiny(), here / "model", byte_tokenizer)
    classifier.save(
        classifier.with_head(tiny(), ("ham", "spam"), seed=0), here / "classifier", byte_tokenizer
    )
    model, chosen = tiny(), LoraOptions(rank=2)
    lora.attach(model, chosen, seed=0)
    adapter.save(model, here / "adapter", chosen, checkpoint.origin(str(here / "model")))
    return here


@pytest.fixture
def copy(folders, tmp_path):
    """A fresh copy of one of them."""

    def make(name):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        shutil.copytree(folders / name, tmp_path / name)
        return tmp_path / name

    return make


def read_dataset(folder):
    dataset = Dataset.open(folder, verify=False)
    dataset.tokenizer()
    order = Shuffled(dataset.splits["train"], 8, 2, seed=0)
    for row in order.rows(0):
        ids = order.read(int(row))
        assert len(ids) == 9
        order.documents(int(row))


@FEW
@given(how=harm, number=st.integers(0, 99))
def test_a_dataset_with_damaged_files(copy, how, number):
    folder = copy("set")
    files = sorted(folder.iterdir())
    file = files[number % len(files)]
    file.write_bytes(harmed(file.read_bytes(), how))
    answers(read_dataset, folder)


@FEW
@given(place=st.integers(0, 999), by=odd)
def test_a_manifest_that_says_something_else(copy, place, by):
    folder = copy("set")
    manifest = replaced(json.loads((folder / "manifest.json").read_text()), place, by)
    if isinstance(manifest, dict) and isinstance(manifest.get("fingerprint"), str):
        manifest["fingerprint"] = fingerprint(manifest)  # a forger knows how
    (folder / "manifest.json").write_text(json.dumps(manifest))
    answers(read_dataset, folder)
    answers(Dataset.open, folder)


@pytest.mark.parametrize(
    "name", ["../model/model.safetensors", "/etc/hostname", "a/../../set/train-00000.bin"]
)
def test_a_manifest_does_not_lead_out_of_its_folder(copy, name):
    folder = copy("set")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["file"] = name
    manifest["fingerprint"] = fingerprint(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="not a file of its folder"):
        Dataset.open(folder)


@FEW
@given(
    header=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3),
    known=st.booleans(),
    rest=st.binary(max_size=64),
)
def test_a_shard_whose_header_lies(tmp_path, header, known, rest):
    if known:
        header[:2] = [20240520, 1]
    path = tmp_path / "train-00000.bin"
    path.write_bytes(struct.pack("<3i", *header).ljust(1024, b"\0") + rest)
    (tmp_path / "train-00000.idx").write_bytes(rest)
    answers(map_tokens, path)
    answers(open_shard, path)


@pytest.mark.parametrize("ends", [[5, 3, 10], [2**63, 10], [11, 10]])
def test_document_ends_that_go_backwards_are_refused(tmp_path, ends):
    path = tmp_path / "train-00000.bin"
    path.write_bytes(struct.pack("<3i", 20240520, 1, 10).ljust(1024, b"\0") + bytes(20))
    (tmp_path / "train-00000.idx").write_bytes(np.array(ends, "<u8").tobytes())
    with pytest.raises(DataError, match="does not match train-00000"):
        open_shard(path)


@FEW
@given(how=harm, name=st.sampled_from(["model", "classifier", "adapter"]), number=st.integers(0, 99))
def test_a_model_with_damaged_files(copy, how, name, number):
    folder = copy(name)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    file = files[number % len(files)]
    file.write_bytes(harmed(file.read_bytes(), how))
    read_model(folder, name)


def read_model(folder, name):
    load = classifier.load if name == "classifier" else checkpoint.load
    answers(load, folder)
    if name != "adapter":
        answers(checkpoint.load_tokenizer, folder)


@FEW
@given(place=st.integers(0, 999), by=odd, name=st.sampled_from(["model", "classifier", "adapter"]))
def test_a_config_that_says_something_else(copy, place, by, name):
    folder = copy(name)
    file = folder / ("adapter_config.json" if name == "adapter" else "config.json")
    file.write_text(json.dumps(replaced(json.loads(file.read_text()), place, by)))
    read_model(folder, name)


STRANGE = [
    ("model", "config.json", {"model_type": []}),
    ("model", "config.json", {"model_type": "a" * 5000}),
    ("model", "config.json", {"activation_function": "a" * 5000}),
    ("model", "config.json", {"scale_attn_weights": "a" * 5000}),
    ("classifier", "config.json", {"id2label": ["ham", "spam"]}),
    ("adapter", "adapter_config.json", {"base_model_name_or_path": 3}),
    ("adapter", "adapter_config.json", {"base_model_name_or_path": "a" * 5000}),
    ("adapter", "adapter_config.json", {"lora_alpha": "much"}),
    ("adapter", "adapter_config.json", {"lora_dropout": 2}),
    ("adapter", "adapter_config.json", {"use_dora": "a" * 5000}),
    ("adapter", "gptworks.json", {"base_fingerprint": []}),
    ("adapter", "gptworks.json", {"labels": [1]}),
]


@pytest.mark.parametrize(("name", "file", "changes"), STRANGE)
def test_values_of_other_kinds_are_refused_or_left_alone(copy, name, file, changes):
    folder = copy(name)
    said = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(said | changes))
    read_model(folder, name)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 2, 2)])
@pytest.mark.parametrize("name", ["model", "classifier", "adapter"])
def test_tensors_of_other_shapes_are_refused(copy, name, shape):
    folder = copy(name)
    (file,) = folder.glob("*.safetensors")
    whole = load_file(file)
    for key in {next(iter(whole)), next(reversed(whole)), *(key for key in whole if key.startswith("score"))}:
        save_file(whole | {key: torch.zeros(shape)}, file)
        load = classifier.load if name == "classifier" else checkpoint.load
        assert isinstance(answers(load, folder), UserError)


@FEW
@given(place=st.integers(0, 999), by=odd)
def test_safetensors_whose_header_lies(copy, place, by):
    folder = copy("model")
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.dumps(replaced(json.loads(raw[8 : 8 + length]), place, by)).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])
    read_model(folder, "model")


@pytest.mark.parametrize(
    ("option", "value"),
    [("n_layer", 10**9), ("n_embd", 10**9), ("n_positions", 10**15), ("vocab_size", 2**40)],
)
def test_a_config_that_claims_a_huge_network_is_refused_at_once(copy, option, value):
    folder = copy("model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {option: value}))
    assert isinstance(answers(checkpoint.load, folder), UserError)


def test_an_index_does_not_lead_out_of_its_folder(copy, tmp_path):
    folder = copy("model")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    names = {"weight_map": {"transformer.wte.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(names))
    with pytest.raises(UserError, match="not a file of its folder"):
        checkpoint.load(folder)


@FEW
@given(place=st.integers(0, 3000), by=odd)
def test_a_tokenizer_that_says_something_else(copy, place, by):
    folder = copy("model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        whole = file.read_text()
        file.write_text(json.dumps(replaced(json.loads(whole), place, by)))
        found = answers(Tokenizer.load, folder)
        if isinstance(found, Tokenizer):
            assert found.decode(found.encode("the cat")) == "the cat"
        file.write_text(whole)


TOML = st.sampled_from(["train", "optim", "model", "save", "prepare", "classify", "out", "nothing"])


@FEW
@given(
    table=TOML,
    key=st.sampled_from(["lr", "seed", "sources", "every", "max_steps", "bias", "betas", "x"]),
    value=odd,
)
def test_a_recipe_that_says_something_else(tmp_path, table, key, value):
    import tomli_w

    file = tmp_path / "recipe.toml"
    try:
        text = tomli_w.dumps({table: {key: value}})
    except (TypeError, ValueError, AttributeError):
        return
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    answers(recipefile.load, file)


@FEW
@given(raw=st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_a_recipe_that_is_something_else(tmp_path, raw):
    (tmp_path / "recipe.toml").write_bytes(raw)
    answers(recipefile.load, tmp_path / "recipe.toml")


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 50_000, "[a" + ".a" * 50_000 + "]", "x = " + "9" * 100_000, "seed = 1\n" * 2]
)
def test_recipes_of_great_depth_are_refused(tmp_path, text):
    (tmp_path / "recipe.toml").write_text(text)
    assert isinstance(answers(recipefile.load, tmp_path / "recipe.toml"), UserError)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_json_of_great_depth_is_refused(copy, name):
    folder = copy("model")
    (folder / name).write_text("[" * 200_000)
    found = [answers(checkpoint.load, folder), answers(checkpoint.load_tokenizer, folder)]
    assert any(isinstance(one, UserError) for one in found) or name == "generation_config.json"


@FEW
@given(how=harm, number=st.integers(0, 99))
def test_a_run_s_checkpoint_with_damaged_files_is_damaged(tmp_path, how, number):
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    draft = tmp_path / "checkpoints" / ".draft-step-000001"
    (draft / "trainer").mkdir(parents=True)
    content = random.Random(0).randbytes(300)
    (draft / "model.safetensors").write_bytes(content)
    (draft / "trainer" / "state.json").write_text('{"step": 1, "epoch": 1.0}')
    final = tmp_path / "checkpoints" / "step-000001"
    runs.finish(draft, final)
    files = sorted(path for path in final.rglob("*") if path.is_file())
    file = files[number % len(files)]
    before = file.read_bytes()
    file.write_bytes(harmed(before, how))
    good, passed = runs.Run(tmp_path).newest_good()
    if file.name != "complete.json" and file.read_bytes() != before:
        assert good is None
        assert list(passed) == [final]


@pytest.fixture(scope="module")
def half_trained(tmp_path_factory, byte_tokenizer):
    """A trainer after two steps, and the checkpoint of that."""
    trainer, _ = trained("fp16", 2)
    trainer.anomalies.spike_sigma = 6.0
    run = tmp_path_factory.mktemp("run")
    (run / "metrics.jsonl").touch()
    progress = saving.RunState(2, 0.5, 18, 1.0, 3.0, None, False, 0)
    return trainer, saving.save(runs.Run(run), trainer, byte_tokenizer, progress)


@FEW
@given(place=st.integers(0, 999), by=odd)
def test_a_state_to_go_on_from_that_says_something_else(half_trained, place, by):
    """Its checksum is right: a stranger can make one, too."""
    trainer, folder = half_trained
    file = folder / runs.STATE
    whole = file.read_text()
    try:
        file.write_text(json.dumps(replaced(json.loads(whole), place, by)))
        answers(runs.Run(folder.parent.parent).checkpoints)
        answers(runs.Run(folder.parent.parent).newest_good)
        if not isinstance(answers(saving.load, folder, trainer), UserError):
            assert trainer.step >= 0
            assert trainer.micro_batch >= 1
    finally:
        file.write_text(whole)


@FEW
@given(how=harm)
def test_an_optimizer_s_state_with_damaged_bytes(half_trained, how):
    trainer, folder = half_trained
    file = folder / "trainer" / "optimizer.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(harmed(whole, how))
        answers(saving.load, folder, trainer)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["../../../outside", "/etc/hostname"])
def test_a_marker_does_not_lead_out_of_its_checkpoint(tmp_path, name):
    final = tmp_path / "checkpoints" / "step-000001"
    (final / "trainer").mkdir(parents=True)
    (tmp_path / "outside").write_text("x")
    (final / "trainer" / "complete.json").write_text(json.dumps({"sha256": {name: "0"}}))
    assert "is outside of" in (runs.damage(final) or "")
