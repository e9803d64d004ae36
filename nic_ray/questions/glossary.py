"""Glossaries: official terms by domain, and what the workshop calls them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nic_ray.errors import InputError
from nic_ray.validation import is_whole, kind_of_value

FORM = '{"DOMAIN": [{"term": "official word", "shop": ["shop word", ...]}, ...]}'
MAX_LISTED = 20


@dataclass(frozen=True)
class Term:
    """An official term and its shop words, which may be none."""

    term: str
    shop: tuple[str, ...]


Glossary = Mapping[str, Sequence[Term]]


def read_glossary(path: Path) -> dict[str, list[Term]]:
    """Read a glossary, in which terms may still have no shop words.

    Raises:
        InputError: the file is none; the message lists the first faults by domain and number.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a glossary: {FORM}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 ({error}); name a glossary: {FORM}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error}); a glossary is {FORM}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a JSON object, got {kind_of_value(content)}; a glossary is {FORM}")
    faults = list[str]()
    glossary = {str(domain): _terms(domain, listed, faults) for domain, listed in content.items()}
    if len(faults) > MAX_LISTED:
        faults[MAX_LISTED:] = [f"... and {len(faults) - MAX_LISTED} more"]
    if faults:
        raise InputError("\n  ".join([f"{path}: cannot be used as a glossary, {FORM}", *faults]))
    return glossary


def _terms(domain: str, listed: object, faults: list[str]) -> list[Term]:
    if not isinstance(listed, list):
        faults.append(f'"{domain}": must be a list of terms, got {kind_of_value(listed)}')
        return []
    terms, known = list[Term](), dict[str, int]()
    for number, entry in enumerate(listed, start=1):
        fault = _fault(entry)
        if fault is None and (first := known.setdefault(entry["term"].strip().lower(), number)) != number:
            fault = f'"{entry["term"]}" is entry {first} already; join their shop words'
        if fault is not None:
            faults.append(f'"{domain}", entry {number}: {fault}')
            continue
        shop = dict.fromkeys(word.strip() for word in entry.get("shop", []))
        terms.append(Term(entry["term"].strip(), tuple(shop)))
    return terms


def _fault(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return f"must be an object, got {kind_of_value(entry)}"
    term, shop = entry.get("term"), entry.get("shop", [])
    if not isinstance(term, str) or not term.strip() or not is_whole(term):
        return f'"term" must be text, got {kind_of_value(term)}'
    if not isinstance(shop, list):
        return f'"shop" must be a list of texts, got {kind_of_value(shop)}'
    for word in shop:
        if not isinstance(word, str) or not word.strip() or not is_whole(word):
            return f'"shop" must hold texts only, got {kind_of_value(word)}'
        if word.strip().lower() == term.strip().lower():
            return f'"{word}" is the term itself'
    return None


def as_json(glossary: Glossary) -> str:
    """Write a glossary as JSON, one line for each word, to be filled in by hand."""
    content = {
        domain: [{"term": term.term, "shop": list(term.shop)} for term in terms] for domain, terms in glossary.items()
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


@dataclass(frozen=True)
class Swaps:
    """The terms of a domain that have shop words, ready to be found in questions."""

    pattern: re.Pattern[str] | None
    shop: Mapping[str, tuple[str, ...]]
    """Folded term -> its shop words."""

    def terms_in(self, text: str) -> list[str]:
        """Return the folded terms that a text names, the longest first where they overlap, each once."""
        if self.pattern is None:
            return []
        return list(dict.fromkeys(_singular(found, self.shop) for found in self.pattern.findall(text.lower())))

    def swapped(self, text: str, choose: "Sequence[int]") -> str | None:
        """Put shop words for all terms in a text; None if there is none, or if it would break the grammar.

        Args:
            choose: numbers that choose among several shop words of a term, one a term.
        """
        if self.pattern is None:
            return None
        parts, end = list[str](), 0
        for number, found in enumerate(self.pattern.finditer(text.lower())):
            term = _singular(found[0], self.shop)
            words = self.shop[term]
            shop = words[choose[number % len(choose)] % len(words)]
            before = text[end : found.start()]
            put = _inflected(shop, is_plural=found[0] != term, term=term)
            if put is None:
                return None
            before = _with_right_article(before, put)
            if re.search(r"\b(?:a|an)\s$", before) and put.endswith("s") and not put.isupper() and put[-2] != "s":
                return None
            parts += [before, put]
            end = found.end()
        if not parts:
            return None
        swapped = "".join([*parts, text[end:]])
        # "the whiskers is": a shop word in another number than its term
        if re.search(r"\b(?:is|does|has) the \w*[^s\W]s\b(?! \w)", swapped) and swapped != text:
            return None
        return swapped[:1].upper() + swapped[1:] if text[:1].isupper() else swapped


def swaps_of(terms: Sequence[Term]) -> Swaps:
    """Prepare the terms of a domain that have shop words."""
    shop = {term.term.lower(): term.shop for term in terms if term.shop}
    if not shop:
        return Swaps(None, {})
    forms = {form for term in shop for form in (term, _plural(term))}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    alternatives = "|".join(re.escape(form) for form in longest_first)
    return Swaps(re.compile(rf"(?<![\w-])(?:{alternatives})(?![\w-])"), shop)


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es" if not word.endswith("s") else word
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def _singular(form: str, terms: Mapping[str, tuple[str, ...]]) -> str:
    if form in terms:
        return form
    return next(term for term in sorted(terms) if _plural(term) == form)


def _inflected(shop: str, *, is_plural: bool, term: str) -> str | None:
    """Return a shop word in the number of the term that it stands for."""
    if not is_plural or term.endswith("s") or shop.endswith("s"):
        return shop
    return f"{shop}s" if shop[-1].isupper() or shop[-1].isdigit() else _plural(shop)


def _with_right_article(before: str, word: str) -> str:
    wanted = "an" if word[0].lower() in "aeiou" and not word.lower().startswith(("uni", "eu", "one")) else "a"
    if word.isupper() and len(word) > 1:
        wanted = "an" if word[0] in "AEFHILMNORSX" else "a"
    return re.sub(r"\b(an?|An?)(\s)$", lambda found: _cased(wanted, found[1]) + found[2], before)


def _cased(word: str, like: str) -> str:
    return word.capitalize() if like[0].isupper() else word
