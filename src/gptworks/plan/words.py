"""A plan for reading."""

from typing import Any

from gptworks.plan.needs import TOKENS_PER_PARAMETER
from gptworks.wording import counted

BAR = 40
"""Characters of all memory together."""


def pretraining(facts: dict[str, Any]) -> list[str]:
    """Of needs.facts, with costs."""
    lines = [
        size(facts),
        f"on {_device(facts)}; {facts['batch_tokens']:,} tokens a step, "
        f"{counted(facts['micro_batch'], 'row')} at once ({_times(facts['micro_batches'])})",
        "",
        *_memory(facts),
        "",
        *_effort(facts),
    ]
    if "tokens_per_second" in facts:
        lines += _speed(facts)
    else:
        lines.append(
            "time            not known: --device names a memory alone; name a GPU, or plan where it stands"
        )
    if "cost" in facts:
        lines.append(f"cost            {facts['cost']:,.2f} for {facts['device_hours']:,.1f} device hours")
    if facts.get("energy_kwh") is not None:
        lines.append(f"energy          {facts['energy_kwh']:,.1f} kWh at most, of the devices alone")
    return lines


def teaching(facts: dict[str, Any]) -> list[str]:
    """Of teaching.facts."""
    return [
        f"{size(facts)}, of which {facts['trained']:,} are trained",
        f"on {_device(facts)}; {counted(facts['batch'], 'example')} a step, "
        f"{facts['micro_batch']} at once ({_times(facts['micro_batches'])})",
        "",
        *_memory(facts),
        "",
        f"examples        of {facts['example_tokens']:,} tokens: where none is as long, or --max-tokens is less, less "
        "is needed",
        f"time            depends on the examples: `gptworks finetune {facts['task']}` says it as it begins",
    ]


def size(facts: dict[str, Any]) -> str:
    """The model, in a few numbers."""
    return (
        f"{facts['parameters']:,} parameters ({counted(facts['n_layer'], 'layer')}, {facts['n_embd']} wide, "
        f"context {facts['context']})"
    )


def _device(facts: dict[str, Any]) -> str:
    many = f"{facts['devices']} x " if facts["devices"] > 1 else ""
    how = "" if facts["parallel"] == "none" else f", {facts['parallel']}"
    return f"{many}{facts['device']}, {facts['precision']}{how}"


def _times(number: int) -> str:
    return "once a step" if number == 1 else f"{number} times a step"


def _memory(facts: dict[str, Any]) -> list[str]:
    total, room = facts["memory_total"], facts["memory_room"]
    lines = []
    for name, bytes_ in facts["memory"].items():
        if bytes_:
            bar = "#" * round(BAR * bytes_ / total)
            lines.append(f"{name:<27} {bytes_ / 1e9:8.3f} GB {bytes_ / total:5.0%}  {bar}".rstrip())
    where = "" if room is None else f", of {room / 1e9:.2f} GB that may be filled"
    lines.append(
        f"{'together':<27} {total / 1e9:8.3f} GB{where}: {'it fits' if facts['fits'] else 'it does not fit'}"
    )
    if facts["change"]:
        lines.append(f"way out         {facts['change']}")
    return lines


def _effort(facts: dict[str, Any]) -> list[str]:
    if facts["tokens"] is None:
        return [
            "tokens          not known: the Dataset is not prepared yet; --train.max-steps says it, too",
            f"FLOPs           {facts['flops_per_token']:.3g} a token by 6N + 12LCT",
        ]
    return [
        f"tokens          {facts['tokens']:,} in {counted(facts['steps'], 'step')}: "
        f"{facts['tokens_per_parameter']:.1f} for each parameter (compute-optimal: about {TOKENS_PER_PARAMETER})",
        f"FLOPs           {facts['flops']:.3g} by 6N + 12LCT, {facts['flops_per_token']:.3g} a token",
    ]


def _speed(facts: dict[str, Any]) -> list[str]:
    words = ""
    if facts["mfu_6n_12lct"] is not None:
        words = f", MFU {facts['mfu_6n_12lct']:.1%} by 6N + 12LCT, {facts['mfu_6n_6lct']:.1%} by 6N + 6LCT"
    lines = [f"speed           {facts['tokens_per_second']:,.0f} tokens/s ({facts['speed_is']}){words}"]
    if facts["devices"] > 1:
        lines.append(
            f"traffic         {facts['traffic_bytes_per_step'] / 1e9:.2f} GB a step from each device: "
            f"{facts['traffic_seconds_per_step']:.3f} s beside {facts['compute_seconds_per_step']:.3f} s of computing"
        )
    if facts["hours"] is not None:
        lines.append(f"time            {duration(facts['hours'] * 3600)}")
    if "steps_in_that_time" in facts:
        steps = facts["steps_in_that_time"]
        part = f", {steps / facts['steps']:.1%} of the run" if facts["steps"] else ""
        asked = f"in {facts['hours_asked']:g} h"
        lines.append(f"{asked:<15} {counted(steps, 'step')}{part}: --train.max-steps {steps}")
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
