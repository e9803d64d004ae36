"""`python -m nic_ray.check`: check whether a file of pairs can be used, and what in it would spoil training."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options
from nic_ray.protocol import Splits


def main(
    pairs: Annotated[
        list[Path], typer.Argument(metavar="PAIRS...", help="files or folders of pairs, which are checked together")
    ],
    as_json: options.AsJson = False,
    fail_on: Annotated[str, typer.Option(metavar="CODE,...", help="exit with 1 if any of these findings is made")] = "",
    write_clean: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the rows to this file without those that do harm")
    ] = None,
    leave_out: Annotated[
        str | None,
        typer.Option(
            metavar="CODE,...",
            help="findings whose rows --write-clean leaves out; without it broken-query, query-is-positive, "
            "duplicate-row and near-duplicate-row",
        ),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="jsonl, json, csv, tsv, parquet, datasets, beir; else by the ending")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="FIELD=NAME,...", help="columns that hold fields, as in data.columns")
    ] = None,
    splits: Annotated[
        Splits, typer.Option(help="own: rows name the splits that they came with, which are checked too (data.splits)")
    ] = "made",
    base_model: Annotated[
        str, typer.Option(help="model whose tokens are counted: packaged name, folder or hub id")
    ] = "all-MiniLM-L6-v2",
    max_tokens: Annotated[int, typer.Option(min=8, help="tokens a text is cut off at, as in train.max_tokens")] = 256,
    bundle: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="model whose anomaly detector should know all domains")
    ] = None,
) -> None:
    """Check pairs: list unusable lines, or if there are none, describe the rows and list faults in them.

    JSONL, JSON, CSV, TSV, Parquet, a folder of such files, in BEIR form or saved by datasets, or hub:OWNER/NAME. A row
    holds query and positive (a text or a list of texts), and may hold negative (likewise), domain and source_section,
    under these names or those that other data sets use. Exit code 0: usable; 1: a finding of --fail-on; 2: not usable.

    Findings: broken-query, query-is-positive, duplicate-row, near-duplicate-row, negative-near-positive,
    negative-is-positive, negative-answers-query, near-duplicate-passage, domain-conflict, several-passages,
    cut-off, mojibake, control-characters, small-domain, unknown-domain.
    """
    import json
    from dataclasses import replace

    from nic_ray.dataset.clean import parse_codes
    from nic_ray.dataset.form import parse_form
    from nic_ray.report import checkup
    from nic_ray.sources import as_sources, listed

    fatal = parse_codes(fail_on, "--fail-on")
    checked = checkup.check_file(
        as_sources(listed(pairs)),
        clean_file=write_clean,
        leave_out=leave_out,
        base_model=base_model,
        max_tokens=max_tokens,
        form=replace(parse_form(form, columns), own_splits=splits == "own"),
        bundle=bundle,
    )
    if as_json:
        print(json.dumps(checkup.as_json(checked)))
        if checked.problems:
            raise typer.Exit(2)
    else:
        checkup.refuse_unusable(checked)
        checkup.show_checkup(checked)
    checkup.refuse_findings(checked, fatal)


if __name__ == "__main__":
    console.run(main)
