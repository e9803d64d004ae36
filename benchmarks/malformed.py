"""Requests that no client should send, and what a service answers to each of them.

    python benchmarks/malformed.py URL [--token TOKEN] [--number 400] [--all]

Broken JSON, wrong types, empty and huge inputs, numbers that are none, text that is no Unicode, wrong methods, paths,
content types and tokens, and bytes that are not HTTP, sent over sockets as they are. Each must get a 4xx, or, where it
is no HTTP or breaks off, at most a closed connection; never a 5xx, never silence. Prints the answers that are neither,
with --all each of them. The service must listen without TLS.
"""

import argparse
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 60
EMBEDDINGS = "/v1/embeddings"
NESTED = b"[" * 100_000 + b"]" * 100_000


@dataclass(frozen=True)
class Malformed:
    """A request."""

    name: str
    raw: bytes
    """As it goes over the connection."""
    is_http: bool = True
    """Otherwise a connection that is closed without an answer will do."""
    breaks_off: bool = False
    """Whether nothing more is said after that, and the service hears so."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    """0: the connection was closed without an answer; -1: nothing within TIMEOUT_S."""
    content: bytes
    seconds: float


def main() -> None:
    """Send them all and count the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the service, as http://127.0.0.1:8000")
    parser.add_argument("--token", help="that the service wants")
    parser.add_argument("--model", default="", help="name of the model that it serves")
    parser.add_argument("--number", type=int, default=400)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    where = urlsplit(arguments.url)
    rows = []
    for case in malformed(arguments.number, arguments.model, arguments.token, arguments.seed):
        answer = sent(where.hostname or "127.0.0.1", where.port or 80, case)
        rows.append({"case": case.name, "status": answer.status, "seconds": answer.seconds, "good": good(case, answer)})
        if not arguments.json and (arguments.all or not rows[-1]["good"]):
            print(f"{case.name}: {answer.status} after {answer.seconds:.2f} s {answer.content[:200]!r}", flush=True)
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{len(rows)} requests: " + described(Counter(row["status"] for row in rows)))
    print(
        f"{sum(not row['good'] for row in rows)} not as they should be; slowest {max(r['seconds'] for r in rows):.1f} s"
    )


def described(statuses: Mapping[int, int]) -> str:
    """Counts of statuses in words."""
    words = {0: "closed without an answer", -1: "no answer"}
    return ", ".join(f"{count} x {words.get(status, status)}" for status, count in sorted(statuses.items()))


def good(case: Malformed, answer: Answer) -> bool:
    """Whether the answer is a refusal."""
    return 400 <= answer.status < 500 or (answer.status == 0 and not case.is_http)


def malformed(number: int, model: str = "", token: str | None = None, seed: int = 0) -> list[Malformed]:
    """So many different requests; up to about 250 are written down, the others are JSON that breaks off somewhere."""
    head = {} if token is None else {"Authorization": f"Bearer {token}"}
    cases = [*bodies(model, head), *searches(head), *places(model, head), *no_http(model, head)]
    if token is not None:
        cases += strangers(model, token)
    generator = random.Random(seed)
    generator.shuffle(cases)
    whole = json.dumps(
        {"model": model, "input": ["why is the bearing hot?", "a second text"], "encoding_format": "float"}
    )
    different = {case.raw: case for case in cases}
    while len(different) < number:
        start = whole[: generator.randrange(1, len(whole))]
        broken = start + generator.choice(["", "]", "\x00", "}}", '"', ",", "\\", "\n"])
        with suppress(ValueError):
            json.loads(broken)
            continue
        raw = post(EMBEDDINGS, broken.encode(), head)
        different.setdefault(raw, Malformed(f"broken JSON {len(different)}: {broken[-20:]!r}", raw))
    return [*different.values()][:number]


