"""Other people's clients, unchanged: lm-evaluation-harness, our own judge, and a fuzzer that reads the OpenAPI page."""

import json
import shutil
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from gptworks import files
from gptworks.cli import main
from gptworks.evaluation import judge as judging
from gptworks.evaluation.harness import LiveModel
from gptworks.evaluation.judge import score_prompt
from gptworks.generation.engine import GenerateSettings, generate
from gptworks.model import checkpoint
from gptworks.text.templates import Chat, Message
from tests.serving.conftest import CONTEXT

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def remote(up, base_folder):
    """The harness's own client, with transformers' tokenizer on our folder."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        base_url=up.url + "/v1/completions",
        model="base",
        tokenizer=str(base_folder),
        tokenizer_backend="huggingface",
        max_length=CONTEXT,
        batch_size=4,
        num_concurrent=1,
    )


def instances(kind: str, arguments: list[tuple]):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=args, idx=n) for n, args in enumerate(arguments)]


def test_the_harness_scores_over_the_wire_as_in_process(remote, base_folder):
    live = LiveModel(checkpoint.load(base_folder), checkpoint.load_tokenizer(base_folder), 2048)
    pairs = [
        ("The cat sat on", " the mat"),
        ("a", "b"),
        ("é €", " ü?"),
        ("x" * (CONTEXT - 20), " to the end"),
    ]
    over_wire = remote.loglikelihood(instances("loglikelihood", pairs))
    here = live.loglikelihood(instances("loglikelihood", pairs))
    for (theirs, greedy), (ours, also) in zip(over_wire, here, strict=True):
        assert theirs == pytest.approx(ours, rel=0, abs=1e-3)
        assert greedy == also


def test_the_harness_generates_over_the_wire_as_in_process(remote, base_folder):
    live = LiveModel(checkpoint.load(base_folder), checkpoint.load_tokenizer(base_folder), 2048)
    asked = [
        ("Once upon", {"until": ["q"], "max_gen_toks": 20, "do_sample": False}),
        ("Hello", {"until": ["\n\n"], "max_gen_toks": 20, "do_sample": False}),
    ]
    over_wire = remote.generate_until(instances("generate_until", asked))
    assert over_wire == live.generate_until(instances("generate_until", asked))


def test_our_judge_asks_our_server(up, chat_folder, tmp_path, capsys):
    """What comes back are no scores, for the model is random; but it is what the engine says to what was asked."""
    folder = tmp_path / "run" / "checkpoints" / "step-000001"
    shutil.copytree(chat_folder, folder)
    (folder / "trainer").mkdir()
    (folder / "trainer" / "complete.json").write_text('{"sha256": {}}')
    (folder / "trainer" / "state.json").write_text('{"step": 1, "epoch": 0.5}')
    (tmp_path / "run" / "results").mkdir()
    rows = [{"instruction": f"Say {n}.", "input": "", "output": "x", "model_response": "y"} for n in range(3)]
    (tmp_path / "run" / "results" / "responses.json").write_text(json.dumps(rows))
    words = ["judge", str(tmp_path / "run"), "--judge", "openai:chat", "--base-url", up.url + "/v1"]
    assert main([*words, "--pause", "0.001", "--concurrency", "2"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    kept = files.read_rows(tmp_path / "run" / "results" / "judge-cache.jsonl")
    assert len(kept) == 3
    model, tokenizer = checkpoint.load(chat_folder), checkpoint.load_tokenizer(chat_folder)
    prompts = [score_prompt(one) for one in judging.read(tmp_path / "run" / "results" / "responses.json")]
    said = set()
    for prompt in prompts:
        ids = Chat(tokenizer).prompt([Message("user", prompt)])
        settings = GenerateSettings(max_tokens=model.config.context, temperature=0)
        said.add(generate(model, tokenizer, ids, settings)[0].text)
    assert {row["text"] for row in kept} == said


def fuzz(url: str, examples: int) -> Counter[tuple[str, int]]:
    """Bodies by the OpenAPI page, and bodies against it; most ask for a model we have, and get short answers.

    -> how many answers there were, by route and status.
    """
    schema = schemathesis.openapi.from_url(url + "/openapi.json")
    checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
    answered: Counter[tuple[str, int]] = Counter()
    long = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )

    def ask(case, known):
        if isinstance(case.body, dict) and known and isinstance(case.body.get("model"), str):
            short = {"max_tokens": 2, "n": 1, "beams": 0}
            case.body |= {
                "/v1/completions": {"model": "base"} | short,
                "/v1/chat/completions": {"model": "chat"} | short,
                "/v1/classify": {"model": "spam"},
            }[case.operation.path]
        answer = case.call_and_validate(checks=checks, timeout=60)
        answered[case.operation.label, answer.status_code] += 1

    often = st.sampled_from([True, True, False])
    for operation in (result.ok() for result in schema.get_all_operations()):
        for mode in GenerationMode:
            if mode == GenerationMode.NEGATIVE and operation.method == "get":
                continue  # there is nothing to send
            patience = settings(long, max_examples=5) if operation.method == "get" else long
            patience(given(case=operation.as_strategy(generation_mode=mode), known=often)(ask))()
    for path in ("POST /v1/completions", "POST /v1/chat/completions", "POST /v1/classify"):
        assert {(path, 200), (path, 400), (path, 404)} <= answered.keys()
    assert ("GET /v1/models", 200) in answered
    return answered


def test_a_fuzzer_finds_no_mistake_of_ours(up):
    fuzz(up.url, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_patient_fuzzer_finds_no_mistake_of_ours(up, record_property):
    answered = fuzz(up.url, 200)
    record_property("answers", json.dumps([[*key, times] for key, times in sorted(answered.items())]))
    assert answered.total() > 1000
