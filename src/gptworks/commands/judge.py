"""`gptworks judge`: another model scores a run's answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from gptworks import files
from gptworks.errors import ConfigError, ResourceError
from gptworks.evaluation.judge_options import OPENAI, JudgeOptions
from gptworks.recipe import DeviceOption
from gptworks.results import Result
from gptworks.runs import Run

if TYPE_CHECKING:
    from gptworks.evaluation.endpoint import Endpoint, EndpointReply, ReplyCache
    from gptworks.evaluation.judge import JudgeExample, Verdicts

TEMPORARY = 75
"""Exit status if the same command, run again, may get the missing replies (sysexits.h: EX_TEMPFAIL)."""


def judge(
    spec: Annotated[str, Parameter(name="RUN", help="A run, RUN@best or RUN@step-400.")],
    /,
    *,
    data: Annotated[
        Path | None,
        Parameter(
            help="JSON list of {instruction, input, output}, with model_response unless the run should answer. "
            "Default: RUN/results/responses.json."
        ),
    ] = None,
    max_tokens: Annotated[
        PositiveInt, Parameter(help="Maximum tokens of an answer that the run gives.")
    ] = 256,
    device: DeviceOption = "auto",
    options: Annotated[JudgeOptions, Parameter(name="*")] = JudgeOptions(),  # noqa: B008 - frozen
) -> None:
    """Let a chat model score a run's answers, or compare them with others.

    Prints the number of requests and their cost before it sends the first one. Replies are cached, so after a failure
    the same command requests only what is missing.
    """
    from gptworks import runs
    from gptworks.evaluation import judge as judging
    from gptworks.evaluation.endpoint import ReplyCache
    from gptworks.reports import terminal

    endpoint, run = _endpoint(options), Run(runs.split_spec(spec)[0])
    if not run.exists:
        raise ConfigError(f"{run} is not a run, and judge saves its scores in a run; give RUN")
    file = data or run / "results" / "responses.json"
    if data is None and not file.is_file():
        raise ConfigError(f"judge needs --data FILE: {file} does not exist")
    examples = judging.read(file)[: options.n]
    others = None if options.against is None else _other_responses(examples, options.against)
    answered = _with_responses(spec, run, examples, max_tokens, device)
    prompts = _prompts(answered, others)
    cache = ReplyCache(run / "results" / "judge-cache.jsonl")
    missing = [prompt for prompt in prompts if endpoint.cache_key(prompt) not in cache.replies]
    terminal.say(_forecast(missing, len(prompts), options))
    if options.dry_run:
        return
    replies = _ask(endpoint, prompts, cache)
    verdicts = judging.parse_scores(replies) if others is None else judging.parse_comparisons(replies)
    if not len(verdicts.known):
        raise ResourceError(_no_verdict(endpoint, replies))
    result = _result(spec, file, answered, verdicts, options)
    saved = _save(run, result, answered, others, verdicts, options)
    print(_line(result))
    print(f"{saved}; {_spent(replies, options)}")
    if verdicts.unanswered:
        terminal.say(f"{verdicts.unanswered} got no reply; run the same command again to retry them")
        raise SystemExit(TEMPORARY)


def _endpoint(options: JudgeOptions) -> Endpoint:
    from gptworks.evaluation.endpoint import Endpoint

    model = options.model
    variable = options.key_env or ("OPENAI_API_KEY" if options.base_url == OPENAI else None)
    key = None if variable is None else os.environ.get(variable)
    if variable is not None and not key and not options.dry_run:
        raise ConfigError(f"the environment variable {variable} has no API key; set it, or give --key-env")
    names = {field.name for field in dataclasses.fields(Endpoint)} - {"key", "model"}
    return Endpoint(key=key, model=model, **{name: getattr(options, name) for name in names})


def _other_responses(examples: Sequence[JudgeExample], against: str) -> list[str]:
    """The response to compare with, for each example.

    Raises:
        ConfigError: the other file lacks responses to some examples.
    """
    from gptworks.evaluation import judge as judging

    if against == "reference":
        return [example.output for example in examples]
    responses = {(other.instruction, other.input): other.response for other in judging.read(Path(against))}
    found = [responses.get((example.instruction, example.input)) for example in examples]
    if missing := found.count(None):
        raise ConfigError(f"--against {against} has no response to {missing} of {len(examples)} instructions")
    return [text or "" for text in found]


def _with_responses(
    spec: str, run: Run, examples: list[JudgeExample], max_tokens: int, device: str
) -> list[JudgeExample]:
    """The examples with responses. The run generates missing ones and saves them."""
    from gptworks.model import checkpoint

    missing = [example for example in examples if example.response is None]
    if not missing:
        return examples
    folder = checkpoint.find_checkpoint(spec)
    request = json.dumps(
        [checkpoint.fingerprint(folder), max_tokens, [example.prompt for example in missing]]
    )
    fingerprint = hashlib.sha256(request.encode()).hexdigest()
    file = run / "results" / "judge-responses.json"
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if saved.get("about") != fingerprint:
        texts = _generate(folder, missing, max_tokens, device)
        rows = [_row(example, text) for example, text in zip(missing, texts, strict=True)]
        saved = {"about": fingerprint, "checkpoint": folder.name, "responses": rows}
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(file, saved)
    responses = iter(row["model_response"] for row in saved["responses"])
    return [
        dataclasses.replace(example, response=next(responses)) if example.response is None else example
        for example in examples
    ]


def _row(example: JudgeExample, response: str | None) -> dict[str, Any]:
    """An example as JSON files keep it."""
    row = {"instruction": example.instruction, "input": example.input, "output": example.output}
    return row | {"model_response": response}


def _generate(folder: Path, examples: Sequence[JudgeExample], max_tokens: int, device: str) -> list[str]:
    """A checkpoint's greedy answer to each instruction; empty for an instruction that fills its context.

    Uses the checkpoint's chat template, or IvoSusac/gpt-pytorch's prompt if it has none.
    """
    from gptworks.devices import choose_device
    from gptworks.generation import engine
    from gptworks.generation.engine import generate_many
    from gptworks.model import checkpoint
    from gptworks.reports import terminal
    from gptworks.text.templates import Chat, Message

    model = checkpoint.load(folder).to(choose_device(device))
    tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer.chat_template is None:
        terminal.say(f"{folder} has no chat template; using IvoSusac/gpt-pytorch's prompt")
        texts = [f"{example.prompt}\n\n### Response:\n" for example in examples]
        prompts = [engine.encode_prompt(model, tokenizer, text) for text in texts]
    else:
        chat = Chat(tokenizer)
        prompts = [chat.prompt([Message("user", example.instruction, example.input)]) for example in examples]
    fitting = [number for number, ids in enumerate(prompts) if len(ids) < model.config.context]
    if too_long := len(prompts) - len(fitting):
        terminal.say(f"{too_long} instructions fill the model's context of {model.config.context}: no answer")
    settings = engine.GenerateSettings(max_tokens=max_tokens, temperature=0)
    samples = generate_many(model, tokenizer, [prompts[number] for number in fitting], settings)
    answers = {number: sample.text.strip() for number, sample in zip(fitting, samples, strict=True)}
    return [answers.get(number, "") for number in range(len(prompts))]


def _prompts(answered: Sequence[JudgeExample], others: list[str] | None) -> list[str]:
    """One prompt per example, or one for each order of a pair."""
    from gptworks.evaluation.judge import pair_prompt, score_prompt

    if others is None:
        return [score_prompt(example) for example in answered]
    prompts = []
    for example, other in zip(answered, others, strict=True):
        response = example.response or ""
        prompts += [pair_prompt(example, response, other), pair_prompt(example, other, response)]
    return prompts


def _forecast(missing: Sequence[str], n: int, options: JudgeOptions) -> str:
    from gptworks.evaluation.judge import estimate

    tokens_in, tokens_out, dollars = estimate(missing, options.prices)
    price = "price unknown (--price IN OUT)" if dollars is None else f"about ${dollars:.4f}"
    return (
        f"{options.model} at {options.base_url}: {len(missing):,} requests ({n - len(missing):,} more are cached), "
        f"about {tokens_in:,} input and {tokens_out:,} output tokens, {price}"
    )


def _spent(replies: Sequence[EndpointReply], options: JudgeOptions) -> str:
    from gptworks.evaluation.judge import cost

    tokens_in, tokens_out = sum(r.tokens_in for r in replies), sum(r.tokens_out for r in replies)
    dollars = cost(tokens_in, tokens_out, options.prices)
    price = "" if dollars is None else f", ${dollars:.4f}"
    return f"{tokens_in:,} input and {tokens_out:,} output tokens{price}, including cached replies"


def _ask(endpoint: Endpoint, prompts: Sequence[str], cache: ReplyCache) -> list[EndpointReply]:
    from rich.progress import Progress

    from gptworks.evaluation.endpoint import ask
    from gptworks.reports import terminal

    with Progress(console=terminal.err, disable=not terminal.err.is_terminal) as progress:
        task = progress.add_task("judging", total=len(prompts))
        advance: Callable[[], None] = lambda: progress.advance(task)  # noqa: E731
        return ask(endpoint, prompts, cache, advance)


def _no_verdict(endpoint: Endpoint, replies: Sequence[EndpointReply]) -> str:
    from gptworks.evaluation.endpoint import NOT_SENT

    text = next((reply.text for reply in replies if reply.text is not None), None)
    if text is not None:
        return (
            f"{endpoint.model} gave no valid verdict, only text such as {text[:80]!r}; give another --judge"
        )
    reason = next(
        (reply.error for reply in replies if reply.error and reply.error != NOT_SENT), "unknown reason"
    )
    return f"the judge at {endpoint.base_url} did not reply: {reason}; try again, or give another --base-url"


def _result(
    spec: str, file: Path, answered: Sequence[JudgeExample], verdicts: Verdicts, options: JudgeOptions
) -> Result:
    import numpy as np

    from gptworks.evaluation import models
    from gptworks.evaluation.scores import EvalData, Score, make_result

    # Rows with another definition are not comparable, so keep its wording.
    who = f"{options.model}, temperature 0, seed {options.seed}"
    if options.against is None:
        metric = "points"
        definition = f"mean points from 0 to 100 by {who}, asked as IvoSusac/gpt-pytorch asks"
    else:
        metric = f"wins against {Path(options.against).name}"
        definition = f"mean share of wins against {options.against} by {who}; each pair in both orders, ties count half"
    notes = {
        "had no valid verdict": verdicts.unparsed,
        "got no reply": verdicts.unanswered,
        "changed with the order": verdicts.contradictory,
    }
    questions = json.dumps([[example.instruction, example.input, example.output] for example in answered])
    responses = json.dumps([example.response for example in answered])
    score = Score(
        metric,
        np.stack([verdicts.known, np.ones(len(verdicts.known))], axis=1),
        "mean",
        definition,
        len(verdicts.known),
        of="answers",
        notes=tuple(f"{n} {note}" for note, n in notes.items() if n),
        details={
            "judge": options.model,
            "responses_fingerprint": hashlib.sha256(responses.encode()).hexdigest(),
        },
    )
    fingerprint = hashlib.sha256(questions.encode()).hexdigest()
    eval_data = EvalData("judge", options.split, str(file), fingerprint, limit=options.n)
    return make_result(score, eval_data, models.find(spec).info("fp32"))


def _save(
    run: Run,
    result: Result,
    answered: Sequence[JudgeExample],
    others: list[str] | None,
    verdicts: Verdicts,
    options: JudgeOptions,
) -> Path:
    """Save the score with the verdict on every answer."""
    suffix = "" if options.against is None else f"-against-{Path(options.against).stem}"
    file = run / "results" / f"judge-{re.sub(r'[^A-Za-z0-9.-]+', '-', options.model)}{suffix}.json"
    judged = [
        _row(example, example.response)
        | ({} if others is None else {"other_response": others[i]})
        | {"value": verdicts.values[i], "said": verdicts.replies[i]}
        for i, example in enumerate(answered)
    ]
    files.write_json(file, {"rows": [result.to_row()], "judged": judged})
    return file


def _line(result: Result) -> str:
    interval = result.interval_95
    error = "" if interval is None else f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})"
    notes = "".join(f"; {note}" for note in result.notes)
    return f"judge: {result.metric} {result.value:.2f}{error}, n = {result.n}, split {result.split}{notes}"
