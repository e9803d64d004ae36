"""The check of a file of pairs: counts, findings, a cleaned copy, and the output in the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nic_ray import console
from nic_ray.dataset import clean, lint
from nic_ray.dataset.form import AS_FOUND, Form
from nic_ray.dataset.groups import describe_documents
from nic_ray.dataset.own_splits import describe_parts, parts_of
from nic_ray.dataset.pairs import (
    Pair,
    count_by_domain,
    count_pairs,
    find_problems,
    problems_in,
    read_file,
)
from nic_ray.dataset.problems import Problem, describe_problems
from nic_ray.dataset.profile import Profile, profile_pairs, texts_to_count
from nic_ray.dataset.profile import as_json as profile_as_json
from nic_ray.dataset.rules import RULES
from nic_ray.domains import omitted_domains, shown_domains
from nic_ray.errors import InputError, RunError
from nic_ray.evidence import JsonObject
from nic_ray.report.profile import COLUMNS, describe_profile, rows_of
from nic_ray.sources import Sources, shown
from nic_ray.tokens import count_tokens, stored_prompts


@dataclass(frozen=True)
class CleanFile:
    """A copy of a file of pairs without the harmful rows."""

    file: str
    rows: int
    """Number of rows that are left."""
    left_out: Mapping[str, int]
    """Finding -> number of rows left out because of it."""
    problems: Sequence[Problem]
    """Reasons why the copy cannot be used as it is, if any: for instance, a domain may have lost too many rows."""
    notes: Sequence[str]
    """What the copy lacks besides, and how it is to be read."""


@dataclass(frozen=True)
class Checkup:
    """The result of checking a file of pairs."""

    file: Sources
    """The file, or several that are read together."""
    rows: Sequence[Pair]
    """The usable rows."""
    total: Mapping[str, int]
    """Numbers of rows, queries, positives and so on in the whole file."""
    domains: Mapping[str, Mapping[str, int]]
    """The same numbers for each domain."""
    problems: Sequence[Problem]
    """Reasons why the file cannot be used; if there are any, no findings are looked for."""
    findings: Sequence[lint.Finding]
    written: CleanFile | None
    notes: Sequence[str] = ()
    """What the user should know about how the file was read."""
    profile: Profile | None = None
    """What the rows are like; None of a file that cannot be used."""


def check_file(
    pairs: Sources,
    *,
    clean_file: Path | None,
    leave_out: str | None,
    base_model: str,
    max_tokens: int,
    form: Form = AS_FOUND,
    bundle: Path | None = None,
) -> Checkup:
    """Check a file of pairs, and write a cleaned copy if one is requested.

    Args:
        pairs: the file, or several, which are checked together.
        clean_file: where the copy without the harmful rows is written; None writes no copy.
        leave_out: findings, separated by commas, whose rows are left out of the copy; None means the harmful findings.
        base_model: model whose tokenizer counts the tokens.
        max_tokens: number of tokens at which a text is cut off.
        form: how the file is to be read.
        bundle: exported folder whose anomaly detector must know the domains; None compares with none.

    Raises:
        InputError: a format or a finding is unknown, the copy cannot be written, the model is not available, or the
            bundle has no sound detector.
    """
    known = None if bundle is None else _known_domains(bundle)
    found = read_file(pairs, form)
    rows, problems, notes = found.pairs, problems_in(found), [*found.notes, *describe_documents(found.pairs)]
    total, domains = count_pairs(rows), count_by_domain(rows)
    if form.own_splits and not problems:
        problems, notes = _faults_of_splits(rows), [*notes, *describe_parts(rows)]
    if problems:
        return Checkup(pairs, rows, total, domains, problems, [], None, notes)
    codes = [code for code, rule in RULES.items() if rule.left_out]
    if leave_out is not None:
        codes = clean.parse_codes(leave_out, "--leave-out")
        if clean_file is None:
            raise InputError("--leave-out: nothing is written without --write-clean FILE; name a file")
    prompts = stored_prompts(base_model)
    tokens, limit = count_tokens(base_model, texts_to_count(rows, prompts), max_tokens)
    findings = lint.lint_pairs(rows, tokens, limit, prompts, known)
    written = None
    if clean_file is not None:
        copy = clean.write_clean(pairs, rows, findings, codes, clean_file, form)
        kept, faults = find_problems(clean_file, form=copy.form)
        written = CleanFile(str(clean_file), len(kept), copy.left_out, faults, copy.notes)
    profile = profile_pairs(rows, tokens, limit, prompts)
    return Checkup(pairs, rows, total, domains, problems, findings, written, notes, profile)


def _known_domains(bundle: Path) -> lint.KnownDomains:
    from nic_ray.bundle.detector import read_detector  # only this check pays for loading PyTorch

    return lint.KnownDomains(str(bundle), read_detector(bundle).record["domains"])


def _faults_of_splits(rows: Sequence[Pair]) -> list[Problem]:
    try:
        others = [row for row in rows if not row.synthetic]
        parts_of(others or rows)  # as data.synthetic: train_only has it
    except InputError as error:
        return [Problem(0, str(error))]
    return []


def refuse_unusable(checkup: Checkup) -> None:
    """Refuse a file that cannot be used.

    Raises:
        InputError: the file cannot be used; the message lists every problem.
    """
    if checkup.problems:
        raise InputError(describe_problems(checkup.file, checkup.rows, checkup.problems))


def refuse_findings(checkup: Checkup, codes: Sequence[str]) -> None:
    """Refuse a file that has any of the given findings.

    Raises:
        RunError: the file has at least one of them.
    """
    made = [f"{finding.code} ({finding.rows:,} rows)" for finding in checkup.findings if finding.code in codes]
    if made:
        raise RunError(f"{shown(checkup.file)}: found {', '.join(made)}")


def as_json(checkup: Checkup) -> JsonObject:
    """The result of a check as JSON values, for programs.

    The lines of several files count on through them; "places" says where they are.
    """
    findings = [{"code": finding.code, "rows": finding.rows, **asdict(finding)} for finding in checkup.findings]
    if places := _places(checkup.rows):
        for finding in findings:
            finding["places"] = [places[line] for line in finding["lines"]]
    return {
        "file": shown(checkup.file),
        **checkup.total,
        "domains": checkup.domains,
        "problems": [_as_object(problem) for problem in checkup.problems],
        "findings": findings,
        "profile": None if checkup.profile is None else profile_as_json(checkup.profile),
        "notes": list(checkup.notes),
        "written": None if checkup.written is None else asdict(checkup.written),
    }


def _as_object(problem: Problem) -> JsonObject:
    """Return a problem as JSON values, without a file where a single one is read."""
    return {name: value for name, value in asdict(problem).items() if name != "file" or value}


def _places(rows: Sequence[Pair]) -> dict[int, str]:
    """Map the lines of several files, which count on through them, to their places; empty for a single file."""
    return {pair.line: pair.place for pair in rows if pair.file}


def show_checkup(checkup: Checkup) -> None:
    """Print the result of checking a usable file."""
    print(f"{shown(checkup.file)}: usable")
    for note in checkup.notes:
        console.say(note)
    sizes = {name: float(counts["positives"]) for name, counts in checkup.domains.items()}
    lines = [
        [omitted_domains(sizes)] if name is None else [name, *map(str, checkup.domains[name].values())]
        for name in shown_domains(sizes)
    ]
    columns = ["domain", *(name.replace("_", " ") for name in checkup.total)]
    console.show(console.table(columns, [*lines, [], ["all", *map(str, checkup.total.values())]]))
    if checkup.profile is not None:
        print()
        console.show(console.table(COLUMNS, rows_of(checkup.profile)))
        print()
        for line in describe_profile(checkup.profile):
            console.say(line)
    _show_findings(checkup.findings, _places(checkup.rows))
    if written := checkup.written:
        counts = ", ".join(f"{code} {count:,}" for code, count in written.left_out.items()) or "none"
        rows = f"{written.rows:,} of {checkup.total['rows']:,} rows"
        print(f"\nwritten: {written.file}: {rows}; left out: {counts}")
        for note in written.notes:
            console.say(f"  {note}")
        for fault in written.problems:
            print(f"  cannot be used as it is: {fault.message}")


def _show_findings(findings: Sequence[lint.Finding], places: Mapping[int, str]) -> None:
    if not findings:
        print("\nnothing else found")
        return
    rows = [[finding.code, f"{finding.rows:,}", finding.effect] for finding in findings]
    table = console.table(["finding", "rows", "effect"], rows)
    table.columns[-1].justify = "left"  # sentences, which take several lines
    for column in table.columns:
        column.vertical = "top"
    print()
    console.show(table)
    for finding in findings:
        print(f"\n{lint.describe_finding(finding, places)}")
