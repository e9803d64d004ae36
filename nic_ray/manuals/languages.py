"""What depends on a manual's language: the words that warnings begin with, and abbreviations that end no sentence."""

import functools
import re

from nic_ray.errors import InputError

WARNINGS = {
    "en": "warning caution danger notice attention",
    "de": "warnung vorsicht gefahr achtung hinweis!",
    "fr": "avertissement attention danger mise|en|garde prudence",
    "es": "advertencia precaución peligro atención aviso!",
    "it": "avvertenza avvertimento attenzione pericolo cautela",
    "pt": "aviso advertência cuidado perigo atenção",
    "nl": "waarschuwing voorzichtig gevaar let|op",
    "pl": "ostrzeżenie uwaga niebezpieczeństwo przestroga",
    "sv": "varning fara försiktighet",
    "ru": "предупреждение осторожно опасность внимание",
    "zh": "警告 注意 危险 危險 小心",
    "ja": "警告 注意 危険",
}
"""Language -> its words of warning, in lower case; "|" stands for a space, and "!" after a word that warns only where
it is written in capitals."""
ABBREVIATIONS = {
    "en": "e.g i.e etc vs approx no nos fig figs sec chap eq ref p pp vol ed min max dia "
    "temp mr mrs ms dr st inc ltd co",
    "de": "z.b d.h u.a usw bzw ca nr abb vgl ggf max min evtl inkl s kap tab o.ä sog",
    "fr": "p.ex env fig réf p pp chap max min cf m mme n°",
    "es": "p.ej aprox fig núm pág cap máx mín sr sra ud uds",
    "it": "es ecc fig pag cap max min ca sig rif",
    "pt": "ex aprox fig pág cap máx mín sr sra nº",
    "nl": "bijv d.w.z enz ca nr fig blz max min i.v.m",
}
"""Language -> abbreviations that a full stop follows within a sentence, in lower case, without their last one."""


def language_code(language: str) -> str:
    """Return the code of a language without its country: "de" for "de", "DE" and "de-AT".

    Raises:
        InputError: it is no code.
    """
    code = re.split(r"[-_]", language.strip().lower())[0]
    if re.fullmatch(r"[a-z]{2,3}", code) is None:
        raise InputError(f'--language: must be a code of ISO 639, such as "en" or "de", got {language!r:.60}')
    return code


@functools.cache
def warning_start(language: str) -> re.Pattern[str]:
    """A pattern for the start of a paragraph that warns: a word of warning in capitals, or with a colon or an "!".

    Args:
        language: code of ISO 639, such as "en"; English words of warning are known in every language, since signs
            bear them everywhere.
    """
    known = dict.fromkeys(f"{WARNINGS['en']} {WARNINGS.get(language, '')}".split())
    written = [word.replace("|", " ") for word in known]
    capitals = "|".join(re.escape(word.rstrip("!").upper()) for word in written)
    marked = "|".join(re.escape(word) for word in written if not word.endswith("!"))
    return re.compile(rf"\W{{0,3}}(?:(?:{capitals})(?![\w-])|(?i:{marked})s?\s?[:!：！](?!\w))")


@functools.cache
def abbreviations(language: str) -> frozenset[str]:
    """Return the abbreviations of a language; of one that is not listed, those of English."""
    return frozenset(ABBREVIATIONS.get(language, ABBREVIATIONS["en"]).split())
