"""Numbers of headings: "3.2 Pump" is called "Pump", since nobody asks by number."""

import re
from collections.abc import Sequence

_WORDS = (
    "chapter section part appendix annex kapitel abschnitt teil anhang chapitre partie annexe capítulo sección parte "
    "apéndice anexo capitolo sezione appendice hoofdstuk bijlage rozdział глава раздел приложение"
)
_NUMBER = re.compile(
    rf"(?P<word>(?:{'|'.join(_WORDS.split())})\s+)?"
    r"(?P<number>(?:\d+|[A-Z]|(?<=\s)[IVXLC]+)(?:\.\d+)*)(?P<end>[.:)]?)"
    r"(?:\s*[–—-]\s+|\s+)(?P<rest>\S.*)",
    re.IGNORECASE | re.DOTALL,
)


def without_numbers(headings: Sequence[str]) -> list[str]:
    """Take the numbers from the headings of a document.

    A number of three parts, or with a full stop, a colon or a word such as "Chapter", goes in any case. Another one
    ("3.2 Pump", "4 Brakes") goes if a heading of the document has the number before it, above it or below it: "24 V
    supply" stays.
    """
    found = [_NUMBER.fullmatch(heading) for heading in headings]
    known = {match["number"] for match in found if match}
    return [
        match["rest"] if match and _is_number(match, known) else heading
        for heading, match in zip(headings, found, strict=True)
    ]


def _is_number(match: re.Match[str], known: set[str]) -> bool:
    number, rest = match["number"], match["rest"]
    if not any(map(str.isalpha, rest)) or (not number[:1].isupper() and not number[:1].isdigit()):
        return False
    if match["word"]:
        return True
    if match["end"]:
        return match["end"] != ":" or number[0].isdigit()
    if not number[0].isdigit() and "." not in number:
        return False
    if number.count(".") > 1:
        return True
    above, _, last = number.rpartition(".")
    if not last.isdigit() or int(last) > 200 or rest[:1].islower():
        return False
    place = f"{above}." if above else ""
    near = {f"{place}{int(last) - 1}", f"{place}{int(last) + 1}", f"{number}.1", *([above] if above else [])}
    return bool(near & known)
