"""Which measure tells passages that are nearly the same from passages that are not, on pairs whose answer is known.

    python benchmarks/near_duplicates.py [--seed N] [--pairs PAIRS.jsonl ...] [--rows N]

The pairs are made from sections of manuals in ten languages, which stand in near_duplicates.json. Near are: the section
for another model, one with a word changed, with three other numbers, with all of its numbers changed, with a short
sentence added, with two sentences exchanged, and with other line ends, case and punctuation. Not near are: another
section of the same manual, the same words in another order, half of one section and half of another, different content
under the same header, short texts of one form that differ in names, parts or numbers, and short texts whose roles are
exchanged.

Prints precision and recall over the kinds (each kind has the same weight) of every measure at the best of its
thresholds and at others, and what the measure in use does kind by kind. Then the time it takes on files of pairs and on
N short made-up texts, and how large the groups become.
"""

import argparse
import itertools
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nic_ray.dataset.duplicates import near_duplicates
from nic_ray.dataset.pairs import read_pairs
from nic_ray.words import words


class Labelled(NamedTuple):
    """Two texts, and whether they are nearly the same."""

    kind: str
    language: str
    left: str
    right: str
    near: bool


class Manual(NamedTuple):
    """What the pairs of a language are made from. "{m}" in a text is the name of a model."""

    gap: str
    """Between sentences."""
    models: list[str]
    sections: list[list[str]]
    """Sentences of each section: 40 to 100 words."""
    added: str
    """A short sentence that fits everywhere."""
    form: str
    """A short text: "{m}", "{part}" and "{n}" are filled in."""
    parts: list[str]
    roles: tuple[str, str]
    """Two short texts of the same words."""


MANUALS = {
    language: Manual(**own)
    for language, own in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")).items()
}


