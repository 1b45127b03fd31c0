"""`gptworks judge`: another model says how good a run's answers are."""

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

from gptworks.errors import ConfigError, ResourceError
from gptworks.evaluate.judging import OPENAI, JudgeOptions

if TYPE_CHECKING:
    from gptworks.evaluate.endpoint import Answer, Endpoint
    from gptworks.evaluate.judge import Judged, Verdicts

TEMPORARY = 75
"""Exit status when questions stayed unanswered and the same command may get them answered (sysexits.h: EX_TEMPFAIL)."""


def judge(
    spec: Annotated[str, Parameter(name="RUN", help="A run, RUN@best or RUN@step-400.")],
    /,
    *,
    data: Annotated[
        Path | None,
        Parameter(
            help="JSON list of {instruction, input, output}, with model_response where the run need not answer itself. "
            "Default: RUN/results/responses.json."
        ),
    ] = None,
    max_tokens: Annotated[PositiveInt, Parameter(help="Tokens of an answer the run gives, at most.")] = 256,
    options: Annotated[JudgeOptions, Parameter(name="*")] = JudgeOptions(),  # noqa: B008 - frozen
) -> None:
    """Let a chat model score a run's answers, or compare them with others.

    Questions and cost are said before the first call. What was answered is kept: the same command goes on.
    """
    from gptworks import runs
    from gptworks.evaluate import endpoint as endpoints
    from gptworks.evaluate import judge as judging
    from gptworks.report import terminal

    endpoint, run = _endpoint(options), Path(runs.split_spec(spec)[0])
    if not runs.is_run(run):
        raise ConfigError(f"{run} is no run; its scores would have no place to be kept")
    file = data or run / "results" / "responses.json"
    if data is None and not file.is_file():
        raise ConfigError(f"judge needs --data FILE: {file} is not there")
    examples = judging.read(file)[: options.n]
    others = None if options.against is None else _others(examples, options)
    answered = _answered(spec, run, examples, max_tokens)
    prompts = _prompts(answered, others)
    cache = endpoints.Cache(run / "results" / "judge-cache.jsonl")
    asked = [prompt for prompt in prompts if endpoint.name(prompt) not in cache.answers]
    terminal.say(_forecast(asked, len(prompts), options))
    if options.dry_run:
        return
    answers = _with_progress(endpoint, prompts, cache)
    verdicts = judging.scored(answers) if others is None else judging.compared(answers)
    if not len(verdicts.known):
        raise ResourceError(_nothing(endpoint, answers))
    row = _row(spec, file, answered, verdicts, options)
    kept = _keep(run, row, answered, others, verdicts, options)
    print(_line(row))
    print(f"{kept}; {_spent(answers, options)}")
    if verdicts.unanswered:
        terminal.say(f"{verdicts.unanswered} were not answered; the same command asks for those again")
        raise SystemExit(TEMPORARY)


def _endpoint(options: JudgeOptions) -> Endpoint:
    from gptworks.evaluate.endpoint import Endpoint

    model = options.model
    name = options.key_env or ("OPENAI_API_KEY" if options.base_url == OPENAI else None)
    key = None if name is None else os.environ.get(name)
    if name is not None and not key and not options.dry_run:
        raise ConfigError(
            f"the judge's key is not in the environment variable {name}; set it, or give --key-env"
        )
    wanted = {field.name for field in dataclasses.fields(Endpoint)} - {"key", "model"}
    return Endpoint(key=key, model=model, **{name: getattr(options, name) for name in wanted})


def _others(examples: Sequence[Judged], options: JudgeOptions) -> list[str]:
    """The answers to compare with, one for each example.

    Raises:
        ConfigError: the other file answers other questions, or none.
    """
    from gptworks.evaluate import judge as judging

    assert options.against is not None
    if options.against == "reference":
        return [one.output for one in examples]
    theirs = {(one.instruction, one.input): one.response for one in judging.read(Path(options.against))}
    found = [theirs.get((one.instruction, one.input)) for one in examples]
    if missing := found.count(None):
        raise ConfigError(
            f"--against {options.against} has no response to {missing} of the {len(examples)} instructions"
        )
    return [text or "" for text in found]


