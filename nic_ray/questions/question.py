"""A question that a section answers, before and after the filters, and the row of pairs that it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from nic_ray.evidence import JsonObject
from nic_ray.manuals.sections import Section

Kind = Literal["direct", "symptom", "shop", "keyword", "typo"]
"""How a question is put: plainly; by what goes wrong; in the words of the workshop; as words for a search box; with
spelling mistakes."""
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARES: Mapping[Kind, float] = {"direct": 0.2, "symptom": 0.2, "shop": 0.4, "keyword": 0.1, "typo": 0.1}
"""The share of each kind in a section's questions, as in the reference set."""


def kind_counts(per_section: int) -> dict[Kind, int]:
    """Divide a number of questions by `SHARES`: those with the largest remainders are rounded up, of equals the first.

    Args:
        per_section: number of questions about a section, at least 1.
    """
    exact = {kind: share * per_section for kind, share in SHARES.items()}
    counts = {kind: int(number + 1e-9) for kind, number in exact.items()}
    by_remainder = sorted(SHARES, key=lambda kind: -round(exact[kind] - counts[kind], 6))
    for kind in by_remainder[: per_section - sum(counts.values())]:
        counts[kind] += 1
    return counts


@dataclass(frozen=True)
class Question:
    """A question and the section that answers it."""

    query: str
    kind: Kind
    section: int
    """Number of the section in the file of sections, from 0."""
    text: str | None = None
    """The section's text without the sentence that the question was made from; None: the whole text."""

    def row(self, section: Section) -> JsonObject:
        """Return the row of a file of pairs.

        Args:
            section: the section that answers it.
        """
        positive = section.passage if self.text is None else f"{section.section}\n{self.text}"
        return {
            "query": self.query,
            "positive": positive,
            "domain": section.domain,
            "document": section.document,
            "source_section": " > ".join(part for part in (section.chapter, section.section) if part),
            "kind": self.kind,
            "synthetic": True,
            **({} if self.text is None else {"cut_from": section.passage}),
        }
