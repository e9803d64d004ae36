"""A question that a section answers, before and after the filters, and the row of pairs that it becomes."""

from dataclasses import dataclass
from typing import Literal

from nic_ray.evidence import JsonObject
from nic_ray.manuals.sections import Section

Kind = Literal["direct", "symptom", "shop", "keyword", "typo"]
"""How a question is put: plainly; by what goes wrong; in the words of the workshop; as words for a search box; with
spelling mistakes."""


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
