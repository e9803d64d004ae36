"""Says whether a file of pairs can be used, what stands in the way, and what would spoil a training on it."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console


def main(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="JSONL file of pairs")],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead")] = False,
    fail_on: Annotated[str, typer.Option(metavar="CODE,...", help="exit with 1 if any of these findings is made")] = "",
    write_clean: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the rows to this file without those that do harm")
    ] = None,
    leave_out: Annotated[
        str | None,
        typer.Option(
            metavar="CODE,...",
            help="the findings whose rows --write-clean leaves out; without it broken-query, query-is-positive, "
            "duplicate-row and near-duplicate-row",
        ),
    ] = None,
    base_model: Annotated[
        str, typer.Option(help="whose tokens are counted: packaged name, folder or hub id")
    ] = "all-MiniLM-L6-v2",
    max_tokens: Annotated[int, typer.Option(min=8, help="tokens a text is cut off at, as in train.max_tokens")] = 256,
) -> None:
    """Check a file of pairs: every unusable line by number, or a summary and what would spoil a training.

    One JSON object a line: query, positive and domain are required text; negative (text or a list of
    texts) and source_section are optional. Exit code 0: usable; 1: a finding of --fail-on; 2: not usable.

    Findings: broken-query, query-is-positive, duplicate-row, near-duplicate-row, negative-near-positive,
    negative-is-positive, negative-answers-query, near-duplicate-passage, domain-conflict, several-passages,
    cut-off, mojibake, control-characters, small-domain.
    """
    import json
    from dataclasses import asdict

    from nic_ray.domains import between, shown_domains
    from nic_ray.errors import InputError, RunError
    from nic_ray.pairs import count_by_domain, count_pairs, describe_problems, find_problems

    rows, problems = find_problems(pairs)
    total, domains = count_pairs(rows), count_by_domain(rows)
    report = {"file": str(pairs), **total, "domains": domains, "problems": [asdict(each) for each in problems]}
    if problems and as_json:
        print(json.dumps(report | {"findings": [], "written": None}))
        raise typer.Exit(2)
    if problems:
        raise InputError(describe_problems(pairs, rows, problems))

    from nic_ray import lint
    from nic_ray.tokens import count_tokens, stored_prompts

    fatal = lint.parse_codes(fail_on, "--fail-on")
    codes = [code for code, rule in lint.RULES.items() if rule.left_out]
    if leave_out is not None:
        codes = lint.parse_codes(leave_out, "--leave-out")
        if write_clean is None:
            raise InputError("--leave-out: nothing is written without --write-clean FILE; name a file")
    prompts = stored_prompts(base_model)
    tokens, limit = count_tokens(base_model, lint.texts_of(rows, prompts), max_tokens)
    findings = lint.lint_pairs(rows, tokens, limit, prompts)
    written = None
    if write_clean is not None:
        left_out = lint.write_clean(pairs, findings, codes, write_clean)
        kept, faults = find_problems(write_clean)
        written = {
            "file": str(write_clean),
            "rows": len(kept),
            "left_out": left_out,
            "problems": [asdict(each) for each in faults],
        }
    if as_json:
        found = [{"code": each.code, "rows": len(each.lines), **asdict(each)} for each in findings]
        print(json.dumps(report | {"findings": found, "written": written}))
    else:
        print(f"{pairs}: usable")
        sizes = {name: float(counts["positives"]) for name, counts in domains.items()}
        lines = [
            [between(sizes)] if name is None else [name, *map(str, domains[name].values())]
            for name in shown_domains(sizes)
        ]
        columns = ["domain", *(name.replace("_", " ") for name in total)]
        console.show(console.table(columns, [*lines, [], ["all", *map(str, total.values())]]))
        shown = console.table(
            ["finding", "rows", "effect"],
            [[each.code, f"{len(each.lines):,}", each.effect] for each in findings],
        )
        shown.columns[-1].justify = "left"  # sentences, which take several lines
        for column in shown.columns:
            column.vertical = "top"
        if findings:
            print()
            console.show(shown)
        else:
            print("\nnothing else found")
        for finding in findings:
            print(f"\n{lint.describe_finding(finding)}")
        if written:
            counts = ", ".join(f"{code} {count:,}" for code, count in left_out.items()) or "none"
            print(f"\nwritten: {write_clean}: {len(kept):,} of {len(rows):,} rows; left out: {counts}")
            for fault in faults:
                print(f"  cannot be used as it is: {fault.message}")
    broken = [f"{each.code} ({len(each.lines):,} rows)" for each in findings if each.code in fatal]
    if broken:
        raise RunError(f"{pairs}: found {', '.join(broken)}")


if __name__ == "__main__":
    console.run(main)
