"""Manuals in reStructuredText."""

import re
from pathlib import Path
from typing import Any

from docutils import core, nodes
from docutils.parsers.rst import Directive, directives, roles

from nic_ray.manuals.blocks import Document
from nic_ray.manuals.files import MAX_TEXT, refuse_html, text_of_file
from nic_ray.manuals.markup import document_of_html

SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "halt_level": 5,
    "line_length_limit": MAX_TEXT,
    "report_level": 5,
    "warning_stream": False,
    "traceback": True,  # without it, docutils ends the program
    "_disable_config": True,
    "embed_stylesheet": False,
    "stylesheet_path": "",
    "doctitle_xform": True,
    "sectsubtitle_xform": False,
    "toc_backlinks": False,
    "input_encoding": "unicode",
    "output_encoding": "unicode",
    "syntax_highlight": "none",
    "smart_quotes": False,
    "math_output": "LaTeX",
}
"""Nothing is read but the file itself, and what docutils cannot parse stops nothing."""
TEXT_ROLES = (
    "ref doc term option guilabel menuselection kbd file command envvar program samp numref download abbr dfn "
    "class func meth mod attr data exc obj const py:class py:func c:func c:macro makevar mimetype regexp manpage"
).split()
"""Roles of Sphinx whose text is shown as it stands, without its target."""
BODIES = "only container rst-class tab tabs tab-set tab-item dropdown centered hlist glossary cssclass".split()
"""Directives of Sphinx whose content is text of the manual."""
NOTES = {
    "seealso": "See also", "versionadded": "New in version", "versionchanged": "Changed in version",
    "deprecated": "Deprecated since version",
}  # fmt: skip
SILENT = "toctree index tabularcolumns highlight currentmodule program contents sectionauthor codeauthor".split()
"""Directives without text of the manual."""
_UNKNOWN = re.compile(r'Unknown directive type "(.+?)"')


class _Body(Directive):  # type: ignore[misc]  # docutils has no types
    """A directive whose content is parsed as if it stood in the document."""

    has_content, optional_arguments, final_argument_whitespace = True, 1, True
    option_spec = None

    def run(self) -> list[Any]:
        holder = nodes.container()
        before = NOTES.get(self.name)
        if before is not None:
            text = " ".join([before, *self.arguments]).strip()
            holder += nodes.paragraph("", f"{text}:" if self.content else f"{text}.")
        self.state.nested_parse(self.content, self.content_offset, holder)
        return [holder]


class _Silent(_Body):
    """A directive that is left out."""

    def run(self) -> list[Any]:
        return []


def read_restructured(path: Path) -> Document:
    """Read a file of reStructuredText; of Sphinx's own markup, what has text is kept.

    Raises:
        InputError: it is no text.
    """
    _know_sphinx()
    text, notes = text_of_file(path)
    refuse_html(text, "reStructuredText")
    tree = core.publish_doctree(text, source_path=path.stem, settings_overrides=SETTINGS)
    unknown = sorted(
        {found[1] for message in tree.findall(nodes.system_message) if (found := _UNKNOWN.search(message.astext()))}
    )
    page = core.publish_from_doctree(tree, writer="html5", settings_overrides=SETTINGS)
    named = tree.get("title", "")
    document = document_of_html(page, named or path.stem)
    if unknown:
        notes = (*notes, f"directives that are not known were left out: {', '.join(unknown)}")
    return Document(document.title, document.blocks, notes=notes)


def _know_sphinx() -> None:
    for name in TEXT_ROLES:
        roles.register_local_role(name, _text_role)
    for name in [*BODIES, *NOTES]:
        directives.register_directive(name, _Body)
    for name in SILENT:
        directives.register_directive(name, _Silent)


def _text_role(name: str, rawtext: str, text: str, *_: Any, **__: Any) -> tuple[list[Any], list[Any]]:
    shown = re.sub(r"\s*<[^<>]*>\Z", "", text).replace("-->", ">").lstrip("~!")
    return [nodes.Text(shown)], []
