"""Sections that stand in several manuals, such as pages about safety or other editions, kept once."""

from collections.abc import Sequence
from dataclasses import dataclass

from nic_ray.dataset.duplicates import near_duplicates
from nic_ray.manuals.sections import Section


@dataclass(frozen=True)
class Repeated:
    """A section that stands at several places, nearly word for word."""

    kept: Section
    left_out: tuple[Section, ...]


def kept_once(sections: Sequence[Section]) -> tuple[list[Section], list[Repeated]]:
    """Keep the first of each group of near-duplicate passages, and return with the kept ones those with others.

    Args:
        sections: in the order of their files.
    """
    groups: dict[int, list[Section]] = {}
    for section, group in zip(sections, near_duplicates([each.passage for each in sections]).tolist(), strict=True):
        groups.setdefault(group, []).append(section)
    repeated = [Repeated(group[0], tuple(group[1:])) for group in groups.values() if len(group) > 1]
    return [group[0] for group in groups.values()], repeated
