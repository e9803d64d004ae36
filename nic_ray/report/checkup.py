"""What the check of a file of pairs comes to: counts, findings, the cleaned file; and how it is printed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nic_ray import console
from nic_ray.dataset import lint
from nic_ray.dataset.pairs import Pair, Problem, count_by_domain, count_pairs, describe_problems, find_problems
from nic_ray.domains import between, shown_domains
from nic_ray.errors import InputError, RunError
from nic_ray.evidence import JsonObject
from nic_ray.tokens import count_tokens, stored_prompts


@dataclass(frozen=True)
class CleanFile:
    """A copy without the rows that do harm."""

    file: str
    rows: int
    """That are left."""
    left_out: Mapping[str, int]
    """Finding -> rows left out for it."""
    problems: Sequence[Problem]
    """Why it cannot be used as it is, if so: a domain may have lost too many rows."""


@dataclass(frozen=True)
class Checkup:
    """What was found in a file of pairs."""

    file: Path
    rows: Sequence[Pair]
    """Those that can be used."""
    total: Mapping[str, int]
    """Rows, queries, positives and so on, of the whole file."""
    domains: Mapping[str, Mapping[str, int]]
    """The same, by domain."""
    problems: Sequence[Problem]
    """Why it cannot be used; then nothing else is looked for."""
    findings: Sequence[lint.Finding]
    written: CleanFile | None


def check_file(
    pairs: Path, *, clean_file: Path | None, leave_out: str | None, base_model: str, max_tokens: int
) -> Checkup:
    """Check a file of pairs, and write a cleaned copy where one is asked for.

    Args:
        clean_file: receives the rows without those that do harm; None writes none.
        leave_out: findings, with commas, whose rows the cleaned copy goes without; None takes those that do harm.
        base_model: whose tokens are counted.
        max_tokens: that a text is cut off at.

    Raises:
        InputError: there is no such finding, or the copy or the model cannot be had.
    """
    rows, problems = find_problems(pairs)
    total, domains = count_pairs(rows), count_by_domain(rows)
    if problems:
        return Checkup(pairs, rows, total, domains, problems, [], None)
    codes = [code for code, rule in lint.RULES.items() if rule.left_out]
    if leave_out is not None:
        codes = lint.parse_codes(leave_out, "--leave-out")
        if clean_file is None:
            raise InputError("--leave-out: nothing is written without --write-clean FILE; name a file")
    prompts = stored_prompts(base_model)
    tokens, limit = count_tokens(base_model, lint.texts_of(rows, prompts), max_tokens)
    findings = lint.lint_pairs(rows, tokens, limit, prompts)
    written = None
    if clean_file is not None:
        left_out = lint.write_clean(pairs, findings, codes, clean_file)
        kept, faults = find_problems(clean_file)
        written = CleanFile(str(clean_file), len(kept), left_out, faults)
    return Checkup(pairs, rows, total, domains, problems, findings, written)


def refuse_unusable(checkup: Checkup) -> None:
    """See that a file can be used.

    Raises:
        InputError: it cannot; lists every line that stands in the way.
    """
    if checkup.problems:
        raise InputError(describe_problems(checkup.file, checkup.rows, checkup.problems))


def refuse_findings(checkup: Checkup, codes: Sequence[str]) -> None:
    """See that none of some findings was made.

    Raises:
        RunError: one was.
    """
    made = [f"{each.code} ({len(each.lines):,} rows)" for each in checkup.findings if each.code in codes]
    if made:
        raise RunError(f"{checkup.file}: found {', '.join(made)}")


def as_json(checkup: Checkup) -> JsonObject:
    """A check, for programs."""
    findings = [{"code": each.code, "rows": len(each.lines), **asdict(each)} for each in checkup.findings]
    return {
        "file": str(checkup.file),
        **checkup.total,
        "domains": checkup.domains,
        "problems": [asdict(each) for each in checkup.problems],
        "findings": findings,
        "written": None if checkup.written is None else asdict(checkup.written),
    }


def show_checkup(checkup: Checkup) -> None:
    """Print a check of a file that can be used."""
    print(f"{checkup.file}: usable")
    sizes = {name: float(counts["positives"]) for name, counts in checkup.domains.items()}
    lines = [
        [between(sizes)] if name is None else [name, *map(str, checkup.domains[name].values())]
        for name in shown_domains(sizes)
    ]
    columns = ["domain", *(name.replace("_", " ") for name in checkup.total)]
    console.show(console.table(columns, [*lines, [], ["all", *map(str, checkup.total.values())]]))
    _show_findings(checkup.findings)
    if written := checkup.written:
        counts = ", ".join(f"{code} {count:,}" for code, count in written.left_out.items()) or "none"
        rows = f"{written.rows:,} of {checkup.total['rows']:,} rows"
        print(f"\nwritten: {written.file}: {rows}; left out: {counts}")
        for fault in written.problems:
            print(f"  cannot be used as it is: {fault.message}")


def _show_findings(findings: Sequence[lint.Finding]) -> None:
    if not findings:
        print("\nnothing else found")
        return
    shown = console.table(
        ["finding", "rows", "effect"], [[each.code, f"{len(each.lines):,}", each.effect] for each in findings]
    )
    shown.columns[-1].justify = "left"  # sentences, which take several lines
    for column in shown.columns:
        column.vertical = "top"
    print()
    console.show(shown)
    for finding in findings:
        print(f"\n{lint.describe_finding(finding)}")
