"""The passages to search: those of a file of passages or pairs, or the paragraphs of a folder of manuals."""

from collections.abc import Sequence
from pathlib import Path

from nic_ray.dataset.formats import files_of, format_named
from nic_ray.dataset.pairs import index_pairs, read_pairs
from nic_ray.dataset.passage_files import Passage, read_passages
from nic_ray.errors import InputError
from nic_ray.sources import Sources, is_hub
from nic_ray.words import count_words

SUFFIXES = (".txt", ".md")
SHORT = 12
"""Largest number of words, by `count_words`, of a paragraph that is taken for the heading of the following one."""


def read_corpus(path: Sources) -> list[Passage]:
    """Read the distinct passages of files of passages or pairs, of folders in BEIR form, or of text files in another.

    A folder with files of a format of rows, and no text besides a README, stands for these. The text files of any other
    folder end in .txt or .md and are split at empty lines; a paragraph of at most `SHORT` words is a heading and is
    joined with the next paragraph.

    Raises:
        InputError: there is no such file or folder, a file cannot be read or used, or there is no passage.
    """
    if not isinstance(path, Path) or is_hub(path):
        return _of_pairs(path)
    if path.is_file() or format_named(path) in ("beir", "datasets"):
        passages_alone = read_passages(path)
        return _of_pairs(path) if passages_alone is None else passages_alone
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; name a file of pairs, or a folder of text files")
    written = [entry for entry in path.rglob("*") if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    files = [file for file in files_of(path) if file != path]
    if files and all(file.stem.lower() == "readme" for file in written):
        return _of_files(files)
    passages: dict[str, Passage] = {}
    for file in sorted(written):
        inside = file.relative_to(path)
        domain = inside.parts[0] if len(inside.parts) > 1 else file.stem
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read as UTF-8 text ({error}); convert it, or remove it") from None
        for passage in _passages(text):
            passages.setdefault(passage, Passage(passage, domain))
    if not passages and files_of(path) != (path,):
        return _of_pairs(path)
    if not passages:
        raise InputError(f"{path}: holds no text in files that end in {' or '.join(SUFFIXES)}")
    return list(passages.values())


def _of_files(files: Sequence[Path]) -> list[Passage]:
    """Read the passages of several files, of passages or of pairs, those of pairs together."""
    of_files = {file: read_passages(file) for file in files}
    pairs = tuple(file for file, passages in of_files.items() if passages is None)
    found = {each.text: each for passages in of_files.values() for each in passages or ()}
    return [*found.values(), *(each for each in (_of_pairs(pairs) if pairs else ()) if each.text not in found)]


def _of_pairs(path: Sources) -> list[Passage]:
    collection = index_pairs(read_pairs(path))
    domains: dict[int, set[str]] = {}
    for row, domain in enumerate(collection.domains):
        domains.setdefault(int(collection.positive[row]), set()).add(domain)
        for negative in collection.negatives[row].tolist():
            domains.setdefault(negative, set())
    return [
        Passage(collection.texts[number], ", ".join(sorted(domains[number])) or "answer of no row")
        for number in collection.corpus.tolist()
    ]


def _passages(text: str) -> list[str]:
    passages, headings = [], []
    for paragraph in (" ".join(part.split()) for part in text.replace("\r\n", "\n").split("\n\n")):
        if not paragraph:
            continue
        if count_words(paragraph) <= SHORT:
            headings.append(paragraph)
            continue
        passages.append("\n".join([*headings, paragraph]))
        headings = []
    return [*passages, *(["\n".join(headings)] if headings else [])]
