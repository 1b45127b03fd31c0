import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gptworks.errors import CheckpointError
from gptworks.model import adapter, checkpoint, classifier, folders, lora
from gptworks.recipe import LoraOptions
from tests.conftest import END
from tests.model.test_lora import FAMILIES, close, tiny

LABELS = ("ham", "spam", "neither")


def texts(lengths=(5, 17, 1, 9), seed=0):
    chance = np.random.default_rng(seed)
    return [chance.integers(0, END, length) for length in lengths]


def made(family="gpt2", labels=LABELS, **options):
    return classifier.with_head(tiny(family, **options), labels, seed=3).eval()


def theirs(folder):
    """What transformers makes of the folder: its scores of the texts, padded and masked as its tokenizer would."""
    from transformers import AutoModelForSequenceClassification

    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    batch = classifier.collate(texts(), END)
    lengths = torch.tensor([len(row) for row in texts()])
    mask = torch.arange(batch["ids"].shape[1]) < lengths[:, None]
    with torch.no_grad():
        return model.eval(), model(batch["ids"], attention_mask=mask.long()).logits


@FAMILIES
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_gives_our_scores_and_names_our_labels(family, tied, byte_tokenizer, tmp_path):
    model = made(family, tied=tied)
    classifier.save(model, tmp_path, byte_tokenizer)
    there, scores = theirs(tmp_path)
    assert close(classifier.predict(model, texts(), END), scores)
    assert there.config.id2label == dict(enumerate(LABELS))
    assert there.config.problem_type == "single_label_classification"


@FAMILIES
def test_our_scores_of_a_classifier_that_transformers_made(family, byte_tokenizer, tmp_path, request):
    import transformers

    base = request.getfixturevalue({"gpt2": "tiny_gpt2", "modern": "tiny_qwen3"}[family])
    name = {"gpt2": "GPT2", "modern": "Qwen3"}[family]
    base.save_pretrained(tmp_path / "base")
    there = getattr(transformers, f"{name}ForSequenceClassification").from_pretrained(
        tmp_path / "base", num_labels=4, pad_token_id=END
    )
    there.save_pretrained(tmp_path / "classifier")
    ours = classifier.load(tmp_path / "classifier")
    assert ours.labels == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
    assert close(classifier.predict(ours, texts(), END), theirs(tmp_path / "classifier")[1])


def test_padding_and_company_do_not_change_a_score():
    model = made()
    together = classifier.predict(model, texts(), END)
    alone = torch.cat([classifier.predict(model, [row], 0) for row in texts()])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@FAMILIES
