"""`python -m nic_ray.sections`: read manuals of any format, and cut them into sections of a passage's length."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nic_ray import console


def main(
    manuals: Annotated[Path, typer.Argument(help="folder of manuals, or a single one")],
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write: a section a line, as JSON")],
    domain_from: Annotated[
        Literal["folder", "file"] | None,
        typer.Option(
            help="what names a section's domain: the first subfolder, or the file; without it the folder if a manual "
            "lies in one"
        ),
    ] = None,
    language: Annotated[
        str, typer.Option(metavar="CODE", help="of the manuals: what words warn, and where sentences end")
    ] = "en",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster whose nodes read the manuals, instead of RAY_ADDRESS")
    ] = None,
) -> None:
    """Cut manuals into sections of 80 to 180 words, each with its headings, its page and its file.

    HTML, Markdown, reStructuredText, plain text, DOCX and PDF, also within .gz. Sections end where paragraphs end and
    never reach over a heading; a table's row is a sentence; a warning stays with the steps after it. Sections that
    repeat others nearly word for word are kept once. A file that cannot be read is named, and the others are read. What
    was read is kept until the file is written: after an interruption the same command goes on.

    Exit code 0: there are sections; 2: none of the manuals could be used. Needs
    `pip install -c constraints.txt -e '.[manuals]'`.
    """
    from nic_ray.manuals.extraction import extract_sections
    from nic_ray.manuals.summary import show_summary
    from nic_ray.search.tasks import on_cluster

    with on_cluster(address, [manuals, out.parent]) as run:
        extracted = extract_sections(manuals, out, domain_from=domain_from, language=language, run=run)
    show_summary(extracted)
    if extracted.faults:
        console.complain("\n  ".join(["could not be used:", *extracted.faults]))


if __name__ == "__main__":
    console.run(main)
