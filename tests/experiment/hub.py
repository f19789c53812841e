"""A Hub in miniature: the few HTTP endpoints that pushing and pulling need, over a folder, on a port of this machine.

with hub(folder) as (url, calls): ...   in a program with HF_ENDPOINT=url; folder/OWNER/REPO holds what was committed
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_test"
COMMIT = "c0ffee" + "0" * 34


class _Hub(BaseHTTPRequestHandler):
    """Repositories are folders; one commit is all there is; every file is a plain one, none in large file storage."""

    folder: Path
    calls: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.calls.append(f"POST {self.path}")
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        else:
            self._answer({"error": "not here"}, 404)

    def do_GET(self) -> None:
        self.calls.append(f"GET {self.path}")
        self._get()

    def do_HEAD(self) -> None:
        self._get()

    def _create(self, said: dict[str, Any]) -> None:
        name = f"{said['organization']}/{said['name']}"
        if said["organization"] == "stranger":
            self._answer({"error": "You don't have the rights to create a model under this namespace"}, 403)
            return
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / f"{said['name']}.json").write_text(json.dumps(said))
        self._answer({"url": f"{self._url()}/{name}", "name": name, "id": name})

    def _commit(self, operations: list[dict[str, Any]]) -> None:
        repository = "/".join(self.path.split("/")[3:5])
        for operation in operations:
            if operation["key"] == "file":
                place = self.folder / repository / operation["value"]["path"]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(base64.b64decode(operation["value"]["content"]))
        self._answer({"commitUrl": f"{self._url()}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})

    def _get(self) -> None:
        path = self.path.partition("?")[0]
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            root = self.folder / "/".join(parts[2:4])
            files = sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
            sizes = {name: (root / name).stat().st_size for name in files}
            if "tree" in parts:
                self._answer(
                    [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
                )
            elif not root.exists():
                self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            else:
                siblings = [{"rfilename": name} for name in files]
                self._answer(
                    {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
                )
            return
        file = self.folder / "/".join(parts[:2]) / "/".join(parts[4:])
        if len(parts) < 5 or parts[2] != "resolve" or not file.is_file():
            self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = file.read_bytes()
        self._send(data, 200, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def _url(self) -> str:
        return f"http://{self.headers['host']}"

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A server over `folder`: its address, and the requests that it has had."""
    calls: list[str] = []
    handler = type("Hub", (_Hub,), {"folder": folder, "calls": calls})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
