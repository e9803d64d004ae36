"""A client of an embeddings endpoint that speaks OpenAI's protocol, whoever serves it."""

import base64
import binascii
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import urlsplit

import httpx2
import numpy as np
from numpy.typing import NDArray

from nic_ray import __version__
from nic_ray.errors import InputError, RunError, in_one_line
from nic_ray.evidence import JsonObject
from nic_ray.questions.endpoint import Endpoint
from nic_ray.questions.replies import Reply, models_in, quoted, wait_in

KEY_NAMES = ("NIC_RAY_SERVE_TOKEN", "OPENAI_API_KEY")
"""Environment variables that hold the token; the first that is set counts."""
EMBEDDINGS = "/embeddings"
BATCH = 32
"""Texts in one request."""
ATTEMPTS, BACKOFF_S, LONGEST_WAIT_S = 5, 0.5, 30.0
CONNECT_S, VERSION_S = 5.0, 10.0
MOST_BYTES = 512 * 2**20

Role = Literal["query", "document"]
Encoding = Literal["float", "base64"]


class RefusedError(Exception):
    """The server refuses a request, and would again; it may answer others."""


@dataclass(frozen=True)
class Server:
    """An endpoint that was reached."""

    endpoint: Endpoint
    client: httpx2.Client
    base: str
    """The address that its paths follow, such as http://127.0.0.1:8000/v1."""
    models: tuple[str, ...]
    """The models that it lists; none if it lists none."""

    @property
    def root(self) -> str:
        """The address without the version of the protocol, which the paths of nic_ray's own service follow."""
        address = urlsplit(self.base)
        path = address.path.rstrip("/")
        return f"{address.scheme}://{address.netloc}{path.removesuffix('/v1')}"


@dataclass(frozen=True)
class Asking:
    """How an endpoint is asked to embed."""

    input_type: Role | None = None
    """The role of the texts, as a field of the request; None for a request without the field."""
    suffix: str = ""
    """What follows the model's name."""
    encoding: Encoding = "float"


@contextlib.contextmanager
def reached(endpoint: Endpoint) -> Iterator[Server]:
    """Reach an endpoint by asking for its models, as far as it lists them.

    Args:
        endpoint: its model may be empty; the server's then counts if it lists one alone.

    Raises:
        InputError: nothing answers there, or what does redirects, or wants another token.
    """
    headers = {"User-Agent": f"nic_ray/{__version__}", "Accept": "application/json"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    with httpx2.Client(
        headers=headers,
        timeout=httpx2.Timeout(endpoint.timeout_s, connect=CONNECT_S),
        trust_env=not endpoint.is_on_this_machine,
        follow_redirects=False,
    ) as client:
        yield _found(endpoint, client)


def embedded(server: Server, texts: Sequence[str], asking: Asking = Asking()) -> NDArray[np.float32]:
    """Embed texts, which are sent as they are, in requests of `BATCH`.

    Returns:
        (n, D) finite vectors in the order of the texts, whatever order the server answers in.

    Raises:
        InputError: token or model are wrong, or the address is not that of an embeddings endpoint.
        RefusedError: the server refuses a request.
        RunError: the server fails, stays busy, or its answer is none.
    """
    parts = [_one(server, texts[start : start + BATCH], asking) for start in range(0, len(texts), BATCH)]
    if len({part.shape[1] for part in parts}) > 1:
        raise RunError(f"{_where(server)}: vectors of several lengths ({sorted({part.shape[1] for part in parts})})")
    return np.concatenate(parts)


def asked(server: Server, path: str, body: JsonObject) -> tuple[Reply, JsonObject]:
    """Send an object to a path below the server's root, and read the object that it answers with.

    Raises:
        InputError, RefusedError, RunError: as `embedded`.
    """
    where = f"{server.root}{path}"
    reply = _answered(server, where, body)
    return reply, _object_in(reply, where, server.endpoint)


def version_of(server: Server) -> JsonObject:
    """What nic_ray's own service says of the model that it serves; empty for any other server."""
    try:
        response = server.client.get(f"{server.root}/version", timeout=VERSION_S)
        content = response.json() if response.status_code == 200 else None
    except (httpx2.RequestError, ValueError):
        return {}
    return content if isinstance(content, dict) and "weights_sha256" in content else {}


def _found(endpoint: Endpoint, client: httpx2.Client) -> Server:
    for base in endpoint.bases:
        try:
            response = client.get(f"{base}/models", timeout=httpx2.Timeout(VERSION_S, connect=CONNECT_S))
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.InvalidURL) as error:
            raise InputError(
                f"{endpoint.url}: no endpoint answers there ({in_one_line(error) or type(error).__name__}); start the "
                "server, or correct --endpoint"
            ) from None
        except httpx2.RequestError:
            break  # something listens there, and may be busy
        reply = _reply_of(response)
        if 300 <= reply.status < 400:
            raise _redirected(reply, f"{base}/models")
        if reply.status in (401, 403):
            raise _unauthorised(reply, f"{base}/models", endpoint)
        if reply.status == 200 and "json" in reply.kind:
            return Server(endpoint, client, base, models_in(reply))
    return Server(endpoint, client, endpoint.bases[0], ())


