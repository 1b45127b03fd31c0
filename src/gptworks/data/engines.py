"""Encoding on many machines: a pipeline step of ours on datatrove's executors.

Task RANK does work units RANK, RANK + TASKS, ... of the sources, split as `prepare` always splits them. It leaves the
chunk files that `prepare` would make, so the Dataset is the same to the byte. All machines must see the same folders. A
killed task runs again, except for the chunk files that it finished.
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

from gptworks.data import chunk_files
from gptworks.data.encoding import Encoder
from gptworks.data.sources import Source
from gptworks.data.work_units import WorkUnit, split_source
from gptworks.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from datatrove.executor.base import PipelineExecutor  # type: ignore[import-not-found] # an extra

TASKS_PER_WORKER = 4
"""Free workers take the next task: a few tasks per worker keep all of them busy to the end."""

POLL_SECONDS = 0.5
"""Seconds between checks that the workers are alive."""

QUEUE_SECONDS = 10.0
"""Seconds between queries of a cluster's queue."""


class Step:
    """A datatrove pipeline of one step: makes the chunk files of a task's work units."""

    def __init__(self, sources: Sequence[Source], encoder: Encoder) -> None:
        self.sources, self.encoder = sources, encoder

    def __call__(self, _: object, rank: int = 0, world_size: int = 1) -> Iterator[object]:
        """Do task `rank` of `world_size`; passes nothing to a next step."""
        for unit in itertools.islice(self.units(), rank, None, world_size):
            path = self.encoder.path(unit.source, unit.number)
            if chunk_files.inspect(path, self.encoder.dtype) is None:
                self.encoder(unit)
        yield from ()

    def units(self) -> Iterator[WorkUnit]:
        """All work units of all sources."""
        for index, source in enumerate(self.sources):
            yield from split_source(source, index, self.encoder.options, self.encoder.tokenizer.eos_id)


def check(encoder: Encoder, sources: Sequence[Source]) -> None:
    """Check that the engine is installed and can divide the work.

    Raises:
        ConfigError: the engine is not installed, or these options or sources need a single process.
    """
    options = encoder.options
    if options.engine == "local":
        return
    if options.limit is not None:
        raise ConfigError(
            f"prepare.limit counts documents in order, which parallel tasks cannot: remove --engine {options.engine}"
        )
    if any(source.hub for source in sources):
        raise ConfigError(
            f"hf: sources are read as one stream, which --engine {options.engine} cannot divide: remove it, or use "
            "downloaded files"
        )
    if options.engine == "slurm":
        if options.partition is None:
            raise ConfigError("--engine slurm needs --partition NAME; `sinfo` lists the partitions")
        if shutil.which("sbatch") is None:
            raise ConfigError("--engine slurm needs Slurm's sbatch, which is not on this machine's PATH")
    try:
        import datatrove.executor  # type: ignore[import-not-found] # noqa: F401 - an extra

        if options.engine == "ray":
            import ray  # type: ignore[import-not-found] # noqa: F401 - an extra
    except ImportError as error:
        raise ConfigError(
            f"--engine {options.engine} needs {error.name}, which is not installed: pip install 'gptworks[cluster]'"
        ) from None


def run(encoder: Encoder, sources: Sequence[Source], workers: int) -> None:
    """Make the missing chunk files on the engine that the options name.

    Raises:
        ResourceError: a worker died or a cluster's job failed; the same command resumes.
    """
    step = Step(sources, encoder)
    wanted = encoder.options.engine_tasks or TASKS_PER_WORKER * workers
    tasks = max(1, min(wanted, sum(1 for _ in step.units())))
    logs = encoder.folder / f"engine-{tasks}"
    executor = MAKE[encoder.options.engine](step, tasks, workers, logs)
    {"datatrove": _run_watched, "ray": _run_on_ray, "slurm": _run_queued}[encoder.options.engine](
        executor, logs
    )
    if left := len(executor.get_incomplete_ranks(skip_completed=True)):
        raise ResourceError(
            f"{left} of {tasks} tasks did not finish; {logs / 'logs'} says why. Finished work is kept: run the same "
            "command again"
        )


def _local(step: Step, tasks: int, workers: int, logs: Path) -> Any:
    from datatrove.executor import LocalPipelineExecutor

    return LocalPipelineExecutor([step], tasks=tasks, workers=max(2, workers), logging_dir=str(logs))


def _ray(step: Step, tasks: int, workers: int, logs: Path) -> Any:
    from datatrove.executor import RayPipelineExecutor

    # Encoding takes little memory, and Ray starts no task whose reservation does not fit.
    return RayPipelineExecutor(
        [step], tasks=tasks, workers=workers, logging_dir=str(logs), mem_per_cpu_gb=0.5
    )


def _slurm(step: Step, tasks: int, workers: int, logs: Path) -> Any:
    from datatrove.executor import SlurmPipelineExecutor

    options = step.encoder.options
    assert options.partition is not None  # check has verified it
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


def _run_watched(executor: "PipelineExecutor", _: Path) -> None:
    """Run it and watch its workers: its pool would wait forever for the task of a killed worker."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            executor.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    seen: dict[int, Any] = {}
    while thread.is_alive():
        seen |= {child.pid: child for child in _children() if child.pid is not None}
        dead = next((child for child in seen.values() if (child.exitcode or 0) < 0), None)
        if dead is not None and thread.is_alive():
            _abandon()
            raise ResourceError(
                f"a worker process was killed by signal {-dead.exitcode} (9 usually means that memory ran out): run "
                "the same command again with fewer --workers"
            )
        thread.join(POLL_SECONDS)
    if errors:
        raise errors[0]


def _children() -> list[Any]:
    """The processes of datatrove's pool."""
    import multiprocess  # type: ignore[import-not-found] # datatrove's

    return multiprocess.active_children()  # type: ignore[attr-defined] # it is multiprocessing's


def _abandon() -> None:
    """Kill datatrove's processes and skip its exit handlers, which wait for locks that the killed process may hold."""
    from multiprocess import util  # type: ignore[import-not-found]

    for child in _children():
        child.kill()
    util._finalizer_registry.clear()  # type: ignore[attr-defined]


def _run_on_ray(executor: "PipelineExecutor", _: Path) -> None:
    """Run it on the Ray cluster at RAY_ADDRESS, or on a local one; Ray restarts lost workers."""
    import ray  # type: ignore[import-not-found]

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        executor.run()
    finally:
        if ours:
            ray.shutdown()


def _run_queued(executor: Any, logs: Path) -> None:
    """Submit it, unless its job is already queued, and wait until the job leaves the queue."""
    job_file = logs / "job"
    job = job_file.read_text(encoding="ascii") if job_file.is_file() else None
    if job is None or not _in_queue(job):
        executor.run()
        if executor.job_id == -1:  # no task is left
            return
        job = str(executor.job_id)
        job_file.write_text(job, encoding="ascii")
    while _in_queue(job) and executor.get_incomplete_ranks(skip_completed=True):
        time.sleep(QUEUE_SECONDS)


def _in_queue(job: str) -> bool:
    queue = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True, check=False)
    return bool(queue.stdout.strip())
