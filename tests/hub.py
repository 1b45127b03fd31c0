"""A Hugging Face Hub of one's own, on the loopback interface, that serves a folder.

    ROOT/models/OWNER/NAME/config.json ...      ROOT/datasets/OWNER/NAME/data/train.jsonl ...

It answers what huggingface_hub and datasets ask when they read: files (with ranges; large ones by a redirect to another
address, as from LFS), their metadata, what a repository holds, at its commits (`move_on`) and branches (a folder
NAME@BRANCH, `/` written as `--`); and when they write (hubwrites.py). A test may have any of it fail: `Faults`.
Endpoint and caches are fixed when those libraries are imported, so a test uses them in a process of its own, with
`environment`.
"""

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hubwrites import CUT, LARGE, SLOW, TOKEN, Faults, Writes

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Of a repository that has not moved on."""

SHORT = {"gpt2": "openai-community/gpt2", "glue": "nyu-mll/glue"}
"""Repositories with names from before there were owners: whoever asks for one is sent on."""


def head(repository: Path) -> str:
    """A repository's newest commit."""
    note = repository.with_name(f"{repository.name}.commit")
    return note.read_text() if note.is_file() else COMMIT


def move_on(repository: Path, commit: str) -> None:
    """What is in the repository stays there under its commit; what is changed from now on is under `commit`."""
    shutil.copytree(repository, repository.with_name(f"{repository.name}@{head(repository)}"))
    repository.with_name(f"{repository.name}.commit").write_text(commit)


