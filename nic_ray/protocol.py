"""The protocols by which rows are held back from training, and what they mean for the metrics."""

from collections.abc import Mapping
from typing import Literal

Protocol = Literal["unseen_passages", "unseen_queries", "cross_fit"]
BY_PASSAGE, BY_DOCUMENT = "passage", "document"
"""What `data.group_by` says; anything else is the name of a column."""

MEANINGS: Mapping[str, str] = {
    "unseen_passages": (
        "unseen passages. No passage of a validation or test row was trained on as an answer; where the data "
        "names it as a wrong answer to a training row, it was trained on as that"
    ),
    "cross_fit": (
        "unseen passages, and every passage held out once: by the test part of the search, and then by each of the "
        "further folds, on which the winner's configuration was trained anew without them"
    ),
    "unseen_queries": (
        "unseen queries only. The passages of validation and test rows may have been trained on with other "
        "queries, which flatters the figures"
    ),
}
"""Explanation of each protocol, for a model card."""


def by_passage(protocol: Protocol) -> bool:
    """Whether rows are held back with all others that ask about their passage."""
    return protocol != "unseen_queries"


def unit_of_groups(group_by: str) -> str:
    """What the groups are called that rows are held back by, such as "documents"."""
    return {BY_PASSAGE: "passages", BY_DOCUMENT: "documents"}.get(group_by, f'values of "{group_by}"')


def describe_groups(group_by: str) -> str:
    """Say which rows stay together besides those about one passage; empty if no others do."""
    if group_by == BY_PASSAGE:
        return ""
    of = "one document" if group_by == BY_DOCUMENT else f'one value of the column "{group_by}"'
    return (
        f"Rows of {of} were held back together, with those whose passages are nearly the same; their questions are not "
        "independent, so intervals and bounds count each such group once"
    )


def shown_name(protocol_or_part: str) -> str:
    """The name of a protocol, or of a part of the rows, for human readers, such as "unseen queries"."""
    return protocol_or_part.replace("_", " ")
