"""What each anomaly detector flags, by kind of abnormal query, on the embeddings of a tuned model and of its base.

    python benchmarks/abnormal_queries.py BUNDLE [PAIRS] [--half development] [--queries FILE ...] [--left-out]

Each detector is fitted to the training rows, calibrated on the validation rows for 5 % false alarms and read on the
test rows, and on generated abnormal queries: those that are held back, or with --half development those by which the
default was chosen. By itself, a detector scores the whole query; "parts" takes the worst sentence or window; "all" is
what `python -m nic_ray.anomaly fit` stores, its classifier fitted without the kind that is read, and "none known" the
same without a classifier. With --queries, the share of other files' lines that is flagged by "all" is printed too; with
--left-out, the share of each domain's test questions that a detector flags that was fitted without the domain.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.anomaly import assessor, conformal, detectors, ensemble, surface
from nic_ray.anomaly.abnormal import KINDS, generate
from nic_ray.anomaly.detectors import DETECTORS
from nic_ray.anomaly.embedded import Embedded, embedded
from nic_ray.anomaly.ensemble import Known, Normal
from nic_ray.anomaly.windows import worst
from nic_ray.bundle.detector_fit import Part, embed_with, known_queries, left_out, normal_of, part_of, rows_by_part
from nic_ray.bundle.files import load_base_of, read_metadata
from nic_ray.bundle.query_files import read_queries
from nic_ray.bundle.rows import max_tokens_of
from nic_ray.model.encoder import plain_model
from nic_ray.sources import named_or_reference

FALSE_ALARMS = 0.05
Flags = Callable[[Embedded], NDArray[np.bool_]]


def main() -> None:
    """Print a table for the tuned model, and one for its base model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pairs", type=Path, nargs="*")
    parser.add_argument("--half", choices=["development", "held_back"], default="held_back")
    parser.add_argument("--queries", type=Path, nargs="*", default=[])
    parser.add_argument("--left-out", action="store_true")
    arguments = parser.parse_args()
    metadata = read_metadata(arguments.bundle)
    base = plain_model(load_base_of(metadata), max_tokens_of(metadata))
    both = {
        "tuned": embed_with(arguments.bundle, "cpu"),
        "base": (lambda texts: base.encode_query(texts), lambda texts: base.encode_document(texts)),
    }
    collection, rows = rows_by_part(metadata, named_or_reference(arguments.pairs), arguments.bundle)
    for name, (queries, passages) in both.items():
        print(f"\n{name} embeddings, {arguments.half} half", flush=True)
        parts = {part: part_of(collection, own, queries) for part, own in rows.items()}
        normal = normal_of(collection, rows["train"], parts["train"], passages)
        known = known_queries([*parts["train"].queries.texts], queries)
        source = parts["train" if arguments.half == "development" else "test"].queries.texts
        made = generate(source, arguments.half)
        kinds = np.array([each.kind for each in made])
        abnormal = embedded([each.query for each in made], queries)
        print(heading(parts["test"]), flush=True)
        for label, by_kind in ways(normal, known, parts["validation"]):
            print(line(label, by_kind, parts["test"], abnormal, kinds), flush=True)
        own = calibrated(ensemble.fit(normal, known), parts["validation"])
        for path in arguments.queries:
            lines = embedded([each.query for each in read_queries(path)], queries)
            print(f"{path.name}: {own(lines).mean():.3f} of {len(lines.texts)} lines")
        if arguments.left_out:
            for domain, share in shares_of_left_out(normal, known, parts):
                print(f"fitted without {domain}: {share:.3f} of its test questions are flagged", flush=True)


def calibrated(fitted: ensemble.Ensemble, validation: Part) -> Flags:
    """Calibrate an ensemble on the validation rows."""
    own = assessor.calibrated(
        fitted, validation.queries, validation.groups, validation.kinds, false_alarms=FALSE_ALARMS
    )
    return lambda queries: assessor.flags(queries, own)


