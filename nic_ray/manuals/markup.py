"""Blocks of an HTML page. Markdown, reStructuredText and DOCX become HTML first, so that one walk serves them all."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bs4 import BeautifulSoup, Comment, Tag, UnusualUsageWarning
from bs4.element import NavigableString, PreformattedString
from lxml import etree  # type: ignore[import-untyped]

from nic_ray.errors import InputError
from nic_ray.manuals.blocks import Block, Document, Kind
from nic_ray.manuals.cells import grid_of, is_layout
from nic_ray.manuals.chrome import strip_chrome
from nic_ray.manuals.lines import one_line, with_whole_words
from nic_ray.manuals.rows import guessed_head_rows, row_sentences

BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure form "
    "h1 h2 h3 h4 h5 h6 header html legend li main ol p pre section summary table tbody td tfoot th thead tr ul".split()
)
"""Elements that begin and end a paragraph."""
ADMONITIONS = {
    "danger": "Danger", "warning": "Warning", "caution": "Caution", "note": "Note", "important": "Important",
    "tip": "Tip", "hint": "Hint", "attention": "Attention", "error": "Error", "notice": "Notice",
}  # fmt: skip
"""Classes of boxes -> the word that their text begins with."""
WARNING = frozenset(("danger", "warning", "caution", "attention", "notice"))
_BOX = re.compile(r"admonition|alert|box|theme-|callout|markdown-alert")
_SUPERSCRIPTS = str.maketrans("0123456789+-−–n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻ⁿ")
_MARKED = re.compile(r"\[!(\w+)\]\s*")
MAX_DEPTH = 200
"""How deep elements may lie in each other; those of manuals lie at most 40 deep."""
_NO_HEADING = frozenset("author subtitle editor edition pubdate releaseinfo affiliation".split())
"""Classes of what DocBook marks as headings on title pages."""
_HEADING = re.compile(r"h([1-6])\Z")


@dataclass
class _Walk:
    """Where a walk through a page stands."""

    blocks: list[Block] = field(default_factory=list)
    inline: list[str] = field(default_factory=list)
    title: str = ""
    kind: Kind = "paragraph"
    level: int = 0
    prefix: str = ""
    """What the next block begins with: the number of a step, or the word of a warning."""


def document_of_html(page: str, name: str) -> Document:
    """Read the blocks of a page.

    Args:
        page: HTML.
        name: the title of a page that names none.

    Raises:
        InputError: its elements lie too deep in each other.
    """
    whole = page.encode("utf-8", "replace")
    _refuse_depth(whole)
    with warnings.catch_warnings():
        # that a page calls itself XML, or holds nothing but an address
        warnings.simplefilter("ignore", UnusualUsageWarning)
        soup = BeautifulSoup(whole, "lxml", from_encoding="utf-8")
    named = soup.title.get_text(" ").strip() if soup.title else ""
    strip_chrome(soup)
    walk = _Walk()
    _children(soup.body or soup, walk)
    _flush(walk)
    return titled(walk.blocks, walk.title or _spaced(named), name)


class _Depth:
    """Counts how deep the elements lie that a parser meets."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def start(self, tag: str, attributes: object) -> None:
        """Count one more."""
        self.now += 1
        self.most = max(self.most, self.now)

    def end(self, tag: str) -> None:
        """Count one less."""
        self.now -= 1

    def close(self) -> int:
        """Return the greatest depth."""
        return self.most


def _refuse_depth(page: bytes) -> None:
    # Beautiful Soup takes minutes for such a page, and a walk has no room on the stack
    depth = _Depth()
    parser = etree.HTMLParser(target=depth, huge_tree=True, encoding="utf-8")
    etree.fromstring(page or b" ", parser)
    if depth.most > MAX_DEPTH:
        raise InputError(
            f"its elements lie {depth.most:,} deep in each other, more than {MAX_DEPTH}; convert it to another format"
        )


def titled(blocks: Sequence[Block], named: str, name: str) -> Document:
    """Return a document with its title: the only heading of the highest level if it stands first, else a name.

    Args:
        named: what the document calls itself elsewhere; empty if nothing.
        name: that of its file.
    """
    blocks = with_whole_words(blocks)
    headings = [block for block in blocks if block.kind == "heading"]
    top = min((block.level for block in headings), default=0)
    highest = [block for block in headings if block.level == top]
    if len(highest) == 1 and highest[0] is headings[0]:
        named = highest[0].text
    return Document(title=named or name, blocks=tuple(blocks))


def _children(element: Tag, walk: _Walk) -> None:
    for child in element.children:
        if isinstance(child, NavigableString):
            if not isinstance(child, Comment | PreformattedString):
                walk.inline.append(str(child))
        elif isinstance(child, Tag):
            _element(child, walk)


