"""A stand-in for the Hugging Face Hub: its HTTP API, as far as push and pull use it.

Repositories, branches, commits and large files in memory. It follows the Hub in what matters to
us: large files are known by SHA-256 and are not asked for twice, a commit is atomic, it refuses a
parent that is not the head, and revisions stay readable. Xet, tokens and pull requests are not
there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]
_WHEN = "2024-01-01T00:00:00.000Z"
LARGE = (".tar", ".parquet", ".safetensors")  # as the .gitattributes of a new dataset repository


class Hub:
    """What the stand-in holds, for tests to look at.

    Attributes:
        commits: per repository, commit to files; the order is that of the commits.
        branches: per repository, branch to commit.
        large: uploaded large files by SHA-256.
        asked: how often each kind of request came.
        private: per repository.
        broken: a function that may raise for a large file's SHA-256, to break an upload.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.private: dict[str, bool] = {}
        self.broken: Callable[[str], None] = lambda oid: None
        self.lock = threading.RLock()
        self.url = ""

    def create(self, repo: str, private: bool) -> bool:
        with self.lock:
            if repo in self.commits:
                return False
            self.commits[repo], self.branches[repo] = {}, {}
            self.private[repo] = private
            self.commit(repo, "main", {".gitattributes": b"*.tar filter=lfs\n"})
            return True

    def commit(self, repo: str, branch: str, files: Files) -> str:
        number = len(self.commits[repo])
        name = hashlib.sha1(f"{repo} {number}".encode()).hexdigest()
        self.commits[repo][name] = files
        self.branches[repo][branch] = name
        return name

    def resolve(self, repo: str, revision: str) -> str:
        """Raises KeyError."""
        found = self.branches[repo].get(revision, revision)
        if found not in self.commits[repo]:
            raise KeyError(revision)
        return found

    def files(self, repo: str, revision: str = "main") -> Files:
        return self.commits[repo][self.resolve(repo, revision)]


