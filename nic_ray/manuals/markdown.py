"""Manuals in Markdown."""

import datetime
import re
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

from nic_ray.manuals.blocks import Document
from nic_ray.manuals.files import text_of_file
from nic_ray.manuals.markup import ADMONITIONS, MAX_DEPTH, document_of_html

_FRONT = re.compile(r"(?:---\n(?P<yaml>.*?)\n(?:---|\.\.\.)|\+\+\+\n(?P<toml>.*?)\n\+\+\+)\s*(?:\n|\Z)", re.DOTALL)
_KINDS = "|".join(ADMONITIONS)
_INDENTED = re.compile(
    rf"^(?:!!!|\?\?\?\+?) *({_KINDS})\b[^\n]*\n((?:(?:[ ]{{4}}|\t)[^\n]*(?:\n|\Z)|[ \t]*\n)*)", re.M | re.I
)
_FENCED = re.compile(rf"^:::+ *\{{?({_KINDS})\}}?[^\n]*\n(.*?)^:::+ *$", re.M | re.I | re.S)
_ATTRIBUTES = re.compile(r"^(#{1,6} .*?)\s*\{[#.][^}\n]*\}\s*$", re.M)


def read_markdown(path: Path) -> Document:
    """Read a file of Markdown with tables (CommonMark), with the title of its front matter if there is one.

    Raises:
        InputError: it is no text.
    """
    text, notes = text_of_file(path)
    title = ""
    if front := _FRONT.match(text):
        text, title = text[front.end() :], _title(front)
    for form in (_INDENTED, _FENCED):
        text = form.sub(_as_quote, text)
    text = _ATTRIBUTES.sub(r"\1", text)
    page = MarkdownIt("commonmark", {"maxNesting": MAX_DEPTH}).enable(["table", "strikethrough"]).render(text)
    document = document_of_html(page, title or path.stem)
    return Document(title or document.title, document.blocks, notes=notes)


def _title(front: re.Match[str]) -> str:
    if front["toml"] is not None:
        found = re.search(r'^title\s*=\s*["\'](.*)["\']\s*$', front["toml"], re.MULTILINE)
        return found[1].strip() if found else ""
    try:
        fields = yaml.safe_load(front["yaml"])
    except (yaml.YAMLError, ValueError, RecursionError):  # "2024-02-31" is no date
        return ""
    named = fields.get("title") if isinstance(fields, dict) else None
    return " ".join(str(named).split()) if isinstance(named, str | int | float | datetime.date) else ""


def _as_quote(found: re.Match[str]) -> str:
    """Write a box of MkDocs ("!!! warning") or of MyST (":::warning") as one of GitHub ("> [!WARNING]")."""
    body = re.sub(r"^(?: {4}|\t)", "", found[2], flags=re.MULTILINE).strip("\n")
    quoted = "\n".join(f"> {line}" for line in body.split("\n"))
    return f"\n> [!{found[1].upper()}]\n{quoted}\n\n"