def ways(normal: Normal, known: Known, validation: Part) -> Iterator[tuple[str, dict[str, Flags]]]:
    """Yield each way of flagging, by the kind that its classifier must not have seen; "" for one without."""
    scores: dict[str, Callable[[Embedded], NDArray[np.float64]]] = {}
    for name in DETECTORS:
        started = time.perf_counter()
        fitted = detectors.fit(name, normal.queries.whole, normal.passages)
        seconds = time.perf_counter() - started
        scores[f"{name} ({seconds:.1f} s)"] = lambda own, fitted=fitted: detectors.score(own.whole, fitted)
        scores[f"{name}, parts"] = lambda own, fitted=fitted: worst(
            detectors.score(own.of_parts, fitted), own.owners.tolist(), len(own.texts)
        )[0]
    scale = surface.fit(normal.queries.features)
    scores["surface features"] = lambda own: surface.score(own.features, scale)
    for label, score in scores.items():
        own = conformal.calibrate_by_kind(
            score(validation.queries), validation.groups, validation.kinds, false_alarms=FALSE_ALARMS
        )
        yield label, {"": lambda queries, score=score, own=own: conformal.flags(score(queries), own)}
    for name in ("mahalanobis", "nearest", "components", "autoencoder"):
        fitted = ensemble.fit(normal, None, name=name)
        yield f"{name}, none known", {"": calibrated(fitted, validation)}
        without = {kind: ensemble.with_classifier(fitted, normal, known.without(left_out(kind))) for kind in KINDS}
        every = {kind: calibrated(each, validation) for kind, each in without.items()}
        yield f"{name}, all", {**every, "": calibrated(ensemble.with_classifier(fitted, normal, known), validation)}


def heading(test: Part) -> str:
    """Name the columns: false alarms over all and by kind of question, then kinds of abnormal queries."""
    names = ["normal", *sorted({*map(str, test.kinds)}), *KINDS, "mean"]
    return f"{'':28}" + " ".join(f"{name[:6]:>6}" for name in names)


def line(label: str, by_kind: Mapping[str, Flags], test: Part, abnormal: Embedded, kinds: NDArray[np.str_]) -> str:
    """Format the shares of a way of flagging."""
    own, asked = by_kind[""](test.queries), np.array([*map(str, test.kinds)])
    alarms = [own.mean(), *(own[asked == kind].mean() for kind in sorted({*asked.tolist()}))]
    found = [by_kind.get(kind, by_kind[""])(abnormal)[kinds == kind].mean() for kind in KINDS]
    return f"{label:28}" + " ".join(f"{value:6.3f}" for value in [*alarms, *found, float(np.mean(found))])


def shares_of_left_out(normal: Normal, known: Known, parts: Mapping[str, Part]) -> Iterator[tuple[str, float]]:
    """Yield each domain with the share of its test questions that is flagged if it is not fitted to."""
    domains = {name: np.array(part.domains) for name, part in parts.items()}
    for domain in sorted({*parts["train"].domains}):
        rows = np.flatnonzero(domains["train"] != domain)
        groups = normal.groups[rows]
        of_passages = np.isin(normal.passage_groups, groups)
        some = Normal(
            normal.queries.chosen(rows),
            groups,
            [normal.kinds[row] for row in rows.tolist()],
            normal.passages[of_passages],
            normal.passage_groups[of_passages],
        )
        others = chosen(parts["validation"], np.flatnonzero(domains["validation"] != domain))
        flags = calibrated(ensemble.fit(some, known), others)
        asked = parts["test"].queries.chosen(np.flatnonzero(domains["test"] == domain))
        yield domain, float(flags(asked).mean())


def chosen(part: Part, rows: NDArray[np.int64]) -> Part:
    """Keep some rows of a part."""
    listed = rows.tolist()
    return Part(
        part.queries.chosen(rows),
        part.groups[rows],
        [part.kinds[row] for row in listed],
        [part.domains[row] for row in listed],
    )


if __name__ == "__main__":
    main()
