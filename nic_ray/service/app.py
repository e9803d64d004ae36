"""The HTTP interface of a service, as an ASGI application that knows nothing of Ray."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from nic_ray.bundle.assessed import Verdict
from nic_ray.evidence import JsonObject
from nic_ray.service.index import search
from nic_ray.service.requests import EmbeddingsBody, RefusedError, SearchBody, asked_for, check_texts, parse_body
from nic_ray.service.serving import (
    COUNTED_AT_ONCE,
    QueryLog,
    Serving,
    described,
    embed_and_assess,
    verdict_fields,
)
from nic_ray.service.settings import LARGEST_BODY, Settings
from nic_ray.service.telemetry import CONTENT_TYPE, Instruments

log = logging.getLogger("nic_ray.service")

WEIGHTS_HEADER = "x-nic-ray-weights"
"""The header that says by which weights a request was answered."""
LONGEST_WAIT_S = 60
BODY_S = 30.0
"""Seconds within which a body must arrive; its request has one of the places meanwhile."""
AT_ONCE = 64
"""Number of embeddings that are written as JSON in less than some tens of milliseconds."""
MOST_TOKENS = 2**18
"""Number of tokens that requests may have together; a request that comes alone may have more."""


@dataclass
class State:
    """What requests share; the version that is served is exchanged at a reload."""

    settings: Settings
    instruments: Instruments
    serving: Serving | None = None
    """None until one is loaded."""
    refused: JsonObject | None = None
    """The reload that was refused last, if none has succeeded since: its number, "reload", and the reason."""
    queries: QueryLog | None = None
    waiting: int = 0
    """Number of requests that are being answered."""
    tokens: int = 0
    """Number of tokens of their texts."""
    seconds: float = field(default=0.05)
    """Moving average of the time between two answers while requests wait."""
    answered_at: float = 0.0
    """When the last request was answered, or the first one came that nobody waited beside, by `time.monotonic`."""


Handler = Callable[[Request, Serving], Awaitable[Response]]


def application(state: State) -> Starlette:
    """Build the application that answers requests with what `state` holds."""

    def route(path: str, handler: Handler, method: str, *, bounded: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            started = time.perf_counter()
            response = await _answer(state, request, handler, bounded=bounded)
            state.instruments.request(path, response.status_code, time.perf_counter() - started)
            return response

        return Route(path, endpoint, methods=[method])

    async def embeddings(request: Request, serving: Serving) -> Response:
        return await _embeddings(state, request, serving)

    async def find(request: Request, serving: Serving) -> Response:
        return await _search(state, request, serving)

    async def version(_: Request, serving: Serving) -> Response:
        return _json(described(serving) | {"refused": state.refused})

    async def models(_: Request, serving: Serving) -> Response:
        entry = {"id": serving.name, "object": "model", "created": 0, "owned_by": "nic_ray"}
        return _json({"object": "list", "data": [entry]})

    async def metrics(_: Request, __: Serving) -> Response:
        return Response(state.instruments.text(), media_type=CONTENT_TYPE)

    async def health(_: Request) -> Response:
        return _json({"status": "alive"})

    async def ready(_: Request) -> Response:
        loaded = state.serving is not None
        return _json({"status": "ready" if loaded else "loading"}, 200 if loaded else 503)

    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = error.status_code
        said = {404: "no such path", 405: "this path takes another method"}.get(status, str(error.detail))
        return _error(RefusedError(status, f"{said}; there are POST /v1/embeddings and POST /search"), error.headers)

    app = Starlette(
        routes=[
            route("/v1/embeddings", embeddings, "POST", bounded=True),
            route("/search", find, "POST", bounded=True),
            route("/v1/models", models, "GET"),
            route("/version", version, "GET"),
            route("/metrics", metrics, "GET"),
            # without a token, since the probes of a cluster ask them
            Route("/health", health, methods=["GET"]),
            Route("/ready", ready, methods=["GET"]),
        ],
        exception_handlers={HTTPException: refuse},
    )
    app.router.redirect_slashes = False
    return app


async def _answer(state: State, request: Request, handler: Handler, *, bounded: bool) -> Response:
    """Answer a request; whatever goes wrong, with an error in OpenAI's form."""
    try:
        _check_token(request, state.settings.token_sha256)
        serving = state.serving
        if serving is None:
            raise RefusedError(503, "the model is being loaded; try again", retry_s=5)
        if not bounded:
            return await handler(request, serving)
        async with _place(state):
            response = await handler(request, serving)
        response.headers[WEIGHTS_HEADER] = (serving.weights_sha256 or "fallback")[:16]
        return response
    except RefusedError as refused:
        return _error(refused)
    except ClientDisconnect:
        return _error(RefusedError(400, "the client went away"))
    except Exception:
        log.exception("%s: not answered", request.url.path)
        return _error(RefusedError(500, "an error of the service; its log says more", code="internal_error"))


@asynccontextmanager
async def _place(state: State) -> AsyncIterator[None]:
    """Take one of the places that requests wait in, so that no backlog grows.

    Raises:
        RefusedError: all are taken; it says when to come again.
    """
    if state.waiting >= state.settings.most_waiting:
        raise _busy(state)
    if not state.waiting:
        state.answered_at = time.monotonic()
    state.waiting += 1
    state.instruments.waiting(state.waiting)
    try:
        yield
    finally:
        now = time.monotonic()
        if state.waiting > 1:
            state.seconds = 0.95 * state.seconds + 0.05 * min(now - state.answered_at, LONGEST_WAIT_S)
        state.answered_at = now
        state.waiting -= 1
        state.instruments.waiting(state.waiting)


