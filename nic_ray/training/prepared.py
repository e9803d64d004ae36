"""Preparation of a run from its config: read and split the pairs, load the base model, tokenise the texts."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from nic_ray import hardware
from nic_ray.config import Config
from nic_ray.data_config import DataConfig
from nic_ray.dataset.corpus import with_metrics
from nic_ray.dataset.division import divide
from nic_ray.dataset.form import form_of
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.general import general_texts
from nic_ray.dataset.groups import document_numbers, groups_of, refuse_without_documents
from nic_ray.dataset.pairs import Collection, index_pairs, read_pairs
from nic_ray.dataset.replay import Earlier, Replay, earlier_pairs, join, refuse_other_split
from nic_ray.dataset.split import Part, shared_with_training
from nic_ray.dataset.synthetic import is_measured
from nic_ray.errors import InputError
from nic_ray.model.activations import Inputs, feed, token_inputs, upper_for
from nic_ray.model.adapters import refuse_without_peft
from nic_ray.model.base import load_base
from nic_ray.model.cache import StoredInputs, budget, opened
from nic_ray.model.encoder import Encoder, check_frozen_layers, token_limit
from nic_ray.model.evaluation import embed
from nic_ray.model.known_embeddings import KnownEmbeddings
from nic_ray.progress import View
from nic_ray.train_config import TrainConfig, depth_of_share
from nic_ray.training.batches import NO_OTHERS, NOTHING_HELD, GeneralTexts, OtherModels
from nic_ray.training.distractors import Corpus, Place, ranked_corpus, whole_collection
from nic_ray.training.loop import TrainingData
from nic_ray.training.others import other_models

PARTS = get_args(Part)
LEAST_TEXT_TOKENS = 8
"""Number of tokens that must be left for a text after its prompt."""


@dataclass(frozen=True)
class Prepared:
    """The data and settings that all trials of a run share."""

    config: Config
    collection: Collection
    passages: NDArray[np.int64]
    """(N,) number of each row's passage; passages that are nearly the same share a number."""
    groups: NDArray[np.int64]
    """(N,) number of the group that each row stays with, by `data.group_by`; by passage these are the `passages`."""
    parts: NDArray[np.str_]
    """(N,) "train", "validation", "test" or "unseen_queries" for each row."""
    pairs_sha256: str
    encoder: Encoder
    """The base model, as it was loaded; it is not changed."""
    tokens: Inputs
    """Those of the collection's texts, then those of `general`."""
    device: str
    bf16: bool
    general: tuple[str, ...] = ()
    """Texts that are held to the base model's embeddings; empty if no trial holds any."""
    measuring: tuple[str, ...] = ()
    """Other general texts, which measure how far a model has moved; empty if that is not measured."""
    replay: Replay | None = None
    """The rows that the base model had been tuned on; None if it had not been tuned, or they are not trained on."""
    others: OtherModels = NO_OTHERS
    """What a guide and a teacher make of the collection's texts."""
    corpus: Corpus | None = None
    """Passages that no row names; None if there are none."""

    @cached_property
    def whole(self) -> Collection:
        """The collection that the last readings rank: with all passages of the corpus."""
        return whole_collection(self.collection, self.corpus)

    @cached_property
    def known(self) -> KnownEmbeddings:
        """The embeddings of the models that were read last."""
        return KnownEmbeddings()

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(N,) which rows may be held back: all, or those that are not synthetic where `data.synthetic` says so."""
        return is_measured(self.collection, self.config.data)

    def is_synthetic(self, part: str) -> bool:
        """Whether all questions of a part were made from their passages."""
        synthetic, rows = self.collection.synthetic, self.rows(part)
        return synthetic is not None and len(rows) > 0 and bool(synthetic[rows].all())

    def rows(self, part: str) -> NDArray[np.int64]:
        """Return the numbers of the rows of one part, ascending."""
        return np.flatnonzero(self.parts == part)


def prepare(
    config: Config,
    *,
    on_gpu: bool,
    guarded: bool = True,
    runs: Path | None = None,
    view: View | None = None,
    roughly: bool = False,
) -> Prepared:
    """Read, check, split and tokenise the data; nothing is trained.

    Args:
        on_gpu: whether this process may compute on a GPU, if `train.device` does not forbid it.
        guarded: whether the guard will judge a model, by general texts too if it is to.
        runs: folder of run folders, where what a guide and a teacher make of the texts is kept beside the activations;
            None to keep nothing.
        view: shows the progress.
        roughly: whether a random sample of a corpus will do, for a forecast.

    Raises:
        InputError: the pairs, the base model, frozen_layers, the general texts or the device cannot be used, or a
            package is missing.
    """
    if "lora" in (config.train.method, *(config.space["method"].ends() if "method" in config.space else ())):
        refuse_without_peft()
    hardware.keep_to_usable_cpus()
    device = hardware.pick_device(config.train.device if on_gpu else "cpu")
    collection, parts, replay = divided(config.data, config.train.base_model)
    encoder = load_base(config.train)
    refuse_unusable_base(encoder, config)
    holds, measures = holds_general_texts(config), guarded and config.guard.min_neighbours_kept > 0
    texts = general_texts(config.general_texts) if holds or measures else []
    general = tuple(texts[1::2]) if holds else ()  # what measures is not what is held
    bf16, kept_in = hardware.computes_in_bf16(config.train.precision, device), folder_kept_in(config, runs)
    collection, corpus = ranked_corpus(
        config,
        with_metrics(collection, config.further_metrics()),
        collection.query[parts == "validation"],
        encoder,
        place=Place(device, bf16, kept_in, view or View()),
        hardest=not roughly,
    )
    return Prepared(
        config=config,
        collection=collection,
        passages=collection.near_group[collection.positive],
        groups=groups_of(collection, config.data.group_by),
        parts=parts,
        pairs_sha256=content_sha256(config.data.pairs),
        encoder=encoder,
        tokens=tokens_of(encoder, collection, general, config.train.max_tokens),
        device=device,
        bf16=bf16,
        general=general,
        measuring=tuple(texts[::2]) if measures else (),
        replay=replay,
        others=other_models(_with_most_negatives(config), collection, device, kept_in),
        corpus=corpus,
    )


def _with_most_negatives(config: Config) -> TrainConfig:
    """Return the settings under `train` with as many hard negatives as any trial may use."""
    searched = config.space["hard_negatives"].ends() if "hard_negatives" in config.space else ()
    return config.train.model_copy(update={"hard_negatives": max([config.train.hard_negatives, *map(int, searched)])})


def folder_kept_in(config: Config, runs: Path | None) -> Path | None:
    """Return the folder of activations, if any are to be kept on disk."""
    return None if runs is None or not config.activations.disk_budget_gib else budget(config.activations, runs).folder


def refuse_unusable_base(encoder: Encoder, config: Config) -> None:
    """Check that a base model can be trained with all the settings that a run may try.

    Raises:
        InputError: it embeds passages with other weights, or does not go with a setting.
    """
    if encoder.passages is not None:
        raise InputError(
            f"{encoder.name}: embeds queries and passages with different weights, and one set is tuned here; name its "
            "base model"
        )
    first, *others = depths(config, encoder.blocks)
    check_frozen_layers(encoder, [first], "train.frozen_layers")
    check_frozen_layers(encoder, others, "space.frozen_layers")
    if "queries" in (config.train.trains, *(config.space["trains"].ends() if "trains" in config.space else ())):
        _refuse_another_index(encoder)
    _refuse_more_dimensions(encoder, config.train.dimensions)
    _refuse_long_prompts(encoder, token_limit(encoder, config.train.max_tokens))


def tokens_of(encoder: Encoder, collection: Collection, general: Sequence[str], max_tokens: int) -> Inputs:
    """Return the token ids of a collection's texts, then those of general texts, which are passages."""
    is_query = np.append(collection.is_query, np.zeros(len(general), dtype=np.bool_))
    return token_inputs(encoder, (*collection.texts, *general), max_tokens, is_query)


