"""A model card: what a run knows of its model, for people who have nothing but the model.

Only facts, each as it was logged or measured; what is not known is said to be so. Names of files are kept, where they
lie is not: a card tells nothing of the machine, its folders and its people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from huggingface_hub import EvalResult, ModelCardData

from gptworks.model import sizing
from gptworks.model.config import ModelConfig
from gptworks.model.find import HUB_ID, is_hub_id
from gptworks.wording import counted

Row = Mapping[str, Any]

PLACE = re.compile(r"(?<![\w:/.])(?:~\w*|\.{0,2}|[A-Za-z]:)[/\\](?:[^\s/\\:\"'`|]+[/\\])*(?=[^\s/\\:\"'`|])")
"""The folders in front of a file's name: absolute, from a home, or relative with dots."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a model. What a run's logs would say is empty for a model without a run."""

    repo: str
    config: ModelConfig
    tokenizer: str
    """In words: kind and size."""
    labels: tuple[str, ...] = ()
    """Of a classifier's classes."""
    number: bool = False
    """Whether it predicts a number; `labels` is that one output's name then."""
    chat: bool = False
    precision: str = "float32"
    kind: str = ""
    """What was done: pretraining, fine-tuning to answer, ..."""
    base: str | None = None
    """The model it was trained from."""
    step: int | None = None
    tokens: int | None = None
    """Seen in training, repeats counted."""
    seconds: float | None = None
    val_loss: float | None = None
    environment: Row = field(default_factory=dict)
    recipe: Row = field(default_factory=dict)
    scores: Sequence[Row] = ()
    """Rows of results/*.json of this very checkpoint."""
    joules: float | None = None
    license: str | None = None


def write(facts: Facts) -> str:
    """The card: README.md of a repository."""
    parts = [
        f"---\n{_data(facts).to_yaml()}\n---",
        f"# {facts.repo.rpartition('/')[2]}\n\n{_what(facts)}",
        f"## Use\n\n```python\n{example(facts)}```\n\n{_other(facts)}",
        f"## Model\n\n{_table(_model(facts))}",
        f"## Training\n\n{_table(_training(facts))}",
        f"## Scores\n\n{_scores(facts)}",
        f"## Limits\n\n{_limits(facts)}",
        f"## License\n\n{facts.license or 'Not stated by who published this.'}",
    ]
    if facts.recipe:
        recipe = tomli_w.dumps(placeless(facts.recipe))
        parts.append(f"## Recipe\n\n```toml\n{recipe}```")
    return "\n\n".join(parts) + "\n"