def _element(element: Tag, walk: _Walk) -> None:
    name = element.name
    box = _box(element)
    if box is not None:
        _admonition(element, box, walk)
    elif heading := _heading_level(element):
        _flush(walk)
        if text := _spaced(text_of(element)).strip("¶◆ "):
            if heading == 1 and "title" in element.get_attribute_list("class") and not walk.title:
                walk.title = text
            walk.blocks.append(Block("heading", text, heading))
    elif name in ("ol", "ul", "menu"):
        _list(element, walk)
    elif name == "dl":
        _definitions(element, walk)
    elif name == "table":
        _table(element, walk)
    elif name == "br":
        walk.inline.append(" ")
    elif name in ("sup", "sub"):
        walk.inline.append(_raised(element) if name == "sup" else text_of(element))
    elif name in BLOCKS or _is_line(element):
        _flush(walk)
        _children(element, walk)
        _flush(walk)
    else:
        _children(element, walk)


def _heading_level(element: Tag) -> int:
    if _NO_HEADING & {*element.get_attribute_list("class")}:
        return 0
    if found := _HEADING.match(element.name):
        # Doxygen's headings of functions are h2 within a part with an h2
        return 3 if "memtitle" in element.get_attribute_list("class") else int(found[1])
    role = element.get("role") == "heading" and str(element.get("aria-level", "2"))
    if role and role.isdigit():
        return min(9, int(role))
    classes = element.get_attribute_list("class")
    parents = element.parent.get_attribute_list("class") if element.parent else []
    return 1 if element.name == "div" and "title" in classes and "headertitle" in parents else 0


def _is_line(element: Tag) -> bool:
    return element.name == "span" and "line" in element.get_attribute_list("class")


def _raised(element: Tag) -> str:
    text = text_of(element).strip()
    link = element.find("a")
    if isinstance(link, Tag) and str(link.get("href", "")).startswith("#"):
        return ""  # the number of a footnote
    return text.translate(_SUPERSCRIPTS) if re.fullmatch(r"[0-9+−–n-]+", text) else text


def _flush(walk: _Walk) -> None:
    text = _spaced("".join(walk.inline))
    walk.inline.clear()
    if text:
        walk.blocks.append(Block(walk.kind, f"{walk.prefix}{text}", walk.level))
        walk.prefix = ""
        if walk.kind in ("step", "item"):  # what follows within a step is no step of its own
            walk.kind = "paragraph"


def _flush_term(walk: _Walk) -> None:
    """End a paragraph before a list, a table or a box; a term that is defined by it stands alone before it."""
    _flush(walk)
    if walk.kind == "item" and walk.prefix:
        walk.blocks.append(Block("item", walk.prefix.strip(), walk.level))
        walk.prefix, walk.kind = "", "paragraph"


def _box(element: Tag) -> str | None:
    """The class of a box such as a warning; None if an element is none."""
    if element.name not in ("div", "aside", "section", "dl", "blockquote", "table", "p", "details"):
        return None
    classes = [name.lower() for name in element.get_attribute_list("class") if name]
    if element.name == "blockquote" and (marked := _MARKED.match(element.get_text().strip())):
        return marked[1].lower() if marked[1].lower() in ADMONITIONS else None
    found = [part for name in classes for part in (name, *name.split("-")) if part in ADMONITIONS]
    # DocBook's box has its class alone
    marked_up = len(classes) == 1 or any(_BOX.search(name) for name in classes) or "section" in classes
    return found[0] if found and marked_up else None


def _admonition(element: Tag, box: str, walk: _Walk) -> None:
    _flush_term(walk)
    title = ADMONITIONS[box]
    for part in element.find_all(["h1", "h2", "h3", "h4", "h5", "h6", "p", "dt", "div", "td", "summary"]):
        classes = part.get_attribute_list("class")
        heading = part.name in ("h1", "h2", "h3", "h4", "h5", "h6") or (part.name == "dt" and element.name == "dl")
        if heading or {"admonition-title", "title", "icon", "admonition-heading", "markdown-alert-title"} & {*classes}:
            title = _spaced(text_of(part)) or title
            part.decompose()
            break
    inner = replace_walk(walk, kind="warning" if box in WARNING else "paragraph")
    if element.name == "table":
        for row in element.find_all("td"):
            _children(row, inner)
            _flush(inner)
    else:
        _children(element, inner)
    _flush(inner)
    for number, block in enumerate(inner.blocks):
        text = block.text if number else _MARKED.sub("", block.text)
        if not number and not text.casefold().startswith(title.casefold().rstrip(":")):
            text = f"{title.rstrip(' :')}: {text}"
        kind: Kind = (
            "warning" if inner.level == walk.level and box in WARNING and block.kind == "paragraph" else block.kind
        )
        walk.blocks.append(replace(block, kind=kind, text=text))