def export_dtype(prepared: Prepared) -> str:
    """Return the number format that the weights of a run's model are exported in: "fp32", "bf16" or "fp16"."""
    asked = prepared.config.export_dtype
    return prepared.encoder.stored_in if asked == "base" else asked


def with_fixed_passages(
    prepared: Prepared, inputs: Mapping[int, Inputs | StoredInputs], is_query: NDArray[np.bool_] | None = None
) -> dict[int, Inputs | StoredInputs]:
    """Give passages the embeddings of the base model, where a run trains queries only; else return the inputs.

    Args:
        inputs: inputs of some texts by depth.
        is_query: (texts,) which of them are queries; None for the texts of the run itself.
    """
    if prepared.config.train.trains == "both":
        return dict(inputs)
    deepest = opened(inputs[max(inputs)])
    asks = np.zeros(len(deepest.lengths), dtype=np.bool_) if is_query is None else is_query
    if is_query is None:
        asks[prepared.collection.query] = True
    upper, passages = upper_for(prepared.encoder, deepest).to(prepared.device), np.flatnonzero(~asks)
    fixed = np.full((len(asks), prepared.encoder.model.get_embedding_dimension() or 0), np.nan, dtype=np.float32)
    if len(passages):
        fixed[passages] = embed(upper, feed(deepest, prepared.device), passages, bf16=prepared.bf16)
    return {depth: replace(at_depth, fixed=fixed) for depth, at_depth in inputs.items()}


