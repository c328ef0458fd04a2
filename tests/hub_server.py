"""A local stand-in for the Hugging Face hub: data sets, branches, commits, LFS uploads and downloads over HTTP.

It speaks what ``huggingface_hub`` asks for; it is not the hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LFS = (".safetensors", ".png")
TOKEN = "hf_ofthetests"


class Repository:
    """Files by commit, commits by branch."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {"0" * 40: {}}
        self.branches = {"main": "0" * 40}
        self.listed: dict[str, int | None] = {}  # sizes that are listed, where they are others than the true ones

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        commit = hashlib.sha1(content + self.branches[branch].encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        return commit


class HubServer:
    """The server, its repositories, and what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self.answer_to("HEAD")

    def do_GET(self) -> None:
        self.answer_to("GET")

    def do_POST(self) -> None:
        self.answer_to("POST")

    def do_PUT(self) -> None:
        self.answer_to("PUT")

    def answer_to(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{method} {path}")
        body = self.body()
        if method in ("POST", "PUT") and not path.startswith("/lfs/") and TOKEN not in self.headers["Authorization"]:
            return self.reply(401, {"error": "Invalid username or password."})
        for pattern, route in ROUTES.items():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return route(self, body, *found.groups())
        return self.reply(404, {"error": "not here"})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, value: object, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def found(self, name: str, revision: str = "main") -> tuple[Repository, str, dict[str, bytes]] | None:
        """A repository at a revision; answers with the hub's error where there is none."""
        repository = self.hub.repositories.get(name)
        state = repository.at(revision) if repository else None
        if repository is None:
            self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif state is None:
            self.reply(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
        return (repository, *state) if repository and state else None

    def home(self, body: bytes) -> None:
        self.reply(200, b"")

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.endpoint}/datasets/{name}"
        if name in self.hub.repositories:
            return self.reply(409, {"error": "You already created this dataset repo", "url": url})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[name] = Repository(private)
        return self.reply(200, {"url": url, "name": name, "id": "1"})

    def branch(self, body: bytes, name: str, branch: str) -> None:
        repository = self.hub.repositories[name]
        if branch in repository.branches:
            return self.reply(409, {"error": "Reference already exists"})
        repository.branches[branch] = repository.branches["main"]
        return self.reply(200, {})

    def validate(self, body: bytes) -> None:
        head = json.loads(body)["content"].split("---\n")[1]
        wrong = [] if isinstance(yaml.safe_load(head), dict) else [{"message": "no metadata"}]
        self.reply(400 if wrong else 200, {"errors": wrong, "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        paths = [one["path"] for one in json.loads(body)["files"]]
        kinds = ["lfs" if path.endswith(LFS) else "regular" for path in paths]
        files = [{"path": p, "uploadMode": kind, "shouldIgnore": False} for p, kind in zip(paths, kinds)]
        self.reply(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        objects = json.loads(body)["objects"]
        for one in objects:
            if one["oid"] not in self.hub.objects:
                one["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{one['oid']}"}}
        self.reply(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        right = hashlib.sha256(body).hexdigest() == oid
        self.hub.objects |= {oid: body} if right else {}
        self.reply(200 if right else 400, b"")

    def commit(self, body: bytes, name: str, branch: str) -> None:
        found = self.found(name, branch)
        if found is None:
            return
        repository, _, before = found
        files = dict(before)
        for line in body.splitlines():
            one = json.loads(line)
            value = one["value"]
            if one["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif one["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(branch, files)
        url = f"{self.hub.endpoint}/datasets/{name}/commit/{commit}"
        self.reply(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def info(self, body: bytes, name: str, revision: str | None) -> None:
        if (found := self.found(name, revision or "main")) is None:
            return
        repository, commit, files = found
        sizes = {path: repository.listed.get(path, len(data)) for path, data in files.items()}
        siblings = [{"rfilename": path, "size": size} for path, size in sizes.items()]
        card = files.get("README.md", b"---\n{}\n---\n").decode().split("---\n")[1]
        about = {"private": repository.private, "siblings": siblings, "cardData": yaml.safe_load(card)}
        self.reply(200, {"id": name, "sha": commit, "downloads": 0, "likes": 0, "tags": []} | about)

    def tree(self, body: bytes, name: str, revision: str) -> None:
        if found := self.found(name, revision):
            files = found[2].items()
            oids = {path: hashlib.sha1(data).hexdigest() for path, data in files}
            self.reply(200, [{"type": "file", "path": p, "size": len(d), "oid": oids[p]} for p, d in files])

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        if (found := self.found(name, revision)) is None:
            return None
        _, commit, files = found
        if path not in files:
            return self.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        return self.reply(200, files[path], ETag=etag, X_Repo_Commit=commit)


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES: dict[str, Any] = {
    "(?:HEAD|GET) /?": _Handler.home,
    "POST /api/repos/create": _Handler.create,
    "POST /api/validate-yaml": _Handler.validate,
    f"POST /api/datasets/{NAME}/branch/(.+)": _Handler.branch,
    f"POST /api/datasets/{NAME}/preupload/(.+)": _Handler.preupload,
    f"POST /datasets/{NAME}.git/info/lfs/objects/batch": _Handler.batch,
    r"PUT /lfs/(\w+)": _Handler.put,
    f"POST /api/datasets/{NAME}/commit/(.+)": _Handler.commit,
    f"GET /api/datasets/{NAME}(?:/revision/(.+))?": _Handler.info,
    f"GET /api/datasets/{NAME}/tree/([^/]+)": _Handler.tree,
    f"(?:GET|HEAD) /datasets/{NAME}/resolve/([^/]+)/(.+)": _Handler.resolve,
}
