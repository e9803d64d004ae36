"""What card, report and terminal say of the base models of a search: what each costs, and what it finds."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from nic_ray.bundle.markdown import table
from nic_ray.evidence import Metadata, StoredBase
from nic_ray.metrics.table import label_of

COLUMNS = ["base model", "parameters", "blocks", "dimensions", "MiB", "ms a query", "untuned", "best trial", "trials"]


def cells_of(bases: Sequence[StoredBase]) -> list[list[str]]:
    """The base models as rows of a table with the columns `COLUMNS`."""
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


def card_lines(metadata: Metadata) -> Iterator[str]:
    """Yield the paragraphs of a model card on the base models of a search; none if it had one."""
    if bases := metadata.get("bases"):
        against = metadata.get("best_base")
        better = (
            f" The guard compared the model with {short_name(against)} as well, which finds more untuned."
            if against
            else ""
        )
        yield f"### Base models that were tried\n\n{describe_costs(metadata['objective'])}{better}"
        yield table(COLUMNS, cells_of(bases))
