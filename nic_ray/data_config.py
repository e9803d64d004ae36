"""The settings of the pairs, and of how they are split."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from nic_ray.protocol import BY_DOCUMENT, BY_PASSAGE, Protocol, Splits, by_passage, contradiction
from nic_ray.sources import REFERENCE, PairsSetting
from nic_ray.validation import Section, shown_value

FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet", "datasets", "beir"]
"""The names of `dataset.formats.FORMATS`."""


PairField = Literal[
    "query", "positive", "negative", "domain", "source_section", "document", "score", "kind", "synthetic", "cut_from"
]


class DataConfig(Section):
    """The pairs, and how they are split."""

    pairs: PairsSetting = Field(
        REFERENCE,
        description="file of pairs (JSONL, JSON, CSV, TSV, Parquet), or folder of such files, in BEIR form or saved by "
        "datasets, or hub:OWNER/NAME/CONFIG:SPLIT; or a list of these, which are used together",
    )
    format: FileFormat | None = Field(
        None, description="format of the pairs; null: by the file's ending, or by what the folder holds"
    )
    corpus: Path | None = Field(
        None,
        description="passages that no question asks for, ranked beside those of the pairs: a file of passages (a "
        "column `text`, perhaps a `title`) or of sections of manuals, a folder in BEIR form or of .txt and .md files, "
        "or a file of pairs; null: none",
    )
    columns: dict[PairField, str] = Field(
        {},
        description="columns that hold the fields of a pair, `{query: ..., positive: ..., domain: ...}`; others are "
        "found by the names that data sets use",
    )
    replay: tuple[Path, ...] = Field(
        (),
        description="files of pairs that the base model, an exported folder, was tuned on, the oldest first: their "
        "rows keep the parts that they had, and are trained on again beside the new ones",
    )
    splits: Splits = Field(
        "made",
        description="made: rows are split by the settings below; own: they keep the splits that they came with, of "
        "BEIR's qrels, a data set's splits, a column `split` or files named train, validation (dev) and test",
    )
    protocol: Protocol = Field(
        "unseen_passages",
        description="what the held-back rows have that training never saw: their passages, or only their queries; "
        "cross_fit: their passages, and once the guard has passed, the winner's configuration is trained again for "
        "each of 1 / test_share folds, so that every passage is held out once",
    )
    synthetic: Literal["train_only", "as_others"] = Field(
        "train_only",
        description="rows whose question was made from its passage (field `synthetic`), where there are others too: "
        "train_only, these alone are held back, as without synthetic rows, which are trained on unless their passage "
        "is held back; as_others, all rows are split alike",
    )
    group_by: str = Field(
        BY_PASSAGE,
        min_length=1,
        description="rows that stay on one side of the split: passage, those about one passage or nearly the same one; "
        "document, also those of one document (`document`, `document_id`, `source`, `file` and the like, else "
        "`source_section`); any other name, those with one value in the column of that name",
    )
    validation_share: float = Field(0.2, gt=0, lt=1, description="share of the rows that picks the winner")
    test_share: float = Field(0.2, gt=0, lt=1, description="share of the rows that is read once, at the end")
    query_share: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the rows held back to measure unseen queries about passages that are trained on",
    )
    sample_share: float = Field(1.0, gt=0, le=1, description="share of each domain's passages that is used at all")
    seed: int = Field(42, ge=0, lt=2**31, description="seed of the sample and of the split")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if fault := contradiction(self.protocol, self.splits, replays=bool(self.replay)):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _groups_go_with_the_rest(self) -> Self:
        if self.group_by == BY_PASSAGE:
            return self
        if not by_passage(self.protocol):
            raise ValueError(
                f"group_by must be passage with protocol {self.protocol}, which holds back single queries, got "
                f"{shown_value(self.group_by)}; write protocol: unseen_passages"
            )
        named = self.columns.get("document", self.group_by)
        if self.group_by not in (BY_DOCUMENT, named):
            raise ValueError(
                f"group_by and columns.document name two columns, {shown_value(self.group_by)} and "
                f"{shown_value(named)}; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _leaves_rows_to_train_on(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                "validation_share + test_share must be < 1, got "
                f"{self.validation_share} + {self.test_share}: nothing is left to train on"
            )
        return self
