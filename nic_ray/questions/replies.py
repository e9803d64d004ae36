"""What the reply of a chat endpoint means: an answer, a fault that may pass, or one that only the user can mend."""

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import BaseModel, Field, ValidationError

from nic_ray.errors import InputError, RunError
from nic_ray.evidence import JsonObject
from nic_ray.questions.answers import response_schema
from nic_ray.questions.cache import Answer
from nic_ray.questions.endpoint import CHAT, KEY_NAMES, Endpoint
from nic_ray.questions.spending import estimated_tokens

MODELS_LISTED = 20
"""Number of models that a message names."""
QUOTED = 300
"""Number of characters of a server's message that are repeated."""
LONGEST_WAIT_S = 300.0
"""The longest wait that a server may ask for; if it asks for more, the run ends and says so."""
FORMS: tuple[JsonObject | None, ...] = (
    {"type": "json_schema", "json_schema": {"name": "questions", "strict": True, "schema": response_schema()}},
    {"type": "json_object"},
    None,
)
"""Forms of answers that a server may be asked to keep to, the strictest first."""


@dataclass(frozen=True)
class Dialect:
    """What of the chat API a server understands."""

    form: int = 0
    """Position in `FORMS`."""
    limit: str = "max_tokens"
    """The name of the field for the longest answer."""
    left_out: frozenset[str] = frozenset()
    """Fields that it refuses: "temperature", "seed"."""


@dataclass(frozen=True)
class Reply:
    """What a server sent."""

    status: int
    headers: Mapping[str, str]
    """With names in lower case."""
    text: str

    @property
    def kind(self) -> str:
        """The type of its content, such as "application/json"."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Fault:
    """Why a request got no answer."""

    reason: str
    passes: bool
    """Whether the same request may be answered later."""
    paid: bool = False
    """Whether it may have been paid for all the same."""
    wait_s: float | None = None
    """The wait that the server asks for."""


class _Message(BaseModel):
    content: str | list[JsonObject] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(0, ge=0)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: object = None


def chat_request(endpoint: Endpoint, dialect: Dialect, messages: list[JsonObject], most_tokens: int) -> JsonObject:
    """Return the body of a chat request, in a server's dialect."""
    chosen: JsonObject = {"temperature": endpoint.temperature, "seed": endpoint.seed}
    form = FORMS[dialect.form]
    return {
        "model": endpoint.model,
        "messages": messages,
        dialect.limit: most_tokens,
        **{name: value for name, value in chosen.items() if name not in dialect.left_out},
        **({} if form is None else {"response_format": form}),
    }


def adapted(dialect: Dialect, complaint: str) -> Dialect | None:
    """Return the next dialect to try with a server that refused a request; None if there is none.

    Args:
        dialect: the dialect of the refused request.
        complaint: the server's message.
    """
    if dialect.limit == "max_tokens" and "max_completion_tokens" in complaint:
        return replace(dialect, limit="max_completion_tokens")
    for name in ("temperature", "seed"):
        if name not in dialect.left_out and re.search(rf"\b{name}\b", complaint):
            return replace(dialect, left_out=dialect.left_out | {name})
    return replace(dialect, form=dialect.form + 1) if dialect.form + 1 < len(FORMS) else None


def answer_in(reply: Reply, prompt: str, most_tokens: int, endpoint: Endpoint) -> Answer | Fault:
    """Read the answer in a reply of status 200.

    Args:
        reply: the reply.
        prompt: all that was sent, from which tokens are estimated if the server does not count them.
        most_tokens: number of tokens after which the answer was cut off.
        endpoint: for the key, which must not be repeated.
    """
    try:
        content = json.loads(reply.text)
        completion = _Completion.model_validate(content)
    except (ValueError, RecursionError):
        return Fault(f"the reply has no choices[0].message ({quoted(reply, endpoint)})", passes=True, paid=True)
    choice = completion.choices[0]
    text = choice.message.content or ""
    if isinstance(text, list):
        text = "".join(str(part.get("text", "")) for part in text)
    try:
        usage, estimated = _Usage.model_validate(completion.usage), False
    except ValidationError:
        usage, estimated = (
            _Usage(prompt_tokens=estimated_tokens(prompt), completion_tokens=estimated_tokens(text)),
            True,
        )
    return Answer(
        content=text,
        finish_reason=choice.finish_reason,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        estimated=estimated,
        most_tokens=most_tokens,
    )


