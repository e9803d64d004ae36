"""The faults that pairs can have, by the code that names each."""

from collections.abc import Mapping
from dataclasses import dataclass

from nic_ray.metrics.intervals import MIN_PASSAGES


@dataclass(frozen=True)
class Rule:
    """The fault that a code stands for."""

    what: str
    effect: str
    """The effect on training, or on the metrics."""
    left_out: bool
    """Whether such rows do more harm than good, so that a cleaned file leaves them out by default."""


RULES: Mapping[str, Rule] = {
    "broken-query": Rule(
        "the query names nothing that a passage could be about",
        "training pulls a passage towards a question without a subject, and the score counts it as missed",
        left_out=True,
    ),
    "query-is-positive": Rule(
        "the query is nearly the same text as its passage",
        "it is solved by comparing equal texts: teaches nothing, and lifts the score",
        left_out=True,
    ),
    "duplicate-row": Rule(
        "query and passage are those of an earlier row",
        "the row weighs twice, in training and in the score",
        left_out=True,
    ),
    "near-duplicate-row": Rule(
        "query and passage are nearly those of an earlier row",
        "the row weighs twice, in training and in the score",
        left_out=True,
    ),
    "negative-near-positive": Rule(
        "a negative is nearly the same text as an answer to the query",
        "the loss masks it, so the row trains without this negative",
        left_out=False,
    ),
    "negative-is-positive": Rule(
        "a negative is the row's own passage",
        "the loss masks it, so the row trains without this negative",
        left_out=False,
    ),
    "negative-answers-query": Rule(
        "a negative is another row's passage for the same query",
        "the loss masks it, so the row trains without this negative",
        left_out=False,
    ),
    "near-duplicate-passage": Rule(
        "the passage is nearly the same text as an earlier one",
        "the two stay on one side of the split; for the other's query each counts neither as right nor as wrong, in "
        "training and in the score",
        left_out=False,
    ),
    "domain-conflict": Rule(
        "the passage belongs to another domain, that of most of its rows",
        "the passage is split with the other domain, and its query counts in this one's score",
        left_out=False,
    ),
    "several-passages": Rule(
        "rows with the same query name different passages",
        "each of them counts as an answer, for its share of Recall@5; if only one is, the query is too vague",
        left_out=False,
    ),
    "cut-off": Rule(
        "query or passage is longer than the model reads",
        "the model never sees the end: a question about it cannot be answered",
        left_out=False,
    ),
    "mojibake": Rule(
        "a text was decoded with the wrong character set",
        "its words become tokens that no query shares; repair the text, for example with ftfy",
        left_out=False,
    ),
    "control-characters": Rule(
        "a text holds control characters, or U+FFFD where a character was lost",
        "words are torn apart or end too early; extract the text again",
        left_out=False,
    ),
    "small-domain": Rule(
        f"the domain has too few passages for a validation part of {MIN_PASSAGES}",
        "its score is mostly chance, and no interval can be given",
        left_out=False,
    ),
    "unknown-domain": Rule(
        "the domain is unknown to the anomaly detector of the bundle",
        "up to 38 % of a domain's questions were flagged before the detector was fitted to it",
        left_out=False,
    ),
}
