"""What a pretraining recipe needs and how long it takes, on a device that need not be here, before anything is made.

Memory is model/memory.py's, parameters and FLOPs model/sizing.py's. Time is FLOPs over what the device reaches of its
peak: measured where it was, else a share that such runs usually reach, and then said to be assumed.
"""

from dataclasses import dataclass, replace
from typing import Any

from gptworks.errors import ConfigError
from gptworks.model import sizing
from gptworks.model.config import ModelConfig
from gptworks.plan import traffic
from gptworks.plan.devices import Device
from gptworks.recipe import Recipe
from gptworks.train import fit
from gptworks.train.pretraining import BATCH_TOKENS, check_batch, choose_batch

USUAL_MFU = {"cpu": 0.5, "cuda": 0.4, "mps": 0.3}
"""What a run reaches of its device's peak by 6N + 12LCT, where nobody has measured."""

TOKENS_PER_PARAMETER = 20
"""Of a compute-optimal model (Hoffmann et al. 2022, table 3)."""


@dataclass(frozen=True)
class Work:
    """How much a recipe does."""

    recipe: Recipe
    config: ModelConfig
    batch_tokens: int
    steps: int | None
    """None where that depends on a Dataset that is not there."""

    @property
    def tokens(self) -> int | None:
        return None if self.steps is None else self.steps * self.batch_tokens

    @property
    def flops(self) -> float | None:
        """Of the whole run, by 6N + 12LCT a token."""
        return None if self.tokens is None else float(self.tokens) * sizing.flops_per_token(self.config)


def work(recipe: Recipe, config: ModelConfig, n_tokens: int | None) -> Work:
    """`n_tokens`: of the train split, where there is one.

    Raises:
        ConfigError: the batch is not a whole number of rows.
    """
    train = recipe.train
    batch = choose_batch(train, n_tokens, config.context) if n_tokens else train.batch_tokens or BATCH_TOKENS
    check_batch(train, batch, config.context)
    steps = train.max_steps
    if steps is None and n_tokens:
        steps = max(1, round((train.epochs or 1.0) * n_tokens / batch))
    return Work(recipe, config, batch, steps)


@dataclass(frozen=True)
class Fit:
    """Memory of one device."""

    rows: int
    """Of a micro-batch."""
    parts: dict[str, int]
    """Bytes."""
    room: int | None
    """Bytes that may be filled."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.room is None or self.total <= self.room


def strategy(recipe: Recipe, device: Device) -> str:
    """How the devices share the work.

    Raises:
        ConfigError: there is one, and the recipe shares; or several, and it does not.
    """
    asked = str(recipe.train.parallel)
    if device.count == 1:
        if asked in {traffic.ZERO1, traffic.FSDP}:
            raise ConfigError(
                f"train.parallel={asked} shares the work among devices, and there is one {device.name}: name several "
                "(--device h100x8), or give --train.parallel auto"
            )
        return "none"
    if asked == "none":
        raise ConfigError(f"train.parallel=none leaves {device.count - 1} of {device.count} devices idle")
    return traffic.DDP if asked == "auto" else asked


def memory(job: Work, device: Device) -> Fit:
    """With the recipe's micro-batch, or the one that `auto` would take."""
    rows, how = rows_of_one(job, device), strategy(job.recipe, device)
    if (asked := fit.asked_for(job.recipe)) is not None:
        return fit_of(job, device, min(asked, rows), how)
    recipe = _shared_by(job.recipe, how)
    at_once = fit.largest(recipe, job.config, rows, device.precision, device.memory, device.count)
    return fit_of(job, device, fit.even(rows, at_once), how)


