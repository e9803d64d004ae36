"""Tables in Markdown, for the model card."""

from collections.abc import Mapping, Sequence

from nic_ray.domains import omitted_domains
from nic_ray.origin import METADATA


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text, and whose others are numbers."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(map(cell, row))} |" for row in [header, ruler, *rows])


def cell(text: str) -> str:
    """The text, escaped so that it cannot break out of its table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def gap(changes: Mapping[str, float], header: Sequence[str]) -> list[str]:
    """A row that says how many domains a table leaves out, and where they are."""
    return [f"{omitted_domains(changes)}, in {METADATA}", *[""] * (len(header) - 1)]
