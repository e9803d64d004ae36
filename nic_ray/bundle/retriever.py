"""A small search engine over passages, with a tuned model and its base model side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentence_transformers.util import semantic_search

from nic_ray import hardware
from nic_ray.bundle import files as bundles
from nic_ray.dataset.passages import Passage
from nic_ray.model.base import load
from nic_ray.model.cut import placed
from nic_ray.model.encoder import plain_model

SHOWN = 160
"""Characters of a passage that are shown."""


@dataclass(frozen=True)
class Found:
    """A passage that a model retrieved."""

    rank: int
    cosine: float
    """Cosine similarity, or the value of another similarity function if the model is configured with one."""
    domain: str
    text: str
    other_rank: int
    """The rank that the other model gives to the passage."""


def retriever(
    folder: Path, passages: Sequence[Passage], *, say: Callable[[str], None], device: str = "cpu"
) -> Callable[[str, int], dict[str, list[Found]]]:
    """Embed passages with a bundle's model and with its base model.

    Args:
        folder: the bundle; it is verified first.
        passages: the passages to search.
        say: called with a line that says what is being embedded.
        device: where the texts are embedded.

    Returns:
        a function of a question and a count that returns, for "tuned" and "base", that many passages, the nearest
        first.

    Raises:
        InputError: the folder is a damaged bundle or no bundle, or its base model is not available.
    """
    hardware.keep_to_usable_cpus()
    tuned, base = bundles.load(folder), load(bundles.read_metadata(folder)["base_model"])
    assert tuned.max_seq_length is not None  # a model without a tokenizer is not loaded
    models = {"tuned": placed(tuned, device), "base": placed(plain_model(base, tuned.max_seq_length), device)}
    say(f"embedding {len(passages)} passages with {folder} and with its base model")
    texts = [passage.text for passage in passages]
    corpora = {name: model.encode_document(texts, convert_to_tensor=True) for name, model in models.items()}

    def ask(query: str, count: int) -> dict[str, list[Found]]:
        hits = {
            name: semantic_search(
                model.encode_query(query, convert_to_tensor=True),
                corpora[name],
                top_k=len(texts),
                score_function=model.similarity,
            )[0]
            for name, model in models.items()
        }
        ranks = {name: {hit["corpus_id"]: rank for rank, hit in enumerate(ranked, 1)} for name, ranked in hits.items()}
        return {
            name: [
                Found(
                    rank,
                    float(hit["score"]),
                    passages[hit["corpus_id"]].domain,
                    passages[hit["corpus_id"]].text,
                    ranks["base" if name == "tuned" else "tuned"][hit["corpus_id"]],
                )
                for rank, hit in enumerate(ranked[:count], 1)
            ]
            for name, ranked in hits.items()
        }

    return ask


def describe(found: Mapping[str, Sequence[Found]]) -> Iterator[str]:
    """Describe the passages that the two models retrieved, as lines of text."""
    for model, other in (("tuned", "base"), ("base", "tuned")):
        yield f"{model} model:"
        for hit in found[model]:
            text = " ".join(hit.text.split())
            yield f"  {hit.rank}. {hit.cosine:.3f}  {hit.domain}  ({other} model: rank {hit.other_rank})"
            yield f"     {text if len(text) <= SHOWN else text[: SHOWN - 2] + ' …'}"
