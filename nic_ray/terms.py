"""`python -m nic_ray.terms`: propose the terms of a glossary, to be filled in with shop words by hand."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console


def main(
    sections: Annotated[
        list[Path], typer.Argument(metavar="SECTIONS...", help="files of sections, as `sections` writes them")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="glossary to write, JSON")],
    top: Annotated[int, typer.Option(min=1, help="at most this many terms a domain")] = 100,
    glossary: Annotated[Path | None, typer.Option(help="glossary whose entries with shop words are kept")] = None,
    general_texts: Annotated[
        Path | None, typer.Option(help="file or folder of general texts [default: Python's manual]", show_default=False)
    ] = None,
) -> None:
    """Propose terms that are frequent in a domain and rare in general text and in other domains.

    Each has an empty list "shop", to be filled in by hand with what the workshop calls it; terms left empty do no harm
    to `ask`.
    """
    from nic_ray.dataset.general import general_texts as read_general_texts
    from nic_ray.progress import view
    from nic_ray.questions.glossary import as_json, read_glossary
    from nic_ray.questions.making import read_all_sections, refuse_place, write_text
    from nic_ray.questions.terminology import SHOWN, as_glossary, propose_terms

    refuse_place(out)
    read, existing = read_all_sections(sections), read_glossary(glossary) if glossary else {}
    with view(quiet=False) as shown, shown.work("counting terms", len(read)) as done:
        proposed = propose_terms(read, read_general_texts(general_texts), top=top, done=done)
    joined = as_glossary(proposed, existing)
    write_text(as_json(joined), out)
    for domain, terms in proposed.items():
        cells = [[each.term, str(each.count), str(each.sections), f"{each.score:.1f}"] for each in terms[:SHOWN]]
        if len(terms) > SHOWN:
            cells += [[], [f"and {len(terms) - SHOWN:,} more", "", "", ""]]
        console.show(console.table([domain, "times", "sec-tions", "score"], cells))
        console.say("")
    kept = sum(bool(term.shop) for terms in joined.values() for term in terms)
    console.say(f"written: {out}: {sum(map(len, joined.values())):,} terms, {kept:,} of them with shop words")


if __name__ == "__main__":
    console.run(main)
