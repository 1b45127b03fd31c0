"""Every protocol beside the slow obvious way to do it: one token at a time, with transformers' network."""

import math

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from gptworks.errors import ConfigError, DataError
from gptworks.evaluation import perplexity, texts
from gptworks.evaluation.harness import LiveModel
from gptworks.recipe import PerplexityOptions
from tests.conftest import END
from tests.evaluation.conftest import open_ours, open_theirs, write_rows

TEXTS = [
    "The first document is longer than the context of the model, so several windows are needed; ümläut.",
    "A short one.",
    "x",
    "Four words stand here .",
]


@pytest.fixture
def file(tmp_path):
    return write_rows(tmp_path / "val.jsonl", [{"text": text} for text in TEXTS])


def network(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def slowly(network, ids, context, stride):
    """-log p of each id: token by token, with as much before it as its window has."""
    row, nats = [END, *ids], []
    for place in range(1, len(row)):
        target = place - 1
        if target < context:
            end = min(context, len(ids))
        else:
            end = min(context + ((target - context) // stride + 1) * stride, len(ids))
        before = row[max(0, end - context) : place]
        with torch.no_grad():
            logits = network(torch.tensor([before])).logits[0, -1]
        nats.append(-torch.log_softmax(logits, -1)[row[place]].item())
    return nats


def measured(folder, file, **options):
    model, tokenizer = open_ours(folder)
    chosen = PerplexityOptions(**options)
    loaded = texts.load(str(file), tokenizer, chosen, "dev", None)
    found = perplexity.measure(model, tokenizer, loaded.documents, chosen)
    return {one.metric: one for one in found}, tokenizer


@pytest.mark.parametrize("stride", [None, 1, 7])
def test_tokens_bytes_and_words_are_counted_as_in_the_slow_way(narrow, file, stride):
    found, tokenizer = measured(narrow, file, stride=stride)
    theirs = network(narrow)
    nats = [slowly(theirs, tokenizer.encode(text), 48, stride or 48) for text in TEXTS]
    total, n = sum(map(sum, nats)), sum(map(len, nats))
    assert found["perplexity"].value == pytest.approx(math.exp(total / n), rel=1e-4)
    assert found["perplexity"].n == n
    size = sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"].value == pytest.approx(total / math.log(2) / size, rel=1e-4)
    words = sum(len(text.split()) for text in TEXTS)
    assert found["word_perplexity"].value == pytest.approx(math.exp(total / words), rel=1e-4)
    assert (found["bits_per_byte"].n, found["word_perplexity"].n) == (size, words)


def test_averages_over_documents_without_their_first_tokens_are_algrshns(narrow, file):
    found, tokenizer = measured(narrow, file, average="documents", ignore_first=8)
    theirs = network(narrow)
    bits = []
    for text in TEXTS:
        late = [nat / math.log(2) for nat in slowly(theirs, tokenizer.encode(text), 48, 48)[8:]]
        bits += [np.mean(late)] if late else []
    assert found["perplexity"].value == pytest.approx(2 ** np.mean(bits), rel=1e-4)
    assert found["perplexity"].n == len(bits) == 3
    assert "word_perplexity" not in found  # its words would not all be counted
    assert found["perplexity"].notes == ("1 document too short to score",)


def test_joined_documents_are_one_text_with_marks_between(narrow, file):
    found, tokenizer = measured(narrow, file, joined=True)
    ids = [id for text in TEXTS for id in [*tokenizer.encode(text), END]]
    nats = slowly(network(narrow), ids, 48, 48)
    assert found["perplexity"].value == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    size = sum(len(text.encode()) for text in TEXTS)  # marks stand for no text
    assert found["bits_per_byte"].value == pytest.approx(sum(nats) / math.log(2) / size, rel=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_windows_side_by_side_are_lm_evals_rolling_ones(narrow):
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in [*TEXTS, " ".join(TEXTS * 2)]]
    theirs = open_theirs(narrow).loglikelihood_rolling(requests, disable_tqdm=True)
    ours = LiveModel(*open_ours(narrow)).loglikelihood_rolling(requests)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)


def test_wikitexts_tokens_become_text_as_in_lm_eval():
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    page = (
        ' = Robert <unk> = \n It \'s 1 @,@ 000 @-@ year old , ( he said ) ; " so " it is : 2 @.@ 5 ° C . \n'
        " = = Career = = \n The players ' house . N [ 3 ] { x } ' a ' ! Who ? \n . , : ; ! ?"
    )
    assert texts.wikitext(page) == wikitext_detokenizer({"page": page})


def test_words_and_bytes_are_counted_before_the_detokenizer(narrow, tmp_path):
    page = 'He said , " it is 1 @,@ 000 years old . "'
    file = tmp_path / "wiki.test.txt"
    file.write_text(page)
    found, tokenizer = measured(narrow, file, detokenizer="wikitext")
    nats = sum(slowly(network(narrow), tokenizer.encode(texts.wikitext(page)), 48, 48))
    assert found["word_perplexity"].value == pytest.approx(math.exp(nats / len(page.split())), rel=1e-4)
    assert found["bits_per_byte"].value == pytest.approx(nats / math.log(2) / len(page), rel=1e-4)


def test_a_datasets_split_scores_as_its_texts_do(narrow, tokenizer, tmp_path, file):
    from gptworks.data.prepare import prepare
    from gptworks.recipe import PrepareOptions

    options = PrepareOptions(sources=(str(file),), val_fraction=0, workers=1)
    prepare(options, tokenizer, tmp_path / "set")
    from_texts, _ = measured(narrow, file)
    from_set, _ = measured(narrow, f"{tmp_path / 'set'}@train")
    for metric, score in from_texts.items():
        assert from_set[metric].value == pytest.approx(score.value, rel=1e-6), metric


@pytest.mark.parametrize(
    ("options", "text", "error", "said"),
    [
        ({"stride": 49}, "abc", ConfigError, "--perplexity.stride 49"),
        ({"ignore_first": 9}, "abc", DataError, "perplexity.ignore_first=9"),
        ({}, "", DataError, "holds no text"),
    ],
)
def test_bad_input_is_refused(narrow, tmp_path, options, text, error, said):
    file = tmp_path / "a.txt"
    file.write_text(text)
    with pytest.raises(error, match=said):
        measured(narrow, file, **options)
