"""Whether what an endpoint serves is what was exported: golden vectors, and the recall of the test rows."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.bundle import files as bundles
from nic_ray.bundle.detector import weights_sha256
from nic_ray.bundle.golden import LEAST_COSINE, Golden, cosines_of, made_golden, read_golden
from nic_ray.bundle.names import WEIGHTS
from nic_ray.bundle.rows import split_on
from nic_ray.bundle.served import EMBEDDINGS, KEY_NAMES, Role, Server, embedded, reached, version_of
from nic_ray.bundle.served_prompts import ROLES, Handling, Raw, Way, asking_of, handling_of, long_text_finding
from nic_ray.bundle.served_rows import Rows, asked_of_server, held_back_rows
from nic_ray.bundle.verification import runs_as
from nic_ray.dataset.cut_passages import ranked_for
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject, StoredMetadata
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import PRIMARY
from nic_ray.model.evaluation import query_scores, texts_to_score
from nic_ray.model.whole_models import plain_scores
from nic_ray.origin import METADATA
from nic_ray.packaged import packaged
from nic_ray.progress import View
from nic_ray.questions.endpoint import Endpoint, checked_url, key_in
from nic_ray.sources import REFERENCE, Sources

MAX_RECALL_DIFFERENCE = 0.005
"""Largest difference allowed between a Recall@5 through the endpoint and the stated one."""
TIMEOUT_S = 120.0
RUN_HERE = "the model run here"


@dataclass(frozen=True)
class ServedRecall:
    """Recall@5 of the test rows through an endpoint."""

    served: Mapping[str, float]
    """Domain, and "macro" -> Recall@5."""
    stated: Mapping[str, float]
    """The same, as metadata.json states it; where it states none for these rows and weights, as the model gives it
    when it is run here."""
    stated_by: str
    """`METADATA` or `RUN_HERE`."""
    queries: int
    passages: int


@dataclass(frozen=True)
class ServedVerification:
    """What was found of an endpoint."""

    url: str
    model: str
    way: Way
    """How it is to be asked."""
    prompts: Mapping[str, str]
    """"query" and "document" -> prompt that a client puts before such a text, if the way says so."""
    precision: str
    """"fp32" or "int8", by which the least cosine is chosen."""
    lowest_cosine: float
    """Of the golden texts that are not cut off."""
    version: JsonObject
    """What nic_ray's own service says of itself; empty for another server."""
    recall: ServedRecall | None
    """None if the test rows were not asked."""
    faults: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    """What whoever asks the server must know, and what is no fault."""


def endpoint_of(url: str, served_model: str | None, timeout_s: float = TIMEOUT_S) -> Endpoint:
    """An embeddings endpoint as the user names it, with the token from the environment.

    Raises:
        InputError: the address or the token is none.
    """
    address = checked_url(url, "--endpoint", KEY_NAMES, EMBEDDINGS)
    return Endpoint(address, served_model or "", key_in(os.environ, KEY_NAMES), timeout_s=timeout_s)


def verified_endpoint(
    folder: Path, url: str, served_model: str | None, pairs: Sources | None, *, view: View | None = None
) -> ServedVerification:
    """Compare what an endpoint serves with an exported model.

    Args:
        folder: the bundle, or a folder that was converted from it; it is verified first.
        url: the address of the endpoint.
        served_model: the name under which it serves the model; None for what it says itself, or the bundle's.
        pairs: the pairs whose test rows are asked; None for the reference set, if the model was trained on it.
        view: shows the progress.

    Raises:
        InputError: the folder is damaged or no bundle, the endpoint cannot be reached, or it wants another token.
        RunError: the endpoint fails, or its answers are none.
    """
    with reached(endpoint_of(url, served_model)) as server:
        metadata = bundles.read_metadata(folder)
        if faults := bundles.find_faults(folder):
            raise InputError(f"{folder}: not what was exported ({'; '.join(faults[:3])}); export the model again")
        version = version_of(server)
        server = with_model(server, metadata, version)
        return verified_server(
            server, folder, metadata, rows_for(folder, metadata, pairs, "verify"), version, view or View()
        )


