"""From the best weights to an exported model whose numbers have been checked."""

import collections
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from nic_ray.bundle import files
from nic_ray.errors import InputError, RunError
from nic_ray.evidence import Evidence, Metadata
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model import encoder as encoders
from nic_ray.model.activations import feed
from nic_ray.model.evaluation import embed, plain_scores, texts_to_score
from nic_ray.progress import View
from nic_ray.selection.candidates import Candidate
from nic_ray.training.prepared import Prepared, describe_data

AGREEMENT = {"fp32": 0.005, "bf16": 0.02}
"""How far a macro metric of the exported folder may lie from the training's, beyond one near tie, by the
precision of the training (the folder is read in fp32)."""

MIN_COSINE = 0.999
"""Between a text's embedding by the exported folder and by what was written to it, both in fp32."""
SAMPLED = 16
"""Texts of each kind whose embeddings are held against each other."""


def new_run_folder(root: Path, name: str) -> Path:
    """Make `name`-<UTC time> under a folder. Run folders are never reused: an old study would be loaded.

    Raises:
        InputError: it cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    first = Path(os.path.realpath(root / f"{name}-{stamp}"))
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        folder, further = first, 1
        while True:  # searches that start within a second, such as those of an array of jobs, take what is free
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                further += 1
                folder = first.with_name(f"{first.name}-{further}")
    except OSError as error:
        raise InputError(f"{first}: cannot be made ({error.strerror}); name another place for runs") from None


def export(
    prepared: Prepared,
    winner: Candidate,
    evidence: Evidence,
    folder: Path,
    *,
    training_log: str,
    overwrite: bool,
    view: View,
) -> Metadata:
    """Write the winner as a SentenceTransformer folder, after its numbers were found again from it.

    Args:
        winner: if its metrics are of its weights, they are found again. Embeddings of some texts are held against the
            folder's in any case.
        evidence: "results", part of the rows -> model -> flat metrics, and what else vouches for the numbers, by its
            name in metadata.json.
        folder: the bundle, whole or not there at all.
        view: is shown how that goes.

    Returns:
        its metadata.

    Raises:
        RunError: the folder, loaded afresh by Sentence Transformers alone, embeds texts otherwise, or gives other
            validation metrics than the training did.
    """
    tuned = encoders.with_weights(prepared.encoder, winner.config.frozen_layers, winner.weights)
    metadata: Metadata = {
        "name": folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "base_model": prepared.encoder.name,
        "base_weights_sha256": prepared.encoder.weights_sha256,
        "base_stored_in": prepared.encoder.stored_in,
        "base_similarity": prepared.encoder.similarity,
        "stored_in": "fp32",
        "prompts": asdict(prepared.encoder.prompts),
        "trial": winner.name,
        "averaged": [member.name for member in winner.members],
        "objective": prepared.config.search.objective,
        "config": winner.config.model_dump(mode="json"),
        **describe_data(prepared),
        **evidence,
        "best": {"epoch": winner.metrics["epoch"], "step": int(winner.metrics["step"])},
        "precision": "bf16" if prepared.bf16 else "fp32",
        "versions": files.library_versions(),
    }

    def check(written: Path) -> None:
        rows = prepared.rows("validation").tolist()
        texts = len(texts_to_score(prepared.collection, rows))
        model = _as_anyone_loads(written)
        _refuse_other_embeddings(prepared, tuned, model)
        if not winner.measured:
            return
        with view.work("reading the exported model again, to find its numbers", texts) as done:
            scores = plain_scores(model, prepared.collection, rows, done=done)
        again = flat_metrics(scores, [prepared.collection.domains[row] for row in rows])
        refuse_other_numbers(winner.metrics, again, AGREEMENT[metadata["precision"]] + _one_query(prepared))

    files.write_bundle(
        folder,
        # whoever loads the folder then reads as much of a text as the training did
        encoders.for_cosine(tuned, winner.config.max_tokens),
        metadata,
        training_log=training_log,
        overwrite=overwrite,
        check=check,
    )
    return metadata


def _as_anyone_loads(folder: Path) -> SentenceTransformer:
    """A folder's model by Sentence Transformers alone, as the runbook tells people to load it."""
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def _refuse_other_embeddings(prepared: Prepared, tuned: encoders.Encoder, model: SentenceTransformer) -> None:
    """Hold some texts' embeddings by the exported folder against those by the weights that were written to it.

    Raises:
        RunError: they are others, as where prompts, modules or limits were lost on the way.
    """
    collection = prepared.collection
    whole = encoders.whole(tuned)
    for numbers, encode in (
        (np.unique(collection.query)[:SAMPLED], model.encode_query),
        (collection.corpus[:SAMPLED], model.encode_document),
    ):
        own = embed(whole, feed(prepared.tokens, "cpu"), numbers)
        plain = encode([collection.texts[number] for number in numbers.tolist()], show_progress_bar=False)
        norms = np.linalg.norm(own, axis=1) * np.linalg.norm(plain, axis=1)
        lowest = float(((own * plain).sum(axis=1) / norms).min())
        if not lowest >= MIN_COSINE:
            raise RunError(
                f"the exported folder does not embed as the winner does: a text's two embeddings have a cosine of "
                f"{lowest:.4f}, want {MIN_COSINE} at least; it was not kept"
            )


def _one_query(prepared: Prepared) -> float:
    """What one near tie can change in a macro mean: a query of the smallest domain."""
    rows = collections.Counter(prepared.collection.domains[row] for row in prepared.rows("validation").tolist())
    return 1 / (min(rows.values()) * len(rows))


def refuse_other_numbers(expected: Mapping[str, float], found: Mapping[str, float], tolerance: float) -> None:
    """Hold two readings of the same model against each other.

    Raises:
        RunError: a macro metric of `found` lies further from `expected` than `tolerance`.
    """
    keys = [key for key in found if key.endswith("/macro")]
    apart = [key for key in keys if not abs(found[key] - expected[key]) <= tolerance]
    if apart:
        shown = ", ".join(f"{key} {found[key]:.4f} instead of {expected[key]:.4f}" for key in apart)
        raise RunError(f"the exported folder does not give the winner's numbers: {shown}; it was not kept")
