"""A run's metrics: metrics.jsonl always, TensorBoard and Weights & Biases on request."""

import json
import os
import uuid
from typing import Any, Protocol

from gptworks import files
from gptworks.errors import ConfigError, ResourceError
from gptworks.recipe import LogOptions
from gptworks.runs import Run


class Sink(Protocol):
    """A destination for rows besides metrics.jsonl."""

    def write(self, step: int, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class MetricsLog:
    """Rows of metrics by step. A row with `loss` is a training step, one with `val_loss` an evaluation."""

    def __init__(self, run: Run, options: LogOptions, *, from_step: int) -> None:
        self.path = run / "metrics.jsonl"
        files.cut_rows(self.path, from_step)
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
        """Write buffered rows, so that they survive a kill; with `sync`, a power cut too.

        Raises:
            ResourceError: with `sync`, the run's folder has disappeared; nothing more should be written in its place.
        """
        if sync and not self.path.exists():
            raise ResourceError(
                f"{self.path.parent} has disappeared: check that its disk is mounted, then continue with --resume"
            )
        try:
            self.file.flush()
            if sync:
                os.fsync(self.file.fileno())
        except OSError as error:  # it does not name the file
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def close(self) -> None:
        self.file.close()
        for sink in self.sinks:
            sink.close()


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: Run, from_step: int) -> None:
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
    """A Weights & Biases run, continued when the run is resumed."""

    def __init__(self, run: Run, project: str) -> None:
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
