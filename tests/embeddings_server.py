"""An embeddings endpoint on this machine, which a test gives the vectors and the faults."""

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np

from tests.recording_endpoint import Server

Embed = Callable[[dict[str, Any], Sequence[str]], "np.ndarray"]
"""The request's body and its texts -> their vectors."""


class Refusal(Exception):
    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


@dataclass
class Embeddings:
    embed: Embed
    url: str = ""
    models: list[str] = field(default_factory=lambda: ["m"])
    version: dict[str, Any] | None = None
    change: Callable[[dict[str, Any]], Any] = lambda answer: answer
    """Changes an answer before it is sent."""
    raw: Callable[[int], tuple[int, str, str] | None] = lambda number: None
    """Status, type and body in place of an answer, by the number of the request."""
    search: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    token: str | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    served: Embeddings

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/version" and self.served.version is not None:
            self._send(200, json.dumps(self.served.version))
        elif self.path == "/v1/models":
            self._send(200, json.dumps({"data": [{"id": name} for name in self.served.models]}))
        else:
            self._send(404, json.dumps({"error": {"message": "no such path"}}))

    def do_POST(self) -> None:
        served = self.served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        served.asked.append(body)
        if served.token is not None and self.headers.get("Authorization") != f"Bearer {served.token}":
            self._send(401, json.dumps({"error": {"message": "no token"}}))
            return
        if (given := served.raw(len(served.asked) - 1)) is not None:
            self._send(given[0], given[2], kind=given[1])
            return
        try:
            if self.path == "/search" and served.search is not None:
                self._send(200, json.dumps(served.search(body)))
                return
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            vectors = np.asarray(served.embed(body, texts), np.float32)
        except Refusal as refusal:
            self._send(refusal.status, json.dumps({"error": {"message": str(refusal)}}), **refusal.headers)
            return
        shown = [
            base64.b64encode(vector.astype("<f4").tobytes()).decode()
            if body.get("encoding_format") == "base64"
            else vector.tolist()
            for vector in vectors
        ]
        data = [{"object": "embedding", "index": place, "embedding": value} for place, value in enumerate(shown)]
        self._send(200, json.dumps(served.change({"object": "list", "data": data, "model": body.get("model")})))

    def _send(self, status: int, body: str, kind: str = "application/json", **headers: str) -> None:
        sent = body.encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(sent)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(sent)


@contextlib.contextmanager
def serving(embed: Embed, **given: Any) -> Iterator[Embeddings]:
    """Serve on a free port of the loopback interface until the end of the block."""
    handler = type("Bound", (Handler,), {})
    server = Server(("127.0.0.1", 0), handler)
    handler.served = Embeddings(embed, f"http://127.0.0.1:{server.server_port}", **given)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield handler.served  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
