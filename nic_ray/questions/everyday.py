"""Words of a technician's speech for words of manuals, as far as they fit wherever the manual's word stands."""

import random
import re

_DO = r"(?:(?<=\bI )|(?<=\bto ))"
"""What stands before a verb: of many, the form is a noun too ("the drain hose")."""
_REWORDINGS = (
    (r"\bdoes not\b", ("won't", "doesn't")),
    (r"\bdo not\b", ("don't", "won't")),
    (r"\bcannot\b", ("can't",)),
    (r"\bis not\b", ("isn't",)),
    (_DO + r"replace\b", ("swap", "swap out", "change out")),
    (_DO + r"renew\b", ("swap", "change out")),
    (_DO + r"remove\b(?! and)", ("pull", "take off")),
    (r"\bremove and (?:install|fit)\b", ("pull and put back",)),
    (_DO + r"install\b", ("put in", "fit")),
    (_DO + r"inspect\b", ("look over", "check out")),
    (_DO + r"examine\b", ("look over",)),
    (_DO + r"adjust\b", ("set up", "dial in", "tweak")),
    (_DO + r"lubricate\b", ("grease",)),
    (_DO + r"measure\b(?! on\b)", ("check",)),
    (_DO + r"disconnect\b", ("unhook", "take off")),
    (_DO + r"connect\b", ("hook up",)),
    (_DO + r"tighten\b", ("do up", "torque down")),
    (_DO + r"(?:loosen|slacken)\b", ("undo",)),
    (_DO + r"clean\b(?= the\b)", ("clean up", "clean out")),
    (_DO + r"drain\b", ("empty", "let out")),
    (r"\bswitch off\b", ("shut off", "turn off")),
    (r"\bswitch on\b", ("turn on",)),
    (_DO + r"operate\b", ("work", "run")),
    (r"\bdefective\b|\bfaulty\b", ("bad", "dead", "busted")),
    (r"\bdamaged\b", ("busted", "banged up")),
    (r"\billuminates\b", ("lights up",)),
    (r"\billuminated\b", ("lit",)),
    (r"\bremains\b", ("stays",)),
    (r"\bremain\b", ("stay",)),
    (r"\bceases\b", ("quits",)),
    (r"\bis required\b", ("do I need",)),
    (r"\bpermitted\b", ("allowed",)),
    (r"\binsufficient\b", ("not enough",)),
    (r"\bexcessive\b", ("too much",)),
    (r"\bapproximately\b", ("about",)),
    (r"\bprocedure to\b", ("right way to", "best way to")),
    (
        r"\bthe engine\b(?= (?:is|does|won't|stops|runs|cannot|can't|turns|cranks|overheats|idles|stalls|starts)\b)",
        ("the motor",),
    ),
    (r"\blamp(s?)\b", (r"light\1",)),
    (r"\bnoises\b", ("sounds",)),
    (r"\bconductor(s?)\b", (r"wire\1",)),
    (r"\bodou?r\b", ("smell",)),
    (r"\bfumes\b", ("smell",)),
    (r"\bmoisture\b(?! (?:and|or)\b)", ("water", "damp")),
    (r"\binoperative\b", ("dead", "not working")),
    (r"\bobstructed\b", ("blocked", "plugged up")),
    (r"\bblocked\b", ("plugged up", "clogged")),
    (r"\bfractured?\b", ("cracked",)),
    (r"\bdischarged\b", ("dead", "flat")),
    (r"\bbeneath\b", ("under", "underneath")),
    (r"\badjacent to\b", ("next to",)),
    (r"\bprior to\b", ("before",)),
    (r"\bsufficient\b", ("enough",)),
    (r"\brotates\b", ("turns", "spins")),
    (r"\brotate\b", ("turn", "spin")),
    (r"\bmalfunction(s?)\b", (r"problem\1",)),
    (r"\bdisplays\b", ("shows",)),
    (r"\bexceeds\b", ("goes over",)),
    (r"\bdeflected\b", ("moved",)),
    (r"\bdelivers\b", ("puts out",)),
    (r"\bpermit\b", ("allow", "let")),
    (r"\bindicate\b", ("mean", "tell me")),
    (r"\bsuggest\b", ("mean", "tell me")),
    (r"\bpoint to\b", ("mean", "tell me")),
    (_DO + r"verify\b", ("make sure",)),
    (_DO + r"determine\b", ("find out",)),
    (_DO + r"obtain\b", ("get",)),
    (_DO + r"terminate\b", ("end",)),
    (_DO + r"commence\b", ("start",)),
    (r"\bWhat causes\b", ("What's behind",)),
    (r"\bwhat is the cause\b", ("what's up", "what's gone wrong")),
    (r"\bwhat do I check\b", ("where do I look", "what's the first thing to look at")),
    (r"\bwhat should I check\b", ("where do I look",)),
    (r"\bWhat is the torque for\b", ("How tight do I do up",)),
)
_COMPILED = tuple((re.compile(pattern), words) for pattern, words in _REWORDINGS)


_MOVED = re.compile(
    r"\b(swap|change|take|get|put|do|look|torque|hook|dial|clean|let|top) (out|off|up|over|down|in) (it|them)\b"
)


def in_everyday_words(text: str, rng: random.Random) -> str | None:
    """Replace words of manuals by words of speech; None if there is none to replace."""
    changed = text
    for pattern, words in _COMPILED:
        if pattern.search(changed):
            changed = pattern.sub(rng.choice(words), changed)
    changed = _MOVED.sub(r"\1 \3 \2", changed)  # "swap it out"
    return None if changed == text else changed


def in_first_person(text: str) -> str:
    """Let who asks speak of themselves where a manual speaks to its reader: "if I have my own"."""
    if "you" not in text.lower():
        return text
    for pattern, word in _PERSONS:
        text = pattern.sub(word, text)
    return text[:1].upper() + text[1:] if text.startswith("my ") else text


_PERSONS = tuple(
    (re.compile(pattern, re.IGNORECASE), word)
    for pattern, word in (
        (r"\bare you\b", "am I"),
        (r"\byou are\b", "I am"),
        (r"\bthan you\b", "than me"),
        (r"\b(for|to|with|lets?|allows?|from) you\b", r"\1 me"),
        (r"\byou\b", "I"),
        (r"\byour\b", "my"),
        (r"\byours\b", "mine"),
        (r"\byourself\b", "myself"),
    )
)


def as_typed(text: str, rng: random.Random) -> str:
    """Write a question as people type it: at times in lower case, and then mostly without its sign."""
    first, *rest = text.split(" ")
    keeps = first[1:] != first[1:].lower() or any(character.isdigit() for character in first) or first == "I"
    if rng.random() < 0.55 and not keeps:
        text = " ".join([first.lower(), *rest])
        if rng.random() < 0.7:
            text = text.rstrip("?")
    return text