def verified_server(
    server: Server, folder: Path, metadata: StoredMetadata, rows: Rows | None, version: JsonObject, view: View
) -> ServedVerification:
    """Compare what a server that was reached serves with a folder whose files are sound; raises as `served.embedded`.

    Args:
        rows: the rows that are asked; None for none.
        version: as of `version_of`.
    """
    precision = "int8" if "int8" in (version.get("format"), runs_as(folder)) else "fp32"
    least, faults = LEAST_COSINE[precision], _faults_of_version(version, metadata)
    model = local_model(folder)
    golden = _golden_of(folder)
    view.note(f"comparing golden vectors with those of {server.endpoint.url}")
    handling = handling_of(server, golden, model(None), least)
    findings = list(handling.findings)
    if not handling.sound:
        worst = min(ROLES, key=lambda role: handling.lowest[role])
        faults.append(
            f"golden texts: the server's vectors are not the exported model's; the lowest cosine is "
            f"{handling.lowest[worst]:.4f}, asked by {handling.way.name}, want {least}"
        )
    said, copes = long_text_finding(server, handling, golden, model, least)
    if said and (copes or handling.sound or said.startswith("cuts")):
        (findings if copes else faults).append(said)
    if handling.sound:
        faults += _faults_one_by_one(server, handling, golden, least)
    recall = None
    if rows is not None and handling.sound:
        findings += rows.warnings
        recall = _recall(server, handling, golden.prompts, rows, folder, view)
        faults += faults_of_recall(recall)
    return ServedVerification(
        url=server.endpoint.url,
        model=server.endpoint.model,
        way=handling.way,
        prompts=golden.prompts,
        precision=precision,
        lowest_cosine=min(handling.lowest.values()),
        version=version,
        recall=recall,
        faults=faults,
        findings=findings,
    )


def with_model(server: Server, metadata: StoredMetadata, version: JsonObject) -> Server:
    """Name the model that is asked for, where the user has not: as the server names it, or else the bundle."""
    if server.endpoint.model:
        return server
    listed = server.models[0] if len(server.models) == 1 else None
    name = str(version.get("name") or (metadata["name"] if metadata["name"] in server.models else listed) or "")
    return replace(server, endpoint=replace(server.endpoint, model=name or metadata["name"]))


def rows_for(folder: Path, metadata: StoredMetadata, pairs: Sources | None, command: str) -> Rows | None:
    """The test rows that a command asks; None for a converted folder, and where no pairs are named or known.

    Raises:
        InputError: the pairs cannot be used.
    """
    if "converted_from" in metadata:
        return None
    reference = packaged(REFERENCE)
    if pairs is None and split_on(metadata, reference) is None:
        return None
    return held_back_rows(folder, metadata, pairs or reference, command)


def hashes_of(metadata: StoredMetadata) -> set[str]:
    """The hashes by which a service may name the weights of a folder."""
    converted = dict(metadata.get("converted_from") or {})  # type: ignore[call-overload]
    named = {weights_sha256(metadata), metadata["files"].get(WEIGHTS), converted.get("weights_sha256")}
    return {digest for digest in named if digest is not None}