def placeless(value: Any) -> Any:
    """A value without the folders that files lie in; ids of the Hub stay whole."""
    if isinstance(value, Mapping):
        return {name: placeless(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [placeless(item) for item in value]
    if not isinstance(value, str):
        return value
    head, colon, rest = value.partition(":")
    if colon and "/" in rest and not rest.startswith("//") and head != "hf" and len(head) > 1:
        return f"{head}:{placeless(rest)}"
    if "/" in value and HUB_ID.fullmatch(value) and not is_hub_id(value):
        return Path(value).name  # a folder here, not a repository there
    if value.count("/") > 1 and not re.search(r"\s|://|^hf:", value):
        return Path(value).name
    return PLACE.sub("", value)


def example(facts: Facts) -> str:
    """Code that uses the model with transformers alone."""
    kind = "SequenceClassification" if facts.labels else "CausalLM"
    begin = (
        f"from transformers import AutoModelFor{kind}, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{facts.repo}")\n'
        f'model = AutoModelFor{kind}.from_pretrained("{facts.repo}")\n'
    )
    if facts.labels:
        begin += 'inputs = tokenizer("A text to judge.", return_tensors="pt")\n'
    if facts.number:
        return begin + "print(model(**inputs).logits.item())\n"
    if facts.labels:
        return begin + (
            "scores = model(**inputs).logits[0]\n"
            "print(model.config.id2label[scores.argmax().item()], scores.softmax(-1).tolist())\n"
        )
    new = min(40, facts.config.context // 4)
    if facts.chat:
        asked = (
            'messages = [{"role": "user", "content": "Hello!"}]\ninputs = tokenizer.apply_chat_template(\n'
        )
        asked += '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n)\n'
    else:
        asked = 'inputs = tokenizer("Once upon a time", return_tensors="pt")\n'
    return begin + asked + (
        f"said = model.generate(**inputs, max_new_tokens={new}, do_sample=True, temperature=0.8, top_k=50)\n"
        + (
            'print(tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n'
            if facts.chat
            else "print(tokenizer.decode(said[0], skip_special_tokens=True))\n"
        )
    )  # fmt: skip


def _largest(rows: Sequence[Row]) -> list[Row]:
    """Of several scores of one task and metric on the same data, the one of most examples; of equals the last."""
    kept: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row.get(name) for name in ("task", "metric", "data", "split", "shots"))
        if key not in kept or (row.get("n") or 0) >= (kept[key].get("n") or 0):
            kept[key] = row
    return list(kept.values())


def _data(facts: Facts) -> ModelCardData:
    rows = {
        (_on(row), row["metric"], row["value"]): row for row in _largest(facts.scores)
    }  # not by two tasks
    results = [
        EvalResult(
            task_type=_task(facts),
            dataset_type=_slug(_on(row)),
            dataset_name=_on(row),
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
        pipeline_tag=_task(facts),
        tags=["gptworks", "gpt2" if facts.config.family == "gpt2" else "qwen3"],
        base_model=facts.base if facts.base and is_hub_id(facts.base) else None,
        model_name=facts.repo.rpartition("/")[2],
        eval_results=results or None,
    )


def _task(facts: Facts) -> str:
    return "text-classification" if facts.labels else "text-generation"


def _on(row: Row) -> str:
    """What a score was measured on, or else its task; of a part, how much of it."""
    part = f" (first {row['limit']:,})" if row.get("limit") else ""
    return placeless(row.get("data") or row["task"]) + part


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "unnamed"


def _what(facts: Facts) -> str:
    size = f"{sizing.parameters(facts.config):,} parameters"
    if facts.number:
        return f"A model of {size} that predicts a number from a text."
    if facts.labels:
        return f"A text classifier of {size}: {', '.join(facts.labels)}."
    does = (
        "answers what it is asked"
        if facts.chat
        else "is a base model: it continues texts and was not taught to answer"
    )
    return f"A language model of {size}. It {does}."


def _other(facts: Facts) -> str:
    if facts.labels:
        return "It was made with gptworks; `gptworks classify` reads it as well."
    return (
        f"vLLM serves it as it is (`vllm serve {facts.repo}`). With gptworks: `gptworks generate {facts.repo}`; "
        f"for llama.cpp and Ollama: `gptworks export {facts.repo} --to gguf --out model.gguf`."
    )


def _model(facts: Facts) -> dict[str, Any]:
    config = facts.config
    kind = "GPT-2" if config.family == "gpt2" else "Qwen3's (RMSNorm, rotary positions, SwiGLU, QK-norm)"
    return {
        "architecture": kind,
        "parameters": f"{sizing.parameters(config):,}",
        "layers, heads, width": f"{config.n_layer}, {config.n_head}, {config.n_embd}",
        "context": f"{config.context:,} tokens",
        "tokenizer": facts.tokenizer,
        "weights": facts.precision,
    }


def _training(facts: Facts) -> dict[str, Any]:
    if not facts.recipe:
        return {"how it was trained": "not known: it was published from a folder without a run"}
    tokens, environment = facts.tokens, facts.environment
    per_token = sizing.flops_per_token(facts.config)
    data = placeless(str(environment.get("dataset", "not known")))
    mark = str(environment.get("dataset_fingerprint", ""))[:12]
    most = "; at most: only adapters were trained" if facts.recipe.get("lora", {}).get("rank") else ""
    loss = "not measured" if facts.val_loss is None else f"{facts.val_loss:.4f} nats"
    return {
        "what": facts.kind or "not known",
        **({"from": placeless(facts.base)} if facts.base else {}),
        "data": f"{data}" + (f" (fingerprint {mark})" if mark else ""),
        "steps": "not known" if facts.step is None else f"{facts.step:,}",
        "tokens": "not known" if tokens is None else f"{tokens:,}, repeats counted",
        "FLOPs": "not known"
        if tokens is None
        else f"{tokens * per_token:.3g} ({per_token:.3g} a token: 6N + 12LCT, PaLM, appendix B{most})",
        "time": "not known" if facts.seconds is None else _duration(facts.seconds),
        "hardware": f"{environment.get('processes', 1)} x {environment.get('device', 'not known')}",
        "energy": "not measured" if facts.joules is None else f"{facts.joules / 3.6e6:.3g} kWh",
        **({} if facts.number else {"validation loss": loss}),
        "made with": f"gptworks {environment.get('gptworks', '')}, PyTorch {environment.get('torch', '')}",
    }


def _duration(seconds: float) -> str:
    """`21 seconds`, `3.5 minutes`, `2.00 hours`."""
    if seconds < 120:
        return counted(round(seconds), "second")
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.2f} hours"


def _scores(facts: Facts) -> str:
    rows = _largest(facts.scores)
    if not rows:
        return "None were measured of this checkpoint."
    lines = [
        "| task | metric | value | 95 % interval | n | data | split | shots |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = (f"{end:.4g}" for end in row.get("interval_95") or (float("nan"),) * 2)
        between = "not known" if low == "nan" else f"{low} to {high}"
        cells = [placeless(row["task"]), row["metric"], f"{row['value']:.4g}", between, row["n"], _on(row)]
        lines.append(
            "| " + " | ".join(str(cell) for cell in [*cells, row.get("split"), row.get("shots")]) + " |"
        )
    meant = dict.fromkeys(
        f"- {row['metric']} of {placeless(row['task'])}: {'; '.join([row['definition'], *row.get('notes', ())])}"
        for row in rows
    )
    return "\n".join([*lines, "", "What they mean:", "", *(placeless(line) for line in meant)])


def _limits(facts: Facts) -> str:
    context = f"It reads {facts.config.context:,} tokens at most."
    if facts.number:
        return f"- {context}\n- It says a number whatever the text is; its scores say how far off it is."
    if facts.labels:
        return f"- {context}\n- It names one of its classes whatever the text is; its scores say how often it is right."
    lines = [
        context,
        "It says what is likely after its training texts, not what is true, and has their biases.",
        "It was not tested for safety. Check what it says before anything depends on it.",
    ]
    if not facts.chat:
        lines.append("It was not taught to follow instructions.")
    return "\n".join(f"- {line}" for line in lines)


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
