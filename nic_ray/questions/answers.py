"""Reading of a language model's answer: JSON where there is any, item by item, and what of it can be used."""

import collections
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nic_ray.evidence import JsonObject
from nic_ray.questions.question import Kind
from nic_ray.validation import is_whole
from nic_ray.words import count_words, words

MOST_WORDS = 40
"""Number of words beyond which a question is dropped."""
MOST_CHARACTERS = 200_000
"""Length after which an answer is not read on; what is longer repeats itself."""

Reason = Literal[
    "no such kind", "no text", "too long", "asked twice", "more than asked for", "speaks of the passage itself"
]
"""Why an item of an answer is dropped."""

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>|^.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OF_ITSELF = re.compile(
    r"\b(?:according to|(?:mentioned|described|stated|given|listed) in|does) (?:the|this) "
    r"(?:passage|text|section|excerpt)\b|\b(?:the|this) (?:passage|excerpt)\b",
    re.IGNORECASE,
)


def _one_line(value: object) -> object:
    return " ".join(value.split()) if isinstance(value, str) else value


def _plain(value: object) -> object:
    return value.strip().casefold() if isinstance(value, str) else value


class Item(BaseModel):
    """A question of an answer."""

    model_config = ConfigDict(strict=True, frozen=True)

    kind: Annotated[Kind, BeforeValidator(_plain)]
    query: Annotated[str, BeforeValidator(_one_line)] = Field(
        min_length=1, validation_alias=AliasChoices("query", "question")
    )


@dataclass(frozen=True)
class Parsed:
    """What could be used of an answer."""

    items: tuple[Item, ...]
    dropped: Mapping[Reason, int] = field(default_factory=dict)


def response_schema() -> JsonObject:
    """Return the JSON schema of an answer, with all fields required and no others, as strict servers demand."""
    item = {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["direct", "symptom", "shop", "keyword", "typo"]},
            "query": {"type": "string"},
        },
        "required": ["kind", "query"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"questions": {"type": "array", "items": item}},
        "required": ["questions"],
        "additionalProperties": False,
    }


def parsed(content: str, counts: Mapping[Kind, int]) -> Parsed | None:
    """Read an answer; None if it holds no JSON of the form that was asked for.

    Thoughts before the answer, code fences, text around it, a list in place of the object, and an answer that was cut
    off are let through: what counts is every whole item.

    Args:
        content: what the model wrote.
        counts: how many questions of each kind were asked for; what goes beyond is dropped.
    """
    found = _items_in(_THOUGHT.sub("", content[:MOST_CHARACTERS]))
    if found is None:
        return None
    items, dropped, seen = list[Item](), collections.Counter[Reason](), set[tuple[str, ...]]()
    taken = collections.Counter[Kind]()
    for raw in found:
        item = _checked(raw)
        if isinstance(item, str):
            dropped[item] += 1
            continue
        as_words = tuple(words(item.query))
        if as_words in seen:
            dropped["asked twice"] += 1
        elif taken[item.kind] >= counts.get(item.kind, 0):
            dropped["more than asked for"] += 1
        else:
            items.append(item)
            taken[item.kind] += 1
            seen.add(as_words)
    return Parsed(tuple(items), dict(dropped))


def _items_in(text: str) -> list[JsonObject] | None:
    """All objects that look like items, at any place; None if there are none and no empty list stands in their place.

    Every "{" is tried, so that the items of an object that is broken or cut off later are found as well.
    """
    read = json.JSONDecoder().raw_decode
    found, at, empty = list[JsonObject](), 0, text.strip().replace(" ", "") == "[]"
    while (at := text.find("{", at)) >= 0:
        try:
            value, end = read(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        if "kind" in value:
            found.append(value)
            at = end
        elif isinstance(listed := value.get("questions"), list):
            found += [item if isinstance(item, dict) else {} for item in listed]
            empty, at = empty or not listed, end
        else:
            at += 1
    return found if found or empty else None


def _checked(raw: JsonObject) -> Item | Reason:
    try:
        item = Item.model_validate(raw)
    except ValidationError as error:
        fields = {str(place) for detail in error.errors() for place in detail["loc"]}
        return "no such kind" if "kind" in fields and not fields & {"query", "question"} else "no text"
    if not is_whole(item.query) or not _has_words(words(item.query)):
        return "no text"
    if count_words(item.query) > MOST_WORDS:
        return "too long"
    return "speaks of the passage itself" if _OF_ITSELF.search(item.query) else item


def _has_words(found: Iterable[str]) -> bool:
    return any(any(map(str.isalpha, word)) for word in found)
