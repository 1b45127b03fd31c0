"""Texts to a Dataset: workers encode the sources, then the shards are written, and the manifest last.

Sources are split into work units (work_units.py). A worker turns a unit into a chunk file (encoding.py). Once all chunk
files exist, selection.py decides what goes where and assembly.py writes the shards. If it is killed at any point, the
same command resumes: finished chunk files are reused, and everything else is a function of them, so the result is the
same to the byte, for any number of workers.
"""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptworks import __version__, files
from gptworks.data import assembly, checks, engines
from gptworks.data.dataset import FORMAT, MANIFEST, UNFINISHED, VERSION, Dataset, fingerprint
from gptworks.data.encoding import Encoder
from gptworks.data.intake import Intake, PrepareProgress, Report, SourceChunks, n_workers, text_size
from gptworks.data.selection import Selection, SourceCounts
from gptworks.data.sources import Source, binary_hint, find_sources, val_shard_notes
from gptworks.data.workers import Workers
from gptworks.errors import DataError, ResourceError, UserError
from gptworks.messages import counted
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer

JOURNAL = "inputs.json"
"""In `unfinished`: the inputs of the chunk files."""


def prepare(
    options: PrepareOptions, tokenizer: Tokenizer, out: Path, progress: Report | None = None
) -> Dataset:
    """Make a Dataset in folder `out`, resume an interrupted one, or open a finished one.

    Raises:
        ConfigError: options contradict each other or the tokenizer.
        DataError: a source cannot be read, no document is left, or `out` holds something else.
        ResourceError: the disk is full, or a worker was killed. Finished work is kept.
    """
    checks.check_options(options, tokenizer)
    sources = find_sources(options, _hub_pins(out))
    checks.check_sources(sources, options)
    inputs = checks.describe(options, sources, tokenizer)
    if (out / MANIFEST).exists():
        return _open_finished(out, inputs)
    work = _Preparation(options, tokenizer, out, sources, progress or (lambda _: None))
    engines.check(work.encoder, sources)
    with work.folder(inputs):
        work.read()
        work.write(inputs)
    return Dataset.open(out, verify=False)


def _open_finished(out: Path, inputs: dict[str, Any]) -> Dataset:
    dataset = Dataset.open(out, verify=False)
    if changed := checks.differences(dataset.manifest["inputs"], inputs):
        raise DataError(
            f"{out} is a finished Dataset of other inputs (changed: {', '.join(changed)}): choose another --out, or "
            f"delete {out} to make it again"
        )
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return dataset


def _hub_pins(out: Path) -> dict[str, str]:
    """The pinned content of Hub datasets in an earlier or interrupted `prepare`, so that it resumes with the same."""
    for file in (out / MANIFEST, out / UNFINISHED / JOURNAL):
        with suppress(OSError, ValueError):  # a damaged file is reported where it is needed
            inputs = json.loads(file.read_text(encoding="utf-8"))
            sources = inputs.get("inputs", inputs)["sources"]
            return {source["name"]: source["hub"] for source in sources if "hub" in source}
    return {}


