"""What a section is about, in a few words, for questions that do not say it themselves."""

from collections import Counter
from collections.abc import Sequence

from nic_ray.questions.clauses import is_participle
from nic_ray.questions.language import DETERMINERS, PREPOSITIONS
from nic_ray.questions.titles import (
    ACTIONS,
    FAULT_WORDS,
    LAYOUT,
    NOT_THINGS,
    SPECIFICATION,
    WORKING,
    Title,
    fold,
    head_and_rest,
    is_interval,
)

_NO_PARTS = ACTIONS.keys() | FAULT_WORDS | LAYOUT | NOT_THINGS | SPECIFICATION | WORKING
_LONGEST_TEXT = 7
"""Words of a whole title that may stand as a topic."""


def topic_of(title: Title) -> str:
    """Return what a title is about in a few words, to be put before a question that does not say it; may be empty."""
    if title.type in ("question", "other"):
        return ""
    topic = title.text if title.type == "fault" else title.thing
    if title.verb == "carry out":
        short = topic.rpartition(" ")[0]  # "transfer case oil service"
        last = short.split()[-1:]
        topic = topic if not last or is_interval(last[0]) or is_participle(last[0]) else short
    words = topic.split() if title.type == "fault" else head_and_rest(topic.split())[0]
    while words and words[0] in DETERMINERS:
        words = words[1:]
    while words and words[-1] in ("and", "or"):
        words = words[:-1]  # "drive axle oil level and change"
    return " ".join(words) if 1 <= len(words) <= 5 and "," not in topic else ""


def topics_of(titles: Sequence[Title | None]) -> list[str]:
    """Return the topic of each title; where several that go on have the same one, the whole title or nothing.

    "Electrical data, 12-volt system" and "Electrical data, 24-volt system" are not told apart by "electrical data".
    """
    topics = ["" if title is None else topic_of(title) for title in titles]
    counts = Counter(map(fold, topics))
    return [
        topic if title is None or not title.rest or counts[fold(topic)] == 1 else _whole(title)
        for title, topic in zip(titles, topics, strict=True)
    ]


def _whole(title: Title) -> str:
    is_short = title.type not in ("question", "other") and len(title.text.split()) <= _LONGEST_TEXT
    return title.text if is_short else ""


def is_part(topic: str) -> bool:
    """Whether a topic names a part, of which one can say "the bolt on the pump"; not "lift cylinder leak"."""
    words = topic.lower().split()
    return bool(words) and words[-1] not in _NO_PARTS and not (PREPOSITIONS | {"and", "or", "not"}) & set(words)
