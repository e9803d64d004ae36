"""Requests to a chat endpoint over HTTP: reached before anything else, repeated while a fault may pass."""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from nic_ray import __version__
from nic_ray.errors import InputError, in_one_line
from nic_ray.evidence import JsonObject
from nic_ray.questions.cache import Answer
from nic_ray.questions.endpoint import CHAT, Endpoint
from nic_ray.questions.replies import (
    Dialect,
    Fault,
    Reply,
    adapted,
    answer_in,
    chat_request,
    complaint_in,
    fault_of,
    models_in,
    redirected,
)
from nic_ray.questions.spending import Spending

CONNECT_S, MODELS_S = 5.0, 10.0
"""Time for a connection, and for the list of models."""
LONGEST_BACKOFF_S = 60.0
MOST_BYTES = 8 * 2**20
"""Length after which a reply is not read on."""


class UnansweredError(Exception):
    """A request that was given up; others may be answered."""

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused
        """Whether the server refused it, and would again."""


@dataclass
class Connection:
    """A client of one endpoint, and what was learnt of it."""

    endpoint: Endpoint
    client: httpx2.AsyncClient
    base: str
    """The address that its paths follow."""
    models: tuple[str, ...] = ()
    dialect: Dialect = field(default_factory=Dialect)
    answered: bool = False
    quiet_until: float = 0.0
    """Time of the monotonic clock before which nothing is sent, since the server asked for it."""
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when no request is to be repeated any more."""


@dataclass(frozen=True)
class Request:
    """What one request asks for."""

    messages: tuple[JsonObject, ...]
    most_tokens: int
    estimate: int
    """Number of tokens that it is likely to cost."""
    keep: Callable[[Answer], None]
    """Stores the answer; called the moment it has arrived."""

    @property
    def text(self) -> str:
        """All that is sent."""
        return "".join(str(message["content"]) for message in self.messages)


@contextlib.asynccontextmanager
async def connected(endpoint: Endpoint) -> AsyncIterator[Connection]:
    """Reach an endpoint by asking for its models, which costs nothing.

    Raises:
        InputError: nothing answers there, or what does is not trusted or redirects.
    """
    headers = {"User-Agent": f"nic_ray/{__version__}", "Accept": "application/json"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    async with httpx2.AsyncClient(
        headers=headers,
        timeout=httpx2.Timeout(endpoint.timeout_s, connect=CONNECT_S),
        limits=httpx2.Limits(max_connections=endpoint.concurrency),
        trust_env=not endpoint.is_on_this_machine,
        follow_redirects=False,
    ) as client:
        connection = Connection(endpoint, client, endpoint.bases[0])
        await _reach(connection)
        yield connection


async def answer_to(connection: Connection, spending: Spending, request: Request) -> Answer | None:
    """Send a request until it is answered.

    Returns:
        None if the budget is spent, or the run is ending.

    Raises:
        UnansweredError: it was refused, or failed as often as is allowed.
        InputError: address, key or model are wrong.
        RunError: there is no credit, or the server asks for a long wait.
    """
    endpoint, fault = connection.endpoint, None
    for attempt in range(endpoint.attempts):
        if fault is not None and fault.wait_s is None:
            longest = min(LONGEST_BACKOFF_S, endpoint.backoff_s * 2 ** (attempt - 1))
            await _pause(connection, longest * random.uniform(0.5, 1.0))
        await _pause(connection, connection.quiet_until - time.monotonic())
        ticket = None if connection.ending.is_set() else await spending.reserve(request.estimate)
        if ticket is None:
            return None
        calls, tokens = 0, 0
        try:
            result = await _attempt(connection, request)
            if isinstance(result, Answer):
                calls, tokens = 1, result.tokens
                return result
            fault, calls, tokens = result, int(result.paid), request.estimate if result.paid else 0
        finally:
            await spending.settle(ticket, calls=calls, tokens=tokens, estimate=request.estimate)
        if not fault.passes:
            raise UnansweredError(fault.reason, refused=True)
        connection.quiet_until = max(connection.quiet_until, time.monotonic() + (fault.wait_s or 0))
    assert fault is not None
    raise UnansweredError(f"{endpoint.attempts} attempts failed, the last with {fault.reason}", refused=False)


async def _attempt(connection: Connection, request: Request) -> Answer | Fault:
    """Send a request once, or several times in other dialects if the server refuses the first."""
    endpoint, dialect = connection.endpoint, connection.dialect
    while True:
        body = chat_request(endpoint, dialect, list(request.messages), request.most_tokens)
        try:
            async with asyncio.timeout(endpoint.timeout_s):  # the client's own limit is for each piece of the reply
                reply = await _exchange(connection, "POST", f"{connection.base}{CHAT}", body)
        except (httpx2.RequestError, TimeoutError) as error:
            return _lost(error, endpoint)
        if reply.status not in (400, 422) or (other := adapted(dialect, complaint_in(reply.text))) is None:
            break
        dialect = other
    if reply.status == 200 and ("json" in reply.kind or not reply.kind):
        result = answer_in(reply, request.text, request.most_tokens, endpoint)
        if isinstance(result, Answer):
            request.keep(result)
            # remembered only now: a request may be refused for other reasons than its dialect
            connection.dialect, connection.answered = dialect, True
        return result
    return fault_of(reply, endpoint, connection.base, connection.models, answered=connection.answered)


async def _exchange(connection: Connection, method: str, url: str, body: JsonObject | None = None) -> Reply:
    content = bytearray()
    async with connection.client.stream(method, url, json=body) as response:
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > MOST_BYTES:
                break
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, content[:MOST_BYTES].decode("utf-8", "replace"))


async def _reach(connection: Connection) -> None:
    for base in connection.endpoint.bases:
        try:
            async with asyncio.timeout(MODELS_S):
                reply = await _exchange(connection, "GET", f"{base}/models")
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.InvalidURL) as error:
            raise _absent(error, connection.endpoint) from None
        except (httpx2.RequestError, TimeoutError):
            return  # something listens there, and may be busy
        if 300 <= reply.status < 400:
            raise redirected(reply, f"{base}/models")
        if (reply.status == 200 and "json" in reply.kind) or reply.status in (401, 403):
            connection.base, connection.models = base, models_in(reply)
            return


def _absent(error: Exception, endpoint: Endpoint) -> InputError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return InputError(
                f"{endpoint.url}: its certificate is not trusted ({cause.verify_message}); add the certificate of who "
                "issued it to this system's, or name its file in the environment variable SSL_CERT_FILE"
            )
        if isinstance(cause, ssl.SSLError):
            return InputError(f"{endpoint.url}: does not speak TLS ({cause.reason}); try http:// in place of https://")
        cause = cause.__cause__ or cause.__context__
    reason = in_one_line(error) or type(error).__name__
    return InputError(
        f"{endpoint.url}: no endpoint answers there{_proxy(endpoint)} ({reason}); start the server, or correct --llm"
    )


def _proxy(endpoint: Endpoint) -> str:
    address = urlsplit(endpoint.url)
    proxy = "" if endpoint.is_on_this_machine else getproxies().get(address.scheme) or getproxies().get("all", "")
    if not proxy or proxy_bypass(address.hostname or ""):
        return ""
    return f" by way of the proxy {proxy.rpartition('@')[2].rpartition('//')[2]} that the environment names"


def _lost(error: Exception, endpoint: Endpoint) -> Fault:
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout | httpx2.ProxyError):
        return Fault(f"no connection ({in_one_line(error) or type(error).__name__})", passes=True)
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return Fault(f"no answer within {endpoint.timeout_s:g} s", passes=True, paid=True)
    return Fault(f"a broken connection ({in_one_line(error) or type(error).__name__})", passes=True, paid=True)


async def _pause(connection: Connection, seconds: float) -> None:
    """Sleep, unless the run is ending."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(connection.ending.wait(), seconds)
