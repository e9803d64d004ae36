"""The acceptance test: a model's service is started, asked for everything that is promised, and judged."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from nic_ray import __version__
from nic_ray.acceptance.fallback import FallbackOutcome, tried_fallback
from nic_ray.acceptance.flags import Flags, measured_flags
from nic_ray.acceptance.latency import LOADS, Latency, Load, measured_latency
from nic_ray.acceptance.quality import Quality, measured_quality, retention_rows
from nic_ray.acceptance.starting import Start
from nic_ray.bundle import files as bundles
from nic_ray.bundle.detector import has_detector, read_detector
from nic_ray.bundle.names import GOLDEN_TEXTS
from nic_ray.bundle.served import Role, Server, reached, version_of
from nic_ray.bundle.served_prompts import embed_served
from nic_ray.bundle.served_rows import Rows
from nic_ray.bundle.served_verification import (
    ServedRecall,
    ServedVerification,
    endpoint_of,
    faults_of_recall,
    hashes_of,
    rows_for,
    stated_recall,
    verified_server,
    with_model,
)
from nic_ray.bundle.verification import Verification, verified
from nic_ray.config import DEFAULT_RETENTION_SET, GuardConfig
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject, StoredMetadata
from nic_ray.metrics.table import PRIMARY
from nic_ray.origin import METADATA
from nic_ray.packaged import packaged
from nic_ray.progress import View
from nic_ray.sources import Sources

FALSE_ALARMS = 0.05
"""Share of normal queries that may be flagged, where the bundle does not say which it is calibrated for."""
TIMED_TEXTS = 500
"""Distinct texts, at most, that the timed requests take in turn."""


@dataclass(frozen=True)
class Check:
    """One thing that is promised."""

    name: str
    passed: bool | None
    """None if it could not be tried."""
    said: str


@dataclass(frozen=True)
class Acceptance:
    """What an acceptance test has found."""

    bundle: str
    url: str
    started: bool
    """Whether the service was started for the test."""
    when: str
    nic_ray: str
    version: JsonObject
    """What the service says of itself; empty if it says nothing."""
    hashes: dict[str, str]
    """File of the bundle -> its SHA-256, with the base model's weights and the detector's arrays."""
    checks: list[Check]
    quality: Quality | None = None
    forgetting: Quality | None = None
    served: ServedVerification | None = None
    latency: list[Latency] = field(default_factory=list)
    flags: Flags | None = None
    fallback: FallbackOutcome | None = None

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.passed is False]

    @property
    def verdict(self) -> str:
        """One sentence: whether all passes, or what failed."""
        tried = [check for check in self.checks if check.passed is not None]
        if self.failed:
            return (
                f"{self.bundle}: NOT accepted, {len(self.failed)} of {len(tried)} checks failed: "
                f"{', '.join(check.name for check in self.failed)}"
            )
        rest = [check.name for check in self.checks if check.passed is None]
        return f"{self.bundle}: accepted, all {len(tried)} checks passed" + (
            f"; not tried: {', '.join(rest)}" if rest else ""
        )


def validate(
    folder: Path,
    pairs: Sources | None,
    *,
    endpoint: str | None = None,
    served_model: str | None = None,
    start: Start | None = None,
    view: View | None = None,
    loads: Sequence[Load] = LOADS,
) -> Acceptance:
    """Test an exported model through the service that serves it.

    Args:
        folder: the bundle.
        pairs: the pairs whose test rows are asked; None for the reference set, if the model was trained on it.
        endpoint: the address of the service; None to start one.
        served_model: the name under which it serves the model; None for what it says itself.
        start: starts a service, where no endpoint is named.
        view: shows the progress.
        loads: the requests that are timed.

    Raises:
        InputError: the folder is no bundle, the endpoint cannot be reached, or pairs or base model cannot be used.
        RunError: the service cannot be started, or fails.
    """
    view = view or View()
    metadata = bundles.read_metadata(folder)
    if "converted_from" in metadata:
        raise InputError(f"{folder}: was converted, and lacks what is known of its model; name the exported folder")
    view.note(f"verifying {folder}")
    sound = verified(folder)
    found = Acceptance(
        bundle=str(folder),
        url=endpoint or "",
        started=endpoint is None,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        nic_ray=__version__,
        version={},
        hashes=_hashes(folder, metadata),
        checks=[_check_of_files(sound)],
    )
    if sound.faults:  # of a damaged bundle nothing else is worth a figure
        return found
    with _running(folder, endpoint, start, view) as url, reached(endpoint_of(url, served_model)) as first:
        version = version_of(first)
        server = with_model(first, metadata, version)
        rows = rows_for(folder, metadata, pairs, "validate")
        found = replace(found, url=url, version=version)
        found = _measured(found, server, folder, metadata, rows, loads, view)
    if endpoint is None and start is not None:
        view.note("starting the service once more, with a damaged copy and the base model as its fallback")
        found = replace(found, fallback=tried_fallback(folder, metadata, start))
    return replace(found, checks=[*found.checks, *_checks(found, metadata, folder)])


@contextlib.contextmanager
def _running(folder: Path, endpoint: str | None, start: Start | None, view: View) -> Iterator[str]:
    if endpoint is not None:
        yield endpoint
        return
    assert start is not None  # the command gives one where it has no endpoint
    view.note(f"starting the service with {folder}")
    with start(folder, None) as url:
        yield url


def _measured(
    found: Acceptance,
    server: Server,
    folder: Path,
    metadata: StoredMetadata,
    rows: Rows | None,
    loads: Sequence[Load],
    view: View,
) -> Acceptance:
    served = verified_server(server, folder, metadata, None, found.version, view)
    found = replace(found, served=served)
    if not any(fault.startswith("golden texts: the server") for fault in served.faults):
        way, prompts = served.way, served.prompts
        if rows is not None:
            quality = measured_quality("the test rows", server, way, prompts, metadata, rows, view)
            found = replace(found, quality=quality, served=_with_recall(served, quality, metadata, rows))
        retention = packaged(DEFAULT_RETENTION_SET)
        if retention.is_file():
            others = retention_rows(retention)
            forgetting = measured_quality("the retention set", server, way, prompts, metadata, others, view)
            found = replace(found, forgetting=forgetting)
            timed = rows or others
            found = replace(found, latency=_latencies(server, served, timed, loads, view))
        if rows is not None:
            queries = [rows.collection.texts[rows.collection.query[row]] for row in rows.rows]
            found = replace(found, flags=measured_flags(server, queries, rows.queries, view))
    return found


def _with_recall(
    served: ServedVerification, quality: Quality, metadata: StoredMetadata, rows: Rows
) -> ServedVerification:
    """The verification of the endpoint, with the recall that was measured through it beside the stated one."""
    means = {domain: own.difference for domain, own in quality.tuned[PRIMARY].items()}
    recall = ServedRecall(means, stated_recall(metadata, rows), METADATA, quality.queries, quality.passages)
    return replace(
        served,
        recall=recall,
        faults=[*served.faults, *faults_of_recall(recall)],
        findings=[*served.findings, *rows.warnings],
    )


def _latencies(
    server: Server, served: ServedVerification, rows: Rows, loads: Sequence[Load], view: View
) -> list[Latency]:
    collection = rows.collection
    texts: dict[Role, list[str]] = {
        "query": [collection.texts[collection.query[row]] for row in rows.rows][:TIMED_TEXTS],
        "document": [collection.texts[number] for number in collection.corpus.tolist()[:TIMED_TEXTS]],
    }
    found = []
    for load in loads:
        view.note(f"timing {load.requests} requests: {load.what}, {load.concurrency} at once")
        found.append(
            measured_latency(
                load, lambda role, some: embed_served(server, served.way, role, some, served.prompts), texts[load.role]
            )
        )
    return found


def _hashes(folder: Path, metadata: StoredMetadata) -> dict[str, str]:
    hashes = dict(metadata["files"]) if isinstance(metadata["files"], dict) else {}
    hashes[f"weights of {metadata['base_model']}"] = str(metadata.get("base_weights_sha256"))
    with contextlib.suppress(InputError):
        hashes["detector"] = read_detector(folder).record["sha256"]
    return hashes


def _check_of_files(sound: Verification) -> Check:
    if sound.faults:
        return Check("files", False, "; ".join(sound.faults[:3]))
    base = "its base model has the weights it was made of" if sound.base_checked else "its base model was not checked"
    golden = f", {sound.golden} golden vectors are the same here" if sound.golden else ""
    return Check("files", True, f"{sound.files} files as exported, {base}{golden}")


def _checks(found: Acceptance, metadata: StoredMetadata, folder: Path) -> Iterator[Check]:
    served = found.served
    assert served is not None
    yield Check(
        "served as exported",
        not served.faults,
        "; ".join(served.faults)
        or f"golden vectors have a cosine of {served.lowest_cosine:.6f} or more, asked by {served.way.name}",
    )
    yield _check_of_version(found.version, metadata)
    yield _check_of_quality(found.quality, metadata)
    yield _check_of_forgetting(found.forgetting, metadata)
    timed = found.latency
    single = f"p50 {timed[0].milliseconds['p50']:.1f} ms, p99 {timed[0].milliseconds['p99']:.1f} ms" if timed else ""
    yield Check("latency", True if timed else None, f"{timed[0].what}: {single}" if timed else "not measured")
    yield _check_of_flags(found.flags, folder)
    fallback = found.fallback
    yield Check(
        "fallback",
        None if fallback is None else not fallback.faults,
        "tried only with a service that is started here"
        if fallback is None
        else "; ".join(fallback.faults) or f"{fallback.damage}: the base model answers, and /version says so",
    )


def _check_of_version(version: JsonObject, metadata: StoredMetadata) -> Check:
    if not version:
        return Check("hash of /version", None, "the server has no /version of nic_ray")
    digest, known = version.get("weights_sha256"), hashes_of(metadata)
    said = f"weights {str(digest)[:16]}..., " + ("the bundle's" if digest in known else "not the bundle's")
    said += "; the fallback is served" if version.get("fallback") else ""
    unverified = version.get("verified") is False and GOLDEN_TEXTS in metadata["files"]
    said += "; the service says that it could not verify them" if unverified else ""
    return Check("hash of /version", digest in known and not version.get("fallback") and not unverified, said)


def _check_of_quality(quality: Quality | None, metadata: StoredMetadata) -> Check:
    if quality is None:
        return Check("quality", None, "no test rows: name the pairs that the model was trained on with --pairs")
    macro = quality.change[PRIMARY]["macro"]
    said = f"macro Recall@5 {macro.difference:+.4f}{_between(macro.low, macro.high)} against the base model"
    worse = [name for name, own in quality.change[PRIMARY].items() if own.high is not None and own.high < 0]
    if metadata.get("refit") == "all":
        said += "; these weights were trained on the test rows too (refit: all), so it is no figure of what is new"
    if worse:
        said += f"; surely worse: {', '.join(worse)}"
    return Check("quality", macro.difference > 0 and not worse, said)


def _check_of_forgetting(forgetting: Quality | None, metadata: StoredMetadata) -> Check:
    if forgetting is None:
        return Check("forgetting", None, "the retention set is not here")
    allowed = metadata.get("guard", {}).get("max_retention_loss", GuardConfig().max_retention_loss)
    macro = forgetting.change[PRIMARY]["macro"]
    said = f"macro Recall@5 {macro.difference:+.4f}{_between(macro.low, macro.high)} on questions from other fields"
    return Check("forgetting", macro.difference >= -allowed, f"{said}; may lose {allowed:g}")


def _check_of_flags(flags: Flags | None, folder: Path) -> Check:
    if flags is None:
        has = has_detector(folder)
        why = "the endpoint's search assesses no query" if has else "the bundle has no anomaly detector"
        return Check("anomaly", False if has else None, why)
    normal, allowed = flags.normal, FALSE_ALARMS
    with contextlib.suppress(InputError):
        allowed = read_detector(folder).record["false_alarms"]
    said = f"{normal.share:.1%} of the test queries are flagged{_between(normal.low, normal.high)}"
    return Check("anomaly", normal.share <= allowed, f"{said}; calibrated for {allowed:.0%}")


def _between(low: float | None, high: float | None) -> str:
    return " (too few passages for an interval)" if low is None or high is None else f" ({low:.4f} to {high:.4f})"
