"""The reference manuals in other formats, with what manuals have beside their text: contents, navigation, margins."""

import html
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REFERENCE = Path(__file__).parent.parent / "data" / "reference"
DOMAINS = sorted(path.name.removesuffix(".manual.jsonl") for path in REFERENCE.glob("*.manual.jsonl"))
MARGIN = "Doc. 4711-A — for authorised workshops only"
"""Stands at the head and the foot of pages, and belongs to no section."""
HEADS = ("Item", "Setting", "Limit")
ROWS = (("Relief valve", "185 bar", "210 bar"), ("Idle speed", "750 rpm", "900 rpm"))
ROW_SENTENCES = (
    "Item: Relief valve; Setting: 185 bar; Limit: 210 bar.",
    "Item: Idle speed; Setting: 750 rpm; Limit: 900 rpm.",
)
"""What `ROWS` become."""
TABLE = "Values at a glance"
"""The section that holds the table, at the end of every manual, in the chapter `APPENDIX`."""
APPENDIX = "Appendix of tables"


@dataclass(frozen=True)
class Chapter:
    """A chapter of a manual."""

    title: str
    sections: tuple[tuple[str, str], ...]
    """Title and text of each."""


@dataclass(frozen=True)
class Manual:
    """A manual of two levels."""

    domain: str
    title: str
    chapters: tuple[Chapter, ...]

    @property
    def titles(self) -> list[str]:
        """Those of all sections."""
        return [title for chapter in self.chapters for title, _ in chapter.sections]

    @property
    def passages(self) -> list[str]:
        """Heading, line break and text of all sections."""
        return [f"{title}\n{text}" for chapter in self.chapters for title, text in chapter.sections]


