"""Groups of settings, and pydantic's errors as messages that a user can act on."""

import datetime
import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from nic_ray.errors import is_utf8


@dataclass(frozen=True)
class Unreadable:
    """Stands in a row for a value that cannot be read, which does no harm where no field needs it."""

    kind: str
    """What stands in its place, for a message."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """Refuse characters that YAML can express but that no file name, address or UTF-8 text can contain."""
        if isinstance(value, str) and ("\0" in value or not is_utf8(value)):
            raise ValueError(f"must be text without null characters and halves of characters, got {shown_value(value)}")
        return value


def setting_faults(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """Yield one message per fault in the settings, with its place.

    Args:
        model: the model that the settings were validated as.
    """
    for detail in error.errors():
        message = setting_fault(detail, model)
        where = ".".join(str(part) for part in detail["loc"] if part != "[key]")
        # the checks of the whole search space name the place in every line of their message
        names_places = detail["type"] == "value_error" and where in ("", "space")
        yield from message.split("\n") if names_places else [f"{where}: {message}"]


def setting_fault(error: Any, model: type[BaseModel]) -> str:
    """Describe one of pydantic's errors by the rule that was broken and the value that was given."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"no such setting{suggestion(str(error['loc'][-1]), _siblings(error['loc'], model))}"
    if kind == "value_error":
        return str(context["error"])
    rules = {
        "greater_than": "> {gt:.10g}",
        "greater_than_equal": ">= {ge:.10g}",
        "less_than": "< {lt:.10g}",
        "less_than_equal": "<= {le:.10g}",
        "string_type": "text",
        "string_too_short": "a name",
        "model_type": "settings by name",
        "dict_type": "settings by name",
    }
    if kind in rules:
        rule = rules[kind].format(**context)
    elif kind == "literal_error":
        rule = f"one of {context['expected']}"
    elif kind.startswith(("int_", "float_", "finite_")):
        rule = "a whole number" if kind.startswith("int_") else "a number"
    elif "choice" in error["loc"]:
        rule = "a list of values"
    elif "uniform" in error["loc"] or "log_uniform" in error["loc"]:
        rule = "two numbers, low and high"
    else:
        return f"{error['msg'][0].lower()}{error['msg'][1:]}, got {shown_value(value)}"
    return f"must be {rule}, got {shown_value(value)}"


def stored_faults(error: ValidationError) -> Iterator[str]:
    """Yield one message per fault, with its place, in JSON that a program has written."""
    rules = {"string_type": "text", "list_type": "a list", "dict_type": "an object", "mapping_type": "an object"}
    for detail in error.errors():
        kind, place = detail["type"], ".".join(str(part) for part in detail["loc"] if part != "[key]")
        if kind == "missing":
            yield f"{place} is missing"
            continue
        if kind.startswith("bool_"):
            rule = "true or false"
        elif kind.startswith(("int_", "float_", "finite_")):
            rule = "a whole number" if kind.startswith("int_") else "a number"
        else:
            rule = rules.get(kind, f"of another kind ({detail['msg']})")
        yield f"{place} must be {rule}, got {shown_value(detail['input'])}".lstrip()


def shown_value(value: object) -> str:
    """A value as it is written in YAML or Python, shortened to at most 80 characters for a message."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _siblings(location: tuple[Any, ...], model: Any) -> list[str]:
    """The valid names of settings at a location."""
    parts = iter(location[:-1])
    for part in parts:
        model = model.model_fields[part].annotation
        if get_origin(model) in (Union, UnionType):  # a group of settings, or null
            model = next(kind for kind in get_args(model) if isinstance(kind, type) and issubclass(kind, BaseModel))
        if get_origin(model) is dict:  # a mapping whose keys the user chooses
            model = get_args(model)[-1]
            next(parts, None)
    return list(model.model_fields)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known name that the user probably meant, or all known names; for the end of a message."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def is_whole(text: str) -> bool:
    """Whether a text can be written as UTF-8, as `errors.is_utf8`, fast for the texts of many rows."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def row_faults(error: ValueError, content: bytes) -> Iterator[str]:
    """Yield one message per fault in a line of a JSONL file.

    Args:
        error: the error that reading or validating the line raised; errors of other kinds are raised again.
        content: the line.
    """
    if isinstance(error, UnicodeDecodeError):
        byte = f"0x{error.object[error.start]:02x}"
        yield f"not UTF-8 (byte {byte} at position {error.start + 1}); save the file as UTF-8"
    elif isinstance(error, ValidationError):
        yield from (_row_fault(detail, content) for detail in error.errors())
    else:
        raise error


def _row_fault(error: Any, content: bytes) -> str:
    """Describe one of pydantic's errors by the field, the rule that was broken and the value that was given."""
    kind, value, place = error["type"], error["input"], error["loc"]
    if kind == "json_invalid" and content.endswith(b","):
        return "ends in a comma, as in a JSON list; remove it, as sed 's/,[[:space:]]*$//' does"
    if kind == "json_invalid" and content.startswith(b"{'"):
        return "not JSON, but an object as Python prints it; write it with json.dumps"
    if kind == "json_invalid":
        return f"not JSON: {error['ctx']['error'].replace('at line 1 column', 'at column')}"
    if not place:
        broken_rule = str(error["ctx"]["error"]) if kind == "value_error" else None
        return broken_rule or f"must be a JSON object, got {kind_of_value(value)}"
    field = f'"{place[0]}"' + (f" item {place[1] + 1}" if len(place) > 1 else "")
    if kind == "missing":
        return f"{field} is missing (found: {', '.join(sorted(value)) or 'nothing'})"
    if kind == "value_error":
        return f"{field} {error['ctx']['error']}"
    if kind == "too_short":
        return f"{field} is an empty list"
    rules = {
        "positive": "text or a list of texts",
        "negative": "text or a list of texts",
        "source_section": "text or null",
        "cut_from": "text or null",
    }
    rule = "a number" if place[0] == "score" else rules.get(place[0], "text")
    if len(place) > 1 and place[0] in ("positive", "negative"):
        rule = "text"
    way_out = ""
    if isinstance(value, float) and not math.isfinite(value):
        optional = place[0] in ("negative", "source_section", "cut_from")
        way_out = "; write null, or leave it out" if optional else "; fill it in, or leave the row out"
    return f"{field} must be {rule}, got {kind_of_value(value, of_json=bool(content))}{way_out}"


def kind_of_value(value: object, *, of_json: bool = False) -> str:
    """Return what kind of value one is, for the end of a message.

    Args:
        of_json: whether it stands in JSON, which knows fewer values than Python reads from it.
    """
    if isinstance(value, Unreadable):
        return value.kind
    if isinstance(value, str):
        return "text" if is_whole(value) else "text with half a character"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and math.isnan(value):
        return f"NaN, which {'is no JSON and ' if of_json else ''}stands for a missing value"
    if isinstance(value, float) and math.isinf(value):
        return f"{'-' if value < 0 else ''}Infinity{', which is no JSON' if of_json else ''}"
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (list, "a list"),
        (dict, "an object"),
        ((int, float, Decimal), "a number"),
        (bytes, "bytes"),
        ((datetime.date, datetime.time), "a date or a time"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)
