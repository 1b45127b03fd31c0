"""Making a Dataset's parts with many machines, by an existing engine: a step of ours on datatrove's executors.

The step does pieces RANK, RANK + TASKS, ... of the sources, cut as `prepare` always cuts them; what it leaves are the
parts that `prepare` would have made, so the Dataset is the same to the byte. All machines see the same folders. A task
that was killed is done again, but for the parts it left whole.
"""

import itertools
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptworks.data import parts
from gptworks.data.encoding import Encoder
from gptworks.data.pieces import Piece, cut
from gptworks.data.sources import Source
from gptworks.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from datatrove.executor.base import PipelineExecutor  # type: ignore[import-not-found] # an extra

TASKS_PER_WORKER = 4
"""Tasks are given out as workers become free: a few each keep all of them busy to the end."""

LOOK_EVERY = 0.5
"""Seconds between looks at whether workers live."""

ASK_EVERY = 10.0
"""Seconds between looks at a cluster's queue."""


class Step:
    """A datatrove pipeline of one step: makes the parts of a task's pieces."""

    def __init__(self, sources: Sequence[Source], encoder: Encoder) -> None:
        self.sources, self.encoder = sources, encoder

    def __call__(self, _: object, rank: int = 0, world_size: int = 1) -> Iterator[object]:
        """Do task `rank` of `world_size`; nothing is handed on."""
        for piece in itertools.islice(self.pieces(), rank, None, world_size):
            if parts.inspect(self.encoder.path(piece), self.encoder.dtype) is None:
                self.encoder(piece)
        yield from ()

    def pieces(self) -> Iterator[Piece]:
        """All pieces of all sources."""
        for index, source in enumerate(self.sources):
            yield from cut(source, index, self.encoder.options, self.encoder.tokenizer.eos_id)


def check(encoder: Encoder, sources: Sequence[Source]) -> None:
    """Refuse what an engine cannot share out, or is not installed for.

    Raises:
        ConfigError: with the way out.
    """
    options = encoder.options
    if options.engine == "local":
        return
    if options.limit is not None:
        raise ConfigError(
            f"prepare.limit counts documents in order, which machines that work side by side cannot: leave out "
            f"--engine {options.engine}"
        )
    if any(source.hub for source in sources):
        raise ConfigError(
            f"hf: sources are read as one stream, which --engine {options.engine} cannot share out: leave it out, or "
            "give downloaded files"
        )
    if options.engine == "slurm":
        if options.partition is None:
            raise ConfigError("--engine slurm needs --partition NAME, one that `sinfo` lists")
        if shutil.which("sbatch") is None:
            raise ConfigError("--engine slurm needs Slurm's sbatch, and there is none on this machine")
    try:
        import datatrove.executor  # type: ignore[import-not-found] # noqa: F401 - an extra

        if options.engine == "ray":
            import ray  # type: ignore[import-not-found] # noqa: F401 - an extra
    except ImportError as error:
        raise ConfigError(
            f"--engine {options.engine} needs {error.name}, which is not installed: pip install 'gptworks[cluster]'"
        ) from None


def run(encoder: Encoder, sources: Sequence[Source], workers: int) -> None:
    """Make the parts that are not there, on the engine that the options name, with so many workers.

    Raises:
        ResourceError: workers died, or a cluster's jobs failed; the same command goes on.
    """
    step = Step(sources, encoder)
    wanted = encoder.options.engine_tasks or TASKS_PER_WORKER * workers
    tasks = max(1, min(wanted, sum(1 for _ in step.pieces())))
    logs = encoder.folder / f"engine-{tasks}"
    executor = MAKE[encoder.options.engine](step, tasks, workers, logs)
    {"datatrove": _watched, "ray": _on_ray, "slurm": _queued}[encoder.options.engine](executor, logs)
    if left := len(executor.get_incomplete_ranks(skip_completed=True)):
        raise ResourceError(
            f"{left} of {tasks} tasks did not come to their end; {logs / 'logs'} says why. What is finished is kept: "
            "run the same command again"
        )


def _local(step: Step, tasks: int, workers: int, logs: Path) -> Any:
    from datatrove.executor import LocalPipelineExecutor

    return LocalPipelineExecutor([step], tasks=tasks, workers=max(2, workers), logging_dir=str(logs))


def _ray(step: Step, tasks: int, workers: int, logs: Path) -> Any:
    from datatrove.executor import RayPipelineExecutor

    # A small reservation: encoding takes little memory, and Ray starts nothing that it thinks does not fit.
    return RayPipelineExecutor(
        [step], tasks=tasks, workers=workers, logging_dir=str(logs), mem_per_cpu_gb=0.5
    )


def _slurm(step: Step, tasks: int, workers: int, logs: Path) -> Any:
    from datatrove.executor import SlurmPipelineExecutor

    options = step.encoder.options
    assert options.partition is not None  # check has looked
    hours, minutes = divmod(round(60 * options.task_hours), 60)
    return SlurmPipelineExecutor(
        [step],
        tasks=tasks,
        workers=workers,
        logging_dir=str(logs),
        time=f"{hours}:{max(minutes, 0 if hours else 1):02}:00",
        partition=options.partition,
        job_name="gptworks-prepare",
        qos="",
        env_command=f'export PATH="{Path(sys.executable).parent}:$PATH"',
    )


MAKE: dict[str, Callable[[Step, int, int, Path], Any]] = {"datatrove": _local, "ray": _ray, "slurm": _slurm}


def _watched(executor: "PipelineExecutor", _: Path) -> None:
    """Run it, and see whether its workers live: a pool waits for ever for what a killed one had in hand."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            executor.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    seen: dict[int, Any] = {}
    while thread.is_alive():
        seen |= {child.pid: child for child in _children() if child.pid is not None}
        dead = next((child for child in seen.values() if (child.exitcode or 0) < 0), None)
        if dead is not None and thread.is_alive():
            _abandon()
            raise ResourceError(
                f"a worker process was killed (signal {-dead.exitcode}; 9 is mostly lack of memory): run the same "
                "command again, with fewer --workers"
            )
        thread.join(LOOK_EVERY)
    if failed:
        raise failed[0]


def _children() -> list[Any]:
    """Processes that datatrove's pool has started."""
    import multiprocess  # type: ignore[import-not-found] # datatrove's

    return multiprocess.active_children()  # type: ignore[attr-defined] # it is multiprocessing's


def _abandon() -> None:
    """End datatrove's processes, and forget its farewells: they wait for locks that the killed one may have held."""
    from multiprocess import util  # type: ignore[import-not-found]

    for child in _children():
        child.kill()
    util._finalizer_registry.clear()  # type: ignore[attr-defined]


def _on_ray(executor: "PipelineExecutor", _: Path) -> None:
    """Run it on the Ray cluster that RAY_ADDRESS names, or one of this machine; Ray starts lost workers again."""
    import ray  # type: ignore[import-not-found]

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        executor.run()
    finally:
        if ours:
            ray.shutdown()


def _queued(executor: Any, logs: Path) -> None:
    """Submit it, or find that it was, and wait until nothing of it is in the queue."""
    note = logs / "job"
    job = note.read_text(encoding="ascii") if note.is_file() else None
    if job is None or not _in_queue(job):
        executor.run()
        if executor.job_id == -1:  # nothing is left to do
            return
        job = str(executor.job_id)
        note.write_text(job, encoding="ascii")
    while _in_queue(job) and executor.get_incomplete_ranks(skip_completed=True):
        time.sleep(ASK_EVERY)


def _in_queue(job: str) -> bool:
    said = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True, check=False)
    return bool(said.stdout.strip())