def fault_of(reply: Reply, endpoint: Endpoint, base: str, models: tuple[str, ...], *, answered: bool) -> Fault:
    """Say what a reply means that holds no answer.

    Args:
        reply: a reply of another status than 200, or of another type than JSON.
        endpoint: the endpoint.
        base: the address that its paths follow.
        models: the models that it has, as far as it says.
        answered: whether it has answered a request before.

    Raises:
        InputError: address, key or model are wrong, and so no request can succeed.
        RunError: there is no credit, or the server asks for a long wait.
    """
    status, said = reply.status, quoted(reply, endpoint)
    where, wait = f"{base}{CHAT}", wait_in(reply.headers.get("retry-after"), time.time())
    if 300 <= status < 400:
        raise redirected(reply, where)
    if status == 200:
        if not answered:
            raise InputError(
                f"{where}: answers with {reply.kind or 'no type of content'}, not with JSON ({said}); name the address "
                "of the API with --llm"
            )
        return Fault(f"a reply that is no JSON ({said})", passes=True, paid=True)
    if status in (401, 403):
        has_key = (
            f"refuses the key ({status}: {said}); correct" if endpoint.key else f"wants a key ({status}: {said}); set"
        )
        raise InputError(f"{where}: {has_key} the environment variable {' or '.join(KEY_NAMES)}")
    if status in (404, 410):
        raise _not_found(where, endpoint.model, models, f"{status}: {said}")
    if status == 402 or (status == 429 and "insufficient_quota" in reply.text):
        raise RunError(f"{where}: the account has no credit left ({status}: {said}); top it up, and run it again")
    if wait is not None and wait > LONGEST_WAIT_S:
        raise RunError(f"{where}: asks to wait {wait:,.0f} s ({status}: {said}); run it again then")
    passes = status in (408, 409, 425, 429) or status >= 500
    lacks = f"; it has the models {_listed(models)}" if models and endpoint.model not in models and not passes else ""
    return Fault(f"{status}: {said}{lacks}", passes=passes, wait_s=wait if passes else None)


def redirected(reply: Reply, where: str) -> InputError:
    """The error for a redirection, which is not followed: it would take the key to another place."""
    place = re.sub(r"//[^/@]*@", "//", reply.headers.get("location", "another place"))[:QUOTED]
    return InputError(f"{where}: redirects to {place} ({reply.status}); if that is the endpoint, name it with --llm")


def wait_in(header: str | None, now: float) -> float | None:
    """Read the header Retry-After: seconds, or a date.

    Args:
        header: its value; None if there is none.
        now: seconds since 1970.

    Returns:
        seconds, at least 0; None if it says nothing.
    """
    if header is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", header):
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def models_in(reply: Reply) -> tuple[str, ...]:
    """The names of the models that a server lists; none if it lists none."""
    try:
        listed = json.loads(reply.text)["data"]
        return tuple(str(model["id"]) for model in listed)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def complaint_in(text: str) -> str:
    """The message in the body of a refusal, as the servers known write it; the body if it has another form."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    for name in ("error", "message", "detail"):
        if isinstance(content, dict) and content.get(name):
            content = content[name]
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def quoted(reply: Reply, endpoint: Endpoint) -> str:
    """What a server said, in one line, without the key, which some servers repeat."""
    said = " ".join(complaint_in(reply.text).split())
    if endpoint.key:
        said = said.replace(endpoint.key, "[key]")
    printable = "".join(character for character in said if character.isprintable())
    return printable[:QUOTED] or "an empty reply"


def _not_found(where: str, model: str, models: tuple[str, ...], said: str) -> InputError:
    if models and model not in models:
        return InputError(f"{where}: has no model {model!r} ({said}); name one with --llm-model: {_listed(models)}")
    return InputError(f"{where}: not found ({said}); correct the address (--llm) or the model (--llm-model {model})")


def _listed(models: tuple[str, ...]) -> str:
    more = f" and {len(models) - MODELS_LISTED} more" if len(models) > MODELS_LISTED else ""
    return ", ".join(models[:MODELS_LISTED]) + more