@contextmanager
def serve(root: Path, faults: Faults | None = None) -> Iterator[str]:
    """Serve ROOT while the block runs; yields the address for HF_ENDPOINT."""
    facts = {"root": root, "faults": faults or Faults()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), facts))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(endpoint: str, home: Path) -> dict[str, str]:
    """The environment for a child that knows no Hub but `endpoint` and keeps its caches in `home`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "TIKTOKEN_", "DATA_GYM_"))
    }
    proxies = {"NO_PROXY": "*", "no_proxy": "*"}
    caches = {
        "HF_HOME": str(home / "hf"),
        "TIKTOKEN_CACHE_DIR": str(home / "tiktoken"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return {**kept, **proxies, **caches, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}


class _Handler(Writes, BaseHTTPRequestHandler):
    root: Path
    protocol_version = "HTTP/1.1"
    _fault: int | None = None
    _commit_now = COMMIT

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep tests quiet."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        path = urlsplit(self.path).path
        self._fault = None
        if self.written(unquote(path), body):
            return
        self.faults.read.append((self.command, unquote(path), self.headers.get("Range") or ""))
        self._fault = self.faults.next(unquote(path))
        if self._fault == 0:
            self.close_connection = True
        elif self._fault is not None and self._fault >= 300:
            self._error("", self._fault)
        else:
            self._read(path, body)

    def _read(self, path: str, body: bytes) -> None:
        if self._fault == SLOW:
            time.sleep(self.faults.delay)
        short = re.match(
            r"/(?:api/)?(?:datasets/|models/)?([^/]+)(?=/resolve/|$|/(?:revision|tree|paths-info)/)", path
        )
        if short and short[1] in SHORT:
            moved = self.path[: short.start(1)] + SHORT[short[1]] + self.path[short.end(1) :]
            self._send(307, b"", "text/plain", {"Location": moved})
        elif path.startswith("/cdn/"):
            self._bytes(self.root / unquote(path.removeprefix("/cdn/")), {})
        elif file := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(self._repository(file[1], file[2], file[3]), file[2], unquote(file[4]))
        elif asked := re.fullmatch(
            r"/api/(datasets|models)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        ):
            repository = self._repository(asked[1] == "datasets", asked[2], asked[4] or "main")
            self._about(repository, asked[2], asked[3], unquote(asked[5] or ""), body)
        else:
            self._error("RepoNotFound")

    def _repository(self, dataset: Any, name: str, revision: str) -> Path:
        """The folder of a repository at a revision; one that is not there if there is none."""
        main = self.root / ("datasets" if dataset else "models") / name
        revision = unquote(revision)
        self._commit_now = head(main) if revision in ("main", head(main)) else revision
        other = main.with_name(f"{main.name}@{revision.replace('/', '--')}")
        return main if self._commit_now == head(main) or not main.is_dir() else other

    def _refused(self, repository: Path, name: str) -> bool:
        """Answer, if these files are for others, or there is no such repository."""
        key = self.headers.get("Authorization")
        if key and key != f"Bearer {TOKEN}":
            self._error("", 401, "Invalid credentials in Authorization header")
        elif name in self.faults.gated and not key:
            self._error("GatedRepo", 401, f"Access to {name} is restricted.")
        elif not repository.is_dir():
            known = repository.with_name(repository.name.partition("@")[0]).is_dir()
            self._error("RevisionNotFound" if known else "RepoNotFound", 404 if known else 401)
        else:
            return False
        return True

    def _file(self, repository: Path, name: str, file: str) -> None:
        if self._refused(repository, name):
            return
        path = repository / file
        if not path.is_file():
            self._error("EntryNotFound")
        elif LARGE.fullmatch(file):  # as Git LFS: what it is from here, its bytes from elsewhere
            data = path.read_bytes()
            elsewhere = self._here.replace(
                "127.0.0.1", "localhost"
            )  # a client does not go there for metadata
            location = f"{elsewhere}/cdn/{quote(path.relative_to(self.root).as_posix())}"
            linked = {
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            }
            about = {"Location": location, "X-Repo-Commit": self._commit_now, "ETag": '"of the pointer"'}
            self._send(302, b"", "text/plain", about | linked)
        else:
            self._bytes(path, {"X-Repo-Commit": self._commit_now})

    def _bytes(self, path: Path, headers: dict[str, str]) -> None:
        """A file, or the range of it that is asked for."""
        data = path.read_bytes()
        status, start, stop = 200, 0, len(data)
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            status, start, stop = (
                206,
                int(span[1]),
                min(len(data), int(span[2]) + 1) if span[2] else len(data),
            )
        headers |= {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
            "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}",
        }
        self._send(status, data[start:stop], "application/octet-stream", headers)

    def _about(self, repository: Path, name: str, what: str | None, inside: str, body: bytes) -> None:
        if self._refused_about(repository, name):
            return
        files = sorted(path for path in repository.rglob("*") if path.is_file())
        entries = [_entry(path, repository) for path in files]
        folders = {parent for path in files for parent in path.relative_to(repository).parents if parent.name}
        entries += [
            {"type": "directory", "path": folder.as_posix(), "oid": COMMIT, "size": 0} for folder in folders
        ]
        answer: Any
        if what == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            answer = [entry for entry in entries if _within(entry["path"], inside, recursive)]
        elif what == "paths-info":
            wanted = _paths(body)
            answer = [entry for entry in entries if entry["path"] in wanted]
        else:
            names = [{"rfilename": path.relative_to(repository).as_posix()} for path in files]
            answer = {
                "id": name,
                "sha": self._commit_now,
                "private": self._is_private(name),
                "gated": "auto" if name in self.faults.gated else False,
                "disabled": False,
            }
            answer |= {"downloads": 0, "likes": 0, "tags": [], "siblings": names}
        self._send(200, json.dumps(answer).encode(), "application/json", {"X-Repo-Commit": self._commit_now})

    def _refused_about(self, repository: Path, name: str) -> bool:
        """What a gated repository holds may be known to everyone; not so its files."""
        return (name not in self.faults.gated or not repository.is_dir()) and self._refused(repository, name)

    def _error(self, code: str, status: int = 404, message: str = "not found") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message} if code or status == 401 else {}
        if code == "EntryNotFound":  # so that a client may remember that there is none
            headers["X-Repo-Commit"] = self._commit_now
        self._send(
            status,
            json.dumps({"error": message}).encode(),
            "application/json",
            headers | self.faults.headers,
        )

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.close_connection |= self._fault == CUT
            self.wfile.write(data[: len(data) // 2] if self._fault == CUT else data)


def _entry(path: Path, repository: Path) -> dict[str, Any]:
    data = path.read_bytes()
    oid = hashlib.sha1(data).hexdigest()
    return {"type": "file", "path": path.relative_to(repository).as_posix(), "oid": oid, "size": len(data)}


def _within(path: str, inside: str, recursive: bool) -> bool:
    folder, _, _ = path.rpartition("/")
    return path.startswith(f"{inside}/" if inside else "") if recursive else folder == inside


def _paths(body: bytes) -> list[str]:
    """The paths of a paths-info request, which comes as JSON or as a form."""
    try:
        asked = json.loads(body)["paths"]
    except ValueError:
        asked = parse_qs(body.decode()).get("paths", [])
    return [asked] if isinstance(asked, str) else asked
