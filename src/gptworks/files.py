"""Files that are whole or absent: drafts that are renamed, JSON, JSONL, locks and free space. No torch here."""

import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptworks.errors import InUseError, ResourceError


@contextmanager
def atomically(target: Path) -> Iterator[Path]:
    """A draft beside `target` that takes its place when the block ends, synced; after an error nothing has changed.

    Readers see the old file or folder or the new one, never half of one. The draft is named after this process, so
    that a killed process's leftovers are never taken for ours. The block may write the draft as a file or as a folder.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    remove(draft)
    try:
        yield draft
        for path in [draft, *draft.rglob("*")]:
            sync(path)
        if draft.is_dir() and target.is_dir():
            remove(target)
        draft.replace(target)
        sync(target.parent)
    finally:
        remove(draft)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(file, json.dumps(value, indent=1) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomically(file) as draft:
        draft.write_text(text, encoding="utf-8")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; a last line that a kill cut off is left out."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def add_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows to a JSONL file, synced."""
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
        stream.flush()
        os.fsync(stream.fileno())


def cut_rows(file: Path, step: int) -> None:
    """Drop the rows after `step`: their work was lost and will be done again."""
    if file.is_file():
        rows = [row for row in read_rows(file) if row.get("step", 0) <= step]
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def locked(folder: Path, *, hold: bool = True) -> Iterator[None]:
    """Hold a folder for this process. The system releases the lock when the process ends, however it ends.

    With several processes one holds it for all: the others pass hold=False.

    Raises:
        InUseError: another process holds it.
    """
    if not hold:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            raise InUseError(f"{folder} is in use by {owner}; wait for it, stop it, or choose another --out")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _try_lock(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, 4096, os.SEEK_SET)  # a byte beyond the owner's name, the same for everyone
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Any other error means that this disk does not support locks.
        return error.errno not in {errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
    return True


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def need_space(folder: Path, wanted: int, what: str) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        ResourceError: with the sizes.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ResourceError(
            f"{what} needs {wanted / 1e9:.3g} GB of disk at {folder}, which has {free / 1e9:.3g} GB free: "
            f"free {(wanted - free) / 1e9:.3g} GB or choose another --out"
        )


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a power cut cannot undo it."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot sync folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
