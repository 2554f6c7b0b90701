"""A stand-in for Hugging Face's HTTP interface on the loopback, as far as publishing and reading a model
need it: repositories, commits, weights by Git LFS's protocol with their SHA-256, files by revision, weights
behind a redirection to another place and in pieces.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


class Hub:
    """commits   of each repository, the newest last: (identifier, {path: bytes})
    asked     methods and paths in order
    objects   what Git LFS stores, by SHA-256
    cuts      after how many bytes the next answers with weights break off; empty where none does
    store     address of the objects
    """

    def __init__(self):
        self.commits, self.asked, self.private = {}, [], {}
        self.objects, self.cuts, self.store = {}, [], ""

    def files(self, name, revision="main"):
        for identifier, files in reversed(self.commits.get(name, [])):
            if revision in ("main", identifier):
                return identifier, files
        return None, {}

    def commit(self, name, changed):
        _, files = self.files(name)
        files = {**files, **changed}
        content = json.dumps({k: hashlib.sha1(v).hexdigest() for k, v in sorted(files.items())})
        identifier = hashlib.sha1(f"{content}{len(self.commits[name])}".encode()).hexdigest()
        self.commits[name].append((identifier, files))
        return identifier


def mode(path):
    """How the hub takes a file: those that its .gitattributes name go by Git LFS."""
    return "lfs" if path.endswith((".safetensors", ".onnx")) else "regular"


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def answer(self, code, body=b"", headers=()):
            if isinstance(body, (dict, list)):
                body = json.dumps(body).encode()
            self.send_response(code)
            for key, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        @property
        def here(self):
            return f"http://{self.headers['Host']}"

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_POST(self):
            path, body = urlparse(self.path).path, self.body()
            hub.asked.append(f"POST {path}")
            if path == "/api/repos/create":
                given = json.loads(body)
                name = "/".join(filter(None, (given.get("organization"), given["name"])))
                name = name if "/" in name else f"owner/{name}"
                if name in hub.commits:
                    return self.answer(409, {"error": "exists", "url": f"{self.here}/{name}"})
                hub.commits[name], hub.private[name] = (
                    [],
                    bool(given.get("private")) or given.get("visibility") == "private",
                )
                hub.commit(name, {".gitattributes": b""})
                return self.answer(200, {"url": f"{self.here}/{name}", "id": name})
            if path == "/api/validate-yaml":
                given = json.loads(body)["content"]
                wrong = [] if given.startswith("---\nlibrary_name: ") else [{"message": "no front matter"}]
                return self.answer(400 if wrong else 200, {"errors": wrong, "warnings": []})
            if path.endswith(".git/info/lfs/objects/batch"):
                wanted = json.loads(body)["objects"]
                where = [
                    {**one, "actions": {"upload": {"href": f"{hub.store}/lfs/{one['oid']}"}}}
                    for one in wanted
                ]
                return self.answer(200, {"transfer": "basic", "objects": where})
            name, what = path.removeprefix("/api/models/").rsplit("/", 2)[0], path.rsplit("/", 2)[1]
            if what == "preupload":
                files = json.loads(body)["files"]
                modes = [
                    {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in files
                ]
                return self.answer(200, {"files": modes})
            if what == "commit":
                lines = [json.loads(line) for line in body.splitlines() if line]
                changed = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                for line in (line["value"] for line in lines if line["key"] == "lfsFile"):
                    if line["oid"] not in hub.objects:
                        return self.answer(400, {"error": f"{line['path']} was not uploaded"})
                    changed[line["path"]] = hub.objects[line["oid"]]
                made = hub.commit(name, changed)
                url = f"{self.here}/{name}/commit/{made}"
                return self.answer(200, {"commitUrl": url, "commitOid": made, "hookOutput": ""})
            return self.answer(404, {"error": path})

        def do_PUT(self):
            path, body = urlparse(self.path).path, self.body()
            hub.asked.append(f"PUT {path}")
            digest = hashlib.sha256(body).hexdigest()
            if path != f"/lfs/{digest}":
                return self.answer(400, {"error": f"these bytes are {digest}"})
            hub.objects[digest] = body
            return self.answer(200)

        def stored(self, content):
            """Weights, from the byte that the client has not yet; they may break off."""
            first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(content) - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            cut = hub.cuts.pop(0) if hub.cuts else None
            self.wfile.write(content[first:][:cut])
            self.close_connection = cut is not None

        def do_GET(self):
            path = unquote(urlparse(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if path.startswith("/lfs/"):
                return self.stored(hub.objects[path.removeprefix("/lfs/")])
            if path == "/api/whoami-v2":
                return self.answer(200, {"name": "owner", "type": "user"})
            if path.startswith("/api/models/"):
                name = "/".join(path.split("/")[3:5])
                revision = path.split("/")[6] if "/revision/" in path else "main"
                made, files = hub.files(name, revision)
                if made is None:
                    return self.answer(404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})
                siblings = [{"rfilename": file} for file in files]
                return self.answer(200, {"id": name, "modelId": name, "sha": made, "siblings": siblings})
            if "/resolve/" not in path:
                return self.answer(404, {"error": path})
            _, owner, repo, _, revision, *file = path.split("/")
            made, files = hub.files(f"{owner}/{repo}", revision)
            if made is None:
                code = "RevisionNotFound" if f"{owner}/{repo}" in hub.commits else "RepoNotFound"
                return self.answer(404, b"", {"X-Error-Code": code})
            if (file := "/".join(file)) not in files:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": made})
            if mode(file) == "lfs":
                digest, size = hashlib.sha256(files[file]).hexdigest(), str(len(files[file]))
                hub.objects[digest] = files[file]
                headers = {"X-Repo-Commit": made, "X-Linked-ETag": f'"{digest}"', "X-Linked-Size": size}
                return self.answer(302, b"", {**headers, "Location": f"{hub.store}/lfs/{digest}"})
            tag = hashlib.sha1(files[file]).hexdigest()
            headers = {"X-Repo-Commit": made, "ETag": f'"{tag}"', "Accept-Ranges": "none"}
            return self.answer(200, files[file], headers)

        do_HEAD = do_GET

    return Handler


@contextmanager
def hub_stand_in():
    """(Hub, its address). Weights lie at another port, as the hub's lie at another host: its client does not
    expect its own headers there.
    """
    hub = Hub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(hub)) for _ in range(2)]
    places = [f"http://127.0.0.1:{server.server_port}" for server in servers]
    hub.store = places[1]
    quick = {"poll_interval": 0.02}
    threads = [threading.Thread(target=s.serve_forever, kwargs=quick, daemon=True) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub, places[0]
    finally:
        for server, thread in zip(servers, threads):
            server.shutdown()
            server.server_close()
            thread.join()
