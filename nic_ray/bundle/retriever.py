"""A small search engine over passages, with a tuned model and its base model side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor

from nic_ray import hardware
from nic_ray.bundle import files as bundles
from nic_ray.bundle.comparison import fusion_of
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.passage_files import Passage
from nic_ray.dataset.passages import read_corpus
from nic_ray.evidence import Metadata
from nic_ray.metrics.bm25 import bm25
from nic_ray.metrics.calibration import Calibration, as_calibration, chances_of
from nic_ray.metrics.fusion import RANKS, VECTORS, Fusion, fused
from nic_ray.model.cut import placed
from nic_ray.model.encoder import plain_model
from nic_ray.sources import Sources

SHOWN = 160
"""Characters of a passage that are shown."""


@dataclass(frozen=True)
class Found:
    """A passage that a model retrieved."""

    rank: int
    cosine: float
    """Cosine similarity, or the value of another similarity function if the model is configured with one."""
    by_words: float
    """BM25 score; 0 where the passage shares no word with the query."""
    domain: str
    text: str
    other_rank: int
    """The rank that the other model gives to the passage."""


@dataclass(frozen=True)
class Answer:
    """What was retrieved for a query."""

    hits: dict[str, list[Found]]
    """"tuned" and "base" -> passages, the best first."""
    chance: float | None
    """Calibrated chance that the tuned model's first hit answers the query; None if the bundle has no calibration."""
    nothing_found: bool
    """Whether the tuned model's first hit scores below the threshold of the calibration."""


@dataclass(frozen=True)
class Retriever:
    """Passages that can be asked about."""

    ask: Callable[[str, int], Answer]
    """Retrieve a number of passages for a question."""
    ranking: str
    """How the tuned model ranks them."""
    caveat: str | None
    """Of which passages the chances are, if of others than these; None if they are of these, or if there are none."""


def retriever(
    folder: Path,
    corpus: Sources,
    *,
    words: bool | None = None,
    say: Callable[[str], None],
    device: str = "cpu",
) -> Retriever:
    """Embed passages with a bundle's model and with its base model.

    Args:
        folder: the bundle; it is verified first.
        corpus: the passages to search: a file of pairs, several, or a folder of text files.
        words: whether passages are ranked by their words (BM25) as well; None for what the validation rows have shown
            to be better, as it is stored in the bundle.
        say: called with a line that says what is being embedded.
        device: where the texts are embedded.

    Raises:
        InputError: as `read_corpus`; or the folder is a damaged bundle or no bundle, or its base model is not
            available.
    """
    passages = read_corpus(corpus)
    hardware.keep_to_usable_cpus()
    metadata = bundles.read_metadata(folder)
    tuned, base = bundles.load(folder), bundles.load_base_of(metadata)
    assert tuned.max_seq_length is not None  # a model without a tokenizer is not loaded
    models = {"tuned": placed(tuned, device), "base": placed(plain_model(base, tuned.max_seq_length), device)}
    say(f"embedding {len(passages)} passages with {folder} and with its base model")
    texts = [passage.text for passage in passages]
    corpora = {name: model.encode_document(texts, convert_to_tensor=True) for name, model in models.items()}
    search_by_words = bm25(texts)
    if metadata.get("word_search", {}).get("helps", False) if words is None else words:
        # the stored weight goes with cosines
        fusions = {
            "tuned": fusion_of(metadata),
            "base": RANKS if base.similarity != "cosine" else fusion_of(metadata, "base"),
        }
    else:
        fusions = dict.fromkeys(models, VECTORS)
    calibration = calibration_of(metadata, fusions["tuned"])

    def ask(query: str, count: int) -> Answer:
        by_words = search_by_words([query])
        cosines = {name: _similarity(model, query, corpora[name]) for name, model in models.items()}
        scores = {name: fused(cosines[name], by_words, fusions[name])[0] for name in models}
        order = {name: np.argsort(-values, kind="stable") for name, values in scores.items()}
        ranks = {name: np.argsort(places) + 1 for name, places in order.items()}
        first = scores["tuned"].max()
        return Answer(
            {
                name: [
                    Found(
                        rank,
                        float(cosines[name][0, place]),
                        float(by_words[0, place]),
                        passages[place].domain,
                        passages[place].text,
                        int(ranks["base" if name == "tuned" else "tuned"][place]),
                    )
                    for rank, place in enumerate(order[name][:count].tolist(), 1)
                ]
                for name in models
            },
            None if calibration is None else float(chances_of(calibration, first)),
            calibration is not None and bool(first < calibration.threshold),
        )

    caveat = None if calibration is None else caveat_of(metadata, corpus, passages)
    return Retriever(ask, str(fusions["tuned"]), caveat)


def _similarity(model: SentenceTransformer, query: str, corpus: Tensor) -> NDArray[np.float32]:
    """The similarity of a query to each passage, (1, C)."""
    similarity: NDArray[np.float32] = (
        model.similarity(model.encode_query(query, convert_to_tensor=True), corpus).cpu().numpy()
    )
    return similarity


def calibration_of(metadata: Metadata, ranking: Fusion) -> Calibration | None:
    """The calibration that a bundle stores; None if it has none for this way of scoring passages."""
    stored = metadata.get("calibration")
    if stored is None or Fusion(**stored["ranking"]) != ranking:
        return None
    return as_calibration(stored)


def caveat_of(metadata: Metadata, corpus: Sources, passages: Sequence[Passage]) -> str | None:
    """Of which passages a bundle's chances and its threshold are, if of others than those that are searched."""
    own = metadata.get("data", {})
    # a run on a share of its file's passages has fewer of them
    corpus_then = own.get("corpus")
    if corpus_then is None and own.get("passages") == len(passages) and own.get("sha256") == content_sha256(corpus):
        return None
    files = ", ".join([*(old["pairs"] for old in own.get("replay", ())), str(own.get("pairs"))])
    of = f"the {own['passages']} passages of {files}" if "passages" in own else "the training pairs' passages"
    if corpus_then is not None and corpus_then["sampled"]:
        of += f" and {corpus_then['sampled']} of {corpus_then['path']}"
    return (
        f"the chances, and the score below which nothing counts as found, were set on {of}; on any "
        "others, take them as a hint"
    )


def describe(answer: Answer) -> Iterator[str]:
    """Describe the passages that the two models retrieved, as lines of text."""
    if answer.nothing_found:
        yield "nothing found: the first hit scores lower than almost any that answers"
    for model, other in (("tuned", "base"), ("base", "tuned")):
        sure = (
            ""
            if model == "base" or answer.chance is None
            else f" (the first answers with a chance of {answer.chance:.0%})"
        )
        yield f"{model} model{sure}:"
        for hit in answer.hits[model]:
            text = " ".join(hit.text.split())
            yield (
                f"  {hit.rank}. {hit.cosine:.3f}  BM25 {hit.by_words:.1f}  {hit.domain}  ({other} model: rank "
                f"{hit.other_rank})"
            )
            yield f"     {text if len(text) <= SHOWN else text[: SHOWN - 2] + ' …'}"
