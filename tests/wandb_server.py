"""A stand-in for W&B's server on this machine's own loopback, which keeps what it is sent; see ``WandBServer``."""

import gzip
import json
import os
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

USER, WHEN = "tester", "2025-01-01T00:00:00Z"


@dataclass
class Kept:
    """A run as the server has it. Without an exit code it is running, or after minutes without a sign of life
    crashed, as W&B calls it."""

    id: str
    project: str = ""
    group: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    def stream(self, sent: dict[str, Any]) -> None:
        """Takes what a client streams: lines of files from an offset on, and at the end its exit code."""
        for name, part in sent.get("files", {}).items():
            lines = [json.loads(line) for line in part["content"]] if name.startswith("wandb-") else []
            if name == "wandb-history.jsonl":
                self.rows[part["offset"] :] = lines
            elif name == "wandb-summary.json":
                self.summary = lines[-1]
        self.exit_code = sent.get("exitcode") if sent.get("complete") else None

    def upsert(self, asked: dict[str, Any]) -> None:
        """Takes what a client says of the run: anew, or more of it."""
        for key, sent in (
            ("project", "project"),
            ("group", "groupName"),
            ("name", "displayName"),
            ("tags", "tags"),
        ):
            setattr(self, key, asked.get(sent) or getattr(self, key))
        config = json.loads(asked.get("config") or "{}")
        self.config |= {key: held["value"] for key, held in config.items()}
        self.summary |= json.loads(asked.get("summaryMetrics") or "{}")

    def bucket(self) -> dict[str, Any]:
        """What GraphQL tells of a run; a client resumes from it."""
        return {
            "id": f"bucket-{self.id}",
            "name": self.id,
            "displayName": self.name,
            "config": json.dumps({key: {"value": value} for key, value in self.config.items()}),
            "summaryMetrics": json.dumps(self.summary),
            "historyTail": json.dumps([json.dumps(row) for row in self.rows[-1:]]),
            "eventsTail": "[]",
            "historyLineCount": len(self.rows),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "tags": self.tags,
            "wandbConfig": json.dumps({"t": 1}),
            "project": {"id": "project", "name": self.project, "entity": {"id": USER, "name": USER}},
        }


class Http(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128  # a client sends many files at once

    def handle_error(self, *_: Any) -> None:
        """Silence: a client that is killed leaves its connections as they are."""


class WandBServer:
    """``with WandBServer() as server``: at ``server.url``, until the block ends.

    runs: by id. views: saved reports and workspaces, each the variables of its mutation with ``spec`` read.
    artifacts: the names of those that were logged; a table is one, beside the file in its run.
    asked: the name of every GraphQL operation. requests: every one, also to other hosts where it is the proxy.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Kept] = {}
        self.views: list[dict[str, Any]] = []
        self.projects: dict[str, None] = {}
        self.artifacts: list[str] = []
        self.asked: list[str] = []
        self.requests: list[str] = []
        self.lock = Lock()
        self.http = Http(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "WandBServer":
        Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/graphql":
            asked = json.loads(body)
            name = re.findall(r"(?:query|mutation)\s+(\w+)", asked["query"])[0]
            self.asked.append(name)
            found = self.graphql(name, asked.get("variables") or {})
            return {"data": found} if found else {"errors": [{"message": f"this stand-in knows no {name}"}]}
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            self.runs[stream[1]].stream(json.loads(body))
        elif put := re.fullmatch(r"/stored/([^/]+)/(.+)", path):
            self.runs[put[1]].files[put[2]] = body
        return {}

    def graphql(self, name: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to an operation of the client's; None: it is not known here."""
        owner = {"id": USER, "name": USER}
        match name:
            case "Viewer" | "GetDefaultEntity":
                empty: dict[str, Any] = {"edges": []}
                viewer = {"id": USER, "entity": USER, "username": USER, "email": "", "flags": "{}"}
                return {"viewer": {**viewer, "admin": False, "teams": empty, "apiKeys": empty}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "OrganizationCoreWeaveOrganizationID":
                return {"entity": {"organization": None}}
            case "RunResumeStatus":
                run = self.runs.get(asked["name"])
                model = {"id": "project", "name": asked["project"], "entity": owner}
                return {"model": model | {"bucket": run.bucket() if run else None}}
            case "UpsertBucket":
                new = asked["name"] not in self.runs
                run = self.runs.setdefault(asked["name"], Kept(asked["name"]))
                run.upsert(asked)
                self.projects |= {run.project: None}
                return {"upsertBucket": {"bucket": run.bucket(), "inserted": new}}
            case "CreateRunFiles":
                urls = {n: f"{self.url}/stored/{asked['run']}/{n}" for n in asked["files"]}
                files = [{"name": n, "uploadUrl": url} for n, url in urls.items()]
                return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":  # says that it has the files already, so that they are not sent twice
                self.artifacts.append(asked["input"]["artifactCollectionName"])
                latest = {"latestArtifact": {"id": "artifact"}}
                known = {"id": "artifact", "state": "COMMITTED", "artifactSequence": latest}
                return {"createArtifact": {"artifact": known}}
            case "GetProjects":
                of = {"entityName": USER, "createdAt": WHEN, "isBenchmark": False, "user": None}
                edges = [{"cursor": n, "node": {"id": n, "name": n, **of}} for n in self.projects]
                return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}
            case "ProjectInternalId":
                there = asked["projectName"] in self.projects
                return {"project": {"id": "project", "internalId": "1"} if there else None}
            case "upsertView" | "UpsertView2":
                self.views.append(asked | {"spec": json.loads(asked["spec"])})
                project = {"id": "project", "name": asked["projectName"], "entityName": asked["entityName"]}
                view = {"id": f"view{len(self.views)}", "project": project, "updatedAt": WHEN}
                return {"upsertView": {"view": asked | view, "inserted": True}}
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                server.requests.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip" and not self.path.startswith("/stored"):
                    body = gzip.decompress(body)
                with server.lock:
                    said = json.dumps(server.answer(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = do_PUT = do_CONNECT = respond  # noqa: N815

            def log_message(self, *_: Any) -> None: ...

        return Handler


def apart(monkeypatch: Any, folder: Path, server: WandBServer | None = None, *, login: bool = True) -> None:
    """What W&B would find on this machine is not there: its files lie in ``folder``, nobody is logged in but at the
    server given, and whatever goes to other hosts goes there too, as to a proxy."""
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    for key in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{key}", str(folder / "wandb_of_the_machine"))
    monkeypatch.setenv("NETRC", str(folder / "netrc"))
    if server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for key in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(key, server.url)
        for key in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(key, "127.0.0.1")
        if login:
            monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
