"""Export of a search's winner, with its metrics checked on the exported folder itself."""

import collections
import copy
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from nic_ray.bundle import files
from nic_ray.errors import InputError, RunError
from nic_ray.evidence import Evidence, Metadata
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model import encoder as encoders
from nic_ray.model.activations import feed, token_inputs
from nic_ray.model.cache import opened
from nic_ray.model.evaluation import embed, texts_to_score
from nic_ray.model.whole_models import plain_scores
from nic_ray.progress import View
from nic_ray.selection.candidates import Candidate
from nic_ray.training.prepared import Prepared, export_dtype, with_fixed_passages
from nic_ray.training.start import describe_data

AGREEMENT = {"fp32": 0.005, "bf16": 0.02}
"""Largest difference allowed, in addition to one near tie, between a macro metric of the exported folder and that of
the training, by the precision of the training, or bf16 if the weights are exported in 16 bits; the folder is
evaluated in the format it is stored in."""

MIN_COSINE = 0.999
"""Lowest cosine allowed between a text's embedding by the exported folder and by the model written to it, in fp32."""
MIN_COSINE_IN_16_BITS = 0.99
"""The same for a folder whose weights are stored in 16 bits, and which computes in them."""
SAMPLED = 16
"""Number of queries, and of passages, whose embeddings are compared."""


def new_run_folder(root: Path, name: str) -> Path:
    """Create the folder `name`-<UTC time> in `root`. Run folders are never reused, since an old study would be loaded.

    Raises:
        InputError: the folder cannot be created.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    first = Path(os.path.realpath(root / f"{name}-{stamp}"))
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        folder, further = first, 1
        while True:  # several searches may start within a second, such as those of an array of jobs
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
    """Write the winner as a SentenceTransformer folder, and keep the folder only if it reproduces the winner's results.

    Args:
        winner: the model to write. Its embeddings of some texts are compared with those of the written folder. Its
            validation metrics are compared too, unless they belong to other weights (`Candidate.measured`).
        evidence: the results (part of the rows -> model -> flat metrics) and the other evidence, by their keys in
            metadata.json.
        folder: the bundle, which is written completely or not at all.
        training_log: text of training.log.
        overwrite: whether an older bundle may be replaced.
        view: shows the progress.

    Returns:
        the metadata of the bundle.

    Raises:
        InputError: as for `files.write_bundle`.
        RunError: the folder, loaded by Sentence Transformers alone, embeds texts differently from the winner, or gives
            other validation metrics than the training; or it cannot be written.
    """
    tuned = encoders.with_weights(prepared.encoder, winner.config.frozen_layers, winner.weights)
    plain = encoders.for_cosine(tuned, winner.config.max_tokens)
    if winner.config.trains == "queries":
        plain = encoders.for_queries(replace(tuned, passages=prepared.encoder), winner.config.max_tokens)
    metadata: Metadata = {
        "name": folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "base_model": prepared.encoder.name,
        "base_weights_sha256": prepared.encoder.weights_sha256,
        "base_revision": prepared.encoder.revision,
        "base_stored_in": prepared.encoder.stored_in,
        "base_similarity": prepared.encoder.similarity,
        "stored_in": export_dtype(prepared),
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
    if not winner.measured:  # no evaluation has chosen these weights
        del metadata["best"]

    def check(written: Path) -> None:
        rows = prepared.rows("validation").tolist()
        texts = len(texts_to_score(prepared.collection, rows))
        model = _as_anyone_loads(written, trust_remote_code=prepared.config.train.trust_remote_code)
        _refuse_other_embeddings(prepared, tuned, model)
        if not winner.measured:
            return
        with view.work("reading the exported model again, to find its numbers", texts) as done:
            scores = plain_scores(model, prepared.collection, rows, done=done)
        again = flat_metrics(scores, [prepared.collection.domains[row] for row in rows])
        precision = metadata["precision"] if metadata["stored_in"] == "fp32" else "bf16"
        refuse_other_numbers(winner.metrics, again, AGREEMENT[precision] + _one_query(prepared))

    files.write_bundle(
        folder,
        # whoever loads the folder then truncates texts at the same length as the training did
        _stored_as(plain, export_dtype(prepared)),
        metadata,
        training_log=training_log,
        overwrite=overwrite,
        check=check,
    )
    return metadata


def _stored_as(model: SentenceTransformer, dtype: str) -> SentenceTransformer:
    """Return a model with its weights in another number format; itself for fp32, which it has."""
    if dtype == "fp32":
        return model
    return copy.deepcopy(model).to({"bf16": torch.bfloat16, "fp16": torch.float16}[dtype])


def _as_anyone_loads(folder: Path, *, trust_remote_code: bool) -> SentenceTransformer:
    """Load the model of a folder with Sentence Transformers alone, as the runbook tells its readers to do."""
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=trust_remote_code)


def _refuse_other_embeddings(prepared: Prepared, tuned: encoders.Encoder, model: SentenceTransformer) -> None:
    """Compare some texts' embeddings by the exported folder with those by the model that was written to it.

    Raises:
        RunError: they differ, for instance because prompts, modules or limits were not written.
    """
    collection = prepared.collection
    whole = encoders.whole(tuned)
    for numbers, encode, asks in (
        (np.unique(collection.query)[:SAMPLED], model.encode_query, True),
        (collection.corpus[:SAMPLED], model.encode_document, False),
    ):
        texts = [collection.texts[number] for number in numbers.tolist()]
        is_query = np.full(len(texts), asks)
        tokens = token_inputs(prepared.encoder, texts, prepared.config.train.max_tokens, is_query)
        source = feed(opened(with_fixed_passages(prepared, {0: tokens}, is_query)[0]), "cpu")
        embeddings = embed(whole, source, np.arange(len(texts)))
        plain = encode(texts, show_progress_bar=False)
        norms = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(plain, axis=1)
        lowest = float(((embeddings * plain).sum(axis=1) / norms).min())
        least = MIN_COSINE if export_dtype(prepared) == "fp32" else MIN_COSINE_IN_16_BITS
        if not lowest >= least:
            raise RunError(
                f"the exported folder does not embed as the winner does: a text's two embeddings have a cosine of "
                f"{lowest:.4f}, want {least} at least; it was not kept"
            )


def _one_query(prepared: Prepared) -> float:
    """Return how much one near tie can change a macro mean: by a query of the smallest domain."""
    rows = collections.Counter(prepared.collection.domains[row] for row in prepared.rows("validation").tolist())
    return 1 / (min(rows.values()) * len(rows))


def refuse_other_numbers(expected: Mapping[str, float], found: Mapping[str, float], tolerance: float) -> None:
    """Compare the flat metrics of the exported folder with those of the training.

    Args:
        expected: flat metrics of the training.
        found: flat metrics of the exported folder.
        tolerance: largest difference allowed.

    Raises:
        RunError: a macro metric of `found` differs from that of `expected` by more than `tolerance`.
    """
    keys = [key for key in found if key.endswith("/macro")]
    apart = [key for key in keys if not abs(found[key] - expected[key]) <= tolerance]
    if apart:
        differences = ", ".join(f"{key} {found[key]:.4f} instead of {expected[key]:.4f}" for key in apart)
        raise RunError(f"the exported folder does not give the winner's numbers: {differences}; it was not kept")
