"""What the Hub of tests/hub.py answers to those who write: repositories made, files sent, commits.

As huggingface_hub 2.4 asks: POST /api/repos/create; POST /api/validate-yaml of a model card; POST .../preupload/main
says which files go by LFS; POST REPO.git/info/lfs/objects/batch says where to, and which are there already; PUT of
their bytes, in parts where they are large; POST of what completes and verifies them; POST .../commit/main with a line
of JSON for each change.

A test may have any of these fail: `Faults`.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TOKEN = "hf_loopback"
"""The only one that may write."""

PART = 100_000
"""Bytes above which an object is asked for in parts of so many."""

LARGE = re.compile(r".*\.(safetensors|bin|gguf|onnx|parquet)")
"""What Git LFS keeps."""

CUT, SLOW = 1, 2
"""In place of a status, of what is read: half of the body and then nothing; an answer `Faults.delay` seconds late."""


@dataclass
class Faults:
    """What is to fail: each time a request's path matches, the next status of its list is answered; 0 hangs up."""

    statuses: dict[str, list[int]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    """Repositories whose files are for those who have a token, and are known to have accepted some terms."""
    delay: float = 1.0
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(method, path) of every request that writes."""
    read: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, range) of every request that reads."""

    def next(self, path: str) -> int | None:
        for pattern, statuses in self.statuses.items():
            if statuses and re.search(pattern, path):
                return statuses.pop(0)
        return None


class Writes:
    """The writing half of a request handler; `root`, `faults` and `_send` are the other half's."""

    root: Path
    faults: Faults
    path: str
    command: str
    headers: Any
    close_connection: bool

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str]) -> None:
        raise NotImplementedError

    def written(self, path: str, body: bytes) -> bool:
        """Answer, if this is one of those requests."""
        known = (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", self._validate),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/[^/]+", self._preupload),
            (r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/lfs/(?P<oid>\w+)(/(?P<part>\w+))?", self._object),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/[^/]+", self._commit),
        )
        for pattern, answer in known:
            if match := re.fullmatch(pattern, path):
                self.faults.asked.append((self.command, path))
                self._or_fault(path, answer, match, body)
                return True
        return False

    def _or_fault(self, path: str, answer: Any, match: re.Match[str], body: bytes) -> None:
        status = self.faults.next(path)
        if status == 0:
            self.close_connection = True
        elif status is not None:
            self._json({"error": f"refused with {status}"}, status, self.faults.headers)
        elif not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid credentials in Authorization header"}, 401)
        else:
            answer(match, body)

    def _create(self, _: re.Match[str], body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        folder = self.root / "models" / repo
        if folder.exists():
            self._json({"error": "You already created this model repo", "url": f"{self._here}/{repo}"}, 409)
            return
        folder.mkdir(parents=True)
        self._note(repo).write_text(json.dumps({"private": asked.get("visibility") == "private"}))
        self._json({"url": f"{self._here}/{repo}", "name": repo, "id": "1"})

    def _validate(self, _: re.Match[str], body: bytes) -> None:
        """Of a model card's front matter: that it is YAML, and an object."""
        try:
            said = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            errors = [] if isinstance(said, dict) else [{"message": "no object"}]
        except (yaml.YAMLError, IndexError) as error:
            errors = [{"message": str(error)}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _preupload(self, _: re.Match[str], body: bytes) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if LARGE.fullmatch(file["path"]) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def _batch(self, _: re.Match[str], body: bytes) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            if self._store(one["oid"]).is_file():
                objects.append(one)  # without actions: it is here
                continue
            upload: dict[str, Any] = {"href": f"{self._here}/lfs/{one['oid']}", "header": {}}
            if one["size"] > PART:
                parts = -(-one["size"] // PART)
                upload["header"] = {"chunk_size": str(PART)}
                upload["header"] |= {str(n): f"{upload['href']}/{n}" for n in range(1, parts + 1)}
                upload["href"] += "/complete"
            verify = {"href": f"{self._here}/lfs/{one['oid']}/verify", "header": {}}
            objects.append(one | {"actions": {"upload": upload, "verify": verify}})
        self._json({"transfer": "basic", "objects": objects})

    def _object(self, match: re.Match[str], body: bytes) -> None:
        whole, part = self._store(match["oid"]), match["part"]
        if part == "verify":
            same = whole.is_file() and whole.stat().st_size == json.loads(body)["size"]
            self._json({}, 200 if same else 422)
            return
        if part == "complete":
            numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
            pieces = [whole.with_name(f"{whole.name}.{number}") for number in sorted(numbers)]
            body = b"".join(piece.read_bytes() for piece in pieces)
        elif part is not None:
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.with_name(f"{whole.name}.{part}").write_bytes(body)
            self._send(200, b"", "text/plain", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
            return
        if hashlib.sha256(body).hexdigest() != match["oid"]:
            self._json({"error": "not what was announced"}, 422)
            return
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(body)
        self._json({})

    def _commit(self, match: re.Match[str], body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        folder = self.root / "models" / match["repo"]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                continue
            file = folder / value["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "file":
                file.write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                file.write_bytes(self._store(value["oid"]).read_bytes())
            else:
                raise AssertionError(line["key"])
        oid = hashlib.sha1(body).hexdigest()
        self._json(
            {"commitUrl": f"{self._here}/{match['repo']}/commit/{oid}", "commitOid": oid, "success": True}
        )

    def _note(self, repo: str) -> Path:
        return self.root / f"{repo.replace('/', '--')}.json"

    def _is_private(self, repo: str) -> bool:
        file = self._note(repo)
        return file.is_file() and json.loads(file.read_text())["private"]

    def _store(self, oid: str) -> Path:
        return self.root / "lfs" / oid

    @property
    def _here(self) -> str:
        return f"http://{self.headers['Host']}"

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers or {})
