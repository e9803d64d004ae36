"""What a bundle's detector says of queries: one by one, of a file with kinds, and of a log."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nic_ray.anomaly import assessor, detectors, drift
from nic_ray.anomaly.abnormal import Abnormal
from nic_ray.anomaly.assessor import REASONS
from nic_ray.anomaly.drift import Band
from nic_ray.anomaly.embedded import Embed, embedded
from nic_ray.bundle.detector import BundleDetector, StoredShare, read_detector
from nic_ray.bundle.detector_fit import abnormal_shares, embed_with
from nic_ray.bundle.query_files import Line
from nic_ray.errors import InputError, is_utf8
from nic_ray.metrics.kinds import NAMELESS

BLOCK = 2000
"""Number of queries that are assessed together."""


@dataclass(frozen=True)
class Verdict:
    """What is said of a query; advice, which blocks nothing by itself."""

    query: str
    p_value: float
    """Share of normal questions that are at least as abnormal, in (0, 1]."""
    flagged: bool
    objection: str
    """What objects most, a key of `assessor.REASONS`, whether or not the query is flagged."""
    part: str | None
    """The part of the query that it is about; None for the whole."""
    feature: str | None
    """The most unusual surface feature, if the objection is "surface"."""
    nearest: str
    """The normal question whose embedding is most similar."""
    similarity: float
    """Their cosine similarity."""


@dataclass(frozen=True)
class Drift:
    """How a log compares with normal questions."""

    queries: int
    flagged: int
    expected: float
    """Share of normal queries that are flagged."""
    bands: Sequence[Band]
    objections: Sequence[tuple[str, int]]
    """What objected to the flagged queries, the most frequent first."""
    words: Sequence[tuple[str, int, int]]
    """Words that the flagged ones share, as of `drift.common_words`."""


def assess_with(folder: Path, device: str) -> Callable[[Sequence[str]], list[Verdict]]:
    """Load a bundle's model and its detector, and return what assesses queries with them.

    Raises:
        InputError: the bundle or its detector is missing or damaged, or the detector belongs to another model.
    """
    detector = read_detector(folder)
    embed, _ = embed_with(folder, device)
    return lambda texts: verdicts(texts, detector, embed)


def verdicts(texts: Sequence[str], detector: BundleDetector, embed: Embed) -> list[Verdict]:
    """Assess queries by a detector, with the embeddings of the model that it belongs to.

    Raises:
        InputError: a query cannot be written as UTF-8.
    """
    if (broken := next((number for number, text in enumerate(texts, 1) if not is_utf8(text)), None)) is not None:
        raise InputError(f"query {broken} holds half of a character; write it in UTF-8")
    found: list[Verdict] = []
    for start in range(0, len(texts), BLOCK):
        queries = embedded(texts[start : start + BLOCK], embed)
        similar = detectors.unit(queries.whole) @ detector.questions.T
        nearest = similar.argmax(axis=1)
        for number, said in enumerate(assessor.assess(queries, detector.assessor)):
            found.append(
                Verdict(
                    texts[start + number],
                    said.p_value,
                    said.flagged,
                    said.signal,
                    said.part,
                    said.feature,
                    detector.record["questions"][nearest[number]],
                    float(similar[number, nearest[number]]),
                )
            )
    return found


def shares_by_kind(folder: Path, lines: Sequence[Line], device: str) -> list[StoredShare]:
    """The shares of queries that are flagged, by kind.

    Raises:
        InputError: as for `assess_with`.
    """
    assess = assess_with(folder, device)
    flags = np.array([verdict.flagged for verdict in assess([line.query for line in lines])])
    named = [Abnormal(line.query, line.kind or NAMELESS) for line in lines]
    return abnormal_shares(named, flags, {})


def watch_log(folder: Path, lines: Sequence[Line], device: str) -> Drift:
    """Compare the share of flagged queries of a log with that of normal ones.

    Lines that say whether they were flagged, such as `score --json` prints, are not assessed again.

    Raises:
        InputError: as for `assess_with`.
    """
    known = {place: line for place, line in enumerate(lines) if line.flagged is not None}
    open_ = [place for place in range(len(lines)) if place not in known]
    said = (
        dict(zip(open_, assess_with(folder, device)([lines[place].query for place in open_]), strict=True))
        if open_
        else {}
    )
    flags = np.array(
        [bool(known[place].flagged) if place in known else said[place].flagged for place in range(len(lines))]
    )
    objections = Counter(
        (known[place].objection or "unknown") if place in known else said[place].objection
        for place in np.flatnonzero(flags).tolist()
    )
    expected = read_detector(folder).record["false_alarms"]
    return Drift(
        len(lines),
        int(flags.sum()),
        expected,
        drift.bands(flags, expected),
        objections.most_common(),
        drift.common_words([line.query for line in lines], flags),
    )


def describe(verdict: Verdict) -> str:
    """Say in a few lines what is said of a query."""
    mark = "FLAGGED" if verdict.flagged else "normal"
    reason = REASONS[verdict.objection]
    if verdict.part is not None:
        reason += f": {shortened(verdict.part)!r}"
    if verdict.feature is not None:
        reason += f": {verdict.feature.replace('_', ' ')}"
    lines = [f"{mark:7}  p = {verdict.p_value:.3f}  {shortened(verdict.query)!r}"]
    lines += [f"         {reason}"] if verdict.flagged else []
    return "\n".join([*lines, f"         nearest ({verdict.similarity:.2f}): {shortened(verdict.nearest)!r}"])


def shortened(text: str, width: int = 90) -> str:
    """A text in one line, cut off at a width, with characters that a terminal would obey written as escapes."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return line if len(line) <= width else line[: width - 2] + " …"