def test_texts_that_share_a_row_do_not_see_each_other(family):
    """Short ones: 8 rows of 17 are padded, and packed they are fewer tokens."""
    rows = texts((17, 3, 4, 2, 5, 1, 6, 3), seed=1)
    model = made(family)
    alone, shared = (classifier.collate(rows, END, room) for room in (0, 24))
    assert alone["ids"].shape == (8, 17)
    assert shared["ids"].numel() < 60 > sum(map(len, rows))
    with torch.no_grad():
        torch.testing.assert_close(model(**shared), model(**alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_every_text_has_a_place_of_its_own(seed):
    chance = np.random.default_rng(seed)
    lengths = chance.integers(1, 60, 30).tolist()
    places, (R, T) = classifier.pack_rows(lengths, 64)
    taken = np.zeros((R, T), dtype=int)
    for (line, start), n in zip(places, lengths, strict=True):
        assert start + n <= T
        taken[line, start : start + n] += 1
    assert taken.max() == 1
    assert (
        sum(lengths) == taken.sum() >= 0.8 * R * T
    )  # first-fit decreasing wastes 2/9 at worst, and little here


def test_texts_of_one_length_are_not_packed():
    assert classifier.pack_rows([9, 9, 9, 8], 64)[1] == (4, 9)
    assert "segments" not in classifier.collate(texts((9, 9, 9, 8)), END, 64)


def test_the_score_is_read_off_the_last_real_token():
    model = made()
    row = texts()[1]
    hidden = model.get_submodule("transformer")(torch.from_numpy(row)[None], None)
    assert close(classifier.predict(model, [row], END), model.score(hidden[:, -1]).detach())


@FAMILIES
def test_what_is_saved_is_what_is_loaded(family, tmp_path):
    model = made(family)
    classifier.save(model, tmp_path)
    loaded = classifier.load(tmp_path)
    assert loaded.labels == LABELS
    assert torch.equal(classifier.predict(loaded, texts(), 0), classifier.predict(model, texts(), 0))
    other = classifier.with_head(tiny(family), LABELS, seed=9).eval()
    classifier.load_into(other, tmp_path)
    assert torch.equal(classifier.predict(other, texts(), 0), classifier.predict(model, texts(), 0))
    assert load_file(tmp_path / "model.safetensors")["score.weight"].shape == (3, 32)


def test_a_number_is_one_output_and_so_for_transformers(byte_tokenizer, tmp_path):
    model = made(labels=())
    classifier.save(model, tmp_path, byte_tokenizer)
    there, scores = theirs(tmp_path)
    assert there.config.problem_type == "regression"
    assert scores.shape == (4, 1)
    assert close(classifier.predict(model, texts(), END), scores)
    assert classifier.load(tmp_path).regression


@pytest.mark.parametrize("rank", [0, 2])
def test_a_scaled_head_is_unscaled_on_disk_to_the_bit(rank, tmp_path):
    base = tiny()
    checkpoint.save(base, tmp_path / "base")
    model = classifier.with_head(base, (), seed=3, target_scale=2.0**17)
    options = LoraOptions(rank=rank)
    if rank:
        lora.attach(model, options, seed=0)
        adapter.save(
            model,
            tmp_path / "made",
            options,
            checkpoint.origin(str(tmp_path / "base")),
            labels=model.label_config,
        )
    else:
        classifier.save(model, tmp_path / "made")
    plain = classifier.load(tmp_path / "made")
    assert plain.target_scale == 1
    assert torch.equal(plain.score.weight, model.score.weight * 2**17)
    scores = classifier.predict(model.eval(), texts(), 0)
    assert torch.equal(classifier.predict(plain, texts(), 0), scores)
    assert scores.abs().max() > 1000
    before = model.score.weight.detach().clone()
    with torch.no_grad():
        model.score.weight.zero_()
    folders.load_into(model, tmp_path / "made")
    assert torch.equal(model.score.weight, before)


def test_a_score_is_not_rounded_to_bf16():
    model = made(labels=())
    with torch.autocast("cpu", torch.bfloat16):
        score = classifier.predict(model, texts(), END)
    assert not torch.equal(score, score.bfloat16().float())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft, of transformers
@FAMILIES
def test_an_adapter_and_its_head_are_peft_s(family, byte_tokenizer, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    checkpoint.save(tiny(family), tmp_path / "base", byte_tokenizer)
    model = made(family)
    options = LoraOptions(rank=4)
    lora.attach(model, options, seed=0)
    with torch.no_grad():
        for _, layer in lora.adapters(model):
            layer.lora_B.normal_(0, 0.3)
    ours = classifier.predict(model, texts(), END)
    folder = tmp_path / "adapter"
    adapter.save(model, folder, options, checkpoint.origin(str(tmp_path / "base")), labels=model.label_config)

    loaded = classifier.load(folder)
    assert loaded.labels == LABELS
    assert not list(lora.adapters(loaded))
    assert close(classifier.predict(loaded, texts(), END), ours)

    there = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=3, pad_token_id=END
    )
    there = PeftModel.from_pretrained(there, folder).eval()
    batch = classifier.collate(texts(), END)
    with torch.no_grad():
        assert close(there(batch["ids"]).logits, ours)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft, of transformers
@FAMILIES
def test_a_classifier_s_adapter_that_peft_trained_is_loaded_with_its_head(family, byte_tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    checkpoint.save(tiny(family), tmp_path / "base", byte_tokenizer)
    torch.manual_seed(0)
    there = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=3, pad_token_id=END
    )
    targets = ["c_attn", "c_fc"] if family == "gpt2" else ["q_proj", "up_proj"]
    there = get_peft_model(
        there, LoraConfig(task_type="SEQ_CLS", r=3, target_modules=targets, fan_in_fan_out=family == "gpt2")
    )
    optimizer = torch.optim.AdamW([p for p in there.parameters() if p.requires_grad], lr=0.1)
    batch = classifier.collate(texts(), END)
    for _ in range(3):
        there(batch["ids"], labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    there.save_pretrained(tmp_path / "theirs")
    ours = classifier.load(tmp_path / "theirs")
    assert ours.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    with torch.no_grad():
        assert close(classifier.predict(ours, texts(), END), there.eval()(batch["ids"]).logits)


def test_a_language_model_is_not_a_classifier(tmp_path):
    checkpoint.save(tiny(), tmp_path / "lm")
    with pytest.raises(CheckpointError, match=r"lm .*score\.weight"):
        classifier.load(tmp_path / "lm")


def test_a_classifier_of_another_size_is_refused(tmp_path):
    classifier.save(made(), tmp_path)
    with pytest.raises(CheckpointError, match=r"score\.weight has shape \(3, 32\)"):
        classifier.load_into(made(labels=("a", "b")), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_embd": 64}))
    with pytest.raises(CheckpointError, match="86,848 parameters"):
        classifier.load(tmp_path)