def post(path: str, body: bytes, head: Mapping[str, str], *, method: str = "POST", kind: str | None = None) -> bytes:
    """A request that is sound as HTTP."""
    lines = {"Host": "127.0.0.1", "Content-Type": kind or "application/json", "Content-Length": str(len(body))}
    text = "".join(f"{name}: {value}\r\n" for name, value in {**lines, "Connection": "close", **head}.items())
    return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1") + body


def bodies(model: str, head: Mapping[str, str]) -> Iterator[Malformed]:
    """Bodies that ask for no vectors that there are."""
    sound: dict[str, Any] = {"model": model, "input": "why is the bearing hot?", "encoding_format": "float"}
    odd: dict[str, list[Any]] = {
        "input": [
            None,
            True,
            0,
            -1,
            1.5,
            10**400,
            10**30,
            {},
            {"text": "a"},
            [],
            [[]],
            [None],
            [1.5],
            [True],
            [{}],
            [["a"]],
            "",
            [""],
            ["a", ""],
            ["a", None],
            ["a", 1],
            ["a", ["b"]],
            [1, 2, 3],
            [[1, 2], [3]],
            [-1],
            [10**30],
            "\ud800",
            ["a", "\udfff b"],
            "a " * 2_500_000,
            ["a"] * 10_000,
            ["a " * 100_000] * 50,
        ],
        "model": [0, True, 1.5, [], {}, "no-such-model", "../../etc/passwd", "m" * 100_000, "\x00", "\ud800", [model]],
        "encoding_format": [0, True, [], {}, "", "FLOAT", "int8", "base-64", "float\x00", "f" * 10_000, ["float"]],
        "dimensions": [0, -1, -384, 383.5, 10**30, 1_000_000, "384", "many", True, [], {}, [384], float("inf")],
        "input_type": [0, True, [], {}, "", "Query", "passage\n", "classification?", "q" * 10_000, ["query"]],
    }
    for field, values in odd.items():
        for value in values:
            shown = json.dumps(value)
            body = json.dumps({**sound, field: value}).encode()
            yield Malformed(f"{field}: {shown[:40]} ({len(shown)} characters)", post(EMBEDDINGS, body, head))
    yield from no_bodies(model, head)


