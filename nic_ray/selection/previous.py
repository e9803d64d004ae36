"""What a search adds to a model that was tuned before: the guard on its old rows, and results on old and new rows."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nic_ray.evidence import Evidence
from nic_ray.metrics.intervals import Queries
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import PRIMARY, metrics_in
from nic_ray.results import Flat
from nic_ray.selection.guard import falls
from nic_ray.selection.scoring import queries_of
from nic_ray.training.prepared import Prepared

Scores = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""Model ("base", "tuned") -> metric -> its value for each query of a part, (Q,)."""


def falls_on_old_rows(prepared: Prepared, part: str, scores: Scores) -> list[str]:
    """List the domains that fall against the base model on the rows that it was tuned on; one sentence per domain.

    The gain on new rows cannot make up for such a fall, as it could where a domain has rows of both kinds.

    Args:
        part: "validation" or "test".
        scores: those of the part.

    Returns:
        as `guard.falls`; empty if the base model had not been tuned.
    """
    if prepared.replay is None:
        return []
    old, queries = prepared.replay.old[prepared.rows(part)], queries_of(prepared, part)
    found = falls(
        scores["tuned"][PRIMARY][old],
        scores["base"][PRIMARY][old],
        _some(queries, old),
        max_domain_drop=prepared.config.guard.max_domain_drop,
    )
    return [f"{part}, old rows alone, against {prepared.replay.earlier.model}: {sentence}" for sentence in found]


def gain_is_judged_by(
    prepared: Prepared, part: str, tuned: NDArray[np.float64], base: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], Queries]:
    """Select the queries of a part by which the gain over the base model is judged: all of them, with one exception.

    A base model that was trained on all of its rows at last knows the old passages of every part. What is tuned from it
    cannot gain there, so only passages without old rows count, if the part has any.

    Args:
        part: "validation" or "test".
        tuned, base: (Q,) values of the two models for its queries.

    Returns:
        the values of the selected queries, and their passages and domains.
    """
    queries, replay = queries_of(prepared, part), prepared.replay
    if replay is None or not replay.earlier.saw_all:
        return tuned, base, queries
    is_new = ~np.isin(queries.passages, prepared.groups[replay.old])
    return (tuned[is_new], base[is_new], _some(queries, is_new)) if is_new.any() else (tuned, base, queries)


def compared_with_previous(prepared: Prepared, by_part: Mapping[str, Scores]) -> Evidence:
    """Compute the macro metrics of the base model and the tuned one on old rows and on new ones.

    Args:
        by_part: part of the rows -> scores of its queries; other models than "base" and "tuned" are left out.

    Returns:
        the evidence under "previous"; empty if the base model had not been tuned.
    """
    if prepared.replay is None:
        return {}
    earlier, old = prepared.replay.earlier, prepared.replay.old
    return {
        "previous": {
            "model": earlier.model,
            "saw_all": earlier.saw_all,
            "rows": prepared.replay.rows_by_part(prepared.parts),
            "results": {
                part: {
                    kind: _macro(prepared, part, scores, rows)
                    for kind, rows in (("old", old), ("new", ~old))
                    if rows[prepared.rows(part)].any()
                }
                for part, scores in by_part.items()
            },
        }
    }


def _macro(prepared: Prepared, part: str, scores: Scores, wanted: NDArray[np.bool_]) -> dict[str, Flat]:
    """Model -> its macro metrics on some of the rows."""
    here, queries = wanted[prepared.rows(part)], queries_of(prepared, part)
    domains = _some(queries, here).domains
    flat = {
        model: flat_metrics({name: values[here] for name, values in scores[model].items()}, domains)
        for model in ("base", "tuned")
    }
    return {
        model: {f"{name}/macro": each[f"{name}/macro"] for name in metrics_in(each)} for model, each in flat.items()
    }


def _some(queries: Queries, which: NDArray[np.bool_]) -> Queries:
    domains = [queries.domains[row] for row in np.flatnonzero(which).tolist()]
    return replace(queries, passages=queries.passages[which], domains=domains)
