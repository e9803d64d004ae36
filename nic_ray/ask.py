"""`python -m nic_ray.ask`: make questions about sections of manuals, and a file of pairs of them."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    sections: Annotated[
        list[Path], typer.Argument(metavar="SECTIONS...", help="files of sections, as `sections` writes them")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="file of pairs to write, JSON lines")],
    glossary: Annotated[
        Path | None, typer.Option(help="JSON file of terms and shop words; `terms` proposes its terms")
    ] = None,
    per_section: Annotated[int, typer.Option(min=1, max=100, help="at most this many questions a section")] = 10,
    seed: Annotated[int, typer.Option(help="of all draws")] = 42,
    language: Annotated[str, typer.Option(help="of the sections; English has the most rules")] = "en",
    model: Annotated[
        str, typer.Option(help="model that must lead back to the section: packaged name, folder or hub id")
    ] = "all-MiniLM-L6-v2",
    judge: Annotated[
        Path | None, typer.Option(help="folder of a CrossEncoder that must prefer the section to others")
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Make questions from titles, sentences, terms and shop words of sections, without a language model.

    Refused are questions that name nothing, that repeat another or their passage, that are asked of too many sections,
    and those from which neither BM25 nor the model finds the section among its first 20. The rows say `"synthetic":
    true`. The same input and seed give the same file.
    """
    from nic_ray.hardware import pick_device
    from nic_ray.model.base import load
    from nic_ray.progress import view
    from nic_ray.questions.glossary import read_glossary
    from nic_ray.questions.making import (
        as_lines,
        description,
        filters_table,
        keep_good,
        kinds_table,
        read_all_sections,
        refuse_place,
        write_text,
    )
    from nic_ray.questions.rules import ask_by_rules

    refuse_place(out)
    place = pick_device(device, "--device")
    read, terms = read_all_sections(sections), read_glossary(glossary) if glossary else {}
    encoder = load(model)
    with view(quiet=False) as shown:
        with shown.work("making questions", len(read)) as done:
            questions = ask_by_rules(read, terms, seed=seed, language=language, done=done)
        made = keep_good(questions, read, encoder, per_section=per_section, judge=judge, device=place, view=shown)
    write_text(as_lines(made.rows), out)
    console.show(console.table(*kinds_table(made)))
    console.show(console.table(*filters_table(made)))
    console.say(description(made, read))
    console.say(f"written: {out}")


if __name__ == "__main__":
    console.run(main)