def replace_walk(walk: _Walk, *, kind: Kind) -> _Walk:
    """Return a walk that begins within another one, without its blocks."""
    return _Walk(kind=kind, level=walk.level)


def _list(element: Tag, walk: _Walk) -> None:
    _flush_term(walk)
    outer_kind, outer_prefix = walk.kind, walk.prefix
    walk.level += 1
    number = _whole(element.get("start"), 1)
    for child in element.find_all(["li", "ol", "ul"], recursive=False):
        if child.name != "li":
            _list(child, walk)
            continue
        if element.name == "ol":
            number = _whole(child.get("value"), number)
            walk.kind, walk.prefix = "step", f"{_numeral(number, str(element.get('type') or _style(element)))}. "
            number += 1
        else:
            walk.kind, walk.prefix = "item", ""
        _children(child, walk)
        _flush(walk)
    walk.level -= 1
    walk.kind, walk.prefix = ("paragraph" if outer_kind in ("step", "item") else outer_kind), outer_prefix


def _style(element: Tag) -> str:
    marked = " ".join([*element.get_attribute_list("class"), str(element.get("style", ""))])
    found = re.search(r"(lower|upper)-?(alpha|latin|roman)", marked)
    if found is None:
        return "1"
    letter = "i" if found[2] == "roman" else "a"
    return letter.upper() if found[1] == "upper" else letter


def _numeral(number: int, style: str) -> str:
    if style.lower() == "a" and 1 <= number <= 26:
        letter = "abcdefghijklmnopqrstuvwxyz"[number - 1]
        return letter.upper() if style == "A" else letter
    if style.lower() == "i" and 1 <= number <= 39:
        roman = "x" * (number // 10) + ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")[number % 10]
        return roman.upper() if style == "I" else roman
    return str(number)


def _whole(value: object, default: int) -> int:
    text = str(value or "").strip()
    return int(text) if re.fullmatch(r"-?\d{1,6}", text) else default


def _definitions(element: Tag, walk: _Walk) -> None:
    _flush_term(walk)
    walk.level += 1
    terms = list[str]()
    for child in element.find_all(["dt", "dd", "div"], recursive=False):
        if child.name == "div":
            _definitions(child, walk)
        elif child.name == "dt":
            terms.append(_spaced(text_of(child)))
        else:
            term = ", ".join(filter(None, terms))
            terms.clear()
            colon = "" if term.endswith((":", "?", "!")) else ":"
            walk.kind, walk.prefix = "item", f"{term}{colon} " if term else ""
            _children(child, walk)
            _flush(walk)
            _flush_term(walk)
    if terms:
        walk.kind, walk.prefix = "item", ""
        walk.inline.append(", ".join(filter(None, terms)))
        _flush(walk)
    walk.level -= 1
    walk.kind, walk.prefix = "paragraph", ""


def _table(element: Tag, walk: _Walk) -> None:
    _flush_term(walk)
    if is_layout(element) and "memname" not in element.get_attribute_list("class"):
        for row in element.find_all(["tr", "caption"]):
            if row.find_parent("table") is element:
                _layout_row(row, walk)
        return
    caption = element.find("caption")
    if isinstance(caption, Tag) and (text := _spaced(text_of(caption))):
        walk.blocks.append(Block("paragraph", text, walk.level))
    grid, head_rows = grid_of(element, lambda cell: _spaced(text_of(cell)))
    if head_rows is None:
        head_rows = guessed_head_rows(grid)
    walk.blocks += [Block("row", text, walk.level) for text in row_sentences(grid, head_rows)]


def _layout_row(row: Tag, walk: _Walk) -> None:
    # Doxygen parts a declaration into two cells
    if any(name.startswith("memitem:") for name in row.get_attribute_list("class") if name):
        walk.blocks.append(Block("row", f"{_spaced(text_of(row))}.", walk.level))
        return
    for cell in row.find_all(["td", "th"], recursive=False) or [row]:
        _children(cell, walk)
        _flush(walk)


def text_of(element: Tag) -> str:
    """Return the text of an element, with spaces where a block or a line within it begins or ends."""
    parts = list[str]()
    for child in element.children:
        if isinstance(child, NavigableString):
            if not isinstance(child, Comment | PreformattedString):
                parts.append(str(child))
        elif isinstance(child, Tag):
            if child.name == "sup":
                parts.append(_raised(child))
            elif child.name in BLOCKS or child.name == "br":
                parts.append(f" {text_of(child)} ")
            else:
                parts.append(text_of(child))
    return "".join(parts)


def _spaced(text: str) -> str:
    return one_line(text)