def no_bodies(model: str, head: Mapping[str, str]) -> Iterator[Malformed]:
    """What is no JSON, or none of an object that names an input."""
    for body in (
        b"null",
        b"true",
        b"1",
        b'"text"',
        b"[]",
        b"{}",
        b"",
        b" ",
        b"\x00",
        b"{",
        b"}",
        b"[[",
        b"nul",
        b"{'input': 'a'}",
    ):
        yield Malformed(f"body {body!r}", post(EMBEDDINGS, body, head))
    start = b'{"model": ' + json.dumps(model).encode() + b', "input": '
    for name, rest in {
        "NaN": b"NaN}",
        "list with NaN": b"[NaN]}",
        "Infinity": b"-Infinity}",
        "1e999": b"1e999}",
        "octal": b"017}",
        "digits without end": b"9" * 100_000 + b"}",
        "bytes that are not UTF-8": b'"\xff\xfe\xfa"}',
        "half of a character": b'"caf\xc3"}',
        "overlong slash": b'"\xc0\xaf"}',
        "surrogate as bytes": b'"\xed\xa0\x80"}',
        "lone surrogate": b'"\\ud800"}',
        "control character": b'"a\x01b"}',
        "raw line break": b'"a\nb"}',
        "bad escape": b'"\\x41"}',
        "short escape": b'"\\u12"}',
        "comment": b'"a" /* text */}',
        "trailing comma": b'["a",]}',
        "two bodies": b'"a"}{"input": "b"}',
        "nested list": NESTED + b"}",
        "nested object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        "unclosed and nested": b"[" * 200_000,
        "many keys and no input": b"null, " + b", ".join(b'"k%d": 1' % n for n in range(50_000)) + b"}",
    }.items():
        yield Malformed(name, post(EMBEDDINGS, start + rest, head))
    yield Malformed("UTF-16", post(EMBEDDINGS, json.dumps({"input": "a"}).encode("utf-16")[3:], head))
    yield Malformed("no input", post(EMBEDDINGS, json.dumps({"model": model}).encode(), head))
    yield Malformed("form", post(EMBEDDINGS, b"input=why&model=m", head, kind="application/x-www-form-urlencoded"))
    yield Malformed("multipart", post(EMBEDDINGS, b"--x\r\n\r\n--x--", head, kind="multipart/form-data; boundary=x"))
    yield Malformed("XML", post(EMBEDDINGS, b"<input>why</input>", head, kind="text/xml"))
    yield Malformed("said to be gzip", post(EMBEDDINGS, b"\x1f\x8b\x08nothing", {**head, "Content-Encoding": "gzip"}))


def searches(head: Mapping[str, str]) -> Iterator[Malformed]:
    """Searches for nothing; a service without a corpus refuses them as well."""
    sound: dict[str, Any] = {"query": "why is the bearing hot?", "top": 3}
    odd: dict[str, list[Any]] = {
        "query": [None, 0, [], {}, "", ["a"], "a " * 2_500_000, "\ud800", True],
        "top": [0, -1, 1.5, 10**12, 10**40, "three", [], {}, float("nan"), False],
    }
    for field, values in odd.items():
        for value in values:
            shown = json.dumps(value)
            body = json.dumps({**sound, field: value}).encode()
            yield Malformed(f"search, {field}: {shown[:40]} ({len(shown)} characters)", post("/search", body, head))
    for body in (b"", b"null", b"[]", b"{}", b'{"top": 3}', b'{"query": "a"', b'"query"', NESTED, b"\xff\xfe"):
        yield Malformed(f"search, body {body[:20]!r}", post("/search", body, head))


def places(model: str, head: Mapping[str, str]) -> Iterator[Malformed]:
    """Methods and paths that there are not."""
    body = json.dumps({"model": model, "input": "why?"}).encode()
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "BREW", "post"):
        yield Malformed(f"{method} {EMBEDDINGS}", post(EMBEDDINGS, body, head, method=method), is_http=method != "post")
    for path in ("/health", "/ready", "/metrics", "/version"):
        yield Malformed(f"POST {path}", post(path, body, head))
    yield Malformed("GET /search", post("/search", b"", head, method="GET"))
    for path in (
        "/v1", "/v1/", "/v1/embedding", "/v2/embeddings", "/v1/embeddings/1", "/V1/EMBEDDINGS", "/v1/chat/completions",
        "/v1/embeddings%00", "/v1/embeddings;a=b", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/.git/config",
        "/%", "/%zz", "/%ff%fe", "//v1//embeddings", "/docs/../v1", "/" + "a" * 5_000, "/?" + "a=b&" * 1_000,
    ):  # fmt: skip
        yield Malformed(f"POST {path[:40]}", post(path, body, head))


def strangers(model: str, token: str) -> Iterator[Malformed]:
    """Sound requests of those who do not know the token."""
    body = json.dumps({"model": model, "input": "why?"}).encode()
    yield Malformed("no token", post(EMBEDDINGS, body, {}))
    values = ["", "Bearer", "Bearer ", "Bearer  ", "Bearer wrong", "Bearer null", f"Basic {token}", token]
    values += [f"Bearer {other}" for other in (f"{token}x", token[:-1], f"{token} {token}", token.swapcase())]
    values += ["Bearer \xe9\xff", "Bearer " + "a" * 5_000]
    for value in values:
        yield Malformed(f"Authorization: {value[:30]}", post(EMBEDDINGS, body, {"Authorization": value}))


