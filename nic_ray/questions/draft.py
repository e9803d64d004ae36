"""A question as a rule makes it, before it belongs to a section."""

from collections.abc import Sequence
from dataclasses import dataclass

from nic_ray.questions.language import joined
from nic_ray.questions.question import Kind


@dataclass(frozen=True)
class Draft:
    """A question that a rule has made."""

    query: str
    kind: Kind
    source: str
    """What it was made from: "title", "cloze", or the number of a sentence; few questions are taken of each."""
    text: str | None = None
    """The section's text without the sentence that it was made from; None: the whole text."""
    form: str = ""
    """Of what form it is, such as "next" ("What comes after ..."), where a section shall have few such questions."""
    needs_topic: bool = False
    """Whether it names a step or a sign that many a section could have, so that it must say what it is about."""
    detail: bool = False
    """Whether it asks for a detail of a part with which it ends, so that "on the pump" may follow."""


def question(words: Sequence[str] | str) -> str:
    """Write a question with a capital letter and its sign."""
    text = words if isinstance(words, str) else joined(words)
    return f"{text[:1].upper()}{text[1:].rstrip(' .,;:')}?"
