"""A small Hugging Face hub on loopback: it answers only the requests of huggingface_hub.

It serves folders as repositories' revisions, honours ranges, records its requests and how many
bytes it sent, and cuts a file off on request.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Request(NamedTuple):
    """One request: `sent` bytes of a body were sent, of the requested range."""

    method: str
    path: str
    range: str
    sent: int


def commit_of(revision: str) -> str:
    """The commit that a branch or tag of a served repository points to."""
    return hashlib.sha1(revision.encode()).hexdigest()


@dataclass
class Hub:
    """The served folders and the requests received.

    Attributes:
        models: "org/name" → revision → folder.
        cut: file name → after how many bytes the connection closes, once.
        broken: file names that are answered with a server's error.
    """

    models: dict[str, dict[str, Path]]
    cut: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""

    def sent(self, suffix: str) -> int:
        """Bytes sent of files whose path ends with `suffix`."""
        return sum(a.sent for a in self.requests if a.path.endswith(suffix))

    def folder(self, model: str, revision: str) -> tuple[str, Path] | None:
        """(commit, folder) of a revision's name or commit."""
        for name, folder in self.models[model].items():
            if revision in (name, commit_of(name)):
                return commit_of(name), folder
        return None


@contextmanager
def serving(models: dict[str, dict[str, Path]]) -> Iterator[Hub]:
    """Serve `models` on a free port of loopback until the block ends."""
    hub = Hub(models)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
        else:
            self._refuse("EntryNotFound")

    def _api(self, model: str, rest: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        found = self._found(model, revision)
        if found is None:
            return
        commit, folder = found
        files = sorted(file for file in folder.iterdir() if file.is_file())
        if rest[:1] == ["tree"]:
            self._json([{"type": "file", "path": f.name, "size": f.stat().st_size,
                         "oid": commit_of(f.name)} for f in files])  # fmt: skip
            return
        siblings = [
            {"rfilename": f.name, "size": f.stat().st_size, "blobId": commit_of(f.name)}
            for f in files
        ]
        self._json({"_id": commit, "id": model, "modelId": model, "sha": commit, "private": False,
                    "gated": False, "tags": [], "downloads": 0, "siblings": siblings})  # fmt: skip

    def _file(self, model: str, revision: str, name: str, body: bool) -> None:
        found = self._found(model, revision)
        if found is None:
            return
        commit, folder = found
        file = folder / name
        if not file.is_file():
            self._refuse("EntryNotFound")
            return
        if name in self.hub.broken and body:
            self._refuse("Broken", 500)
            return
        size = file.stat().st_size
        span = self.headers.get("Range", "")
        begin, end = 0, size - 1
        if span.startswith("bytes="):
            low, _, high = span.removeprefix("bytes=").partition("-")
            begin, end = int(low), min(int(high or end), end)
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
        self.send_header("Content-Length", str(end + 1 - begin))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(f"{commit}{name}".encode()).hexdigest()}"')
        self.end_headers()
        self._send(file, begin, end, span, body)

    def _send(self, file: Path, begin: int, end: int, span: str, body: bool) -> None:
        sent = 0
        if body:
            limit = self.hub.cut.pop(file.name, end + 1)
            with file.open("rb") as stream:
                stream.seek(begin)
                data = stream.read(max(0, min(end + 1, begin + limit) - begin))
            sent = len(data)
        # Recorded before it is sent: the client may read the list as soon as it has the answer.
        self.hub.requests.append(Request(self.command, self.path, span, sent))
        if sent:
            self.wfile.write(data)
        if body and sent < end + 1 - begin:
            self.close_connection = True

    def _found(self, model: str, revision: str) -> tuple[str, Path] | None:
        if model not in self.hub.models:
            self._refuse("RepoNotFound")
            return None
        found = self.hub.folder(model, revision)
        if found is None:
            self._refuse("RevisionNotFound")
        return found

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.hub.requests.append(Request(self.command, self.path, "", len(data)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, code: str, status: int = 404) -> None:
        self.hub.requests.append(Request(self.command, self.path, "", 0))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