def no_http(model: str, head: Mapping[str, str]) -> Iterator[Malformed]:
    """What is not HTTP, or breaks off."""
    body = json.dumps({"model": model, "input": "why?"}).encode()
    own = "".join(f"{name}: {value}\r\n" for name, value in head.items()).encode("latin-1")
    first = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n" + own
    length = b"Content-Length: %d\r\n" % len(body)
    chunked = first + b"Transfer-Encoding: chunked\r\n\r\n"
    for name, raw in {
        "nothing": b"",
        "line breaks": b"\r\n" * 100,
        "zeros": bytes(1_000),
        "random bytes": random.Random(1).randbytes(10_000),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30),
        "HTTP/9.9": first.replace(b"1.1", b"9.9") + length + b"\r\n" + body,
        "no version": b"POST /v1/embeddings\r\n" + length + b"\r\n" + body,
        "no path": b"POST HTTP/1.1\r\nHost: a\r\n\r\n",
        "no colon": first + b"this is no header\r\n" + length + b"\r\n" + body,
        "space before the colon": first + b"Content-Length : 3\r\n\r\n{}}",
        "zero in a header": first + b"X-A: a\x00b\r\n" + length + b"\r\n" + body,
        "length of letters": first + b"Content-Length: many\r\n\r\n" + body,
        "negative length": first + b"Content-Length: -1\r\n\r\n" + body,
        "huge length": first + b"Content-Length: 99999999999999999999\r\n\r\n" + body,
        "two lengths": first + length + b"Content-Length: 1\r\n\r\n" + body,
        "length and chunks": first + length + b"Transfer-Encoding: chunked\r\n\r\n" + body,
        "chunk of letters": chunked + b"zz\r\n" + body + b"\r\n0\r\n\r\n",
        "negative chunk": chunked + b"-5\r\nabcde\r\n0\r\n\r\n",
        "huge chunk": chunked + b"ffffffffffffffffff\r\n" + body,
        "chunk that is longer": chunked + b"3\r\n" + body + b"\r\n0\r\n\r\n",
        "unknown transfer encoding": first + b"Transfer-Encoding: nonsense\r\n\r\n" + body,
        "request line without end": b"POST /" + b"a" * 300_000,
        "header without end": first + b"X-A: " + b"a" * 1_000_000,
    }.items():
        yield Malformed(name, raw, is_http=False, breaks_off=True)
    broken_off = {
        "half of a body": first + b"Content-Length: 1000\r\n\r\n" + body,
        "half of a header": first + b"Content-Le",
        "half of a chunk": chunked + b"ff\r\n" + body,
    }
    for name, raw in broken_off.items():
        yield Malformed(name, raw, is_http=False, breaks_off=True)
    empty = own + b"Content-Length: 2\r\n\r\n{}"
    yield Malformed("HTTP/1.0", b"POST /v1/embeddings HTTP/1.0\r\n" + empty)
    yield Malformed("no host", b"POST /v1/embeddings HTTP/1.1\r\nConnection: close\r\n" + empty)
    yield Malformed(
        "chunks of no JSON", first + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{]\r\n0\r\n\r\n"
    )
    many = b"".join(b"X-%d: a\r\n" % number for number in range(2_000))
    yield Malformed("2,000 headers", first + b"Connection: close\r\n" + many + empty[len(own) :])
    yield Malformed("long header", first + b"Connection: close\r\nX-A: " + b"a" * 50_000 + b"\r\n" + empty[len(own) :])


def sent(host: str, port: int, case: Malformed) -> Answer:
    """Send a request and read until the status is known; a service may answer before it has read everything."""
    started = time.monotonic()
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:

        def send() -> None:
            with suppress(OSError):
                connection.sendall(case.raw)
                if case.breaks_off:
                    connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        content, status = b"", 0
        try:
            while part := connection.recv(65_536):
                content += part
        except TimeoutError:
            status = -1
        except OSError:  # it is reset while what was sent has not been read
            pass
        if content.startswith(b"HTTP/"):
            status = int(content.split(maxsplit=2)[1])
    sender.join(1)
    return Answer(status, content.partition(b"\r\n\r\n")[2], time.monotonic() - started)


if __name__ == "__main__":
    main()
