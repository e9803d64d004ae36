"""The manuals in a folder, each with the domain that its sections are of."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nic_ray.errors import InputError, is_utf8
from nic_ray.manuals.readers import ENDINGS, PACKED, format_of
from nic_ray.metrics.table import OVER_ALL

DomainFrom = Literal["folder", "file"]


@dataclass(frozen=True)
class Manual:
    """A file that is to be read."""

    path: Path
    source: str
    """Its place below the folder of manuals, with "/" between folders."""
    domain: str


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    manuals: tuple[Manual, ...]
    """In order of their sources."""
    skipped: Mapping[str, int]
    """Ending, in lower case, of files of unknown formats -> their number, the most frequent first."""
    faults: tuple[str, ...]
    """What cannot be read, a line each."""


@dataclass
class _Scan:
    files: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)
    """Folders that links may lead to again."""


def find_manuals(place: Path, domain_from: DomainFrom | None = None) -> Found:
    """Find the manuals of a folder and its subfolders, or a single one; hidden files are left out.

    Args:
        place: the folder or file.
        domain_from: what names domains: "folder", the first subfolder, or for files beside it the folder itself;
            "file", a file's name without its ending; None for folders if a manual lies in a subfolder, else for files.

    Raises:
        InputError: there is no such place, it holds no manuals, or a domain's name would not do.
    """
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; name a folder of manuals")
    scan = _Scan()
    if place.is_dir():
        _scan(place, scan)
    elif format_of(place) is None:
        raise InputError(f"{place}: is of no format that is known; known are {', '.join(ENDINGS)}, also with {PACKED}")
    else:
        scan.files.append(place)
    root = place if place.is_dir() else place.parent
    inside = sorted((path.relative_to(root).as_posix(), path) for path in scan.files)
    if not inside and not scan.faults:
        listed = f"; found: {shown_endings(scan.skipped)}" if scan.skipped else ""
        raise InputError(f"{place}: holds no manuals; known are {', '.join(ENDINGS)}, also with {PACKED}{listed}")
    by_folder = domain_from == "folder" or (domain_from is None and any("/" in source for source, _ in inside))
    manuals = tuple(Manual(path, source, _domain(path, source, root, by_folder=by_folder)) for source, path in inside)
    return Found(manuals, dict(scan.skipped.most_common()), tuple(scan.faults))


def shown_endings(skipped: Mapping[str, int]) -> str:
    """List endings with their numbers: "12 .png, 3 .css"."""
    return ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in skipped.items())


def _scan(folder: Path, scan: _Scan) -> None:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in scan.seen:
            return
        scan.seen.add((status.st_dev, status.st_ino))
        entries = sorted(folder.iterdir())
    except OSError as error:
        scan.faults.append(f"{folder}: cannot be read ({error.strerror}); make it readable")
        return
    for entry in entries:
        # "~$" begins the files by which Word marks a document as opened
        if entry.name.startswith((".", "~$")):
            continue
        for kind, path in _kind(entry, scan):
            if kind == "folder":
                _scan(path, scan)
            elif not is_utf8(str(path)):
                scan.faults.append(f"{str(path)!r}: the name must be UTF-8; rename it")
            elif format_of(path) is None:
                scan.skipped[_ending(path)] += 1
            else:
                scan.files.append(path)


def _kind(entry: Path, scan: _Scan) -> Iterator[tuple[str, Path]]:
    try:
        entry.stat()
    except OSError as error:
        # a link to nowhere, or to itself
        if format_of(entry) is not None:
            scan.faults.append(f"{entry}: cannot be read ({error.strerror}); make it readable, or remove it")
        return
    if entry.is_dir():
        yield "folder", entry
    elif entry.is_file():
        yield "file", entry


def _ending(path: Path) -> str:
    name = path.name.lower()
    inner = Path(name.removesuffix(PACKED)).suffix
    return f"{inner}{PACKED}" if name.endswith(PACKED) else inner


def _domain(path: Path, source: str, root: Path, *, by_folder: bool) -> str:
    if by_folder:
        name = source.partition("/")[0] if "/" in source else root.resolve().name
    else:
        form = format_of(path)
        plain = path.name[: -len(PACKED)] if path.name.lower().endswith(PACKED) else path.name
        endings = form.endings if form else ()
        name = next((plain[: -len(ending)] for ending in endings if plain.lower().endswith(ending)), plain)
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split()) or "manuals"
    if name in OVER_ALL:
        raise InputError(f'{path}: its domain would be "{name}", which names a figure over all domains; rename it')
    return name