def _one(server: Server, texts: Sequence[str], asking: Asking) -> NDArray[np.float32]:
    where, name = _where(server), f"{server.endpoint.model}{asking.suffix}"
    body: JsonObject = {"model": name, "input": list(texts), "encoding_format": asking.encoding}
    if asking.input_type is not None:
        body["input_type"] = asking.input_type
    data = _object_in(_answered(server, where, body), where, server.endpoint).get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) and "embedding" in item for item in data):
        raise RunError(f'{where}: its answer has no list "data" of embeddings; name the address of an embeddings API')
    if len(data) != len(texts):
        raise RunError(f"{where}: answers {len(texts)} texts with {len(data)} vectors")
    places = [item.get("index", place) for place, item in enumerate(data)]
    if sorted(map(repr, places)) != sorted(map(repr, range(len(texts)))):
        raise RunError(f"{where}: numbers {len(texts)} vectors {', '.join(map(str, places[:8]))}, want 0 and so on")
    vectors = [_vector(item["embedding"], where) for item in data]
    if len({vector.shape for vector in vectors}) > 1:
        raise RunError(f"{where}: vectors of several lengths ({', '.join(str(len(v)) for v in vectors[:8])})")
    values: NDArray[np.float32] = np.stack(vectors)[np.argsort(places)]
    if not np.isfinite(values).all():
        raise RunError(f"{where}: {int((~np.isfinite(values)).any(axis=1).sum())} vectors hold NaN or infinity")
    return values


def _vector(value: object, where: str) -> NDArray[np.float32]:
    """A vector as a list of numbers, or as base64 of little-endian fp32, whichever the server has sent."""
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
        if isinstance(value, list) and value:
            array = np.array(value, np.float64)
            if array.ndim == 1:
                return array.astype(np.float32)
    except (ValueError, TypeError, binascii.Error) as error:
        raise RunError(f"{where}: a vector is neither numbers nor base64 of fp32 ({in_one_line(error)})") from None
    raise RunError(f"{where}: a vector is neither a list of numbers nor base64, but {json.dumps(value)[:60]}")


def _answered(server: Server, where: str, body: JsonObject) -> Reply:
    """Send a request until it is answered with status 200."""
    endpoint, fault = server.endpoint, ""
    for attempt in range(ATTEMPTS):
        wait = None
        try:
            reply = _reply_of(server.client.post(where, json=body))
        except httpx2.TimeoutException:
            raise RunError(f"{where}: no answer within {endpoint.timeout_s:g} s") from None
        except httpx2.RequestError as error:
            fault = f"a broken connection ({in_one_line(error) or type(error).__name__})"
        else:
            if reply.status == 200:
                return reply
            fault = f"{reply.status}: {quoted(reply, endpoint)}"
            _refuse_final(server, reply, where, str(body.get("model", endpoint.model)))
            wait = wait_in(reply.headers.get("retry-after"), time.time())
        if attempt + 1 < ATTEMPTS:
            time.sleep(min(LONGEST_WAIT_S, BACKOFF_S * 2**attempt if wait is None else wait))
    raise RunError(f"{where}: {ATTEMPTS} attempts failed, the last with {fault}")


def _refuse_final(server: Server, reply: Reply, where: str, model: str) -> None:
    """Raise what a reply means that no repetition changes; return if one may."""
    status, said = reply.status, quoted(reply, server.endpoint)
    if 300 <= status < 400:
        raise _redirected(reply, where)
    if status in (401, 403):
        raise _unauthorised(reply, where, server.endpoint)
    if status in (404, 405, 410):
        if model != server.endpoint.model:  # the name with a suffix, which other servers do not know
            raise RefusedError(f"{status}: {said}")
        known = f"; it has {', '.join(server.models[:8])}" if server.models and model not in server.models else ""
        raise InputError(f"{where}: not found ({status}: {said}); correct --endpoint or --served-model {model}{known}")
    if status < 500 and status not in (408, 409, 425, 429):
        raise RefusedError(f"{status}: {said}")


def _object_in(reply: Reply, where: str, endpoint: Endpoint) -> JsonObject:
    try:
        content = json.loads(reply.text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(
            f"{where}: answers with {reply.kind or 'no type of content'} that is no JSON object "
            f"({quoted(reply, endpoint)[:80]}); name the address of an embeddings API with --endpoint"
        )
    return cast(JsonObject, content)


def _reply_of(response: httpx2.Response) -> Reply:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, response.content[:MOST_BYTES].decode("utf-8", "replace"))


def _redirected(reply: Reply, where: str) -> InputError:
    place = reply.headers.get("location", "another place")[:200]
    return InputError(f"{where}: redirects to {place} ({reply.status}); if that is the endpoint, name it")


def _unauthorised(reply: Reply, where: str, endpoint: Endpoint) -> InputError:
    said = quoted(reply, endpoint)
    what = "refuses the token" if endpoint.key else "wants a token"
    return InputError(
        f"{where}: {what} ({reply.status}: {said}); {'correct' if endpoint.key else 'set'} the environment variable "
        f"{' or '.join(KEY_NAMES)}"
    )


def _where(server: Server) -> str:
    return f"{server.base}{EMBEDDINGS}"
