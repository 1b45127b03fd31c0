"""Plans as text."""

from typing import Any

from gptworks.messages import counted
from gptworks.planning.pretraining import TOKENS_PER_PARAMETER

BAR = 40
"""Characters that stand for the total memory."""


def pretraining(facts: dict[str, Any]) -> list[str]:
    """The lines of a pretraining plan with its costs."""
    lines = [
        model_size(facts),
        f"on {_hardware(facts)}; {facts['batch_tokens']:,} tokens per step, "
        f"micro-batches of {counted(facts['micro_batch'], 'row')} ({facts['micro_batches']} per step)",
        "",
        *_memory(facts),
        "",
        *_compute(facts),
    ]
    if "tokens_per_second" in facts:
        lines += _speed(facts)
    else:
        lines.append(
            "time            unknown: --hardware gives only a memory; name a GPU, or plan on the machine itself"
        )
    if "cost" in facts:
        lines.append(f"cost            {facts['cost']:,.2f} for {facts['device_hours']:,.1f} device-hours")
    if facts.get("energy_kwh") is not None:
        lines.append(f"energy          at most {facts['energy_kwh']:,.1f} kWh, for the devices alone")
    return lines


def finetuning(facts: dict[str, Any]) -> list[str]:
    """The lines of a fine-tuning plan."""
    return [
        f"{model_size(facts)}, of which {facts['trained']:,} are trained",
        f"on {_hardware(facts)}; {counted(facts['batch'], 'example')} per step, "
        f"micro-batches of {facts['micro_batch']} ({facts['micro_batches']} per step)",
        "",
        *_memory(facts),
        "",
        f"examples        assumed to have {facts['example_tokens']:,} tokens; shorter ones, or a smaller --max-tokens, "
        "need less memory",
        f"time            depends on the examples; `gptworks finetune {facts['task']}` shows it when it starts",
    ]


def model_size(facts: dict[str, Any]) -> str:
    """Parameters, layers, width and context."""
    return (
        f"{facts['parameters']:,} parameters ({counted(facts['n_layer'], 'layer')}, {facts['n_embd']} wide, "
        f"context {facts['context']})"
    )


def _hardware(facts: dict[str, Any]) -> str:
    count = f"{facts['devices']} x " if facts["devices"] > 1 else ""
    parallel = "" if facts["parallel"] == "none" else f", {facts['parallel']}"
    return f"{count}{facts['device']}, {facts['precision']}{parallel}"


def _memory(facts: dict[str, Any]) -> list[str]:
    total, room = facts["memory_total"], facts["memory_room"]
    lines = []
    for name, bytes_ in facts["memory"].items():
        if bytes_:
            bar = "#" * round(BAR * bytes_ / total)
            lines.append(f"{name:<27} {bytes_ / 1e9:8.3f} GB {bytes_ / total:5.0%}  {bar}".rstrip())
    available = "" if room is None else f" of {room / 1e9:.2f} GB available"
    fits = "it fits" if facts["fits"] else "it does not fit"
    lines.append(f"{'total':<27} {total / 1e9:8.3f} GB{available}: {fits}")
    if facts["change"]:
        lines.append(f"to make it fit   {facts['change']}")
    return lines


def _compute(facts: dict[str, Any]) -> list[str]:
    per_token = f"{facts['flops_per_token']:.3g} per token"
    if facts["tokens"] is None:
        return [
            "tokens          unknown: the Dataset is not prepared yet; give --train.max-steps",
            f"FLOPs           {per_token} by 6N + 12LCT",
        ]
    return [
        f"tokens          {facts['tokens']:,} in {counted(facts['steps'], 'step')}: "
        f"{facts['tokens_per_parameter']:.1f} per parameter (compute-optimal: about {TOKENS_PER_PARAMETER})",
        f"FLOPs           {facts['flops']:.3g} by 6N + 12LCT, {per_token}",
    ]


def _speed(facts: dict[str, Any]) -> list[str]:
    mfu = ""
    if facts["mfu_6n_12lct"] is not None:
        mfu = f", MFU {facts['mfu_6n_12lct']:.1%} by 6N + 12LCT, {facts['mfu_6n_6lct']:.1%} by 6N + 6LCT"
    lines = [f"speed           {facts['tokens_per_second']:,.0f} tokens/s ({facts['speed_is']}){mfu}"]
    if facts["devices"] > 1:
        lines.append(
            f"traffic         {facts['traffic_bytes_per_step'] / 1e9:.2f} GB per step from each device: "
            f"{facts['traffic_seconds_per_step']:.3f} s, next to {facts['compute_seconds_per_step']:.3f} s of computing"
        )
    if facts["hours"] is not None:
        lines.append(f"time            {duration(facts['hours'] * 3600)}")
    if "steps_in_that_time" in facts:
        steps = facts["steps_in_that_time"]
        part = f", {steps / facts['steps']:.1%} of the run" if facts["steps"] else ""
        budget = f"in {facts['hours_asked']:g} h"
        lines.append(f"{budget:<15} {counted(steps, 'step')}{part}: --train.max-steps {steps}")
    return lines


def duration(seconds: float) -> str:
    """`42 seconds`, `3 h 07 min`, `12.5 days`, `21 years`."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return counted(round(seconds), "second")
    if minutes < 60:
        return f"{minutes} minutes"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    days = seconds / 86400
    return f"{days:,.1f} days ({seconds / 3600:,.0f} h)" if days < 730 else f"{days / 365.25:,.0f} years"
