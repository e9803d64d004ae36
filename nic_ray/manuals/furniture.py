"""Page numbers, headers, footers and stamps that stand among the paragraphs of documents made from printed pages."""

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence

from nic_ray.manuals.blocks import Block
from nic_ray.manuals.languages import warning_start

LEAST_PAGES = 3
"""How often a line with a growing number stands in a document to be taken for a page number."""
LEAST_REPEATS = 5
"""How often the same line stands in a document to be taken for a header, a footer or a stamp."""
LONGEST = 12
"""Largest number of words of such a line."""
_CODE = re.compile(r"[#_=<>{}\\;*$`]|,\Z")
_NUMBER = re.compile(r"\d+")
_PAGE = re.compile(
    r"\b(?:page|seite|página|pagina|bladzijde|strona|sida|стр)\b\W*\d"
    r"|\A\W*\d{1,4}(?:\s*(?:of|/|von|de|di|sur)\s*\d{1,4})?\W*\Z",
    re.IGNORECASE,
)


def without_furniture(blocks: Sequence[Block]) -> list[Block]:
    """Leave out short paragraphs that number pages or repeat what stands on every page.

    Such are lines that differ in a number only which grows from one to the next, and lines that repeat beside them or
    in capitals. Lines that end a sentence or introduce something stay, as do warnings.
    """
    lines = [place for place, block in enumerate(blocks) if _may_be_furniture(block)]
    by_shape = defaultdict[str, list[int]](list)
    for place in lines:
        by_shape[_NUMBER.sub("0", blocks[place].text).casefold()].append(place)
    numbered = {place for places in by_shape.values() if _count_pages(blocks, places) for place in places}
    dropped = set(numbered)
    by_text = defaultdict[str, list[int]](list)
    for place in lines:
        by_text[blocks[place].text.casefold()].append(place)
    for places in by_text.values():
        if len(places) < LEAST_REPEATS:
            continue
        beside = sum(bool(numbered & set(range(place - 2, place + 3))) for place in places)
        if 2 * beside > len(places) or _is_stamp(blocks[places[0]].text):
            dropped.update(places)
    return [block for place, block in enumerate(blocks) if place not in dropped]


def _may_be_furniture(block: Block) -> bool:
    return (
        block.kind == "paragraph"
        and not block.level
        and len(block.text.split()) <= LONGEST
        and not (block.text.endswith((".", ":", "!", "?", ";")) and not _PAGE.search(block.text))
        and warning_start("en").match(block.text) is None
        and _CODE.search(block.text) is None
    )


def _count_pages(blocks: Sequence[Block], places: Sequence[int]) -> bool:
    """Whether one number of lines that are otherwise the same grows from each to the next, by a page or a few."""
    numbers = [[int(number[-9:]) for number in _NUMBER.findall(blocks[place].text)] for place in places]
    least = LEAST_PAGES if _PAGE.search(blocks[places[0]].text) else LEAST_REPEATS
    if len(places) < least or not numbers[0]:
        return False
    return any(
        all(0 < after - before <= 5 for before, after in itertools.pairwise(column))
        for column in zip(*numbers, strict=True)
    )


def _is_stamp(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    return len(letters) > 3 and all(map(str.isupper, letters)) and len(letters) > 0.8 * len(text.replace(" ", ""))