def rows_of_one(job: Work, device: Device) -> int:
    """Rows of a step that one device takes."""
    return max(1, -(-job.batch_tokens // job.config.context) // device.count)


def fit_of(job: Work, device: Device, rows: int, how: str) -> Fit:
    """Memory of a process that takes `rows` rows at once, its work shared in this way."""
    recipe = _shared_by(job.recipe, how)
    parts = fit.training(recipe, job.config, rows, device.precision, device.count)
    room = None if device.memory is None else int(fit.SHARE * device.memory)
    return Fit(rows, parts, room)


def _shared_by(recipe: Recipe, how: str) -> Recipe:
    return replace(recipe, train=replace(recipe.train, parallel=how))


def way_out(job: Work, device: Device) -> str | None:
    """The least change that makes it fit: smaller micro-batch, activation checkpointing, ZeRO or FSDP, smaller model.

    None if it fits.
    """
    now, how = memory(job, device), strategy(job.recipe, device)
    if now.fits:
        return None
    again = "" if job.recipe.train.checkpoint_activations else " --train.checkpoint-activations"
    lean = replace(
        job, recipe=replace(job.recipe, train=replace(job.recipe.train, checkpoint_activations=True))
    )
    for words, one in (("", job), (again, lean)):
        for rows in range(now.rows, 0, -1):
            if fit_of(one, device, rows, how).fits:
                return f"--train.micro-batch {rows}{words}"
    for parallel in (traffic.ZERO1, traffic.FSDP):
        for count in (2, 4, 8, 16, 32, 64, 128, 256, 512):
            if count >= device.count and fit_of(lean, replace(device, count=count), 1, parallel).fits:
                gpus = "" if count == device.count else f" on {count} such devices"
                return f"--train.micro-batch 1{again} --train.parallel {parallel}{gpus}"
    return "a smaller --model.preset, n-layer, n-embd or context"


@dataclass(frozen=True)
class Time:
    """How fast a run goes."""

    tokens_per_second: float
    assumed: bool
    """Whether the share of the peak was assumed, not measured."""
    step_seconds: float
    """Of computing a step."""
    traffic_seconds: float
    """Of what the devices say to each other in a step; hidden behind computing as far as it is shorter."""
    mfu: float | None
    """Share of the peak by 6N + 12LCT FLOPs a token (Chowdhery et al. 2022)."""
    mfu_causal: float | None
    """By 6N + 6LCT: of a causal row only half of the scores are computed."""


def time(job: Work, device: Device, *, mfu: float | None, measured: float | None = None) -> Time | None:
    """Of a step, and what comes out of it; None where nobody knows the device's peak.

    `mfu` is the share of the peak to assume; `measured` are tokens/s of one device that were seen.
    """
    flops = sizing.flops_per_token(job.config)
    if measured is None:
        if device.peak is None:
            return None
        rate = device.peak * (mfu or USUAL_MFU.get(device.kind, 0.4)) / flops
    else:
        rate = measured
    computing = job.batch_tokens / device.count / rate
    said = _traffic(job, device)
    # Sums begin when the first gradient is there and go on beside the rest of backward, which is two thirds of a step.
    waiting = max(0.0, said.beside / device.bandwidth - 2 / 3 * computing) + said.after / device.bandwidth
    step = computing + waiting
    tokens_per_second = job.batch_tokens / step
    one = tokens_per_second / device.count
    peak = device.peak
    return Time(
        tokens_per_second,
        measured is None,
        computing,
        said.total / device.bandwidth,
        None if peak is None else one * flops / peak,
        None if peak is None else one * sizing.causal_flops_per_token(job.config) / peak,
    )


def _traffic(job: Work, device: Device) -> traffic.Traffic:
    train, narrow = job.recipe.train, device.precision.name != "fp32"
    return traffic.of_a_step(
        job.config,
        device.count,
        strategy(job.recipe, device),
        micro_batches=micro_batches(job, device, memory(job, device)),
        gathered=2 if narrow and train.gather_in == "precision" else 4,
        reshard=train.reshard,
    )


def micro_batches(job: Work, device: Device, held: Fit) -> int:
    """Of a step, on each device."""
    return -(-rows_of_one(job, device) // held.rows)


def facts(job: Work, device: Device, pace: Time | None, *, hours: float | None) -> dict[str, Any]:
    """All of a plan, as `--json` prints it."""
    held, config = memory(job, device), job.config
    parameters = sizing.parameters(config)
    made: dict[str, Any] = {
        "device": device.name,
        "devices": device.count,
        "precision": device.precision.name,
        "parallel": strategy(job.recipe, device),
        "parameters": parameters,
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "context": config.context,
        "batch_tokens": job.batch_tokens,
        "micro_batch": held.rows,
        "micro_batches": micro_batches(job, device, held),
        "memory": held.parts,
        "memory_total": held.total,
        "memory_room": held.room,
        "fits": held.fits,
        "change": way_out(job, device),
        "steps": job.steps,
        "tokens": job.tokens,
        "flops_per_token": sizing.flops_per_token(config),
        "flops": job.flops,
        "tokens_per_parameter": None if job.tokens is None else job.tokens / parameters,
    }
    if pace is not None:
        seconds = None if job.tokens is None else job.tokens / pace.tokens_per_second
        made |= {
            "tokens_per_second": pace.tokens_per_second,
            "speed_is": "assumed" if pace.assumed else "measured",
            "mfu_6n_12lct": pace.mfu,
            "mfu_6n_6lct": pace.mfu_causal,
            "step_seconds": job.batch_tokens / pace.tokens_per_second,
            "compute_seconds_per_step": pace.step_seconds,
            "traffic_seconds_per_step": pace.traffic_seconds,
            "traffic_bytes_per_step": pace.traffic_seconds * device.bandwidth,
            "hours": None if seconds is None else seconds / 3600,
        }
        if hours is not None:
            steps = int(hours * 3600 * pace.tokens_per_second / job.batch_tokens)
            made |= {"hours_asked": hours, "steps_in_that_time": steps}
    return made


def costs(
    made: dict[str, Any], watts: float | None, hourly: float | None, kwh: float | None
) -> dict[str, Any]:
    """Energy, and money, of a plan whose time is known.

    Raises:
        ConfigError: a price of energy, and nobody knows the watts.
    """
    if kwh is not None and watts is None:
        raise ConfigError(
            f"nobody knows how much {made['device']} draws: --price-per-kwh needs --watts as well"
        )
    if made.get("hours") is None:
        return {}
    hours = made["hours"] * made["devices"]
    energy = None if watts is None else hours * watts / 1000
    found = {"device_hours": hours, "energy_kwh": energy}
    if hourly is not None or kwh is not None:
        found["cost"] = (hourly or 0.0) * hours + (kwh or 0.0) * (energy or 0.0)
    return found
