"""The other side of the comparisons: sentence-transformers' Trainer, as it comes and set as well as we can.

    python benchmarks/rival.py [--batch-size 64] [--rounds 3]

tries which of its attentions is the faster one here, in the precision that its tuned form trains in. `step.py`,
`epoch.py`, `search_speed.py` and `gpu.py` take their rows and the other side from here, so that both sides have the
same ones. Needs the extra `bench`.
"""

import argparse
import functools
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from timing import in_turn, spread
from transformers import PrinterCallback, TrainerCallback

from nic_ray import hardware
from nic_ray.data_config import DataConfig
from nic_ray.dataset.pairs import Collection, read_pairs
from nic_ray.model.base import load
from nic_ray.model.cut import set_dropout
from nic_ray.model.encoder import Encoder
from nic_ray.train_config import TrainConfig
from nic_ray.training.prepared import divide

ATTENTIONS = ("sdpa", "eager")


@dataclass(frozen=True)
class Form:
    """How the other side is set."""

    name: str
    bf16: bool = False
    dropout: tuple[float, float] | None = None
    """Shares of attention weights and of hidden units; None leaves the model's own."""
    attention: str = "sdpa"

    def __str__(self) -> str:
        """What it is, for the reader of a table."""
        dropout = "dropout as it comes"
        if self.dropout is not None:
            dropout = "attention dropout {:g}, hidden dropout {:g}".format(*self.dropout)
        return f"{'bf16' if self.bf16 else 'fp32'}, {dropout}, attention {self.attention}"


AS_IT_COMES = Form("sentence-transformers")


def tuned(device: str, attention: str) -> Form:
    """Precision and dropout of our side.

    Args:
        attention: "sdpa" or "eager", the faster one.
    """
    ours = TrainConfig()
    return Form(
        "the same, tuned",
        bf16=hardware.computes_in_bf16("auto", device),
        dropout=(ours.attention_dropout, ours.hidden_dropout),
        attention=attention,
    )


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of a training, from before its first batch to the end of its last step, and of each step."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.steps: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._started = _now(self._device)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Look at it; the batch has been tokenised by then."""
        self._step_started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the step. On a GPU, which works on, this is the time until all has been asked of it."""
        self.steps.append(time.perf_counter() - self._step_started)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        self.seconds = _now(self._device) - self._started


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def rows_of(pairs: Path, *, sample_share: float = 1.0) -> tuple[Collection, dict[str, NDArray[np.int64]]]:
    """The rows of a file and the parts that a search divides them into: what both sides train on is "train".

    The rows that a search holds back to ask about trained passages are in neither side's training.
    """
    collection, parts = divide(read_pairs(pairs), DataConfig(pairs=pairs, sample_share=sample_share))
    return collection, {str(part): np.flatnonzero(parts == part) for part in np.unique(parts)}


def data_of(collection: Collection, rows: NDArray[np.int64]) -> Dataset:
    """The same rows as the Trainer takes them."""
    return Dataset.from_dict(
        {
            "query": [collection.texts[number] for number in collection.query[rows].tolist()],
            "positive": [collection.texts[number] for number in collection.positive[rows].tolist()],
        }
    )


def model_of(form: Form, base_model: str, frozen_layers: int, device: str = "cpu") -> Encoder:
    """The base model with its lower blocks frozen, the embeddings with them, and the form's dropout and attention."""
    encoder = load(base_model)
    if frozen_layers:
        encoder.transformer.requires_grad_(False)
        encoder.transformer.encoder.layer[frozen_layers:].requires_grad_(True)  # type: ignore[union-attr, index]
    if form.dropout is not None:
        attention, hidden = form.dropout
        set_dropout(encoder.model, attention=attention, hidden=hidden)
    encoder.transformer.set_attn_implementation(form.attention)  # type: ignore[operator]
    encoder.model.to(device)
    return encoder


def settings(form: Form, folder: str, *, device: str = "cpu", **more: Any) -> SentenceTransformerTrainingArguments:
    """Training arguments that write and show nothing."""
    quiet = {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True}
    return SentenceTransformerTrainingArguments(
        output_dir=folder, use_cpu=device == "cpu", bf16=form.bf16, **quiet, **more
    )


def train(
    encoder: Encoder,
    form: Form,
    collection: Collection,
    rows: NDArray[np.int64],
    *,
    batch_size: int,
    learning_rate: float = 2e-5,
    duplicates: bool = False,
    seed: int = 42,
    device: str = "cpu",
) -> Clock:
    """Train a model of `model_of` for an epoch.

    Args:
        duplicates: whether a batch may hold a text twice; without, as the documentation of this loss advises.
    """
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=encoder.model,
            args=settings(
                form,
                folder,
                device=device,
                num_train_epochs=1,
                per_device_train_batch_size=batch_size,
                learning_rate=learning_rate,
                warmup_steps=0.1,  # below 1 it is a share
                batch_sampler=BatchSamplers.BATCH_SAMPLER if duplicates else BatchSamplers.NO_DUPLICATES,
                seed=seed,
            ),
            train_dataset=data_of(collection, rows),
            loss=MultipleNegativesRankingLoss(encoder.model),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock


def faster_attention(
    collection: Collection,
    rows: NDArray[np.int64],
    *,
    batch_size: int = 64,
    frozen_layers: int = 4,
    base_model: str = "all-MiniLM-L6-v2",
    device: str = "cpu",
    rounds: int = 3,
    given: str = "auto",
) -> tuple[str, dict[str, list[float]]]:
    """The attention with which the tuned form trains faster, and the seconds of each training tried, in turn.

    Args:
        rows: the first ones are trained on: two batches a training.
        given: an attention that is taken untried; or "auto".
    """
    if given != "auto":
        return given, {}
    forms = {attention: tuned(device, attention) for attention in ATTENTIONS}
    models = {attention: model_of(form, base_model, frozen_layers, device) for attention, form in forms.items()}

    def seconds_with(attention: str, _: int) -> float:
        own = {"batch_size": batch_size, "duplicates": True, "device": device}
        return train(models[attention], forms[attention], collection, rows[: 2 * batch_size], **own).seconds

    seconds = in_turn({attention: functools.partial(seconds_with, attention) for attention in ATTENTIONS}, rounds)
    return min(seconds, key=lambda attention: statistics.median(seconds[attention])), seconds


def main() -> None:
    """Print which attention is the faster one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=DataConfig().pairs)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--frozen-layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="trainings of two steps with each, in turn")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    collection, parts = rows_of(arguments.pairs)
    best, seconds = faster_attention(
        collection,
        parts["train"],
        batch_size=arguments.batch_size,
        frozen_layers=arguments.frozen_layers,
        rounds=arguments.rounds,
    )
    for attention, own in seconds.items():
        print(f"{attention:6} {spread(own)} s for two steps of {arguments.batch_size}, {tuned('cpu', attention)}")
    print(f"faster: {best}")


if __name__ == "__main__":
    main()
