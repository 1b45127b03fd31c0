"""A run's log: metrics.jsonl always, TensorBoard and Weights & Biases when asked."""

import json
import os
import uuid
from pathlib import Path
from typing import Any, Protocol

from gptworks import runs
from gptworks.errors import ConfigError, ResourceError
from gptworks.recipe import LogOptions


class Sink(Protocol):
    """Where rows go besides the file."""

    def write(self, step: int, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Log:
    """Rows of numbers by step. A row with `val_loss` is an evaluation, one with `loss` a training step."""

    def __init__(self, run: Path, options: LogOptions, *, from_step: int) -> None:
        self.path = run / "metrics.jsonl"
        runs.cut_rows(self.path, from_step)
        self.file = self.path.open("a", encoding="utf-8")
        self.sinks: list[Sink] = []
        if options.tensorboard:
            self.sinks.append(TensorBoard(run, from_step))
        if options.wandb:
            self.sinks.append(Wandb(run, options.wandb))

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; it must have `step`."""
        self.file.write(json.dumps(row) + "\n")
        for sink in self.sinks:
            sink.write(row["step"], row)

    def flush(self, *, sync: bool = False) -> None:
        """Make the rows visible to readers, and so safe from a kill; with `sync`, from a power cut too.

        Raises:
            ResourceError: with `sync`, the run's folder is gone, and nothing more should be written to its place.
        """
        if sync and not self.path.exists():
            run = self.path.parent
            raise ResourceError(
                f"{run} is not there any more: was its disk taken away? When it is back, go on with --resume"
            )
        try:
            self.file.flush()
            if sync:
                os.fsync(self.file.fileno())
        except OSError as error:
            raise OSError(
                error.errno, error.strerror, str(self.path)
            ) from None  # which does not say of what file

    def close(self) -> None:
        self.file.close()
        for sink in self.sinks:
            sink.close()


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: Path, from_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("log.tensorboard needs tensorboard: pip install 'gptworks[track]'") from None
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A Weights & Biases run that goes on when the run does."""

    def __init__(self, run: Path, project: str) -> None:
        try:
            import wandb  # type: ignore[import-not-found] # an extra
        except ImportError:
            raise ConfigError("log.wandb needs wandb: pip install 'gptworks[track]'") from None
        name = run / "wandb-id"
        if not name.is_file():
            name.write_text(uuid.uuid4().hex[:12], encoding="ascii")
        id = name.read_text(encoding="ascii")
        self.run = wandb.init(project=project, name=run.name, id=id, resume="allow", dir=str(run))

    def write(self, step: int, row: dict[str, Any]) -> None:
        self.run.log(row, step=step)

    def close(self) -> None:
        self.run.finish()
