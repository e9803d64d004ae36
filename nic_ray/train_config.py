"""The settings of a training: what each trial has of its own, and what all trials of a search share."""

from collections.abc import Container, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nic_ray.space import Value
from nic_ray.validation import Section

Schedule = Literal["cosine_restarts", "cosine", "linear", "constant"]

SAME_FOR_ALL_TRIALS = (
    "revision",
    "trust_remote_code",
    "prompts",
    "max_tokens",
    "precision",
    "device",
    "epochs",
    "evaluations_per_epoch",
    "anchor_texts",
    "dimensions",
    "guide",
    "teacher",
    "cuda_graphs",
    "seed",
)


Trains = Literal["both", "queries"]

Kind = tuple[str, Trains]
"""What models must have in common for the mean of their weights to be a model: their base model, and what trains."""

METHOD_OF = {
    "learning_rate": "blocks",
    "lora_rank": "lora",
    "lora_alpha": "lora",
    "lora_learning_rate": "lora",
}
"""Hyperparameters that count with one `method` only, and are drawn only for trials of this method."""

CHANGEABLE_ON_RESUME = ("device", "precision", "micro_batch_tokens", "cuda_graphs")
"""Settings under `train` that affect how a model is trained but not what it learns; a resumed run may change them."""


class PromptsConfig(Section):
    """The texts that are prepended to queries and to passages."""

    query: str | None = Field(None, description="text before a query; null: the one that is stored with the model")
    document: str | None = Field(None, description="text before a passage; null: the one that is stored with the model")