def git_digest(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def info(path: str, data: bytes) -> dict[str, Any]:
    """A file as the Hub's tree and paths-info show it."""
    about: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    if not path.endswith(LARGE):
        return about | {"oid": git_digest(data)}
    sha = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {len(data)}\n"
    lfs = {"oid": sha, "size": len(data), "pointerSize": len(pointer)}
    return about | {"oid": git_digest(pointer.encode()), "lfs": lfs}


def as_datasets(parts: list[str]) -> list[str]:
    """The path of a model's address as a dataset's: the two kinds share their names here."""
    if parts[:2] == ["api", "models"]:
        return ["api", "datasets", *parts[2:]]
    if parts[2:5] == ["info", "lfs", "objects"] or parts[2:3] == ["resolve"]:
        return ["datasets", *parts] if parts[0] not in ("api", "datasets") else parts
    return parts


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers.setdefault("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X_Error_Code": code, "X_Error_Message": message}
        self.answer({"error": message}, status, **headers)

    def handle_any(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        try:
            self.route(as_datasets(path.strip("/").split("/")), data)
        except KeyError as absent:
            code = "EntryNotFound" if "resolve" in path or "/tree/" in path else "RepoNotFound"
            self.refuse(404, code, f"{absent} is not there")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def route(self, parts: list[str], data: bytes) -> None:
        hub = self.hub
        match parts:
            case ["api", "repos", "create"]:
                hub.asked["create"] += 1
                body = json.loads(data)
                name = f"{body.get('organization') or 'me'}/{body['name']}"
                if not hub.create(name, body.get("visibility") == "private"):
                    return self.answer(
                        {"error": "exists", "url": f"{hub.url}/datasets/{name}"}, 409
                    )
                return self.answer({"url": f"{hub.url}/datasets/{name}", "id": name})
            case ["api", "validate-yaml"]:
                assert json.loads(data)["content"].startswith("---")
                return self.answer({"errors": [], "warnings": []})
            case ["api", "datasets", org, name, "branch", branch]:
                repo = f"{org}/{name}"
                if branch in hub.branches[repo]:
                    return self.refuse(409, "", "Reference already exists")
                start = json.loads(data).get("startingPoint", "main")
                hub.branches[repo][branch] = hub.resolve(repo, start)
                return self.answer({})
            case ["api", "datasets", org, name, "commits", "main"]:
                made = [
                    {"id": c, "title": "", "message": "", "authors": [], "date": _WHEN}
                    for c in reversed(hub.commits[f"{org}/{name}"])
                ]
                return self.answer(made)
            case ["api", "datasets", org, name, "paths-info", revision]:
                files = hub.files(f"{org}/{name}", revision)
                wanted = parse_qs(data.decode())["paths"]
                return self.answer([info(path, files[path]) for path in wanted if path in files])
            case ["api", "datasets", org, name, "tree", revision, *folder]:
                files = hub.files(f"{org}/{name}", revision)
                inside = "".join(f"{part}/" for part in folder)
                found = [info(p, d) for p, d in sorted(files.items()) if p.startswith(inside)]
                if folder and not found:
                    raise KeyError(inside)
                return self.answer(found)
            case ["api", "datasets", org, name, "preupload", revision]:
                files = hub.files(f"{org}/{name}", revision)
                modes = []
                for file in json.loads(data)["files"]:
                    large = file["path"].endswith(LARGE)
                    modes.append(
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if large else "regular",
                            "shouldIgnore": False,
                            "oid": info(file["path"], files[file["path"]])["oid"]
                            if file["path"] in files
                            else None,
                        }
                    )
                return self.answer({"files": modes})
            case ["datasets", _, _, "info", "lfs", "objects", "batch"]:
                objects = []
                for one in json.loads(data)["objects"]:
                    if one["oid"] not in hub.large:
                        one["actions"] = {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}
                    objects.append(one)
                return self.answer({"transfer": "basic", "objects": objects})
            case ["lfs", oid]:
                hub.asked["upload"] += 1
                hub.broken(oid)
                assert hashlib.sha256(data).hexdigest() == oid
                hub.large[oid] = data
                return self.answer(b"")
            case ["api", "datasets", org, name, "commit", branch]:
                return self.commit(f"{org}/{name}", branch, data)
            case ["api", "datasets", org, name, *rest] if not rest or rest[0] == "revision":
                repo = f"{org}/{name}"
                revision = rest[1] if rest else "main"
                if repo in hub.commits and not self._has(repo, revision):
                    return self.refuse(404, "RevisionNotFound", f"no revision {revision}")
                sha = hub.resolve(repo, revision)
                siblings = [{"rfilename": path} for path in sorted(hub.commits[repo][sha])]
                return self.answer({"id": repo, "sha": sha, "siblings": siblings, "tags": []})
            case ["datasets", org, name, "resolve", revision, *path]:
                return self.resolve_file(f"{org}/{name}", revision, "/".join(path))
        raise KeyError("/".join(parts))

    def _has(self, repo: str, revision: str) -> bool:
        return revision in self.hub.branches[repo] or revision in self.hub.commits[repo]

    def resolve_file(self, repo: str, revision: str, path: str) -> None:
        sha = self.hub.resolve(repo, revision)
        data = self.hub.files(repo, revision)[path]
        about = info(path, data)
        headers = {"X_Repo_Commit": sha, "ETag": f'"{about.get("lfs", about)["oid"]}"'}
        headers |= {"Accept_Ranges": "bytes", "Content_Type": "application/octet-stream"}
        wanted = self.headers.get("Range")
        if not wanted:
            return self.answer(data, **headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1 if last else len(data), len(data))
        headers["Content_Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        return self.answer(data[int(first) : end], 206, **headers)

    def commit(self, repo: str, branch: str, data: bytes) -> None:
        hub = self.hub
        with hub.lock:
            hub.asked["commit"] += 1
            lines = [json.loads(line) for line in data.splitlines()]
            files = dict(hub.files(repo, branch))
            for line in lines:
                value = line["value"]
                match line["key"]:
                    case "header":
                        head = hub.branches[repo][branch]
                        if value.get("parentCommit", head) != head:
                            return self.refuse(412, "", "A commit has happened since")
                    case "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    case "lfsFile":
                        files[value["path"]] = hub.large[value["oid"]]
                    case "deletedFile":
                        del files[value["path"]]
            sha = hub.commit(repo, branch, files)
        url = f"{hub.url}/datasets/{repo}/commit/{sha}"
        return self.answer({"commitUrl": url, "commitOid": sha, "success": True})


@contextmanager
def hub_standin() -> Iterator[Hub]:
    """Serve an empty Hub on a port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