@contextmanager
def _load(state: State, tokens: int) -> Iterator[None]:
    """Count a request's tokens among those that wait.

    Raises:
        RefusedError: they are too many beside those of other requests.
    """
    if state.tokens and state.tokens + tokens > MOST_TOKENS:
        raise _busy(state)
    state.tokens += tokens
    try:
        yield
    finally:
        state.tokens -= tokens


def _busy(state: State) -> RefusedError:
    wait = min(LONGEST_WAIT_S, max(1, math.ceil(state.waiting * state.seconds)))
    return RefusedError(429, f"{state.waiting} requests are waiting; come again", code="busy", retry_s=wait)


def _check_token(request: Request, token_sha256: str | None) -> None:
    if token_sha256 is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()
    if scheme.lower() != "bearer" or not hmac.compare_digest(digest, token_sha256):
        raise RefusedError(
            401, "a token is wanted: send the header 'Authorization: Bearer TOKEN'", code="invalid_api_key"
        )


async def _body(request: Request) -> bytes:
    """Read a body, up to the largest that is taken.

    Raises:
        RefusedError: it is larger, or does not arrive in time.
    """
    too_large = RefusedError(413, f"the body must have at most {LARGEST_BODY} bytes; send fewer texts at once")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > LARGEST_BODY:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                content += chunk
                if len(content) > LARGEST_BODY:
                    raise too_large
    except TimeoutError:
        raise RefusedError(408, f"the body must arrive within {BODY_S:g} s; send it again") from None
    return bytes(content)


async def _embeddings(state: State, request: Request, serving: Serving) -> Response:
    asked = asked_for(parse_body(await _body(request), EmbeddingsBody), serving)
    if asked.assessed and serving.detector is None:
        raise RefusedError(
            400, "anomaly: this service has no detector; fit one, or leave the field out", param="anomaly"
        )
    limit = serving.engine.max_tokens
    counts = await _counted(serving, asked.texts, is_query=asked.is_query)
    tokens = [min(count, limit) for count in counts]
    said = None
    with _load(state, sum(tokens)):
        if asked.assessed:
            embeddings, said = await embed_and_assess(serving, asked.texts, tokens)
            _note(state, asked.texts, said)
        else:
            embeddings = await serving.batcher.embed(asked.texts, tokens, is_query=asked.is_query)
    fields = (serving, _cut(embeddings, asked.dimensions), tokens, counts, said, asked.base64)
    many = len(asked.texts) > AT_ONCE
    content = await asyncio.to_thread(_embeddings_json, *fields) if many else _embeddings_json(*fields)
    return Response(content, media_type="application/json")


async def _counted(serving: Serving, texts: Sequence[str], *, is_query: bool) -> list[int]:
    """Count tokens; of long texts in a thread, so that other requests are answered meanwhile."""
    if sum(map(len, texts)) < COUNTED_AT_ONCE:
        return serving.engine.count_tokens(texts, is_query)
    return await asyncio.to_thread(serving.engine.count_tokens, texts, is_query)


def _embeddings_json(
    serving: Serving,
    embeddings: NDArray[np.float32],
    tokens: Sequence[int],
    counts: Sequence[int],
    said: Sequence[Verdict] | None,
    as_base64: bool,
) -> bytes:
    rows = []
    for index, embedding in enumerate(embeddings):
        value = base64.b64encode(embedding.astype("<f4").tobytes()).decode() if as_base64 else embedding.tolist()
        row: dict[str, object] = {"object": "embedding", "index": index, "embedding": value}
        if said is not None:
            row["anomaly"] = verdict_fields(said[index])
        rows.append(json.dumps(row))  # one by one: a single call for all would hold up every other thread
    usage: dict[str, int] = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    if cut := sum(count > kept for count, kept in zip(counts, tokens, strict=True)):
        usage["truncated_texts"] = cut
    rest = json.dumps({"object": "list", "model": serving.served, "usage": usage})
    return f'{rest[:-1]}, "data": [{", ".join(rows)}]}}'.encode()


async def _search(state: State, request: Request, serving: Serving) -> Response:
    if serving.index is None:
        raise RefusedError(404, "no passages are served; start the service with --corpus")
    body = parse_body(await _body(request), SearchBody)
    check_texts("query", [body.query])
    counts = await _counted(serving, [body.query], is_query=True)
    tokens = [min(count, serving.engine.max_tokens) for count in counts]
    with _load(state, sum(tokens)):
        embeddings, said = await embed_and_assess(serving, [body.query], tokens)
    _note(state, [body.query], said)
    answer = await asyncio.to_thread(search, serving.index, body.query, embeddings[0], body.top)
    return _json(
        {
            "query": body.query,
            "nothing_found": answer.nothing_found,
            "chance": answer.chance,
            "hits": [asdict(hit) for hit in answer.hits],
            "anomaly": None if said is None else verdict_fields(said[0]),
            "model": serving.served,
        }
    )


def _note(state: State, queries: Sequence[str], said: Sequence[Verdict] | None) -> None:
    if said is not None:
        state.instruments.assessed(len(said), sum(verdict.flagged for verdict in said))
    if state.queries is not None:
        state.queries.write(queries, said)


def _cut(embeddings: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Keep the leading dimensions, scaled to unit length if some are left out, as a Matryoshka model is used."""
    if dimensions == embeddings.shape[1]:
        return embeddings
    cut = embeddings[:, :dimensions]
    unit: NDArray[np.float32] = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return unit


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content, ensure_ascii=False).encode(), status, media_type="application/json")


def _error(refused: RefusedError, headers: Mapping[str, str] | None = None) -> Response:
    kind = "server_error" if refused.status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if refused.status == 429 else kind
    fields = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
    response = _json({"error": fields}, refused.status)
    response.headers.update(headers or {})
    if refused.retry_s is not None:
        response.headers["retry-after"] = str(refused.retry_s)
    if refused.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response