class TrainConfig(Section):
    """A complete training configuration. Each trial has one."""

    base_model: str = Field(
        "all-MiniLM-L6-v2",
        min_length=1,
        description="all-MiniLM-L6-v2 is the packaged copy; an existing path is a folder; anything else a hub id",
    )
    revision: str | None = Field(
        None,
        min_length=1,
        description="commit, tag or branch of a hub id; null: its main branch. The commit is recorded",
    )
    trust_remote_code: bool = Field(False, description="whether code that comes with the base model may be run")
    prompts: PromptsConfig | None = Field(
        PromptsConfig(),
        description="texts before queries and before passages, `{query: ..., document: ...}`; those that are stored "
        "with the base model, unless they are given here; null: none",
    )
    frozen_layers: int = Field(
        4,
        ge=0,
        description="transformer blocks that do not train, from the bottom; 1 or more freezes the embeddings",
    )
    frozen_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the base model's blocks that do not train, rounded to whole blocks, of which at least "
        "one trains, in place of frozen_layers: for base models with different numbers of blocks; null: frozen_layers "
        "counts",
    )
    method: Literal["blocks", "lora"] = Field(
        "blocks",
        description="what trains above the frozen blocks: all weights, or low-rank adapters on the linear layers, "
        "which are merged into the weights at the end and need the package peft",
    )
    trains: Trains = Field(
        "both",
        description="queries: passages keep the base model's embeddings, so that an index of them stays valid, and "
        "each query picks from all training passages; exported as a Router, with a route for queries and one for "
        "passages",
    )
    lora_rank: int = Field(16, ge=1, description="rank of the adapters")
    lora_alpha: float = Field(32.0, gt=0, description="adapters are scaled by lora_alpha / lora_rank")
    lora_learning_rate: float = Field(
        1e-3, gt=0, le=1, description="peak learning rate of the adapters, in place of learning_rate"
    )
    epochs: int = Field(3, ge=1, description="passes over the training rows")
    batch_size: int = Field(32, ge=2, description="pairs in the global batch, over all workers")
    queries_per_passage: int = Field(
        1, ge=1, description="rows of one passage that share a batch; 1 draws rows at random"
    )
    learning_rate: float = Field(2e-5, gt=0, le=1, description="peak step size of AdamW")
    loss: Literal["ranking", "symmetric"] = Field(
        "ranking",
        description="ranking: each query picks its passage (MultipleNegativesRankingLoss); symmetric: each passage "
        "picks its query as well",
    )
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="numbers of leading dimensions that the loss is computed at, besides the whole embedding, so that "
        "embeddings may be cut off there (Matryoshka)",
    )
    guide: str | None = Field(
        None,
        min_length=1,
        description="another base model, named like base_model: passages that it finds nearer to a query than the "
        "query's own are not used as its negatives (GISTEmbed); null: none",
    )
    teacher: str | None = Field(
        None,
        min_length=1,
        description="another base model, or a cross-encoder, whose scores are learned beside the loss; a cross-encoder "
        "scores each row's passage and hard negatives only; null: none",
    )
    distillation: Literal["kl", "margin"] = Field(
        "kl", description="how a teacher's scores are learned: its choice among the passages, or its margins"
    )
    distillation_weight: float = Field(1.0, gt=0, le=100, description="weight of a teacher's scores beside the loss")
    scale: float = Field(20.0, gt=0, le=1000, description="1 / temperature: factor of the cosine in the loss")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="AdamW's decoupled decay of weight matrices, per unit lr")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of all steps in which the learning rate rises")
    schedule: Schedule = Field("cosine_restarts", description="how the learning rate falls after warm-up")
    hard_negatives: int = Field(1, ge=0, description="largest number of a row's negatives that join its batch")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="share of attention weights dropped in training")
    hidden_dropout: float = Field(0.1, ge=0, lt=1, description="share of hidden units dropped in training")
    anchor: float = Field(
        0.0,
        ge=0,
        le=100,
        description="weight, beside the loss, of 1 - cosine between the embeddings of general texts and the base "
        "model's, so that less is forgotten; 0: they are not held",
    )
    anchor_texts: int = Field(32, ge=1, description="general texts that are held in each batch, if anchor is above 0")
    max_tokens: int = Field(256, ge=8, description="tokens a text is cut off at (the model's own limit if lower)")
    evaluations_per_epoch: int = Field(1, ge=1, description="times per epoch that the validation rows are scored")
    patience: int | None = Field(
        None, ge=1, description="evaluations without improvement after which training stops; null: never"
    )
    micro_batch_tokens: int = Field(
        32768,
        ge=256,
        description="tokens whose activations are held at once; a larger batch is gradient-cached",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="number format of the matrix products; auto: bf16 where the processor computes in it",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train; auto: a GPU if there is one")
    cuda_graphs: bool = Field(
        False,
        description="record the steps of a BERT-like model on a GPU in bf16 as CUDA graphs and replay them, where "
        "launching the kernels of a step takes longer than running them",
    )
    seed: int = Field(42, ge=0, lt=2**31, description="seed of batches and dropout")

    def of_base(self, base_model: str, blocks: int) -> "TrainConfig":
        """Return this configuration for a base model with a number of blocks, with frozen_share as frozen_layers."""
        depth = self.frozen_layers if self.frozen_share is None else depth_of_share(self.frozen_share, blocks)
        changed = {"base_model": base_model, "frozen_layers": depth}
        return self if changed == self.model_dump(include=set(changed)) else self.model_copy(update=changed)

    @property
    def kind(self) -> Kind:
        """The kind of model that is trained."""
        return self.base_model, self.trains

    @property
    def peak_learning_rate(self) -> float:
        """The peak learning rate of what trains."""
        return self.lora_learning_rate if self.method == "lora" else self.learning_rate

    @model_validator(mode="after")
    def _nothing_holds_passages_that_keep_still(self) -> Self:
        if self.trains == "queries" and self.anchor:
            raise ValueError(
                f"anchor must be 0 with trains: queries, got {self.anchor:g}: passages and general texts keep their "
                "embeddings anyway"
            )
        return self

    @model_validator(mode="after")
    def _passages_fill_the_batch(self) -> Self:
        if self.batch_size < 2 * self.queries_per_passage:
            raise ValueError(
                f"batch_size must hold 2 passages or more, 2 x queries_per_passage, got batch_size {self.batch_size} "
                f"with queries_per_passage {self.queries_per_passage}"
            )
        return self


def depth_of_share(share: float, blocks: int) -> int:
    """Return the number of a base model's blocks that are frozen; one trains, however large the share."""
    return min(max(round(share * blocks), 1), blocks - 1)


def counts(name: str, sample: Mapping[str, Value], method: str) -> bool:
    """Whether a hyperparameter counts beside the other values of a sample.

    Args:
        method: the method of a sample that names none.
    """
    method = str(sample.get("method", method))
    return METHOD_OF.get(name, method) == method and (name != "frozen_layers" or sample.get("frozen_share") is None)


def drawn(space: Container[str], sample: Mapping[str, Value], method: str) -> dict[str, Value]:
    """Leave out of a sample what the space does not hold, or what does not count; arguments as for `counts`."""
    return {name: value for name, value in sample.items() if name in space and counts(name, sample, method)}
