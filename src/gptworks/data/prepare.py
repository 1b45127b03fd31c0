"""Texts to a Dataset: every piece through a worker, what they left put together, the manifest last.

Sources are cut into pieces (pieces.py). A worker turns a piece into a part on disk (encoding.py). When all
parts are there it is decided what goes where (selection.py), the shards are written (assembly.py) and then
the manifest. Killed anywhere and started again, the same command goes on: parts that exist are not made
again, all else is a function of the parts, and the result is the same to the byte, whatever the number of
workers.
"""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptworks import __version__, runs
from gptworks.data import assembly, checks, engines
from gptworks.data.dataset import FORMAT, MANIFEST, UNFINISHED, VERSION, Dataset, fingerprint
from gptworks.data.encoding import Encoder
from gptworks.data.intake import Intake, Progress, Report, Taken, n_workers, text_size
from gptworks.data.selection import Selection, Tally
from gptworks.data.sources import Source, find_all, no_text, trained_on
from gptworks.data.workers import Workers
from gptworks.errors import DataError, ResourceError, UserError
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer
from gptworks.wording import counted


def prepare(
    options: PrepareOptions, tokenizer: Tokenizer, out: Path, progress: Report | None = None
) -> Dataset:
    """Make a Dataset in folder `out`, or go on making it, or find that it is there already.

    Raises:
        ConfigError: options contradict each other or the tokenizer.
        DataError: a source cannot be read, nothing is left of them, or `out` holds something else.
        ResourceError: the disk is full, or a worker was killed. What is finished is kept.
    """
    checks.check_options(options, tokenizer)
    sources = find_all(options, _pinned(out))
    checks.check_sources(sources, options)
    inputs = checks.describe(options, sources, tokenizer)
    if (out / MANIFEST).exists():
        return _finished(out, inputs)
    work = _Work(options, tokenizer, out, sources, progress or (lambda _: None))
    engines.check(work.encoder, sources)
    with work.folder(inputs):
        work.read()
        work.write(inputs)
    return Dataset.open(out, verify=False)


def _finished(out: Path, inputs: dict[str, Any]) -> Dataset:
    dataset = Dataset.open(out, verify=False)
    if changed := checks.differences(dataset.manifest["inputs"], inputs):
        raise DataError(
            f"{out} is a finished Dataset of other inputs ({', '.join(changed)} changed): choose another "
            f"--out, or delete {out} to make it anew"
        )
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return dataset


JOURNAL = "inputs.json"
"""In `unfinished`: what the parts are made from."""


def _pinned(out: Path) -> dict[str, str]:
    """What the Hub's datasets were when work in `out` began: it goes on with those, though they be changed since."""
    for file in (out / MANIFEST, out / UNFINISHED / JOURNAL):
        with suppress(OSError, ValueError):  # whether it can be read at all is for those to say who need it
            begun = json.loads(file.read_text(encoding="utf-8"))
            sources = begun.get("inputs", begun)["sources"]
            return {source["name"]: source["hub"] for source in sources if "hub" in source}
    return {}


