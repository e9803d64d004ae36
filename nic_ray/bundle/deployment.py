"""What card, report and terminal say of deployment: base models, an index that stays valid, fewer dimensions."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from nic_ray.bundle.markdown import table
from nic_ray.evidence import Metadata
from nic_ray.metrics.table import label_of, metrics_in
from nic_ray.results import ShorterEmbeddings, StoredBase, StoredKind

BASES = ["base model", "parameters", "blocks", "dimensions", "MiB", "ms a query", "untuned", "best trial", "trials"]
KINDS = ["what trains", "best trial", "value", "trials"]


def cells_of_bases(bases: Sequence[StoredBase]) -> list[list[str]]:
    """The base models as rows of a table with the columns `BASES`."""
    return [
        [
            short_name(base["base_model"]),
            f"{base['parameters']:,}",
            str(base["blocks"]),
            str(base["dimensions"]),
            f"{base['mib']:.0f}",
            f"{base['ms_per_query']:.1f}",
            f"{base['base']:.3f}",
            "–" if base["best"] is None else f"{base['best']:.3f} ({base['trial']})",
            str(base["trials"]),
        ]
        for base in bases
    ]


def short_name(base_model: str) -> str:
    """The name of a base model; of a folder, its last part."""
    return Path(base_model).name if Path(base_model).exists() else base_model


def describe_costs(objective: str) -> str:
    """Say what the columns of the table are."""
    return (
        f"Untuned and best trial: {label_of(objective)} on the validation rows, of the base model itself and of the "
        "weights of its best trial. MiB: size of the weights. ms a query: median time to embed a query alone, on the "
        "CPUs of the machine that ran the search."
    )


def cells_of_kinds(kinds: Sequence[StoredKind]) -> list[list[str]]:
    """What trains, both sides or queries alone, as rows of a table with the columns `KINDS`."""
    names = {"both": "queries and passages", "queries": "queries alone"}
    return [[names[kind["trains"]], kind["trial"], f"{kind['best']:.3f}", str(kind["trials"])] for kind in kinds]


def describe_kinds(objective: str) -> str:
    """Say what the rows of that table are."""
    return (
        f"Value: {label_of(objective)} of the best trial on the validation rows. Where queries alone are trained, "
        "passages keep the embeddings of the base model, so that an index of them stays valid."
    )


def table_of_sizes(sizes: Sequence[ShorterEmbeddings]) -> tuple[list[str], list[list[str]]]:
    """Return shorter embeddings as the heading and the rows of a table."""
    metrics = metrics_in(*(flat for size in sizes for flat in size["results"].values()))
    columns = [f"{metric.label} {model}" for metric in metrics.values() for model in ("base", "tuned")]
    return ["dimensions", *columns], [
        [
            str(size["dimensions"]),
            *(f"{size['results'][model][f'{name}/macro']:.3f}" for name in metrics for model in ("base", "tuned")),
        ]
        for size in sizes
    ]


def describe_sizes(sizes: Sequence[ShorterEmbeddings]) -> str:
    """Say how embeddings are cut off at the numbers of dimensions that a model was trained for."""
    values = ", ".join(str(size["dimensions"]) for size in sizes)
    return (
        f"It was trained so that its embeddings may be cut off at {values} dimensions: load it with "
        f"SentenceTransformer(..., truncate_dim={sizes[0]['dimensions']}). Means over domains, on the test rows:"
    )


def card_lines(metadata: Metadata) -> Iterator[str]:
    """Yield the paragraphs of a model card on fewer dimensions and on base models, if there is anything to say."""
    if sizes := metadata.get("truncate_dim"):
        yield f"### Fewer dimensions\n\n{describe_sizes(sizes)}"
        yield table(*table_of_sizes(sizes))
    if kinds := metadata.get("kinds"):
        yield f"### What an index that stays valid costs\n\n{describe_kinds(metadata['objective'])}"
        yield table(KINDS, cells_of_kinds(kinds))
    if bases := metadata.get("bases"):
        against = metadata.get("best_base")
        better = ""
        if against:
            better = f" The guard compared the model with {short_name(against)} as well, which finds more untuned."
        yield f"### Base models that were tried\n\n{describe_costs(metadata['objective'])}{better}"
        yield table(BASES, cells_of_bases(bases))
