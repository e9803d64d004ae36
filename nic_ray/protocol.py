"""The protocols by which rows are held back from training, and what they mean for the metrics."""

from collections.abc import Mapping
from typing import Literal

Protocol = Literal["unseen_passages", "unseen_queries", "cross_fit"]
Splits = Literal["made", "own"]
"""Whether rows are split by a protocol, or keep the splits that they came with."""
OWN_SPLITS = "own_splits"
"""Stands for the protocol of rows that keep the splits that they came with."""
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
    OWN_SPLITS: (
        "by the splits that the rows came with. Passages of validation and test rows may have been trained on, which "
        "flatters the figures; the leak report counts such rows"
    ),
}
"""Explanation of each protocol, for a model card."""


def held_back_by(protocol: str | None, splits: str | None) -> str | None:
    """The key in `MEANINGS` of how rows were held back; None where it is not known."""
    return OWN_SPLITS if splits == "own" else protocol


def contradiction(protocol: Protocol, splits: Splits, *, replays: bool) -> str | None:
    """Say which of these settings do not go together, and the way out; None if they do.

    Args:
        replays: whether the pairs that the base model was tuned on are trained on again.
    """
    if protocol == "cross_fit" and replays:
        return (
            "protocol must not be cross_fit with replay: the base model was trained on old rows, which a fold "
            "would hold out; write unseen_passages"
        )
    if splits == "own" and replays:
        return (
            "splits must not be own with replay: new rows join the parts of the old ones; write made, or tune the base "
            "model on all pairs without replay"
        )
    if splits == "own" and protocol != "unseen_passages":
        return (
            f"splits must not be own with protocol {protocol}, which splits the rows anew; leave protocol out, or "
            "write splits: made"
        )
    return None


def by_passage(protocol: Protocol) -> bool:
    """Whether rows are held back with all others that ask about their passage."""
    return protocol != "unseen_queries"


def unit_of_groups(group_by: str) -> str:
    """What the groups are called that rows are held back by, such as "documents"."""
    return {BY_PASSAGE: "passages", BY_DOCUMENT: "documents"}.get(group_by, f'values of "{group_by}"')


def describe_groups(group_by: str, splits: str | None = None) -> str:
    """Say which rows stay together besides those about one passage; empty if no others do.

    Args:
        splits: "own" where rows kept the splits that they came with.
    """
    if group_by == BY_PASSAGE:
        return ""
    of = "one document" if group_by == BY_DOCUMENT else f'one value of the column "{group_by}"'
    if splits == "own":
        return f"The questions of {of} are not independent, so intervals and bounds count each such group once"
    return (
        f"Rows of {of} were held back together, with those whose passages are nearly the same; their questions are not "
        "independent, so intervals and bounds count each such group once"
    )


def shown_name(protocol_or_part: str) -> str:
    """The name of a protocol, or of a part of the rows, for human readers, such as "unseen queries"."""
    return protocol_or_part.replace("_", " ")