class _Work:
    """One `prepare` under way."""

    def __init__(
        self, options: PrepareOptions, tokenizer: Tokenizer, out: Path, sources: list[Source], report: Report
    ) -> None:
        self.options, self.out, self.sources, self.report = options, out, sources, report
        self.parts = out / UNFINISHED
        self.encoder = Encoder(options, tokenizer, self.parts)
        self.progress = Progress()
        self.n_workers = n_workers(options.workers, sources)
        self.taken: list[Taken] = []

    @contextmanager
    def folder(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Work in `unfinished`, and remove it when all is done. What was interrupted is kept, if there is anything."""
        self._enter(inputs)
        with runs.locked(self.parts):  # before anything may be thrown away: it may be another's work
            try:
                self._clear()
                _write_json(self.parts / JOURNAL, inputs | {"on_error": self.options.on_error})
                yield
            except OSError as error:
                self._clear()  # workers were stopped while they wrote
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise ResourceError(self._no_space()) from None
                raise DataError(f"{error.filename or self.out}: {error.strerror or error}") from None
            except UserError:
                if not self._any_parts():
                    self._discard()
                raise
        shutil.rmtree(self.parts, ignore_errors=True)

    def _clear(self) -> None:
        """Remove what was half written."""
        for folder in (self.out, self.parts):
            for path in folder.glob("*.partial"):
                path.unlink(missing_ok=True)

    def _enter(self, inputs: dict[str, Any]) -> None:
        """Refuse a folder that holds anything else."""
        if not self.out.exists():
            return
        if not self.out.is_dir() or (any(self.out.iterdir()) and not self.parts.is_dir()):
            raise DataError(f"{self.out} is not empty and no Dataset: choose another --out")
        if not self._any_parts():
            return
        try:
            begun = json.loads((self.parts / JOURNAL).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.parts / JOURNAL} cannot be read ({error}), so what {self.out} was begun from is not known: "
                f"delete {self.out} to begin anew"
            ) from None
        changed = checks.differences(begun, inputs)
        if begun["on_error"] == "skip" and self.options.on_error == "stop":
            changed.append("prepare.on_error")
        if changed:
            raise DataError(
                f"{self.out} was begun from other inputs ({', '.join(changed)} changed): choose another "
                f"--out, or delete {self.out} to begin anew"
            )

    def _any_parts(self) -> bool:
        return any(self.parts.glob("*.part"))

    def _discard(self) -> None:
        for path in self.parts.glob("*.part"):  # before their journal, without which they mean nothing
            path.unlink()
        shutil.rmtree(self.parts, ignore_errors=True)
        for path in (*self.out.glob("train-*"), *self.out.glob("val-*")):
            path.unlink()
        with suppress(OSError):  # something else is in it
            self.out.rmdir()

    def read(self) -> None:
        """Make the parts that are not there yet. What another engine has made is only looked at here."""
        if self.options.engine != "local":
            engines.run(self.encoder, self.sources, self.n_workers)
        with Workers(self.encoder, self.n_workers) as workers:
            intake = Intake(self.sources, self.encoder, workers, self.progress, self.report)
            self.taken = intake.read()

    def write(self, inputs: dict[str, Any]) -> None:
        """Decide what goes where and write it, the manifest last."""
        self.progress.stage, self.progress.fraction = "writing", 0.0
        tallies, train, val, shards = self._write_shards()
        if not train.tokens:
            self._discard()
            raise DataError(self._empty(tallies))
        splits = {
            planner.split: {
                "tokens": planner.tokens,
                "documents": planner.documents,
                "text_bytes": planner.text_bytes,
                "shards": [asdict(shard) for shard in shards if shard.file.startswith(f"{planner.split}-")],
            }
            for planner in (train, val)
            if planner.tokens
        }
        tokenizer = self.encoder.tokenizer
        tokenizer.save(self.out)
        runs.sync(self.out)  # all that the manifest promises is on the disk before it
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "producer": f"gptworks {__version__}",
            "fingerprint": "",
            "dtype": self.encoder.dtype.name,
            "tokenizer": {
                "fingerprint": tokenizer.fingerprint,
                "vocab_size": tokenizer.vocab_size,
                "eos_id": tokenizer.eos_id,
                "bos_id": tokenizer.bos_id,
            },
            "splits": splits,
            "sources": [
                {"name": source.name, "files": len(source.files), "bytes": source.size}
                | asdict(tally)
                | {"invalid": taken.invalid}
                for source, tally, taken in zip(self.sources, tallies, self.taken, strict=True)
            ],
            "notes": self._notes(tallies, train, val),
            "inputs": inputs,
        }
        _write_json(self.out / MANIFEST, manifest | {"fingerprint": fingerprint(manifest)})

    def _write_shards(self) -> tuple[list[Tally], assembly.Planner, assembly.Planner, list[assembly.Written]]:
        encoder = self.encoder
        train, val = (
            assembly.Planner(name, self.out, encoder.dtype, self.options.shard_tokens)
            for name in ("train", "val")
        )
        placer = assembly.Placer(train, val, encoder)
        selection = Selection(self.sources, [taken.paths for taken in self.taken], self.options)
        tallies = [Tally() for _ in self.sources]

        def plans() -> Iterator[assembly.Plan]:
            for source, tally in enumerate(tallies):
                for chosen in selection.choose(source):
                    tally.count(chosen)
                    yield from placer.place(chosen)
            yield from train.finish()
            yield from val.finish()

        written = []
        with Workers(
            assembly.write, min(self.n_workers, 1 + self.progress.tokens // self.options.shard_tokens)
        ) as workers:
            for _, shard in workers.map(plans()):
                written.append(shard)
                self.progress.fraction = min(
                    1.0, sum(s.tokens for s in written) / max(1, self.progress.tokens)
                )
                self.report(self.progress)
        return tallies, train, val, written

    def _notes(self, tallies: list[Tally], train: assembly.Planner, val: assembly.Planner) -> list[str]:
        """What a person should know and may not expect."""
        notes = []
        fraction = 0.0 if self.options.val_by == "source" else self.options.val_fraction
        for source, tally in zip(self.sources, tallies, strict=True):
            if tally.kept == 1 and fraction:
                notes.append(
                    f"{source.name} is one document: the last {100 * fraction:g}% of its tokens are validation"
                )
            if not tally.kept:
                notes.append(f"no document of {source.name} was kept: {_told(source, tally)}")
            notes += trained_on(source, self.options)
        if not val.tokens and (fraction or self.options.val_by == "source"):
            notes.append("no document fell to validation: take a larger --val-fraction, or --val-by tail")
        if fraction and (share := val.tokens / (train.tokens + val.tokens)) > 2 * fraction:
            notes.append(
                f"validation is {share:.1%} of the tokens, not {100 * fraction:g}%: whole documents are held out, "
                "and here they are long or few"
            )
        return notes

    def _empty(self, tallies: list[Tally]) -> str:
        told = "; ".join(f"{s.name}: {_told(s, t)}" for s, t in zip(self.sources, tallies, strict=True))
        return f"nothing is left to train on ({told})"

    def _no_space(self) -> str:
        here = _folder_bytes(self.out)
        done = self.progress.fraction if self.progress.stage == "reading" else 1.0
        in_parts = _folder_bytes(self.parts)
        # Until the end, tokens are on the disk twice: in parts and in shards.
        whole = 2 * in_parts / done if done and self.progress.tokens else text_size(self.sources)
        need = (
            "twice the tokens"
            if whole is None
            else f"about {_megabytes(max(whole - here, in_parts / 10))} more"
        )
        free = shutil.disk_usage(
            next(path for path in (self.out, *self.out.resolve().parents) if path.exists())
        ).free
        return (
            f"the disk of {self.out} is full ({_megabytes(free)} free): it needs {need}. Free that much and run the "
            "same command again, which goes on from what is finished; or delete the folder and choose another --out"
        )


def _told(source: Source, tally: Tally) -> str:
    dropped = ", ".join(f"{count:,} {name}" for name, count in tally.dropped.items())
    told = counted(tally.documents, "document") + (f", dropped {dropped}" if dropped else "")
    return told + (no_text(source) if "binary" in tally.dropped else "")


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write beside, flush to the disk, rename."""
    runs.write_text(path, json.dumps(content, indent=1, ensure_ascii=False))
