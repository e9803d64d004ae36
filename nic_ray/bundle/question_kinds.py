"""What card, report and terminal say of questions: by kind, and of those that were made from the passages."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nic_ray.bundle.markdown import table
from nic_ray.dataset.pairs import Collection
from nic_ray.dataset.synthetic import HELD_BACK
from nic_ray.evidence import Metadata
from nic_ray.metrics.intervals import MIN_PASSAGES, Queries
from nic_ray.metrics.kinds import figures_by_kind
from nic_ray.metrics.table import METRICS, PRIMARY
from nic_ray.origin import StoredData, StoredSplit
from nic_ray.results import StoredQuestionKind

SHARE = 0.2
"""Share of the rows that each held-back part has unless the settings say otherwise."""


def stored_kinds(
    collection: Collection, rows: Sequence[int], values: Mapping[str, NDArray[np.float64]], queries: Queries
) -> list[StoredQuestionKind]:
    """Compute the figures of each kind of question in the form in which they are stored; none where no row names one.

    Args:
        rows: the rows whose queries were asked, Q of them.
        values: model -> its primary metric at each query, (Q,); the base model first.
        queries: passages of the rows.
    """
    if not collection.kinds:
        return []
    found = figures_by_kind([collection.kinds[row] for row in rows], values, queries)
    return [
        StoredQuestionKind(
            kind=each.kind,
            queries=each.gain.queries,
            passages=each.gain.passages,
            recall=dict(each.means),
            gain=None
            if len(values) < 2
            else {
                "difference": each.gain.difference,
                "low": each.gain.low,
                "high": each.gain.high,
                "queries": each.gain.queries,
                "passages": each.gain.passages,
            },
        )
        for each in found
    ]


def table_of(kinds: Sequence[StoredQuestionKind], unit: str = "passages") -> tuple[list[str], list[list[str]]]:
    """Return the figures of each kind as the heading and the rows of a table."""
    models = [*kinds[0]["recall"]]
    gains = [each["gain"] for each in kinds]
    header = ["kind", "questions", unit, *(f"{METRICS[PRIMARY].label} {model}" for model in models)]
    if gains[0] is not None:
        header += ["gain", "95 % interval"]
    rows = []
    for each, gain in zip(kinds, gains, strict=True):
        cells = [each["kind"], f"{each['queries']:,}", f"{each['passages']:,}"]
        cells += [f"{each['recall'][model]:.3f}" for model in models]
        if gain is not None:
            sure = f"too few {unit}" if gain["low"] is None else f"{gain['low']:+.3f} to {gain['high']:+.3f}"
            cells += [f"{gain['difference']:+.3f}", sure]
        rows.append(cells)
    return header, rows


def card_lines(metadata: Metadata) -> Iterator[str]:
    """Yield the paragraphs of a model card on kinds of questions; none if no test row names its kind."""
    if kinds := metadata.get("question_kinds"):
        yield "### By kind of question, on the test part\n\nMeans over the questions of a kind, whatever their domain."
        yield table(*table_of(kinds, metadata.get("interval_rule", {}).get("unit", "passages")))


def caution(synthetic: int, asked: int, *, share: float = SHARE) -> str | None:
    """Say what figures are worth whose questions were made from the passages; None where people asked all of them.

    Args:
        synthetic: number of questions that were made so.
        asked: number of all questions that were asked.
        share: the smallest share of the rows that is held back for one part.
    """
    if not synthetic:
        return None
    which = (
        f"All {asked:,} questions that these figures are of were"
        if synthetic == asked
        else f"Of the {asked:,} questions that these figures are of, {synthetic:,} were"
    )
    return (
        f"{which} made from the passages themselves, by rules or by a language model. The figures do not tell how well "
        f"the model finds the answers to people's questions. Write questions by hand about "
        f"{math.ceil(MIN_PASSAGES / share)} passages of each domain, add them to the pairs and tune again: they alone "
        "are then held back and measured."
    )


def caution_of(data: StoredData, split: StoredSplit) -> str | None:
    """Say what the figures of a run are worth, as `caution` does for its held-back rows."""
    counts, rows = data.get("synthetic", {}), split.get("rows", {})
    held_back, asked = (sum(numbers.get(part, 0) for part in HELD_BACK) for numbers in (counts, rows))
    share = min(split.get("validation_share", SHARE), split.get("test_share", SHARE))
    return caution(held_back, asked, share=share)


def describe_trained(data: StoredData, split: StoredSplit) -> str | None:
    """Say how many of the training rows were synthetic; None if none was."""
    trained = data.get("synthetic", {}).get("train", 0)
    if not trained:
        return None
    return (
        f"Of the {split.get('rows', {}).get('train', trained):,} training rows, {trained:,} are synthetic: their "
        "questions were made from the passages, by rules or by a language model."
    )
