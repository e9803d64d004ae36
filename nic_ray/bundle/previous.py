"""What card, report and terminal say of a model that was tuned further: its results on old rows and on new ones."""

from collections.abc import Iterator

from nic_ray.bundle.markdown import table
from nic_ray.dataset.replay import describe_saw_all
from nic_ray.evidence import Metadata, PreviousModel
from nic_ray.metrics.table import metrics_in


def table_of(found: PreviousModel) -> tuple[list[str], list[list[str]]]:
    """Return the results as the heading and the rows of a table."""
    metrics = metrics_in(
        *(flat for kinds in found["results"].values() for models in kinds.values() for flat in models.values())
    )
    columns = [f"{metric.label} {model}" for metric in metrics.values() for model in ("base", "tuned")]
    return ["rows, mean over domains", "number", *columns], [
        [
            f"{kind}, {part}",
            str(found["rows"][part][kind]),
            *(f"{models[model][f'{name}/macro']:.3f}" for name in metrics for model in ("base", "tuned")),
        ]
        for part, by_kind in found["results"].items()
        for kind, models in by_kind.items()
    ]


def describe_previous(found: PreviousModel) -> str:
    """Say which rows are old ones, and what the figures on them are worth."""
    trained = (f"{rows['old']} old and {rows['new']} new" for part, rows in found["rows"].items() if part == "train")
    flattering = f" {describe_saw_all(found['model'])}." if found["saw_all"] else ""
    return (
        f"Old rows are those that the base model, {found['model']}, had been tuned on. They keep the parts that they "
        f"had; trained on were {', '.join(trained)} rows. On the old rows alone no domain may fall against the base "
        f"model. Their test rows had been read when it was made.{flattering}"
    )


def card_lines(metadata: Metadata) -> Iterator[str]:
    """Yield the paragraphs of a model card on old and new rows; none if the base model had not been tuned."""
    if found := metadata.get("previous"):
        files = ", ".join(f"{old['pairs']} (SHA-256 {old['sha256']})" for old in metadata["data"]["replay"])
        yield f"### Old and new rows\n\n{describe_previous(found)} Files of old pairs: {files}."
        yield table(*table_of(found))
