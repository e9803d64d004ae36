"""Questions from rows of tables that were written as sentences: "Item: Idle speed; Setting: 750 rpm"."""

import random
from collections.abc import Iterator

from nic_ray.questions.clauses import is_clause
from nic_ray.questions.draft import Draft, question
from nic_ray.questions.language import DETERMINERS, clauses, joined, lowered, tokens, without_pronouns
from nic_ray.questions.quantities import values_in

_SIGNS = frozenset("symptom symptoms fault problem trouble complaint indication malfunction".split())
_CAUSES = frozenset("cause causes reason reasons".split())
_REMEDIES = frozenset("remedy remedies action actions correction solution repair rectification".split())
"""Words with which heads of columns of fault tables end."""
_LONGEST_HEAD = 4
_LONGEST_NAME = 6
_LONGEST_SIGN = 12
"""Words of a head, of the name of a row, and of what goes wrong."""


def from_row(sentence: str, source: str, rng: random.Random, names: frozenset[str]) -> list[Draft] | None:
    """Make questions of a row of a table, in which each cell follows the head of its column.

    Args:
        sentence: one of a section's text.
        source: what it was taken from.
        names: words that keep their capital letter, see `language.names_in`.

    Returns:
        The questions, which may be none; None if the sentence is no row with heads.
    """
    name, dash, rest = sentence.partition(" – ")
    if not dash or ":" in name:
        name, rest = "", sentence
    cells = [_cell(clause) for clause in clauses(rest)]
    heads = [(head, cell) for found in cells if found is not None for head, cell in [found]]
    if len(heads) < len(cells) or len(heads) < (1 if name else 2):
        return None
    if not name:
        (first, name), *heads = heads
        if first.split()[-1].lower() in _SIGNS:
            return [*_of_sign(name, heads, source, rng, names)]
    return [*_of_values(name, heads, source, names)]


def _cell(clause: str) -> tuple[str, str] | None:
    """Part "Setting: 185 bar" into head and cell; None if it does not look so."""
    head, colon, cell = clause.partition(": ")
    found = tokens(head)
    if not colon or not cell.strip() or not 1 <= len(found) <= _LONGEST_HEAD or not head[0].isalpha():
        return None
    return None if "," in found or is_clause(found) else (head.strip(), cell.strip())


def _small(text: str, names: frozenset[str]) -> str:
    first, *others = tokens(text)
    return joined([lowered(first, names), *others])


def _of_sign(
    sign: str, heads: list[tuple[str, str]], source: str, rng: random.Random, names: frozenset[str]
) -> Iterator[Draft]:
    found = tokens(sign)
    if not 2 <= len(found) <= _LONGEST_SIGN or not without_pronouns(found):
        return
    case = _small(sign, names)
    last = {head.split()[-1].lower() for head, _ in heads}
    if last & _CAUSES:
        yield Draft(rng.choice([f"{case}, what is the cause?", f"{case}, what is wrong?"]), "symptom", source)
    if last & _REMEDIES:
        yield Draft(rng.choice([f"{case}, what do I do?", f"what to do when {case}"]), "symptom", source)


def _of_values(name: str, heads: list[tuple[str, str]], source: str, names: frozenset[str]) -> Iterator[Draft]:
    """Ask for the values with units in a row with a name of its own: not for those of "1" or "24 V"."""
    found = tokens(name)
    if len(found) > _LONGEST_NAME or not without_pronouns(found) or {",", ":"} & set(found) or not name[0].isalpha():
        return
    thing = _small(name, names)
    the = thing if found[0].lower() in DETERMINERS or found[-1][-1].isdigit() else f"the {thing}"
    for head, cell in heads:
        values = values_in(tokens(cell))
        if values and values[0].start == 0:
            yield Draft(question(f"what is the {_small(head, names)} of {the}"), "direct", source)
            yield Draft(f"{thing} {_small(head, names)}", "keyword", source)
