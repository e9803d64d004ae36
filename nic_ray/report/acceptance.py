"""An acceptance test, for a terminal, as a page and as JSON."""

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from nic_ray import console
from nic_ray.acceptance.flags import Flags
from nic_ray.acceptance.latency import Latency
from nic_ray.acceptance.quality import MEASURED, Quality
from nic_ray.acceptance.trial import Acceptance, Check
from nic_ray.errors import InputError, RunError
from nic_ray.metrics.intervals import Interval
from nic_ray.metrics.table import PRIMARY, label_of
from nic_ray.report.elements import sentence, table
from nic_ray.report.html import document

PAGE, RECORD = "validation.html", "validation.json"
CHECKS = ["check", "passed", "what was found"]
TIMES = ["requests", "at once", "number", "p50", "p95", "p99", "texts/s"]
FLAGGED = ["queries", "number", "flagged", "95 % interval", "refused"]
Rows = list[list[str]]


def as_json(found: Acceptance) -> str:
    """The whole test as one JSON object, with its verdict."""
    return json.dumps({"verdict": found.verdict, "accepted": not found.failed} | asdict(found), ensure_ascii=False)


def show_acceptance(found: Acceptance) -> None:
    """Print a summary: figures, checks, and the verdict as the last line."""
    for quality in (found.quality, found.forgetting):
        if quality is not None:
            console.say(f"\n{_counts(quality)}")
            console.show(console.table(_heads(quality), _macro_rows(quality)))
    if found.quality is not None:
        console.show(console.table(["domain", "base", "tuned", "change", "95 % interval"], _domains(found.quality)))
    if found.latency:
        console.say("\nlatency, measured from sending to answer:")
        console.show(console.table(TIMES, _times(found.latency)))
    if found.flags is not None:
        console.say("\nshare of queries that the anomaly detector flags:")
        console.show(console.table(FLAGGED, _flags(found.flags)))
    for line in _remarks(found):
        console.say(line)
    console.say("")
    for check in found.checks:
        console.say(f"{_mark(check):10} {check.name}: {check.said}")
    console.say(f"\n{found.verdict}")


def page(found: Acceptance) -> str:
    """The whole test as a page in one file."""
    drawn = [("checks", "What was promised, and what was found", table(CHECKS, _checks(found)))]
    drawn += [
        (key, heading, "\n".join(_quality(quality)))
        for key, heading, quality in (
            ("quality", "Quality through the endpoint", found.quality),
            ("forgetting", "What was forgotten: questions from other fields", found.forgetting),
        )
        if quality is not None
    ]
    if found.latency:
        said = sentence("Each request is timed from its sending to its answer, on this machine; nothing is added up.")
        drawn.append(("latency", "Latency", said + table(TIMES, _times(found.latency))))
    if found.flags is not None:
        said = sentence("The interval is over passages. Abnormal queries are generated, of templates kept aside.")
        drawn.append(("flags", "Queries that are flagged", said + table(FLAGGED, _flags(found.flags))))
    remarks = list(_remarks(found))
    if remarks:
        drawn.append(("remarks", "How the server is to be asked, and warnings", "\n".join(map(sentence, remarks))))
    version = [[str(name), str(value)] for name, value in found.version.items()]
    hashes = [[name, digest] for name, digest in found.hashes.items()]
    drawn.append(("hashes", "Hashes", table(["file", "SHA-256"], hashes)))
    if version:
        drawn.append(("version", "What the service says of itself", table(["field", "value"], version)))
    asked = f"{found.when}, nic_ray {found.nic_ray}, {found.url or 'no service was asked'}"
    return document(f"Validation of {found.bundle}", sentence(found.verdict) + sentence(asked), drawn)


def write_acceptance(found: Acceptance, out: Path) -> list[Path]:
    """Write the page to a file that ends in .html, or page and JSON into a folder; older ones are replaced.

    Raises:
        RunError: it cannot be written.
    """
    files = {out: page(found)} if out.suffix == ".html" else {out / PAGE: page(found), out / RECORD: as_json(found)}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                temporary.write_text(content + "\n", encoding="utf-8")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error}); choose another place with --out") from None
    return list(files)


def refuse_place(out: Path | None) -> None:
    """Refuse a place for the report before anything is measured.

    Raises:
        InputError: it is a folder that should be a file, or the reverse, or cannot be written to.
    """
    if out is None:
        return
    if out.suffix == ".html" and out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file in it, or a folder without .html")
    if out.suffix != ".html" and out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file that does not end in .html; name a folder, or a file.html")
    parent = next(place for place in (out.absolute(), *out.absolute().parents) if place.is_dir())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: cannot be made, {parent} is not writable; name another place")


def _mark(check: Check) -> str:
    return {True: "passed", False: "FAILED", None: "not tried"}[check.passed]


def _checks(found: Acceptance) -> Rows:
    return [[check.name, _mark(check), check.said] for check in found.checks]


def _counts(quality: Quality) -> str:
    return f"{quality.name}: {quality.queries:,} queries over {quality.passages:,} passages, means of the domains"


def _heads(quality: Quality) -> list[str]:
    return ["macro", "base", "tuned", "change", "95 % interval"]


def _macro_rows(quality: Quality) -> Rows:
    return [_cells(label_of(metric), quality, metric, "macro") for metric in MEASURED]


def _domains(quality: Quality) -> Rows:
    return [_cells(domain, quality, PRIMARY, domain) for domain in quality.change[PRIMARY]]


def _cells(name: str, quality: Quality, metric: str, domain: str) -> list[str]:
    base, tuned, change = (own[metric][domain] for own in (quality.base, quality.tuned, quality.change))
    return [name, f"{base.difference:.4f}", f"{tuned.difference:.4f}", f"{change.difference:+.4f}", _interval(change)]


def _quality(quality: Quality) -> Iterator[str]:
    yield sentence(f"{_counts(quality)}. The base model is run here, the tuned one is asked through the endpoint.")
    heads = ["domain", "base", "95 % interval", "tuned", "95 % interval", "change", "95 % interval"]
    for metric in MEASURED:
        rows = []
        for domain in quality.change[metric]:
            base, tuned, change = (own[metric][domain] for own in (quality.base, quality.tuned, quality.change))
            rows.append(
                [
                    *(domain, f"{base.difference:.4f}", _interval(base), f"{tuned.difference:.4f}", _interval(tuned)),
                    *(f"{change.difference:+.4f}", _interval(change)),
                ]
            )
        yield f"<h3>{label_of(metric)}</h3>" + table(heads, rows)


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "too few"
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _times(latencies: list[Latency]) -> Rows:
    return [
        [
            each.what,
            str(each.concurrency),
            f"{each.requests} after {each.warm_up}",
            *(f"{value:.1f} ms" for value in each.milliseconds.values()),
            f"{each.texts_per_s:.0f}",
        ]
        for each in latencies
    ]


def _flags(flags: Flags) -> Rows:
    return [
        [
            each.kind,
            str(each.queries),
            f"{each.share:.3f}",
            "" if each.low is None or each.high is None else f"{each.low:.3f} to {each.high:.3f}",
            str(each.refused),
        ]
        for each in (flags.normal, *flags.abnormal)
    ]


def _remarks(found: Acceptance) -> Iterator[str]:
    if found.served is not None:
        yield f"the endpoint is asked by: {found.served.way.name}"
        yield from found.served.findings