def holds_general_texts(config: Config) -> bool:
    """Whether any trial of a run may hold general texts."""
    return config.train.anchor > 0 or "anchor" in config.space


def held_texts(prepared: Prepared, inputs: Inputs) -> GeneralTexts:
    """Return the general texts of a run with the base model's embeddings of them.

    Args:
        inputs: inputs at any cut.
    """
    if not prepared.general:
        return NOTHING_HELD
    numbers = numbers_of_general(prepared)
    upper = upper_for(prepared.encoder, inputs).to(prepared.device)
    return GeneralTexts(numbers, embed(upper, feed(inputs, prepared.device), numbers, bf16=prepared.bf16))


def numbers_of_general(prepared: Prepared) -> NDArray[np.int64]:
    """Return the numbers of the general texts that are held, ascending: they follow those of the collection."""
    first = len(prepared.collection.texts)
    return np.arange(first, first + len(prepared.general))


def training_data(prepared: Prepared, inputs: Inputs, rows: NDArray[np.int64]) -> TrainingData:
    """Return what a training of some rows in this process reads.

    Args:
        inputs: inputs at the depth of the cut below the trained blocks.
        rows: rows of the collection.
    """
    source = feed(inputs, prepared.device)
    return TrainingData(prepared.collection, rows, source, prepared.bf16, held_texts(prepared, inputs), prepared.others)


def _refuse_another_index(encoder: Encoder) -> None:
    """Refuse to keep the passages of a model whose index is not searched by cosine, as what is trained is."""
    if encoder.similarity != "cosine" and type(encoder.model[-1]).__name__ != "Normalize":
        raise InputError(
            f"train.trains: queries keeps the index of a base model, and that of {encoder.name} is searched by "
            f"{encoder.similarity} of embeddings of any length, while queries are trained for cosine; train both"
        )


def _refuse_more_dimensions(encoder: Encoder, dimensions: Sequence[int]) -> None:
    width = encoder.model.get_embedding_dimension() or 0
    if wrong := [number for number in dimensions if number >= width]:
        raise InputError(
            f"train.dimensions: must be fewer than the {width} of {encoder.name}, got {', '.join(map(str, wrong))}; "
            "leave them out, the whole embedding is always trained"
        )


def _refuse_long_prompts(encoder: Encoder, limit: int) -> None:
    for kind, prompt in (("query", encoder.prompts.query), ("passage", encoder.prompts.passage)):
        taken = len(encoder.model.tokenizer(prompt)["input_ids"]) if prompt else 0
        if taken and limit - taken < LEAST_TEXT_TOKENS:
            raise InputError(
                f"{encoder.name}: its prompt for a {kind} takes {taken} of the {limit} tokens that are read of a text, "
                f"which leaves fewer than {LEAST_TEXT_TOKENS}; raise train.max_tokens, or shorten the prompt"
            )


def divided(data: DataConfig, base_model: str) -> tuple[Collection, NDArray[np.str_], Replay | None]:
    """Read the pairs of a run, and assign each row to a part, beside the rows that the base model was tuned on.

    Args:
        data: the files of pairs, and how to split the new one.
        base_model: the exported folder that the old pairs, if there are any, belong to.

    Returns:
        as `divide`, old rows first; and which rows are old.

    Raises:
        InputError: a file cannot be used or is not what the base model was tuned on, or a domain is too small.
    """
    if not data.replay:
        read = read_pairs(data.pairs, form=form_of(data))
        refuse_without_documents(read, data)
        return *divide(read, data), None
    earlier = earlier_pairs(base_model, data.replay)
    old, old_parts = divide_again(earlier)
    refuse_other_split(earlier, split_sha256(old, old_parts), data)
    read = read_pairs(data.pairs, old.domains, form_of(data))
    refuse_without_documents(read, data)
    joined = join(old, old_parts, read, data)
    is_old = np.arange(len(joined.pairs)) < len(old_parts)
    replay = Replay(earlier, is_old, joined.repeated, joined.left_out)
    return index_pairs(joined.pairs), joined.parts, replay


