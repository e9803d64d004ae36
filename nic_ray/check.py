"""Says whether a file of pairs can be used, and what stands in the way."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console


def main(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="JSONL file of pairs")],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead")] = False,
) -> None:
    """Check a file of pairs: every unusable line by number, or a summary when all is well.

    One JSON object a line: query, positive and domain are required text; negative (text or a list of
    texts) and source_section are optional. Exit code 0: usable; 2: not.
    """
    import json
    from dataclasses import asdict

    from nic_ray.errors import InputError
    from nic_ray.pairs import count_by_domain, count_pairs, describe_problems, find_problems

    rows, problems = find_problems(pairs)
    total, domains = count_pairs(rows), count_by_domain(rows)
    if as_json:
        listed = [asdict(problem) for problem in problems]
        print(json.dumps({"file": str(pairs), **total, "domains": domains, "problems": listed}))
        raise typer.Exit(2 if problems else 0)
    if problems:
        raise InputError(describe_problems(pairs, rows, problems))
    print(f"{pairs}: usable")
    lines = [[name, *map(str, counts.values())] for name, counts in domains.items()]
    columns = ["domain", *(name.replace("_", " ") for name in total)]
    console.show(console.table(columns, [*lines, [], ["all", *map(str, total.values())]]))


if __name__ == "__main__":
    console.run(main)