def _answered(spec: str, run: Path, examples: list[Judged], max_tokens: int) -> list[Judged]:
    """The examples with responses; those without one are answered by the run, once."""
    from gptworks import runs
    from gptworks.model import checkpoint

    missing = [one for one in examples if one.response is None]
    if not missing:
        return examples
    folder = checkpoint.resolve(spec)
    asked = json.dumps([checkpoint.fingerprint(folder), max_tokens, [one.asked for one in missing]])
    file = run / "results" / "judge-responses.json"
    about = hashlib.sha256(asked.encode()).hexdigest()
    have = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if have.get("about") != about:
        texts = _respond(folder, missing, max_tokens)
        rows = [
            {"instruction": one.instruction, "input": one.input, "output": one.output, "model_response": text}
            for one, text in zip(missing, texts, strict=True)
        ]
        have = {"about": about, "checkpoint": folder.name, "responses": rows}
        file.parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(file, have)
    texts = iter(row["model_response"] for row in have["responses"])
    return [
        dataclasses.replace(one, response=next(texts)) if one.response is None else one for one in examples
    ]


def _respond(folder: Path, examples: Sequence[Judged], max_tokens: int) -> list[str]:
    """A checkpoint's likeliest answer to each instruction; an instruction that fills its context gets none.

    Asked by the template it was taught with; a model that was not taught to answer, by IvoSusac/gpt-pytorch's.
    """
    from gptworks.generate import engine
    from gptworks.generate.batch import generate_many
    from gptworks.model import checkpoint
    from gptworks.report import terminal
    from gptworks.text.templates import Chat, Message
    from gptworks.world import default_device

    model = checkpoint.load(folder).to(default_device())
    tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer.chat_template is None:
        terminal.say(f"{folder} has no chat template: it is asked as IvoSusac/gpt-pytorch asks")
        prompts = [engine.prompt_ids(model, tokenizer, one.asked + "\n\n### Response:\n") for one in examples]
    else:
        chat = Chat(tokenizer)
        prompts = [chat.prompt([Message("user", one.instruction, one.input)]) for one in examples]
    fitting = [number for number, ids in enumerate(prompts) if len(ids) < model.config.context]
    if len(fitting) < len(prompts):
        terminal.say(
            f"{len(prompts) - len(fitting)} instructions fill the model's context of {model.config.context}: no answer"
        )
    settings = engine.GenerateSettings(max_tokens=max_tokens, temperature=0)
    samples = generate_many(model, tokenizer, [prompts[number] for number in fitting], settings)
    made = {number: sample.text.strip() for number, sample in zip(fitting, samples, strict=True)}
    return [made.get(number, "") for number in range(len(prompts))]


def _prompts(answered: Sequence[Judged], others: list[str] | None) -> list[str]:
    from gptworks.evaluate.judge import pair_prompt, score_prompt

    if others is None:
        return [score_prompt(one) for one in answered]
    pairs = zip(answered, others, strict=True)
    return [
        prompt
        for one, other in pairs
        for prompt in (
            pair_prompt(one, one.response or "", other),
            pair_prompt(one, other, one.response or ""),
        )
    ]


def _forecast(asked: Sequence[str], n: int, options: JudgeOptions) -> str:
    from gptworks.evaluate.judge import estimate

    tokens_in, tokens_out, dollars = estimate(asked, options.prices)
    price = "price not known (--price IN OUT)" if dollars is None else f"about ${dollars:.4f}"
    return (
        f"{options.model} at {options.base_url}: {len(asked):,} calls ({n - len(asked):,} more are in the cache), "
        f"about {tokens_in:,} tokens in and {tokens_out:,} out, {price}"
    )


def _spent(answers: Sequence[Answer], options: JudgeOptions) -> str:
    from gptworks.evaluate.judge import cost

    tokens_in, tokens_out = (sum(getattr(a, f"tokens_{way}") for a in answers) for way in ("in", "out"))
    dollars = cost(tokens_in, tokens_out, options.prices)
    price = "" if dollars is None else f", ${dollars:.4f}"
    return f"{tokens_in:,} tokens in and {tokens_out:,} out{price}, cached answers included"


