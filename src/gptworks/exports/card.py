"""A model card: what a run knows about its model, for people who have only the model.

A card states only what was logged or measured, and says so if something is unknown. It keeps the names of files but not
their folders, so it reveals nothing about the machine or its users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from huggingface_hub import EvalResult, ModelCardData

from gptworks.messages import counted
from gptworks.model import sizing
from gptworks.model.config import ModelConfig
from gptworks.model.find import HUB_ID, is_hub_id

Row = Mapping[str, Any]

FOLDERS = re.compile(
    r"(?<![\w:/.])(?:~\w*|\.{0,2}|[A-Za-z]:)[/\\](?:[^\s/\\:\"'`|]+[/\\])*(?=[^\s/\\:\"'`|])"
)
"""The folders before a file's name: absolute, in a home directory, or relative with dots."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known about a model. The fields from a run's logs are empty for a model without a run."""

    repo: str
    config: ModelConfig
    tokenizer: str
    """Kind and size, in words."""
    labels: tuple[str, ...] = ()
    """Class names of a classifier."""
    regression: bool = False
    """It predicts a number; `labels` then holds the name of that output."""
    chat: bool = False
    precision: str = "float32"
    kind: str = ""
    """The kind of training: pretraining, instruction tuning, ..."""
    base: str | None = None
    """The model it was trained from."""
    step: int | None = None
    tokens: int | None = None
    """Tokens seen in training, including repetitions."""
    seconds: float | None = None
    val_loss: float | None = None
    environment: Row = field(default_factory=dict)
    recipe: Row = field(default_factory=dict)
    scores: Sequence[Row] = ()
    """Rows of results/*.json for this checkpoint."""
    joules: float | None = None
    license: str | None = None


def write(facts: ModelFacts) -> str:
    """Write the card, the README.md of a repository."""
    parts = [
        f"---\n{_metadata(facts).to_yaml()}\n---",
        f"# {facts.repo.rpartition('/')[2]}\n\n{_summary(facts)}",
        f"## Use\n\n```python\n{example(facts)}```\n\n{_other_programs(facts)}",
        f"## Model\n\n{_table(_model(facts))}",
        f"## Training\n\n{_table(_training(facts))}",
        f"## Scores\n\n{_scores(facts)}",
        f"## Limits\n\n{_limits(facts)}",
        f"## License\n\n{facts.license or 'Not stated.'}",
    ]
    if facts.recipe:
        recipe = tomli_w.dumps(strip_folders(facts.recipe))
        parts.append(f"## Recipe\n\n```toml\n{recipe}```")
    return "\n\n".join(parts) + "\n"


def strip_folders(value: Any) -> Any:
    """Reduce the paths in a value to file names; Hub ids stay complete."""
    if isinstance(value, Mapping):
        return {name: strip_folders(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [strip_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    head, colon, rest = value.partition(":")
    if colon and "/" in rest and not rest.startswith("//") and head != "hf" and len(head) > 1:
        return f"{head}:{strip_folders(rest)}"
    if "/" in value and HUB_ID.fullmatch(value) and not is_hub_id(value):
        return Path(value).name  # a local folder, not a Hub repository
    if value.count("/") > 1 and not re.search(r"\s|://|^hf:", value):
        return Path(value).name
    return FOLDERS.sub("", value)


def example(facts: ModelFacts) -> str:
    """Code that uses the model with transformers only."""
    kind = "SequenceClassification" if facts.labels else "CausalLM"
    load = (
        f"from transformers import AutoModelFor{kind}, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{facts.repo}")\n'
        f'model = AutoModelFor{kind}.from_pretrained("{facts.repo}")\n'
    )
    if facts.labels:
        load += 'inputs = tokenizer("A text to classify.", return_tensors="pt")\n'
    if facts.regression:
        return load + "print(model(**inputs).logits.item())\n"
    if facts.labels:
        return load + (
            "scores = model(**inputs).logits[0]\n"
            "print(model.config.id2label[scores.argmax().item()], scores.softmax(-1).tolist())\n"
        )
    new = min(40, facts.config.context // 4)
    if facts.chat:
        prompt = (
            'messages = [{"role": "user", "content": "Hello!"}]\ninputs = tokenizer.apply_chat_template(\n'
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n)\n'
        )
        output = 'output[0, inputs["input_ids"].shape[1] :]'
    else:
        prompt, output = 'inputs = tokenizer("Once upon a time", return_tensors="pt")\n', "output[0]"
    return (
        f"{load}{prompt}"
        f"output = model.generate(**inputs, max_new_tokens={new}, do_sample=True, temperature=0.8, top_k=50)\n"
        f"print(tokenizer.decode({output}, skip_special_tokens=True))\n"
    )


def _largest(rows: Sequence[Row]) -> list[Row]:
    """For each task, metric and data, keep the score over the most examples, and of equals the last."""
    kept: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row.get(name) for name in ("task", "metric", "data", "split", "shots"))
        if key not in kept or (row.get("n") or 0) >= (kept[key].get("n") or 0):
            kept[key] = row
    return list(kept.values())


def _metadata(facts: ModelFacts) -> ModelCardData:
    task = "text-classification" if facts.labels else "text-generation"
    # one entry if two tasks report the same score
    rows = {(_data(row), row["metric"], row["value"]): row for row in _largest(facts.scores)}
    results = [
        EvalResult(
            task_type=task,
            dataset_type=re.sub(r"[^\w.-]+", "-", _data(row)).strip("-") or "unnamed",
            dataset_name=_data(row),
            dataset_split=row.get("split"),
            metric_type=row["metric"],
            metric_value=row["value"],
            metric_name=row["metric"],
        )
        for row in rows.values()
    ]
    known = facts.license is not None and re.fullmatch(r"[a-z0-9.-]+", facts.license)
    return ModelCardData(
        license=facts.license if known else None,
        library_name="transformers",
        pipeline_tag=task,
        tags=["gptworks", "gpt2" if facts.config.family == "gpt2" else "qwen3"],
        base_model=facts.base if facts.base and is_hub_id(facts.base) else None,
        model_name=facts.repo.rpartition("/")[2],
        eval_results=results or None,
    )


def _data(row: Row) -> str:
    """The data of a score, or else its task; with the number of examples if only a part was used."""
    part = f" (first {row['limit']:,})" if row.get("limit") else ""
    return strip_folders(row.get("data") or row["task"]) + part


def _summary(facts: ModelFacts) -> str:
    size = f"{sizing.parameters(facts.config):,} parameters"
    if facts.regression:
        return f"A model with {size} that predicts a number from a text."
    if facts.labels:
        return f"A text classifier with {size}: {', '.join(facts.labels)}."
    if facts.chat:
        return f"A language model with {size}, trained to follow instructions."
    return (
        f"A base language model with {size}: it continues texts and was not trained to answer instructions."
    )


def _other_programs(facts: ModelFacts) -> str:
    if facts.labels:
        return "The model was trained with gptworks, and `gptworks classify` can use it, too."
    return (
        f"vLLM can serve it directly (`vllm serve {facts.repo}`). With gptworks: `gptworks generate {facts.repo}`; "
        f"for llama.cpp and Ollama: `gptworks export {facts.repo} --to gguf --out model.gguf`."
    )


def _model(facts: ModelFacts) -> dict[str, Any]:
    config = facts.config
    kind = "GPT-2" if config.family == "gpt2" else "Qwen3 (RMSNorm, RoPE, SwiGLU, QK-norm)"
    return {
        "architecture": kind,
        "parameters": f"{sizing.parameters(config):,}",
        "layers, heads, width": f"{config.n_layer}, {config.n_head}, {config.n_embd}",
        "context": f"{config.context:,} tokens",
        "tokenizer": facts.tokenizer,
        "weights": facts.precision,
    }


def _training(facts: ModelFacts) -> dict[str, Any]:
    if not facts.recipe:
        return {"how it was trained": "not known: it was published from a folder without a run"}
    tokens, environment = facts.tokens, facts.environment
    per_token = sizing.flops_per_token(facts.config)
    data = strip_folders(str(environment.get("dataset", "not known")))
    fingerprint = str(environment.get("dataset_fingerprint", ""))[:12]
    bound = (
        "; upper bound, as only an adapter was trained" if facts.recipe.get("lora", {}).get("rank") else ""
    )
    loss = "not measured" if facts.val_loss is None else f"{facts.val_loss:.4f} nats"
    return {
        "kind": facts.kind or "not known",
        **({"from": strip_folders(facts.base)} if facts.base else {}),
        "data": data + (f" (fingerprint {fingerprint})" if fingerprint else ""),
        "steps": "not known" if facts.step is None else f"{facts.step:,}",
        "tokens": "not known" if tokens is None else f"{tokens:,}, including repetitions",
        "FLOPs": "not known"
        if tokens is None
        else f"{tokens * per_token:.3g} ({per_token:.3g} per token: 6N + 12LCT, PaLM, appendix B{bound})",
        "time": "not known" if facts.seconds is None else _duration(facts.seconds),
        "hardware": f"{environment.get('processes', 1)} x {environment.get('device', 'not known')}",
        "energy": "not measured" if facts.joules is None else f"{facts.joules / 3.6e6:.3g} kWh",
        **({} if facts.regression else {"validation loss": loss}),
        "made with": f"gptworks {environment.get('gptworks', '')}, PyTorch {environment.get('torch', '')}",
    }


def _duration(seconds: float) -> str:
    """`21 seconds`, `3.5 minutes`, `2.00 hours`."""
    if seconds < 120:
        return counted(round(seconds), "second")
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.2f} hours"


def _scores(facts: ModelFacts) -> str:
    rows = _largest(facts.scores)
    if not rows:
        return "No scores were measured for this checkpoint."
    lines = [
        "| task | metric | value | 95 % interval | n | data | split | shots |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = (f"{end:.4g}" for end in row.get("interval_95") or (float("nan"),) * 2)
        interval = "not known" if low == "nan" else f"{low} to {high}"
        cells = [strip_folders(row["task"]), row["metric"], f"{row['value']:.4g}", interval, row["n"]]
        cells += [_data(row), row.get("split"), row.get("shots")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    definitions = dict.fromkeys(
        f"- {row['metric']} of {strip_folders(row['task'])}: {'; '.join([row['definition'], *row.get('notes', ())])}"
        for row in rows
    )
    return "\n".join([*lines, "", "Definitions:", "", *map(strip_folders, definitions)])


def _limits(facts: ModelFacts) -> str:
    context = f"The context is {facts.config.context:,} tokens."
    if facts.regression:
        return f"- {context}\n- The model returns a number for any text; its scores tell how accurate it is."
    if facts.labels:
        return f"- {context}\n- The model returns one of its classes for any text; its scores tell how accurate it is."
    lines = [
        context,
        "The model produces text that is likely given its training data, not text that is true, and it shares the "
        "biases of that data.",
        "The model was not tested for safety. Check its output before you rely on it.",
    ]
    if not facts.chat:
        lines.append("The model was not trained to follow instructions.")
    return "\n".join(f"- {line}" for line in lines)


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
