"""A Hub on this machine: the endpoints that `huggingface_hub`, `transformers` and `datasets` use, over plain HTTP.

Repositories, branches and files live in memory. Commits are whole or not at all, as on the Hub. `faults` makes a route
fail: `{"commit": 503}` answers with a status, `{"lfs": "drop"}` closes the connection after part of the body.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


TOKEN = "hf_loopbackTokenThatMustNotLeak"
USER = "someone"
LARGE = (".safetensors", ".parquet", ".png", ".jpg")
ROUTE = re.compile(r"^/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.*))?)?$")
RESOLVE = re.compile(r"^/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
LFS_BATCH = re.compile(r"^/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes], title: str) -> str:
        parent = self.refs.get(branch)
        name = hashlib.sha1(repr((parent, len(self.commits), title, sorted(files))).encode()).hexdigest()
        self.commits[name], self.parents[name], self.titles[name] = files, parent, title
        self.refs[branch] = name
        return name

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


class LoopbackHub(ThreadingHTTPServer):
    """Use as a context manager; `endpoint` is its address."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: dict[str, int | str] = {}
        self.seen: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def state(self) -> dict:
        """Every branch of every repository with the commit it points to, and its visibility."""
        return {name: (dict(repo.refs), repo.private) for name, repo in self.repositories.items()}

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        repo = self.repositories[kind, repo_id]
        return repo.commits[repo.find(revision)]