def labelled_pairs(seed: int = 0) -> list[Labelled]:
    """Pairs of each kind in each language, some with several draws."""
    luck = random.Random(seed)
    found: list[Labelled] = []
    for language, manual in MANUALS.items():

        def add(kind: str, left: str, right: str, near: bool, language: str = language) -> None:
            found.append(Labelled(kind, language, left, right, near))

        for number, sentences in enumerate(manual.sections):
            own, other = luck.sample(manual.models, 2)
            text = manual.gap.join(sentences).replace("{m}", own)
            add("another model", text, manual.gap.join(sentences).replace("{m}", other), True)
            for _ in range(3):
                add("one word changed", text, _other_word(text, manual, number, luck), True)
                add("three numbers changed", text, _other_numbers(text, 3, luck), True)
            add("every number changed", text, _other_numbers(text, 99, luck), True)
            more = list(sentences)
            more.insert(luck.randrange(len(more) + 1), manual.added)
            add("a sentence added", text, manual.gap.join(more).replace("{m}", own), True)
            moved = list(sentences)
            place = luck.randrange(len(moved) - 1)
            moved[place : place + 2] = moved[place : place + 2][::-1]
            add("two sentences exchanged", text, manual.gap.join(moved).replace("{m}", own), True)
            add("set otherwise", text, _set_otherwise(text), True)
            add("same words, another order", text, _shuffled(text, manual.gap, luck), False)
            for another in manual.sections[:number] + manual.sections[number + 1 :]:
                whole = manual.gap.join(another).replace("{m}", own)
                add("another section", text, whole, False)
                half = [*sentences[: len(sentences) // 2], *another[len(another) // 2 :]]
                add("half of another section", text, manual.gap.join(half).replace("{m}", own), False)
                header = f"{manual.added}{manual.gap}{sentences[0]}"
                add("same header", f"{header} {text}", f"{header} {whole}", False)
        for left, right in itertools.combinations(manual.models, 2):
            part = luck.choice(manual.parts)
            add("same form, another name", _filled(manual, left, part, luck), _filled(manual, right, part, luck), False)
            text = _filled(manual, "{m}", part, luck)
            add("same form, only the name", text.replace("{m}", left), text.replace("{m}", right), False)
        for left, right in itertools.combinations(manual.parts, 2):
            model = luck.choice(manual.models)
            add(
                "same form, another part",
                _filled(manual, model, left, luck),
                _filled(manual, model, right, luck),
                False,
            )
        add("exchanged roles", *manual.roles, False)
    return found


def _other_word(text: str, manual: Manual, number: int, luck: random.Random) -> str:
    """The text with a word (two characters where there are no spaces) out of another section in place of one."""
    another = manual.gap.join(manual.sections[number - 1])
    if manual.gap and not re.search(r"[\u0e00-\u0e7f]", text):
        spaced, others = text.split(" "), [word for word in another.split(" ") if "{" not in word]
        spaced[luck.randrange(len(spaced))] = luck.choice(others)
        return " ".join(spaced)
    wide = 6 if re.search(r"[\u0e00-\u0e7f]", text) else 2
    place, start = luck.randrange(len(text) - wide), luck.randrange(len(manual.added) - wide)
    return text[:place] + manual.added[start : start + wide] + text[place + wide :]


def _other_numbers(text: str, most: int, luck: random.Random) -> str:
    places = [match.span() for match in re.finditer(r"\d+", text)]
    for start, end in sorted(luck.sample(places, min(most, len(places))), reverse=True):
        text = text[:start] + str(luck.randrange(10 ** (end - start - 1), 10 ** (end - start))) + text[end:]
    return text


def _set_otherwise(text: str) -> str:
    return text.upper().replace(", ", " - ").replace(". ", ".\n\n").replace("。", "\n")


def _shuffled(text: str, gap: str, luck: random.Random) -> str:
    parts = words(text)
    luck.shuffle(parts)
    return gap.join(parts)


def _filled(manual: Manual, model: str, part: str, luck: random.Random) -> str:
    text = manual.form.replace("{m}", model).replace("{part}", part)
    return re.sub(r"\{n\}", lambda _: str(luck.randrange(2, 99)), text)


def ngrams(units: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Sequences of so many units; a shorter text is a single one."""
    return [tuple(units[start : start + length]) for start in range(max(1, len(units) - length + 1))]


def jaccard(left: Sequence[object], right: Sequence[object]) -> float:
    """Shared items by all items, each as often as it occurs."""
    one, other = Counter(left), Counter(right)
    return sum((one & other).values()) / max(1, sum((one | other).values()))


def containment(left: Sequence[object], right: Sequence[object]) -> float:
    """Shared items by the items of the shorter text."""
    return sum((Counter(left) & Counter(right)).values()) / max(1, min(len(left), len(right)))


def set_jaccard(left: Sequence[object], right: Sequence[object]) -> float:
    """Shared items by all items, each once."""
    return len(set(left) & set(right)) / max(1, len(set(left) | set(right)))


def edit_similarity(left: Sequence[str], right: Sequence[str]) -> float:
    """1 less the share of words that must be inserted, left out or exchanged."""
    row = list(range(len(right) + 1))
    for i, one in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return 1 - row[-1] / max(1, len(left), len(right))


def ended(units: Sequence[str]) -> list[str]:
    """Words between two marks, so that the first and the last one count like the others."""
    return ["", *units, ""]


MEASURES: dict[str, Callable[[str, str], float]] = {
    **{
        f"Jaccard of sequences of {n} words": (lambda a, b, n=n: set_jaccard(ngrams(words(a), n), ngrams(words(b), n)))
        for n in (2, 3, 5)
    },
    "Jaccard of words, each as often as it occurs": lambda a, b: jaccard(words(a), words(b)),
    "Jaccard of pairs of words, ends included": lambda a, b: set_jaccard(
        ngrams(ended(words(a)), 2), ngrams(ended(words(b)), 2)
    ),
    "the same, each as often as it occurs": lambda a, b: jaccard(
        ngrams(ended(words(a)), 2), ngrams(ended(words(b)), 2)
    ),
    "containment of pairs of words": lambda a, b: containment(ngrams(ended(words(a)), 2), ngrams(ended(words(b)), 2)),
    "edit similarity of words": lambda a, b: edit_similarity(words(a), words(b)),
    **{
        f"Jaccard of sequences of {n} characters": (
            lambda a, b, n=n: set_jaccard(ngrams(" ".join(words(a)), n), ngrams(" ".join(words(b)), n))
        )
        for n in (3, 5, 8)
    },
}
THRESHOLDS = np.round(np.arange(0.5, 1.0, 0.01), 2)


def by_kind(values: Sequence[bool], pairs: Sequence[Labelled]) -> dict[str, float]:
    """Kind -> share of its pairs that are called near."""
    kinds: dict[str, list[bool]] = {}
    for value, pair in zip(values, pairs, strict=True):
        kinds.setdefault(pair.kind, []).append(bool(value))
    return {kind: float(np.mean(own)) for kind, own in kinds.items()}


def precision_and_recall(values: Sequence[bool], pairs: Sequence[Labelled]) -> tuple[float, float]:
    """Of what is called near and of what is, each kind with the same weight."""
    near = {pair.kind for pair in pairs if pair.near}
    shares = by_kind(values, pairs)
    right = sum(share for kind, share in shares.items() if kind in near)
    wrong = sum(share for kind, share in shares.items() if kind not in near)
    return right / max(right + wrong, 1e-12), right / len(near)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=Path, nargs="*", default=[Path("data/reference/pairs.jsonl")])
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    pairs = labelled_pairs(arguments.seed)
    print(f"{len(pairs)} pairs, {sum(pair.near for pair in pairs)} of them near, in {len(MANUALS)} languages")
    print(f"{'measure':50s} threshold  precision  recall")
    for name, measure in MEASURES.items():
        values = np.array([measure(pair.left, pair.right) for pair in pairs])
        rated = {t: precision_and_recall((values >= t).tolist(), pairs) for t in THRESHOLDS.tolist()}
        best = max(rated, key=lambda t: 2 / (1 / max(rated[t][0], 1e-9) + 1 / max(rated[t][1], 1e-9)))
        for threshold in sorted({best, 0.7, 0.8, 0.9}):
            mark = " best" if threshold == best else ""
            print(f"{name:50s} {threshold:9.2f}  {rated[threshold][0]:9.3f}  {rated[threshold][1]:6.3f}{mark}")
    called = [len(set(near_duplicates([pair.left, pair.right]).tolist())) == 1 for pair in pairs]
    print("\nin use: precision {:.3f}, recall {:.3f}".format(*precision_and_recall(called, pairs)))
    for kind, share in by_kind(called, pairs).items():
        wanted = next(pair.near for pair in pairs if pair.kind == kind)
        missed = Counter(
            pair.language for pair, own in zip(pairs, called, strict=True) if pair.kind == kind and own != wanted
        )
        print(f"  {kind:28s} {'near' if wanted else 'not near':9s} called near {share:.2f}  wrong in {dict(missed)}")
    luck = np.random.default_rng(arguments.seed)
    vocabulary = np.array([f"w{number}" for number in range(20_000)])
    drawn = luck.zipf(1.2, size=(arguments.rows, 12)) % len(vocabulary)
    files = {str(path): list(dict.fromkeys(pair.positive for pair in read_pairs(path))) for path in arguments.pairs}
    files[f"{arguments.rows} short texts"] = [" ".join(row) for row in vocabulary[drawn].tolist()]
    for name, texts in files.items():
        start = time.perf_counter()
        groups = np.bincount(near_duplicates(texts))
        print(
            f"{name}: {len(texts)} texts, {len(groups)} groups, the largest of {groups.max()}, "
            f"{time.perf_counter() - start:.2f} s"
        )


if __name__ == "__main__":
    main()
