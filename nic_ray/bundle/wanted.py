"""What an evaluation is asked for besides the usual figures: metrics, a corpus."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nic_ray.dataset.corpus import with_corpus, with_metrics
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.pairs import Collection
from nic_ray.evidence import Metadata
from nic_ray.model.evaluation import Asked


@dataclass(frozen=True)
class Wanted:
    """What an evaluation gives besides the usual figures, and what it ranks besides the passages of the rows."""

    metrics: tuple[str, ...] = ()
    """Keys of metrics besides those of `table.METRICS`."""
    corpus: Path | None = None
    """Passages that no row names, as for `data.corpus`."""
    use: Callable[[Asked], None] = lambda _: None
    """Called with what the model makes of the texts."""

    def of(self, collection: Collection) -> Collection:
        """Return a collection that is ranked and judged so.

        Raises:
            InputError: the corpus cannot be used.
        """
        return with_corpus(with_metrics(collection, self.metrics), self.corpus)


NOTHING_MORE = Wanted()


def other_corpus(model: str, metadata: Metadata, named: Path | None) -> Iterator[str]:
    """Warn that a model was measured with other passages beside those of the pairs."""
    corpus = metadata.get("data", {}).get("corpus")
    if corpus is None or not corpus["passages"]:
        return
    measured = f"{model}: its figures are with {corpus['passages']:,} further passages, of {corpus['path']}"
    if named is None:
        yield f"{measured}; name them with --corpus"
    elif content_sha256(named) != corpus["sha256"]:
        yield f"{measured}, and {named} is another corpus"