class _Preparation:
    """One `prepare` in progress."""

    def __init__(
        self, options: PrepareOptions, tokenizer: Tokenizer, out: Path, sources: list[Source], report: Report
    ) -> None:
        self.options, self.out, self.sources, self.report = options, out, sources, report
        self.unfinished = out / UNFINISHED
        self.encoder = Encoder(options, tokenizer, self.unfinished)
        self.progress = PrepareProgress()
        self.n_workers = n_workers(options.workers, sources)
        self.chunks: list[SourceChunks] = []

    @contextmanager
    def folder(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Work in `unfinished`, and remove it at the end. After an error, finished chunk files are kept."""
        self._check_folder(inputs)
        with files.locked(self.unfinished):  # before anything is removed: it may belong to another process
            try:
                self._remove_drafts()
                files.write_json(self.unfinished / JOURNAL, inputs | {"on_error": self.options.on_error})
                yield
            except OSError as error:
                self._remove_drafts()  # workers were stopped while they wrote
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise ResourceError(self._disk_full()) from None
                raise DataError(f"{error.filename or self.out}: {error.strerror or error}") from None
            except UserError:
                if not self._has_chunks():
                    self._discard()
                raise
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def _remove_drafts(self) -> None:
        for folder in (self.out, self.unfinished):
            for path in folder.glob(".*.draft"):
                path.unlink(missing_ok=True)

    def _check_folder(self, inputs: dict[str, Any]) -> None:
        """Refuse a folder that holds anything else."""
        if not self.out.exists():
            return
        if not self.out.is_dir() or (any(self.out.iterdir()) and not self.unfinished.is_dir()):
            raise DataError(f"{self.out} is not empty and not a Dataset: choose another --out")
        if not self._has_chunks():
            return
        try:
            before = json.loads((self.unfinished / JOURNAL).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot read {self.unfinished / JOURNAL} ({error}), so the inputs of {self.out} are unknown: delete "
                f"{self.out} to start again"
            ) from None
        changed = checks.differences(before, inputs)
        if before["on_error"] == "skip" and self.options.on_error == "stop":
            changed.append("prepare.on_error")
        if changed:
            raise DataError(
                f"{self.out} is unfinished and has other inputs (changed: {', '.join(changed)}): choose another --out, "
                f"or delete {self.out} to start again"
            )

    def _has_chunks(self) -> bool:
        return any(self.unfinished.glob("*.part"))

    def _discard(self) -> None:
        for path in self.unfinished.glob("*.part"):  # before the journal that says what they are
            path.unlink()
        shutil.rmtree(self.unfinished, ignore_errors=True)
        for path in (*self.out.glob("train-*"), *self.out.glob("val-*")):
            path.unlink()
        with suppress(OSError):  # the folder holds something else
            self.out.rmdir()

    def read(self) -> None:
        """Make the missing chunk files. Those that another engine makes are only checked here."""
        if self.options.engine != "local":
            engines.run(self.encoder, self.sources, self.n_workers)
        with Workers(self.encoder, self.n_workers) as workers:
            intake = Intake(self.sources, self.encoder, workers, self.progress, self.report)
            self.chunks = intake.read()

    def write(self, inputs: dict[str, Any]) -> None:
        """Write the shards, the tokenizer and, last, the manifest."""
        self.progress.stage, self.progress.fraction = "writing", 0.0
        counts = [SourceCounts() for _ in self.sources]
        tokenizer, dtype = self.encoder.tokenizer, self.encoder.dtype
        train, val = (
            assembly.SplitPlanner(split, self.out, dtype, self.options.shard_tokens)
            for split in ("train", "val")
        )
        shards = self._write_shards(assembly.Planner(train, val, self.encoder), counts)
        if not train.tokens:
            self._discard()
            each = [
                f"{source.name}: {_summary(source, n)}"
                for source, n in zip(self.sources, counts, strict=True)
            ]
            raise DataError(f"nothing is left to train on ({'; '.join(each)})")
        tokenizer.save(self.out)
        files.sync(self.out)  # everything that the manifest lists must reach the disk before it
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "producer": f"gptworks {__version__}",
            "fingerprint": "",
            "dtype": dtype.name,
            "tokenizer": {
                "fingerprint": tokenizer.fingerprint,
                "vocab_size": tokenizer.vocab_size,
                "eos_id": tokenizer.eos_id,
                "bos_id": tokenizer.bos_id,
            },
            "splits": {
                planner.split: {
                    "tokens": planner.tokens,
                    "documents": planner.documents,
                    "text_bytes": planner.text_bytes,
                    "shards": [
                        asdict(shard) for shard in shards if shard.file.startswith(f"{planner.split}-")
                    ],
                }
                for planner in (train, val)
                if planner.tokens
            },
            "sources": [
                {"name": source.name, "files": len(source.files), "bytes": source.size}
                | asdict(n)
                | {"invalid": chunks.invalid}
                for source, n, chunks in zip(self.sources, counts, self.chunks, strict=True)
            ],
            "notes": self._notes(counts, train.tokens, val.tokens),
            "inputs": inputs,
        }
        files.write_json(self.out / MANIFEST, manifest | {"fingerprint": fingerprint(manifest)})

    def _write_shards(
        self, planner: assembly.Planner, counts: list[SourceCounts]
    ) -> list[assembly.WrittenShard]:
        """Select the documents, counting them, and write the shards."""
        selection = Selection(self.sources, [chunks.paths for chunks in self.chunks], self.options)

        def plans() -> Iterator[assembly.ShardPlan]:
            for source, source_counts in enumerate(counts):
                for selected in selection.select(source):
                    source_counts.count(selected)
                    yield from planner.add(selected)
            yield from planner.train.finish()
            yield from planner.val.finish()

        shards = []
        n_workers = min(self.n_workers, 1 + self.progress.tokens // self.options.shard_tokens)
        with Workers(assembly.write, n_workers) as workers:
            for _, shard in workers.map(plans()):
                shards.append(shard)
                done = sum(s.tokens for s in shards) / max(1, self.progress.tokens)
                self.progress.fraction = min(1.0, done)
                self.report(self.progress)
        return shards

    def _notes(self, counts: list[SourceCounts], train_tokens: int, val_tokens: int) -> list[str]:
        """What a person should know and may not expect."""
        notes = []
        fraction = 0.0 if self.options.val_split_by == "source" else self.options.val_fraction
        for source, n in zip(self.sources, counts, strict=True):
            if n.kept == 1 and fraction:
                notes.append(
                    f"{source.name} is one document: the last {100 * fraction:g}% of its tokens are validation"
                )
            if not n.kept:
                notes.append(f"no document of {source.name} was kept: {_summary(source, n)}")
            notes += val_shard_notes(source, self.options)
        if not val_tokens and (fraction or self.options.val_split_by == "source"):
            notes.append("validation has no document: increase --val-fraction, or use --val-split-by tail")
        if fraction and (share := val_tokens / (train_tokens + val_tokens)) > 2 * fraction:
            notes.append(
                f"validation is {share:.1%} of the tokens, not {100 * fraction:g}%: whole documents are held out, and "
                "these are long or few"
            )
        return notes

    def _disk_full(self) -> str:
        done = self.progress.fraction if self.progress.stage == "reading" else 1.0
        in_chunks = _folder_bytes(self.unfinished)
        # At the end, all tokens are on the disk twice: in chunk files and in shards.
        whole = 2 * in_chunks / done if done and self.progress.tokens else text_size(self.sources)
        needed = "twice the size of the tokens"
        if whole is not None:
            needed = f"about {_megabytes(max(whole - _folder_bytes(self.out), in_chunks / 10))} more"
        existing = next(path for path in (self.out, *self.out.resolve().parents) if path.exists())
        free = _megabytes(shutil.disk_usage(existing).free)
        return (
            f"the disk of {self.out} is full ({free} free): it needs {needed}. Free that much and run the same command "
            "again, which reuses all finished work; or delete the folder and choose another --out"
        )


def _summary(source: Source, counts: SourceCounts) -> str:
    dropped = ", ".join(f"{n:,} {name}" for name, n in counts.dropped.items())
    summary = counted(counts.documents, "document") + (f", dropped {dropped}" if dropped else "")
    return summary + (binary_hint(source) if "binary" in counts.dropped else "")


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