def reference_manual(domain: str) -> Manual:
    """Read one of the reference manuals."""
    chapters: dict[str, list[tuple[str, str]]] = {}
    for line in (REFERENCE / f"{domain}.manual.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        chapters.setdefault(row["chapter"], []).append((row["section"], row["text"]))
    titled = tuple(Chapter(title, tuple(sections)) for title, sections in chapters.items())
    return Manual(domain, f"Service manual of the {domain.replace('_', ' ')} workshop", titled)


def as_markdown(manual: Manual) -> str:
    """Write a manual in Markdown, with front matter, a list of contents and a table."""
    parts = [f"---\ntitle: {manual.title}\nauthor: nobody\n---", "## Contents"]
    parts.append("\n".join(f"- [{_of_markdown(title)}](#{n})" for n, title in enumerate(manual.titles)))
    for chapter in manual.chapters:
        parts.append(f"## {_of_markdown(chapter.title)}")
        for title, text in chapter.sections:
            parts += [f"### {_of_markdown(title)}", "\n".join(textwrap.wrap(_of_markdown(text), 80))]
            parts += _furniture(len(parts) // 4)
    rows = "\n".join("| " + " | ".join(row) + " |" for row in (HEADS, ("---",) * 3, *ROWS))
    return "\n\n".join([*parts, f"## {APPENDIX}", f"### {TABLE}", rows]) + "\n"


def as_restructured(manual: Manual) -> str:
    """Write a manual in reStructuredText, with a list of contents, comments and a table."""
    parts = [_underlined(manual.title, "="), ".. contents:: Contents", f".. {MARGIN}"]
    for chapter in manual.chapters:
        parts.append(_underlined(chapter.title, "-"))
        for title, text in chapter.sections:
            parts += [_underlined(title, "~"), "\n".join(textwrap.wrap(_of_restructured(text), 80))]
    lines = [", ".join(f'"{cell}"' for cell in row) for row in (HEADS, *ROWS)]
    table = ".. csv-table::\n   :header-rows: 1\n\n" + "\n".join(f"   {line}" for line in lines)
    return "\n\n".join([*parts, _underlined(APPENDIX, "-"), _underlined(TABLE, "~"), table]) + "\n"


def as_html(manual: Manual) -> str:
    """Write a manual in HTML, with navigation, a list of contents, numbered headings, scripts and margins."""
    links = "".join(f'<li><a href="#s{n}">{html.escape(title)}</a></li>' for n, title in enumerate(manual.titles))
    way = '<div class="bar"><a accesskey="p" href="a.html">Prev</a> <a accesskey="n" href="b.html">Next</a></div>'
    body = [
        f"<nav><ul>{links}</ul></nav><header>{MARGIN}</header>{way}<h1>{html.escape(manual.title)}</h1>",
        f"<h2>Contents</h2><ul>{links}</ul>",
    ]
    for number, chapter in enumerate(manual.chapters, 1):
        body.append(f"<h2>{number}. {html.escape(chapter.title)}</h2>")
        for place, (title, text) in enumerate(chapter.sections, 1):
            body.append(f"<h3>{number}.{place} {html.escape(title)}</h3><div><p>{_of_html(text)}</p></div>")
            body += [f"<p>{line}</p>" for line in _furniture(len(body) // 4)]
    rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in ROWS)
    heads = "".join(f"<th>{head}</th>" for head in HEADS)
    body.append(f"<h2>{APPENDIX}</h2><h3>{TABLE}</h3><table><tr>{heads}</tr>{rows}</table>")
    body.append(f"{way}<footer>{MARGIN}</footer><script>var text = 'no text of the manual';</script>")
    head = '<meta charset="utf-8"><title>Online help</title><style>p { margin: 0 }</style>'
    return f"<!DOCTYPE html><html><head>{head}</head><body>{''.join(body)}</body></html>"


def as_text(manual: Manual) -> str:
    """Write a manual as plain text of pages of 40 lines, with dotted contents, numbered headings and page numbers."""
    lines = [manual.title, "=" * len(manual.title), "", "Contents", "--------", ""]
    lines += [f"{title} {'.' * (72 - len(title))} {page}" for page, title in enumerate(manual.titles, 3)]
    for number, chapter in enumerate(manual.chapters, 1):
        lines += ["", *_underlined(f"{number}. {chapter.title}", "-").split("\n"), ""]
        for place, (title, text) in enumerate(chapter.sections, 1):
            heading = f"{number}.{place} {title}"
            lines += ["", *_underlined(heading, "~").split("\n"), "", *textwrap.wrap(text, 76), ""]
    lines += ["", *_underlined(APPENDIX, "-").split("\n"), "", *_underlined(TABLE, "~").split("\n"), ""]
    lines += ["  ".join(cell.ljust(16) for cell in row) for row in (HEADS, *ROWS)]
    pages = [lines[start : start + 40] for start in range(0, len(lines), 40)]
    return "\f".join(
        "\n".join([f"{MARGIN}", "", *page, "", f"Page {number} of {len(pages)}"])
        for number, page in enumerate(pages, 1)
    )


def write_docx(manual: Manual, path: Path) -> None:
    """Write a manual for Word, with a list of contents, a header, a footer and a table."""
    import docx

    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = MARGIN
    document.sections[0].footer.paragraphs[0].text = f"{MARGIN}, page 1"
    document.add_paragraph(manual.title, style="Title")
    document.styles.add_style("TOC 1", 1)
    for page, title in enumerate(manual.titles, 3):
        document.add_paragraph(f"{title}\t{page}", style="TOC 1")
    page = 0
    for chapter in manual.chapters:
        document.add_heading(chapter.title, 1)
        for title, text in chapter.sections:
            document.add_heading(title, 2)
            document.add_paragraph(text)
            page += 1
            for line in _furniture(page):
                document.add_paragraph(line)
    document.add_heading(APPENDIX, 1)
    document.add_heading(TABLE, 2)
    table = document.add_table(0, len(HEADS))
    for row in (HEADS, *ROWS):
        for cell, text in zip(table.add_row().cells, row, strict=True):
            cell.text = text
    document.save(str(path))


def _written(write: Callable[[Manual], str]) -> Callable[[Manual, Path], None]:
    return lambda manual, path: path.write_text(write(manual), encoding="utf-8") and None


WRITERS: dict[str, Callable[[Manual, Path], None]] = {
    ".md": _written(as_markdown),
    ".rst": _written(as_restructured),
    ".html": _written(as_html),
    ".txt": _written(as_text),
    ".docx": write_docx,
}
"""Ending -> a function that writes a manual to a file."""


def share_found(wanted: Sequence[str], found: Sequence[str]) -> float:
    """Share of texts that are among others."""
    return sum(text in set(found) for text in wanted) / len(wanted)


def _furniture(page: int) -> list[str]:
    """What stands between two pages where paper was converted: a footer, a page number and a stamp."""
    return [MARGIN, f"Page {page} of 80", "UNCONTROLLED COPY"]


def _underlined(title: str, rule: str) -> str:
    return f"{title}\n{rule * len(title)}"


def _of_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)


def _of_restructured(text: str) -> str:
    return re.sub(r"([\\`*_|])", r"\\\1", text)


def _of_html(text: str) -> str:
    """Mark up some words, and break lines."""
    words = [f"<b>{word}</b>" if n % 11 == 5 else word for n, word in enumerate(html.escape(text).split(" "))]
    return "\n".join(textwrap.wrap(" ".join(words), 60, break_on_hyphens=False))
