"""The stub's HTTP side: GraphQL operations by name, the file stream, uploads, and faults to order.

Another operation is one more entry of `WandbStub.operations`: its name -> a function of its variables that returns
the ``data`` of the answer. Operations that are not there are answered by a GraphQL error, as an older server does.

A client that first asks for ``RunResumeStatus`` goes on after the history that the server holds; another one starts at
line 0 and so overwrites it, which is what W&B's reference says of ``resume=None`` and what ``wandb sync`` does.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from tests.wandb_stub.runs import StubRun

API_KEY = "0" * 40
ENTITY = "lab"
_OPERATION = re.compile(r"^\s*(?:query|mutation)\s+(\w+)", re.MULTILINE)
_FILE_STREAM = re.compile(r"^/files/([^/]+)/([^/]+)/([^/]+)/file_stream$")
_UPLOAD = re.compile(r"^/upload/([^/]+)/(.+)$")

Variables = dict[str, Any]
Operation = Callable[[Variables], Mapping[str, Any]]


class WandbStub:
    """A server on 127.0.0.1 that keeps every run it is sent; used as a context manager.

    Args:
        port: where it listens; a free one if 0.

    Attributes:
        runs: run id -> what was sent of it.
        operations: GraphQL operation -> handler.
        calls: names of the GraphQL operations that were asked for, in order.
        status: HTTP status of every answer, if it is not to be the right one.
    """

    def __init__(self, port: int = 0) -> None:
        self.runs: dict[str, StubRun] = {}
        self.calls: list[str] = []
        self.status: int | None = None
        self._resumed: set[str] = set()
        self.operations: dict[str, Operation] = {
            "Viewer": _viewer,
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert_bucket,
            "CreateRunFiles": self._create_run_files,
        }
        self._answers = threading.Event()
        self._answers.set()
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._is_alive = True

    @property
    def url(self) -> str:
        """Base URL, for WANDB_BASE_URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def run(self) -> StubRun:
        """The only run."""
        (run,) = self.runs.values()
        return run

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.die()

    def die(self) -> None:
        """Close the socket: later connections are refused, open ones are cut."""
        if self._is_alive:
            self._is_alive = False
            self._answers.set()
            self._server.shutdown()
            self._server.server_close()

    def hang(self) -> None:
        """Accept connections and requests, and never answer, until `die`."""
        self._answers.clear()

    def graphql(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one GraphQL request."""
        match = _OPERATION.search(body["query"])
        name = match[1] if match else ""
        self.calls.append(name)
        operation = self.operations.get(name)
        if operation is None:
            return {"data": None, "errors": [{"message": f"the stub knows no operation {name!r}"}]}
        return {"data": dict(operation(body.get("variables") or {}))}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON content of the answer to one request."""
        self._answers.wait()
        if not self._is_alive:
            raise ConnectionAbortedError
        if self.status is not None:
            return self.status, {"errors": [{"message": f"answered {self.status} as ordered"}]}
        if path == "/graphql":
            return 200, self.graphql(json.loads(body))
        if (stream := _FILE_STREAM.match(path)) and method == "POST":
            self._stream(self.runs[stream[3]], json.loads(body))
            return 200, {}
        if (upload := _UPLOAD.match(path)) and method == "PUT":
            self.runs[upload[1]].files[unquote(upload[2])] = body
            return 200, {}
        return 404, {"error": f"the stub has no {path}"}

    def _stream(self, run: StubRun, body: Mapping[str, Any]) -> None:
        run.stream(body)
        if body.get("complete"):
            self._resumed.discard(run.name)

    def _resume_status(self, variables: Variables) -> Mapping[str, Any]:
        run = self.runs.get(variables["name"])
        self._resumed.add(variables["name"])
        project = {"id": "project", "name": variables.get("project"), "entity": {"id": "entity", "name": ENTITY}}
        return {"model": {**project, "bucket": run.resume_status() if run else None}}

    def _upsert_bucket(self, variables: Variables) -> Mapping[str, Any]:
        name = variables.get("name") or variables["id"]
        is_new = name not in self.runs
        project, entity = variables.get("project") or "uncategorized", variables.get("entity") or ENTITY
        run = self.runs.setdefault(name, StubRun(name, project, entity))
        run.update(variables)
        bucket = {
            "id": name,
            "name": name,
            "displayName": run.fields.get("displayName"),
            "description": None,
            "config": run.fields.get("config") or "{}",
            "sweepName": None,
            "project": {"id": "project", "name": run.project, "entity": {"id": "entity", "name": run.entity}},
            "historyLineCount": len(run.lines) if name in self._resumed else 0,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _create_run_files(self, variables: Variables) -> Mapping[str, Any]:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}


def _viewer(variables: Variables) -> Mapping[str, Any]:
    del variables
    teams = {"edges": [{"node": {"name": ENTITY}}]}
    return {"viewer": {"id": "user", "entity": ENTITY, "username": "ada", "email": "", "flags": "{}", "teams": teams}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stub: WandbStub, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.stub = stub
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is none of the stub's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, content = self.server.stub.answer(self.command, self.path.partition("?")[0], body)
        except ConnectionAbortedError:
            self.close_connection = True
            return
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""