class _Answered(Exception):  # noqa: N818 (nothing is wrong)
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 (http.server's names)

    def _answer(self):
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        path = split.path if "/resolve/" in split.path else split.path.rstrip("/")
        self.server.seen.append((self.command, path))
        try:
            with self.server.lock if not path.startswith("/lfs/") else threading.Lock():
                self._route(path)
        except (_Answered, ConnectionError):
            pass

    # --- what comes and goes ---
    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self):
        return json.loads(self._body() or b"{}")

    def _send(self, status: int, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        raise _Answered

    def _miss(self, code: str, status: int = 404):
        self._body() if self.command in ("POST", "PUT", "DELETE") else None
        self._send(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def _fault(self, route: str):
        fault = self.server.faults.get(route)
        if fault == "drop":
            self.rfile.read(min(64, int(self.headers.get("Content-Length") or 64)))
            self.close_connection = True
            self.connection.close()
            raise _Answered
        if fault:
            self._body()
            self._send(int(fault), {"error": f"fault of {route}"})

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _require_token(self):
        if not self._known():
            self._body()
            self._send(401, {"error": "Invalid username or password."}, X_Error_Message="Invalid credentials")

    # --- routes ---
    def _route(self, path: str):
        if path.startswith("/lfs/"):
            self._fault("lfs")
            content = self._body()
            if hashlib.sha256(content).hexdigest() == path.rpartition("/")[2]:
                self.server.blobs[path.rpartition("/")[2]] = content
                self._send(200)
            self._send(400, {"error": "the content has another SHA-256"})
        if path == "/api/whoami-v2":
            self._fault("whoami")
            self._require_token()
            role = {"accessToken": {"role": "write", "displayName": "loopback"}, "type": "access_token"}
            self._send(200, {"type": "user", "name": USER, "orgs": [], "auth": role})
        if path == "/api/validate-yaml":
            self._json()
            self._send(200, {"errors": [], "warnings": []})
        if path in ("/api/repos/create", "/api/repos/delete"):
            self._repositories(path)
        if match := LFS_BATCH.match(path):
            self._require_token()
            objects = [
                {"oid": one["oid"], "size": one["size"]}
                | (
                    {}
                    if one["oid"] in self.server.blobs
                    else {"actions": {"upload": {"href": f"{self.server.endpoint}/lfs/{one['oid']}"}}}
                )
                for one in self._json()["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})
        if match := RESOLVE.match(path):
            self._resolve(match[1] or "model", match[2], unquote(match[3]), unquote(match[4]))
        if match := ROUTE.match(path):
            self._of_repository(match[1], match[2], match[3], unquote(match[4] or ""))
        self._miss("NotFound")

    def _repositories(self, path: str):
        self._fault("create" if path.endswith("create") else "delete")
        self._require_token()
        wanted = self._json()
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        kind = wanted.get("type") or "model"
        if path.endswith("delete"):
            if self.server.repositories.pop((kind, name), None) is None:
                self._send(404, {"error": "no such repository"}, X_Error_Code="RepoNotFound")
            self._send(200, {})
        if name.partition("/")[0] != USER:
            self._send(403, {"error": f"no right to create {name}"}, X_Error_Message="no right to create this")
        prefix = "" if kind == "model" else f"{kind}s/"
        url = {"url": f"{self.server.endpoint}/{prefix}{name}", "name": name}
        if (kind, name) in self.server.repositories:
            self._send(409, url | {"error": "You already created this repo"})
        repo = Repository(bool(wanted.get("private") or wanted.get("visibility") == "private"))
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.server.repositories[kind, name] = repo
        self._send(200, url)

    def _repo(self, kind: str, name: str) -> Repository:
        repo = self.server.repositories.get((kind, name))
        if repo is None or (repo.private and not self._known()):
            self._miss("RepoNotFound", 404 if self._known() else 401)
        return repo

    def _resolve(self, kind: str, name: str, revision: str, path: str):
        repo = self._repo(kind, name)
        commit = repo.find(revision)
        if commit is None:
            self._miss("RevisionNotFound")
        content = repo.commits[commit].get(path)
        if content is None:
            self._send(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        headers = {"ETag": f'"{_oid(path, content)}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            self._send(206, content[first : last + 1], **headers)
        self._send(200, content, **headers)

    def _of_repository(self, kind: str, name: str, action: str | None, rest: str):
        repo = self._repo(kind, name)
        if self.command != "GET" and action != "paths-info":
            self._require_token()
        if action in (None, "revision"):
            self._fault("info")
            commit = self._commit_of(repo, rest or "main")
            siblings = [{"rfilename": path} for path in sorted(repo.commits[commit])]
            self._send(200, {"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []})
        if action == "refs":
            branches = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": c} for b, c in repo.refs.items()]
            self._send(200, {"branches": branches, "converts": [], "tags": []})
        if action == "commits":
            commit, found = self._commit_of(repo, rest), []
            while commit:
                found.append({"id": commit, "title": repo.titles[commit], "message": "", "authors": [],
                              "date": "2026-01-01T00:00:00.000Z"})  # fmt: skip
                commit = repo.parents[commit]
            self._send(200, found)
        if action == "tree":
            self._tree(repo, rest)
        if action == "paths-info":
            asked = parse_qs(self._body().decode())["paths"]
            files = repo.commits[self._commit_of(repo, rest)]
            found = [_entry(path, files[path]) for path in asked if path in files]
            folders = [p for p in asked if p not in files and any(f.startswith(f"{p}/") for f in files)]
            self._send(200, found + [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders])
        if action == "branch":
            if self.command == "DELETE":
                repo.refs.pop(rest)
            elif rest in repo.refs:
                self._body()
                self._send(409, {"error": "Reference already exists"})
            else:
                repo.refs[rest] = self._json().get("startingPoint") or repo.refs["main"]
            self._send(200, {})
        if action == "preupload":
            self._fault("preupload")
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                 "shouldIgnore": False}
                for one in self._json()["files"]
            ]  # fmt: skip
            self._send(200, {"files": files})
        if action == "commit":
            self._commit(repo, kind, name, rest)
        self._miss("NotFound")

    def _commit_of(self, repo: Repository, revision: str) -> str:
        commit = repo.find(revision)
        if commit is None:
            self._miss("RevisionNotFound")
        return commit

    def _tree(self, repo: Repository, rest: str):
        revision, _, folder = rest.partition("/")
        files = repo.commits[self._commit_of(repo, revision)]
        inside = {path: content for path, content in files.items() if path.startswith(f"{folder}/") or not folder}
        if folder and not inside:
            self._miss("EntryNotFound")
        start = len(folder) + 1 if folder else 0
        found, folders = [], set()
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        for path, content in sorted(inside.items()):
            parts = path[start:].split("/")
            for depth in range(1, len(parts) if deep else min(2, len(parts))):
                folders.add(path[:start] + "/".join(parts[:depth]))
            if deep or len(parts) == 1:
                found.append(_entry(path, content))
        self._send(200, [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in sorted(folders)] + found)

    def _commit(self, repo: Repository, kind: str, name: str, branch: str):
        self._fault("commit")
        lines = [json.loads(line) for line in self._body().splitlines()]
        if branch not in repo.refs:
            self._miss("RevisionNotFound")
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, repo.refs[branch]):
            self._send(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(repo.commits[repo.refs[branch]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    self._send(400, {"error": f"{value['path']} was not uploaded"})
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif line["key"] == "deletedFolder":
                files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
        commit = repo.commit(branch, files, header["summary"])
        prefix = "" if kind == "model" else f"{kind}s/"
        url = f"{self.server.endpoint}/{prefix}{name}/commit/{commit}"
        self._send(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})


def _oid(path: str, content: bytes) -> str:
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(content), "oid": _oid("", content)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _oid(path, content), "size": len(content), "pointerSize": 130}
    return entry