def local_model(folder: Path) -> Callable[[int | None], Raw]:
    """The model of a sound folder, run here, when it cuts texts off at a number of tokens; None for its own."""
    metadata = bundles.read_metadata(folder)
    if "converted_from" in metadata:
        from nic_ray.bundle.onnx import embedder

        embed = embedder(folder)

        def by_graph(role: Role, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
            return np.concatenate([embed([prompt + text]) for text in texts])

        return lambda _: by_graph
    model = bundles.load(folder)
    own = model.max_seq_length

    def at(tokens: int | None) -> Raw:
        def by_model(role: Role, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
            encode = model.encode_query if role == "query" else model.encode_document
            model.max_seq_length = own if tokens is None else tokens if own is None else min(own, tokens)
            try:
                vectors: NDArray[np.float32] = encode(
                    list(texts), prompt=prompt, batch_size=16, show_progress_bar=False
                )
                return vectors
            finally:
                model.max_seq_length = own

        return by_model

    return at


def stated_recall(metadata: StoredMetadata, rows: Rows) -> dict[str, float]:
    """Domain, and "macro" -> Recall@5 of the test rows that metadata.json states; empty where it states none.

    After a refit on all rows the stated figures are of other weights.
    """
    if not rows.own or metadata.get("refit") == "all":
        return {}
    return primary_of(metadata.get("results", {}).get("test", {}).get("tuned", {}))


def primary_of(flat: Mapping[str, float]) -> dict[str, float]:
    """Domain, and "macro" -> Recall@5, of flat metrics."""
    start = f"{PRIMARY}/"
    return {key.removeprefix(start): value for key, value in flat.items() if key.startswith(start)}


def faults_of_recall(recall: ServedRecall) -> list[str]:
    """Compare the macro Recall@5 through an endpoint with the stated one."""
    stated = recall.stated.get("macro")
    if stated is None or abs(recall.served["macro"] - stated) <= MAX_RECALL_DIFFERENCE:
        return []
    return [
        f"macro Recall@5 of the test rows is {recall.served['macro']:.4f} through the endpoint, {stated:.4f} by "
        f"{recall.stated_by}; want them within {MAX_RECALL_DIFFERENCE}"
    ]


def _golden_of(folder: Path) -> Golden:
    golden = read_golden(folder)
    if golden is None and "converted_from" in bundles.read_metadata(folder):
        raise InputError(f"{folder}: was converted by a version that stored no golden vectors; convert it again")
    return golden or made_golden(bundles.load(folder))


def _faults_of_version(version: JsonObject, metadata: StoredMetadata) -> list[str]:
    """What a service of our own says of itself that is not so, or not as it should be."""
    faults = []
    if version.get("fallback"):
        faults.append(f"/version: the fallback model is served ({version.get('reason') or 'without a reason'})")
    digest = version.get("weights_sha256")
    if digest is not None and digest not in hashes_of(metadata):
        faults.append(f"/version: weights of SHA-256 {str(digest)[:16]}... are served, not those of the bundle")
    return faults


def _faults_one_by_one(server: Server, handling: Handling, golden: Golden, least: float) -> list[str]:
    """Ask for each golden text by itself and in base64: neither may change its vector."""
    faults = []
    for role, texts, expected in (
        ("query", golden.queries, golden.query_vectors),
        ("document", golden.documents[:-1], golden.document_vectors),
    ):
        asking = replace(asking_of(handling.way, role), encoding="base64")  # type: ignore[arg-type]
        before = golden.prompts.get(role, "") if handling.way.by_client else ""
        vectors = np.concatenate([embedded(server, [before + text], asking) for text in texts])
        lowest = float(np.nan_to_num(cosines_of(vectors, expected[: len(texts)]), nan=-1).min())
        if lowest < least:
            faults.append(
                f"golden texts: asked one by one, in base64, a {role} has a cosine of {lowest:.4f} with the exported "
                f"model's, want {least}; in one request they are sound"
            )
    return faults


def _recall(
    server: Server, handling: Handling, prompts: Mapping[str, str], rows: Rows, folder: Path, view: View
) -> ServedRecall:
    metadata = bundles.read_metadata(folder)
    asked = asked_of_server(server, handling.way, prompts, rows, view)
    served = flat_metrics(query_scores(asked), rows.queries.domains)
    stated, by = stated_recall(metadata, rows), METADATA
    if not stated:
        number = len(texts_to_score(rows.collection, rows.rows))
        with view.work("embedding the test rows with the model, run here", number) as done:
            scores = plain_scores(bundles.load(folder), rows.collection, rows.rows, done=done)
        stated, by = primary_of(flat_metrics(scores, rows.queries.domains)), RUN_HERE
    corpus = ranked_for(rows.collection, rows.rows).corpus
    return ServedRecall(primary_of(served), stated, by, len(rows.rows), len(corpus))
