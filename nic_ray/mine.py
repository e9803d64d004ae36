"""`python -m nic_ray.mine`: add hard negatives to a file of pairs."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    pairs: Annotated[list[Path], typer.Argument(metavar="PAIRS...", help="files or folders of pairs, mined together")],
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write: the same rows, with negatives")],
    model: Annotated[str, typer.Option(help="model whose mistakes are mined: packaged name, folder or hub id")] = (
        "all-MiniLM-L6-v2"
    ),
    negatives: Annotated[int, typer.Option(min=1, help="at most this many for a row")] = 3,
    margin: Annotated[
        float, typer.Option(min=0, max=0.99, help="how far below the positive's similarity they lie, as a share of it")
    ] = 0.05,
    corpus: options.Corpus = None,
    device: options.Device = "auto",
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; its section data defines the split of the rows")
    ] = None,
) -> None:
    """Find passages that resemble the answer but are not, for the training rows only.

    They are passages of other training rows, and of a corpus if one is named here or in the settings. Validation and
    test rows are not changed. The negatives that a row already has come before those that are found.
    """
    from nic_ray.config import Config
    from nic_ray.config_file import load_config
    from nic_ray.dataset.corpus import with_corpus
    from nic_ray.dataset.division import divided_rows
    from nic_ray.dataset.form import form_of
    from nic_ray.dataset.pairs import read_pairs
    from nic_ray.domains import omitted_domains, shown_domains
    from nic_ray.hardware import pick_device
    from nic_ray.model.base import load
    from nic_ray.sources import as_sources, listed
    from nic_ray.training.mining import mine_negatives, refuse_place, write_negatives

    refuse_place(out)
    place = pick_device(device, "--device")
    settings = load_config(config) if config else Config()
    sources = as_sources(listed(pairs))
    rows = read_pairs(sources, form=form_of(settings.data))
    # the whole file is split: with a sample, most training rows would get no negatives
    division = divided_rows(rows, settings.data.model_copy(update={"sample_share": 1.0}))
    collection = division.collection
    train = [row for row, part in enumerate(division.parts.tolist()) if part == "train"]
    by_row = mine_negatives(
        load(model),
        with_corpus(collection, corpus or settings.data.corpus),
        train,
        count=negatives,
        relative_margin=margin,
        max_tokens=settings.train.max_tokens,
        device=place,
    )
    write_negatives(sources, rows, {int(division.rows[row]): texts for row, texts in by_row.items()}, out)
    by_domain: dict[str, list[int]] = {name: [] for name in sorted(set(collection.domains))}
    for row in train:
        by_domain[collection.domains[row]].append(row)
    sizes = {name: float(len(members)) for name, members in by_domain.items()}

    def line(name: str, members: list[int]) -> list[str]:
        mined = [len(by_row[row]) for row in members if row in by_row]
        return [name, str(len(members)), str(len(mined)), f"{sum(mined) / max(1, len(members)):.2f}"]

    cells = [[omitted_domains(sizes)] if name is None else line(name, by_domain[name]) for name in shown_domains(sizes)]
    cells.append(line("all", train))
    console.show(console.table(["domain", "training rows", "with negatives", "negatives a row"], cells))
    console.say(f"written: {out}")


if __name__ == "__main__":
    console.run(main)
