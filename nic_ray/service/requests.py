"""Requests as they come in: JSON bodies, checked in full, with errors as OpenAI's clients read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from nic_ray.service.serving import Serving
from nic_ray.service.settings import LONGEST_TEXT, MOST_HITS, MOST_TEXTS

SIDES = {"query": True, "document": False, "passage": False}
"""What `input_type`, or the end of the model's name, may be; whether the texts are queries then."""
RULES = {
    "input": f"a text or a list of 1 to {MOST_TEXTS} texts (token ids are not taken)",
    "model": "the name of the served model",
    "encoding_format": "float or base64",
    "dimensions": "a whole number",
    "input_type": "query or document",
    "anomaly": "true or false",
    "query": "a text",
    "top": f"a whole number from 1 to {MOST_HITS}",
}
Body = TypeVar("Body", bound=BaseModel)


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_s = status, message, param, code, retry_s


class EmbeddingsBody(BaseModel):
    """The body of `POST /v1/embeddings`; fields that are not known here are ignored, as clients send several."""

    model_config = ConfigDict(extra="ignore")

    input: StrictStr | list[StrictStr]
    model: StrictStr | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: StrictInt | None = None
    input_type: Literal["query", "document", "passage"] | None = None
    anomaly: StrictBool = False


class SearchBody(BaseModel):
    """The body of `POST /search`."""

    model_config = ConfigDict(extra="forbid")

    query: StrictStr
    top: Annotated[StrictInt, Field(ge=1, le=MOST_HITS)] = 5


@dataclass(frozen=True)
class Asked:
    """The embeddings that a request wants."""

    texts: Sequence[str]
    is_query: bool
    dimensions: int
    base64: bool
    assessed: bool


def parse_body(content: bytes, kind: type[Body]) -> Body:
    """Read a JSON body.

    Raises:
        RefusedError: it is not JSON, or a field is missing or wrong.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error) from None
    except RecursionError:
        raise RefusedError(400, "the body must be JSON that is not nested so deeply") from None


def _refusal(error: ValidationError) -> RefusedError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = str(first["loc"][0])[:100] if first["loc"] else None
    if first["type"] == "json_invalid":
        return RefusedError(400, f"the body must be JSON in UTF-8 ({first['msg'].removeprefix('Invalid JSON: ')})")
    if name is None:
        return RefusedError(400, "the body must be a JSON object")
    if first["type"] == "missing":
        return RefusedError(400, f"{name}: is missing; it must be {RULES[name]}", param=name)
    if first["type"] == "extra_forbidden":
        return RefusedError(400, f"{name}: no such field; known are query and top", param=name)
    return RefusedError(400, f"{name}: must be {RULES[name]}", param=name)


def asked_for(body: EmbeddingsBody, serving: Serving) -> Asked:
    """Check a request for embeddings against the model that is served.

    Raises:
        RefusedError: it cannot be answered; the message says what would be.
    """
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise RefusedError(400, f"input: must be {RULES['input']}, got {len(texts)} texts; send fewer", param="input")
    check_texts("input", texts)
    side = _side(body, serving)
    if side is None and serving.engine.two_sided:
        raise RefusedError(
            400,
            f"input_type: must be query or document, because {serving.served} embeds the two differently; or ask for "
            f"the model {serving.name}-query or {serving.name}-document",
            param="input_type",
        )
    is_query = SIDES[side] if side is not None else False
    if body.dimensions is not None and body.dimensions not in serving.dimensions:
        raise RefusedError(
            400,
            f"dimensions: must be {' or '.join(map(str, serving.dimensions))} for {serving.served}, got "
            f"{str(body.dimensions)[:20]}",
            param="dimensions",
        )
    if body.anomaly and side == "document":
        raise RefusedError(
            400, "anomaly: queries are assessed, not documents; ask for input_type query", param="anomaly"
        )
    return Asked(
        texts,
        is_query or body.anomaly,
        body.dimensions or serving.dimensions[0],
        body.encoding_format == "base64",
        body.anomaly,
    )


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Check each text of a request.

    Raises:
        RefusedError: one is empty, too long, or no Unicode text.
    """
    for place, text in enumerate(texts):
        where = name if len(texts) == 1 else f"{name}[{place}]"
        if not text.strip():
            raise RefusedError(400, f"{where}: is empty; it must hold text", param=name)
        if len(text) > LONGEST_TEXT:
            raise RefusedError(
                400, f"{where}: has {len(text)} characters, at most {LONGEST_TEXT} are taken; split it", param=name
            )


def _side(body: EmbeddingsBody, serving: Serving) -> str | None:
    """What the texts are, by `input_type` or by the end of the model's name; None if neither says."""
    names = {serving.name, serving.served}
    suffixed: Mapping[str, str] = {f"{name}-{side}": side for name in names for side in SIDES}
    if body.model and body.model not in names and body.model not in suffixed:
        raise RefusedError(
            404, f"model: {body.model[:100]!r} is not served, {serving.name} is", param="model", code="model_not_found"
        )
    by_name = suffixed.get(body.model or "")
    if by_name and body.input_type and SIDES[by_name] != SIDES[body.input_type]:
        raise RefusedError(
            400, f"input_type: is {body.input_type}, and the model's name ends in -{by_name}", param="input_type"
        )
    return body.input_type or by_name
