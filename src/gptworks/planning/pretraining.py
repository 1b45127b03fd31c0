"""The memory and time that pretraining needs, on hardware that need not be here, before anything large is made.

Memory comes from model/memory.py, parameters and FLOPs from model/sizing.py. Time is FLOPs over the achieved share of
the peak (MFU), which is measured, or assumed from similar runs and then reported as assumed.
"""

from dataclasses import dataclass, replace
from typing import Any

from gptworks.errors import ConfigError
from gptworks.model import sizing
from gptworks.model.config import ModelConfig
from gptworks.planning import traffic
from gptworks.planning.hardware import Hardware
from gptworks.recipe import Recipe
from gptworks.train import fit
from gptworks.train.pretraining import BATCH_TOKENS, check_batch, choose_batch

USUAL_MFU = {"cpu": 0.5, "cuda": 0.4, "mps": 0.3}
"""MFU by 6N + 12LCT that runs usually reach."""

TOKENS_PER_PARAMETER = 20
"""What a compute-optimal model trains on (Hoffmann et al. 2022, table 3)."""


@dataclass(frozen=True)
class Workload:
    """A pretraining recipe with its batch and steps resolved."""

    recipe: Recipe
    config: ModelConfig
    batch_tokens: int
    steps: int | None
    """None if it depends on a Dataset that does not exist yet."""

    @property
    def tokens(self) -> int | None:
        return None if self.steps is None else self.steps * self.batch_tokens

    @property
    def flops(self) -> float | None:
        """FLOPs of the whole run, by 6N + 12LCT per token."""
        return None if self.tokens is None else float(self.tokens) * sizing.flops_per_token(self.config)


def workload(recipe: Recipe, config: ModelConfig, n_tokens: int | None) -> Workload:
    """Resolve a recipe's batch and steps; `n_tokens` is the size of the train split, if there is one.

    Raises:
        ConfigError: the batch is not a whole number of rows.
    """
    train = recipe.train
    batch = choose_batch(train, n_tokens, config.context) if n_tokens else train.batch_tokens or BATCH_TOKENS
    check_batch(train, batch, config.context)
    steps = train.max_steps
    if steps is None and n_tokens:
        steps = max(1, round((train.epochs or 1.0) * n_tokens / batch))
    return Workload(recipe, config, batch, steps)


@dataclass(frozen=True)
class MemoryFit:
    """Memory of one device."""

    rows: int
    """Rows of a micro-batch."""
    parts: dict[str, int]
    """Bytes by purpose."""
    room: int | None
    """Bytes that may be used; None if unknown."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.room is None or self.total <= self.room


def strategy(recipe: Recipe, hardware: Hardware) -> str:
    """How the devices share the work: none, ddp, zero1 or fsdp.

    Raises:
        ConfigError: train.parallel does not go with the number of devices.
    """
    parallel = str(recipe.train.parallel)
    if hardware.count == 1:
        if parallel in {traffic.ZERO1, traffic.FSDP}:
            raise ConfigError(
                f"train.parallel={parallel} needs several devices, but the hardware is one {hardware.name}; give more "
                "(--hardware h100x8) or --train.parallel auto"
            )
        return "none"
    if parallel == "none":
        raise ConfigError(f"train.parallel=none leaves {hardware.count - 1} of {hardware.count} devices idle")
    return traffic.DDP if parallel == "auto" else parallel


def with_strategy(recipe: Recipe, parallel: str) -> Recipe:
    """The recipe with another train.parallel."""
    return replace(recipe, train=replace(recipe.train, parallel=parallel))


def memory(job: Workload, hardware: Hardware) -> MemoryFit:
    """Memory with the recipe's micro-batch, or with the one that `auto` would choose."""
    rows, parallel = rows_per_device(job, hardware), strategy(job.recipe, hardware)
    if (micro_batch := fit.requested_micro_batch(job.recipe)) is not None:
        return memory_fit(job, hardware, min(micro_batch, rows), parallel)
    recipe = with_strategy(job.recipe, parallel)
    limit = fit.largest_micro_batch(
        recipe, job.config, rows, hardware.precision, hardware.memory, hardware.count
    )
    return memory_fit(job, hardware, fit.even_split(rows, limit), parallel)