def _with_progress(endpoint: Endpoint, prompts: Sequence[str], cache: Any) -> list[Answer]:
    from rich.progress import Progress

    from gptworks.evaluate import endpoint as endpoints
    from gptworks.report import terminal

    with Progress(console=terminal.err, disable=not terminal.err.is_terminal) as progress:
        task = progress.add_task("judging", total=len(prompts))
        advance: Callable[[], None] = lambda: progress.advance(task)  # noqa: E731
        return endpoints.ask(endpoint, prompts, cache, advance)


def _nothing(endpoint: Endpoint, answers: Sequence[Answer]) -> str:
    reasons = [
        answer.error for answer in answers if answer.error and not answer.error.startswith("not asked")
    ]
    said = next((answer.text for answer in answers if answer.text is not None), None)
    if said is not None:
        return (
            f"{endpoint.model} gave no answer that can be read, such as {said[:80]!r}: give another --judge"
        )
    return f"the judge did not answer at all: {reasons[0] if reasons else 'no reason known'}; what it answers is kept"


def _row(
    spec: str, file: Path, answered: Sequence[Judged], verdicts: Verdicts, options: JudgeOptions
) -> dict[str, Any]:
    """The score as every result is kept."""
    import numpy as np

    from gptworks.evaluate import results, subjects

    who = f"{options.model}, temperature 0, seed {options.seed}"
    if options.against is None:
        metric, words = "points", f"mean points from 0 to 100 by {who}, asked as IvoSusac/gpt-pytorch asks"
    else:
        metric = f"wins against {Path(options.against).name}"
        words = f"mean share of wins against {options.against} by {who}; each pair in both orders, ties count half"
    notes = [f"{verdicts.unread} could not be read"] if verdicts.unread else []
    notes += [f"{verdicts.unanswered} were not answered"] if verdicts.unanswered else []
    notes += [f"{verdicts.contradictory} were contradictory"] if verdicts.contradictory else []
    asked = json.dumps([[one.instruction, one.input, one.output] for one in answered]).encode()
    given = json.dumps([one.response for one in answered]).encode()
    score = results.Score(
        metric,
        np.stack([verdicts.known, np.ones(len(verdicts.known))], axis=1),
        "mean",
        words,
        len(verdicts.known),
        of="answers",
        notes=tuple(notes),
        details={"judge": options.model, "responses_fingerprint": hashlib.sha256(given).hexdigest()},
    )
    material = results.Material(
        "judge", options.split, str(file), hashlib.sha256(asked).hexdigest(), limit=options.n
    )
    return results.row(score, material, subjects.find(spec).subject("fp32"))


def _keep(
    run: Path,
    row: dict[str, Any],
    answered: Sequence[Judged],
    others: list[str] | None,
    verdicts: Verdicts,
    options: JudgeOptions,
) -> Path:
    """Write the score, and what was said of every answer."""
    from gptworks import runs

    end = "" if options.against is None else f"-against-{Path(options.against).stem}"
    file = run / "results" / f"judge-{re.sub(r'[^A-Za-z0-9.-]+', '-', options.model)}{end}.json"
    judged = [
        {
            "instruction": one.instruction,
            "input": one.input,
            "output": one.output,
            "model_response": one.response,
        }
        | ({} if others is None else {"other_response": others[i]})
        | {"value": verdicts.values[i], "said": verdicts.said[i]}
        for i, one in enumerate(answered)
    ]
    runs.write_json(file, {"rows": [row], "judged": judged})
    return file


def _line(row: dict[str, Any]) -> str:
    sure = "" if row["interval_95"] is None else " (95 %: {:.2f} to {:.2f})".format(*row["interval_95"])
    notes = "".join(f"; {note}" for note in row["notes"])
    return f"judge: {row['metric']} {row['value']:.2f}{sure}, n = {row['n']}, split {row['split']}{notes}"