def divide_again(earlier: Earlier) -> tuple[Collection, NDArray[np.str_]]:
    """Assign the rows that an exported model was tuned on to parts, in the order in which its files came together.

    Raises:
        InputError: a file cannot be used.
    """
    first, *others = earlier.files
    collection, parts = divide(read_pairs(first.pairs, form=form_of(first)), first)
    for data in others:
        joined = join(collection, parts, read_pairs(data.pairs, collection.domains, form_of(data)), data)
        collection, parts = index_pairs(joined.pairs), joined.parts
    return collection, parts


def leaks(prepared: Prepared) -> dict[str, dict[str, int]]:
    """Count the held-back rows that share text with the training rows, by kind of overlap and by part.

    "passage" and "near-duplicate passage": their passage is the answer of a training row, exactly or nearly.
    "query" and "near-duplicate query": their query is that of a training row, exactly or nearly.
    "passage as a negative" and "near-duplicate passage as a negative": their passage is a negative of a training row,
    exactly or nearly.
    "document": their document is that of a training row; left out if no row names one.
    """
    collection, parts, trained = prepared.collection, prepared.parts, prepared.rows("train")
    near, documents = collection.near_group, document_numbers(collection)
    negatives = collection.negatives[trained].ravel()
    named = documents[trained][documents[trained] >= 0]
    by_document = {"document": shared_with_training(documents, parts, named)} if (documents >= 0).any() else {}
    return {
        name: shared_with_training(labels, parts, met)
        for name, labels, met in (
            ("passage", collection.positive, collection.positive[trained]),
            ("near-duplicate passage", near[collection.positive], near[collection.positive[trained]]),
            ("query", collection.query, collection.query[trained]),
            ("near-duplicate query", near[collection.query], near[collection.query[trained]]),
            ("passage as a negative", collection.positive, negatives[negatives >= 0]),
            (
                "near-duplicate passage as a negative",
                near[collection.positive],
                near[negatives[negatives >= 0]],
            ),
        )
    } | by_document


def depths(config: Config, blocks: int) -> list[int]:
    """Return the numbers of frozen layers that a run can use: the first trial's, then the others, descending.

    Args:
        blocks: number of the base model's blocks.
    """
    shares = config.space["frozen_share"].ends() if "frozen_share" in config.space else (config.train.frozen_share,)
    searched = {depth_of_share(share, blocks) for share in shares if share is not None}
    if None in shares:
        counts = config.space["frozen_layers"].ends() if "frozen_layers" in config.space else ()
        searched |= {config.train.frozen_layers, *map(int, counts)}
    first = config.train.of_base(config.train.base_model, blocks).frozen_layers
    return [first, *sorted(searched - {first}, reverse=True)]


def split_sha256(collection: Collection, parts: NDArray[np.str_]) -> str:
    """Compute the SHA-256 of the assignment of rows to parts; `parts` (N,) as `divide` returns them.

    Synthetic rows that are trained on beside others are left out: what is held back is the same without them.
    """
    synthetic, counted = collection.synthetic, np.ones(len(parts), np.bool_)
    if synthetic is not None and not synthetic.all():
        counted = ~synthetic | (parts != "train")
    # as JSON of a list of all rows, which is never held as a whole: it has each passage as often as it is asked for
    digest, passages = hashlib.sha256(b"["), dict[int, str]()
    rows = (collection.query[counted].tolist(), collection.positive[counted].tolist(), parts[counted].tolist())
    for place, (query, positive, part) in enumerate(zip(*rows, strict=True)):
        if positive not in passages:
            passages[positive] = json.dumps(collection.texts[positive])
        row = f"[{json.dumps(collection.texts[query])}, {passages[positive]}, {json.dumps(part)}]"
        digest.update(f"{', ' if place else ''}{row}".encode())
    digest.update(b"]")
    return digest.hexdigest()