def rows_per_device(job: Workload, hardware: Hardware) -> int:
    """Rows of a step that each device processes."""
    return max(1, -(-job.batch_tokens // job.config.context) // hardware.count)


def memory_fit(job: Workload, hardware: Hardware, rows: int, parallel: str) -> MemoryFit:
    """Memory with micro-batches of `rows` rows and this strategy."""
    recipe = with_strategy(job.recipe, parallel)
    parts = fit.training_memory(recipe, job.config, rows, hardware.precision, hardware.count)
    room = None if hardware.memory is None else int(fit.MAX_FILL * hardware.memory)
    return MemoryFit(rows, parts, room)


def smallest_change(job: Workload, hardware: Hardware) -> str | None:
    """The first change that makes the run fit; None if it fits already.

    In this order: a smaller micro-batch, activation checkpointing, ZeRO-1 or FSDP, a smaller model.
    """
    current, parallel = memory(job, hardware), strategy(job.recipe, hardware)
    if current.fits:
        return None
    checkpointing = "" if job.recipe.train.checkpoint_activations else " --train.checkpoint-activations"
    lean = replace(
        job, recipe=replace(job.recipe, train=replace(job.recipe.train, checkpoint_activations=True))
    )
    for flags, candidate in (("", job), (checkpointing, lean)):
        for rows in range(current.rows, 0, -1):
            if memory_fit(candidate, hardware, rows, parallel).fits:
                return f"--train.micro-batch {rows}{flags}"
    for sharded in (traffic.ZERO1, traffic.FSDP):
        for count in (2, 4, 8, 16, 32, 64, 128, 256, 512):
            if count >= hardware.count and memory_fit(lean, replace(hardware, count=count), 1, sharded).fits:
                devices = "" if count == hardware.count else f" on {count} such devices"
                return f"--train.micro-batch 1{checkpointing} --train.parallel {sharded}{devices}"
    return "a smaller --model.preset, n-layer, n-embd or context"


@dataclass(frozen=True)
class Speed:
    """How fast a run trains."""

    tokens_per_second: float
    assumed: bool
    """The MFU was assumed, not measured."""
    compute_seconds: float
    """Time to compute a step."""
    traffic_seconds: float
    """Time to exchange a step's data, hidden behind computing as long as it is shorter."""
    mfu: float | None
    """By 6N + 12LCT FLOPs per token (Chowdhery et al. 2022)."""
    mfu_causal: float | None
    """By 6N + 6LCT, which counts only the half of the attention scores that a causal model needs."""


def estimate_speed(
    job: Workload, hardware: Hardware, *, mfu: float | None, measured: float | None = None
) -> Speed | None:
    """The speed at an assumed `mfu`, or at `measured` tokens/s per device; None if the peak is unknown."""
    flops = sizing.flops_per_token(job.config)
    rate = measured
    if rate is None:
        if hardware.peak is None:
            return None
        rate = hardware.peak * (mfu or USUAL_MFU.get(hardware.kind, 0.4)) / flops
    compute = job.batch_tokens / hardware.count / rate
    sent = _traffic(job, hardware)
    # Traffic starts with the first gradient and overlaps with the rest of the backward pass, two thirds of a step.
    waiting = (
        max(0.0, sent.overlapped / hardware.bandwidth - 2 / 3 * compute) + sent.exposed / hardware.bandwidth
    )
    tokens_per_second = job.batch_tokens / (compute + waiting)
    per_device, peak = tokens_per_second / hardware.count, hardware.peak
    return Speed(
        tokens_per_second,
        measured is None,
        compute,
        sent.total / hardware.bandwidth,
        None if peak is None else per_device * flops / peak,
        None if peak is None else per_device * sizing.causal_flops_per_token(job.config) / peak,
    )


def _traffic(job: Workload, hardware: Hardware) -> traffic.Traffic:
    train, low_precision = job.recipe.train, hardware.precision.name != "fp32"
    return traffic.step_traffic(
        job.config,
        hardware.count,
        strategy(job.recipe, hardware),
        micro_batches=micro_batches(job, hardware, memory(job, hardware)),
        gathered_bytes=2 if low_precision and train.comm_dtype == "precision" else 4,
        reshard_after_forward=train.reshard_after_forward,
    )


def micro_batches(job: Workload, hardware: Hardware, fitted: MemoryFit) -> int:
    """Micro-batches of a step on each device."""
    return -(-rows_per_device(job, hardware) // fitted.rows)


def common_facts(config: ModelConfig, hardware: Hardware, parallel: str) -> dict[str, Any]:
    """What every plan says about its hardware and model."""
    return {
        "device": hardware.name,
        "devices": hardware.count,
        "precision": hardware.precision.name,
        "parallel": parallel,
        "parameters": sizing.parameters(config),
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "context": config.context,
    }


def facts(job: Workload, hardware: Hardware, speed: Speed | None, *, hours: float | None) -> dict[str, Any]:
    """The plan, as `--json` prints it."""
    fitted = memory(job, hardware)
    plan = common_facts(job.config, hardware, strategy(job.recipe, hardware)) | {
        "batch_tokens": job.batch_tokens,
        "micro_batch": fitted.rows,
        "micro_batches": micro_batches(job, hardware, fitted),
        "memory": fitted.parts,
        "memory_total": fitted.total,
        "memory_room": fitted.room,
        "fits": fitted.fits,
        "change": smallest_change(job, hardware),
        "steps": job.steps,
        "tokens": job.tokens,
        "flops_per_token": sizing.flops_per_token(job.config),
        "flops": job.flops,
        "tokens_per_parameter": None if job.tokens is None else job.tokens / sizing.parameters(job.config),
    }
    if speed is not None:
        seconds = None if job.tokens is None else job.tokens / speed.tokens_per_second
        plan |= {
            "tokens_per_second": speed.tokens_per_second,
            "speed_is": "assumed" if speed.assumed else "measured",
            "mfu_6n_12lct": speed.mfu,
            "mfu_6n_6lct": speed.mfu_causal,
            "step_seconds": job.batch_tokens / speed.tokens_per_second,
            "compute_seconds_per_step": speed.compute_seconds,
            "traffic_seconds_per_step": speed.traffic_seconds,
            "traffic_bytes_per_step": speed.traffic_seconds * hardware.bandwidth,
            "hours": None if seconds is None else seconds / 3600,
        }
        if hours is not None:
            steps = int(hours * 3600 * speed.tokens_per_second / job.batch_tokens)
            plan |= {"hours_asked": hours, "steps_in_that_time": steps}
    return plan


def costs(
    plan: dict[str, Any], watts: float | None, price_per_hour: float | None, price_per_kwh: float | None
) -> dict[str, Any]:
    """Energy and money for a plan; empty if its time is unknown.

    Raises:
        ConfigError: a price of energy without the hardware's watts.
    """
    if price_per_kwh is not None and watts is None:
        raise ConfigError(f"--price-per-kwh needs --watts: the power of {plan['device']} is unknown")
    if plan.get("hours") is None:
        return {}
    hours = plan["hours"] * plan["devices"]
    energy = None if watts is None else hours * watts / 1000
    spent = {"device_hours": hours, "energy_kwh": energy}
    if price_per_hour is not None or price_per_kwh is not None:
        spent["cost"] = (price_per_hour or 0.0) * hours + (price_per_kwh or 0.0) * (energy or 0.0)
    return spent
