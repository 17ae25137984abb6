"""A stand-in for a wandb server: it keeps history by run as a server does, each step once.

It knows what wandb's own process asks to begin, to go on and to send a run. Its answers have the
fields that are asked for; what they mean was read off the queries and wandb's documentation.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """By a run's id: the lines of its history, what it was begun with, how it ended each time."""

    def __init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.exit_codes: dict[str, list[int]] = {}
        self.url = ""

    def graphql(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("name") or given.get("run")
        if operation == "Viewer":
            return {"viewer": {"id": "u", "entity": "team", "username": "me", "flags": "{}"}}
        if operation == "RunResumeStatus":
            project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "team"}}
            return {"model": project | {"bucket": self._held(name)}}
        if operation == "UpsertBucket":
            inserted = name not in self.history
            self.history.setdefault(name, [])
            self.about.setdefault(name, given)
            project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "team"}}
            bucket = {"id": name, "name": name, "displayName": given["displayName"]}
            bucket |= {"project": project, "historyLineCount": len(self.history[name])}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if operation == "CreateRunFiles":
            files = [{"name": one, "uploadUrl": f"{self.url}/put/{one}"} for one in given["files"]]
            return {"createRunFiles": {"runID": name, "uploadHeaders": [], "files": files}}
        return {}

    def _held(self, name: str) -> dict[str, Any] | None:
        if name not in self.history:
            return None
        lines = self.history[name]
        tail = json.dumps([json.dumps(line) for line in lines[-1:]])
        return {
            **{"id": name, "name": name, "displayName": name, "summaryMetrics": "{}"},
            **{"historyLineCount": len(lines), "historyTail": tail},
            **{"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"},
            **{"config": "{}", "tags": [], "notes": None, "wandbConfig": '{"t": 1}'},
        }

    def stream(self, name: str, told: dict[str, Any]) -> None:
        found = (told.get("files") or {}).get("wandb-history.jsonl")
        if found is not None:
            lines = self.history[name]
            del lines[found["offset"] :]  # what comes twice replaces itself
            lines.extend(map(json.loads, found["content"]))
        if told.get("complete"):
            self.exit_codes.setdefault(name, []).append(told["exitcode"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def handle_any(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            asked = json.loads(data)
            given = asked.get("variables") or {}
            answer = {"data": self.server_of.graphql(asked["operationName"], given)}
        elif self.path.endswith("/file_stream"):
            self.server_of.stream(self.path.split("/")[-2], json.loads(data))
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = handle_any


class Quiet(ThreadingHTTPServer):
    """wandb's process leaves connections as they are when it ends."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def wandb_standin() -> Iterator[Server]:
    """Serve on a port of this machine."""
    held = Server()
    server = Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"server_of": held}))
    held.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
