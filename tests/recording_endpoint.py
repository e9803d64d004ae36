"""A chat endpoint on this machine that records what it is asked and answers by a script."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Scripted:
    """How a request is answered."""

    content: str | None = None
    """What the model says; None for as many questions as are asked for."""
    status: int = 200
    body: str | None = None
    """The whole body, in place of a completion."""
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    delay_s: float = 0.0
    finish_reason: str = "stop"
    usage: Mapping[str, int] | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 50})
    hang_up: bool = False
    """Whether the connection is closed in the middle of the body."""
    drip_s: float = 0.0
    """Time between one byte of the body and the next."""


def refusal(status: int, message: str, **fields: Any) -> Scripted:
    return Scripted(status=status, body=json.dumps({"error": {"message": message}}), **fields)


@dataclass
class Endpoint:
    url: str
    script: Callable[[int, dict[str, Any]], Scripted]
    """Called with the number of the chat request, from 0, and its body."""
    models: Scripted = field(default_factory=lambda: Scripted(body=json.dumps({"data": [{"id": "tiny"}]})))
    models_below: str | None = None
    """The only path that the list of models is found below; None for any."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of the chat requests."""
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sections(self) -> list[str]:
        """The heading of the section in each chat request."""
        return [heading_in(body) for body in self.asked]


def user_message(body: dict[str, Any]) -> str:
    text = body["messages"][-1]["content"]
    assert isinstance(text, str)
    return text


def heading_in(body: dict[str, Any]) -> str:
    found = re.search(r"^Headings: (?:.* > )?(.*)$", user_message(body), re.MULTILINE)
    assert found is not None
    return found[1]


def good_content(body: dict[str, Any]) -> str:
    """As many questions of each kind as the prompt asks for, each naming the section."""
    wanted = re.findall(r"^- (\d+) of kind (\w+):", user_message(body), re.MULTILINE)
    heading = heading_in(body)
    items = [
        {"kind": kind, "query": f"{kind} {number}: how is the {heading} done?"}
        for count, kind in wanted
        for number in range(int(count))
    ]
    return json.dumps({"questions": items})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: in two, the second waits 40 ms for the first one's receipt
    endpoint: Endpoint

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.endpoint.paths.append(self.path)
        below = self.endpoint.models_below
        found = below is None or self.path == f"{below}/models"
        self._send(self.endpoint.models if found else refusal(404, "not found"), {})

    def do_POST(self) -> None:
        endpoint = self.endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with endpoint.lock:
            number = len(endpoint.asked)
            endpoint.asked.append(body)
            endpoint.paths.append(self.path)
            endpoint.keys.append(self.headers.get("Authorization"))
            endpoint.times.append(time.monotonic())
            endpoint.at_once += 1
            endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
        try:
            scripted = endpoint.script(number, body)
            time.sleep(scripted.delay_s)
        finally:
            with endpoint.lock:
                endpoint.at_once -= 1
        self._send(scripted, body)

    def _send(self, scripted: Scripted, request: dict[str, Any]) -> None:
        body = scripted.body
        if body is None:
            content = good_content(request) if scripted.content is None else scripted.content
            choice = {"index": 0, "message": {"role": "assistant", "content": content}}
            completion = {"choices": [choice | {"finish_reason": scripted.finish_reason}]}
            body = json.dumps(completion | ({} if scripted.usage is None else {"usage": dict(scripted.usage)}))
        sent = body.encode()
        with contextlib.suppress(OSError):  # a client that was killed
            self.send_response(scripted.status)
            for name, value in {
                "Content-Type": scripted.kind,
                "Content-Length": str(len(sent)),
                **scripted.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            for byte in sent if scripted.drip_s else b"":
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(scripted.drip_s)
            self.wfile.write(b"" if scripted.drip_s else sent[: len(sent) // 2] if scripted.hang_up else sent)
            self.wfile.flush()
        if scripted.hang_up:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextlib.contextmanager
def recording(
    script: Callable[[int, dict[str, Any]], Scripted] = lambda number, body: Scripted(),
) -> Iterator[Endpoint]:
    """Serve on a free port of the loopback interface until the end of the block."""
    handler = type("Bound", (Handler,), {})
    server = Server(("127.0.0.1", 0), handler)
    handler.endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}", script)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield handler.endpoint  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
