"""A Hugging Face Hub of one's own, on the loopback interface, that serves a folder.

    ROOT/models/OWNER/NAME/config.json ...      ROOT/datasets/OWNER/NAME/data/train.jsonl ...

It answers what huggingface_hub and datasets ask when they read: files (with ranges), their metadata, what a
repository holds; and when they write (hubwrites.py). Endpoint and caches are fixed when those are imported, so a test
uses them in a process of its own, with `environment`.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hubwrites import Faults, Writes

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
        path = unquote(urlsplit(self.path).path)
        if self.written(path, body):
            return
        if file := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._file(self._repository(file[1], file[2]), file[3])
        elif asked := re.fullmatch(
            r"/api/(datasets|models)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/[^/]+(?:/(.*))?)?", path
        ):
            self._about(self._repository(asked[1] == "datasets", asked[2]), asked, body)
        else:
            self._error("RepoNotFound")

    def _repository(self, dataset: Any, name: str) -> Path:
        return self.root / ("datasets" if dataset else "models") / name

    def _file(self, repository: Path, name: str) -> None:
        file = repository / name
        if not file.is_file():
            self._error("EntryNotFound" if repository.is_dir() else "RepoNotFound")
            return
        data = file.read_bytes()
        status, start, stop = 200, 0, len(data)
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            status, start, stop = (
                206,
                int(span[1]),
                min(len(data), int(span[2]) + 1) if span[2] else len(data),
            )
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}",
        }
        self._send(status, data[start:stop], "application/octet-stream", headers)

    def _about(self, repository: Path, asked: re.Match[str], body: bytes) -> None:
        if not repository.is_dir():
            self._error("RepoNotFound")
            return
        files = sorted(path for path in repository.rglob("*") if path.is_file())
        entries = [_entry(path, repository) for path in files]
        folders = {parent for path in files for parent in path.relative_to(repository).parents if parent.name}
        entries += [
            {"type": "directory", "path": folder.as_posix(), "oid": COMMIT, "size": 0} for folder in folders
        ]
        answer: Any
        if asked[3] == "tree":
            inside = asked[4] or ""
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            answer = [entry for entry in entries if _within(entry["path"], inside, recursive)]
        elif asked[3] == "paths-info":
            wanted = _paths(body)
            answer = [entry for entry in entries if entry["path"] in wanted]
        else:
            names = [{"rfilename": path.relative_to(repository).as_posix()} for path in files]
            answer = {
                "id": asked[2],
                "sha": COMMIT,
                "private": self._is_private(asked[2]),
                "gated": False,
                "disabled": False,
            }
            answer |= {"downloads": 0, "likes": 0, "tags": [], "siblings": names}
        self._send(200, json.dumps(answer).encode(), "application/json", {"X-Repo-Commit": COMMIT})

    def _error(self, code: str) -> None:
        self._send(
            404,
            b'{"error": "not found"}',
            "application/json",
            {"X-Error-Code": code, "X-Repo-Commit": COMMIT},
        )

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


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
