"""What is refused of questions, whoever made them, and the choice of those that are kept."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from nic_ray.dataset.broken import why_broken
from nic_ray.dataset.duplicates import near_duplicates
from nic_ray.evidence import JsonObject
from nic_ray.manuals.sections import Section
from nic_ray.questions.question import SHARES, Kind, Question, kind_counts
from nic_ray.questions.titles import fold, refused_titles

_FEWEST_BESIDE_TYPOS = 3
MOST_SECTIONS = 3
"""That may answer the same question; asked of more, it is too vague."""

BROKEN = "names no subject"
TITLE = "is a title that says nothing or is shared"
COPY = "repeats the passage"
VAGUE = "is asked of many sections or domains"
NEAR = "is nearly the same as another"
ROUND_TRIP = "does not lead to its section"
JUDGE = "is refused by the judge"
MORE = "is beyond its kind's share of --per-section"


@dataclass(frozen=True)
class Kept:
    """Questions after a filter."""

    questions: list[Question]
    refused: Counter[str]
    """Filter -> number of questions that it refused."""


def refuse_faulty(questions: Sequence[Question], sections: Sequence[Section]) -> Kept:
    """Refuse questions that `check` would find fault with, those that are refused titles, and near copies.

    Of questions that are nearly the same and lead to the same section, the first is kept; of those that lead to several
    sections of a domain, all, and of more than `MOST_SECTIONS` or of several domains, none.
    """
    titles, refused, left = refused_titles(sections), Counter[str](), list[Question]()
    for each in questions:
        folded = fold(each.query)
        if why_broken(each.query):
            refused[BROKEN] += 1
        elif folded in titles:
            refused[TITLE] += 1
        elif _repeats(folded, fold(sections[each.section].passage)):
            refused[COPY] += 1
        else:
            left.append(each)
    groups = near_duplicates([each.query for each in left]).tolist()
    asked: dict[int, set[int]] = defaultdict(set)
    for each, group in zip(left, groups, strict=True):
        asked[group].add(each.section)
    kept, known = list[Question](), set[tuple[int, int]]()
    first: dict[int, str] = {}
    for each, group in zip(left, groups, strict=True):
        several = asked[group]
        if len(several) > MOST_SECTIONS or len({sections[number].domain for number in several}) > 1:
            refused[VAGUE] += 1
        elif (group, each.section) in known:
            refused[NEAR] += 1
        else:
            known.add((group, each.section))
            # sections that share a question share its spelling, so that it becomes one row
            query = first.setdefault(group, each.query)
            kept.append(each if query == each.query else Question(query, each.kind, each.section, each.text))
    return Kept(kept, refused)


def _repeats(query: str, passage: str) -> bool:
    """Whether a folded question is a long piece of its passage, or the whole of a short one."""
    return query == passage or (len(query.split()) > 8 and query in passage)


def chosen(questions: Sequence[Question], per_section: int) -> Kept:
    """Choose at most so many questions of each section, by the shares of kinds; what comes first is preferred.

    Where a kind has too few, the plain questions and symptoms fill up, to twice their share at most.
    """
    by_section: dict[int, list[Question]] = defaultdict(list)
    for each in questions:
        by_section[each.section].append(each)
    kept, refused = list[Question](), Counter[str]()
    wanted = kind_counts(per_section)
    for number in sorted(by_section):
        of_section = by_section[number]
        taken: dict[Kind, list[Question]] = {
            kind: [each for each in of_section if each.kind == kind][: wanted[kind]] for kind in SHARES
        }
        for kind in ("shop", "symptom", "direct"):
            missing = per_section - sum(map(len, taken.values()))
            spare = [each for each in of_section if each.kind == kind][wanted[kind] : 2 * wanted[kind]]
            taken[kind].extend(spare[:missing])
        if sum(len(taken[kind]) for kind in SHARES if kind != "typo") < _FEWEST_BESIDE_TYPOS:
            taken["typo"] = []  # a misspelt copy of the only question teaches nothing more
        here = [each for kind in SHARES for each in taken[kind]]
        kept.extend(here)
        refused[MORE] += len(of_section) - len(here)
    return Kept(kept, refused)


def rows_of(questions: Sequence[Question], sections: Sequence[Section]) -> list[JsonObject]:
    """Return the rows of a file of pairs; a question that several sections answer has all their passages."""
    by_query: dict[str, list[Question]] = defaultdict(list)
    for each in questions:
        by_query[each.query].append(each)
    rows = []
    for same in by_query.values():
        row = same[0].row(sections[same[0].section])
        others = [each.row(sections[each.section])["positive"] for each in same[1:]]
        if more := [text for text in dict.fromkeys(others) if text != row["positive"]]:
            row["positive"] = [row["positive"], *more]
        rows.append(row)
    return rows
