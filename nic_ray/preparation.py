"""From a config to what can be trained on: pairs read and split, the base model loaded, inputs computed."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nic_ray import encoder as encoders
from nic_ray import hardware
from nic_ray.activations import Inputs, token_inputs
from nic_ray.config import Config, DataConfig
from nic_ray.encoder import Encoder
from nic_ray.pairs import Collection, Pair, index_pairs, read_pairs
from nic_ray.split import sample_rows, split_rows


@dataclass(frozen=True)
class Prepared:
    """Everything that the trials of a run share."""

    config: Config
    collection: Collection
    parts: NDArray[np.str_]
    """(N,) "train", "validation" or "test" for each row."""
    pairs_sha256: str
    encoder: Encoder
    tokens: Inputs
    device: str
    bf16: bool

    def rows(self, part: str) -> NDArray[np.int64]:
        """Ascending numbers of the rows of one part."""
        return np.flatnonzero(self.parts == part)


def prepare(config: Config, *, on_gpu: bool) -> Prepared:
    """Read, check, split and tokenise; nothing is trained or written.

    Args:
        on_gpu: whether the training may use a GPU, if `train.device` leaves the choice.

    Raises:
        InputError: unusable pairs, base model, frozen_layers or device.
    """
    wanted = config.train.device
    device = hardware.pick_device("cpu" if wanted == "auto" and not on_gpu else wanted)
    pairs = read_pairs(config.data.pairs)
    encoder = encoders.load(config.train.base_model)
    encoders.check_frozen_layers(encoder, [config.train.frozen_layers], "train.frozen_layers")
    if "frozen_layers" in config.space:
        encoders.check_frozen_layers(encoder, depths(config), "space.frozen_layers")
    collection, parts = divide(pairs, config.data)
    return Prepared(
        config=config,
        collection=collection,
        parts=parts,
        pairs_sha256=hashlib.sha256(config.data.pairs.read_bytes()).hexdigest(),
        encoder=encoder,
        tokens=token_inputs(encoder, collection.texts, config.train.max_tokens),
        device=device,
        bf16=hardware.computes_in_bf16(config.train.precision, device),
    )


def divide(pairs: Sequence[Pair], data: DataConfig) -> tuple[Collection, NDArray[np.str_]]:
    """The rows that a run uses, and the part that each belongs to.

    Args:
        pairs: every row of the file.
        data: share of the passages to use, and how to split what they leave.

    Returns:
        the collection of the used rows, N of them, and (N,) "train", "validation" or "test".

    Raises:
        InputError: a domain has too few groups to split.
    """
    whole = index_pairs(pairs)
    kept = sample_rows(whole.positive, whole.domains, share=data.sample_share, seed=data.seed)
    collection = index_pairs([pairs[row] for row in kept])
    parts = split_rows(
        collection.query,
        collection.positive,
        collection.domains,
        validation_share=data.validation_share,
        test_share=data.test_share,
        seed=data.seed,
        protocol=data.protocol,
    )
    return collection, parts


def depths(config: Config) -> list[int]:
    """Values of frozen_layers that the run can meet: the first trial's, then the deepest first."""
    searched = map(int, config.space["frozen_layers"].ends()) if "frozen_layers" in config.space else ()
    first = config.train.frozen_layers
    return [first, *sorted(set(searched) - {first}, reverse=True)]


def describe_run(prepared: Prepared) -> Iterator[str]:
    """What a run is about to work on, in lines for the user."""
    rows = {part: len(prepared.rows(part)) for part in ("train", "validation", "test")}
    yield (
        f"{prepared.config.data.pairs}: {len(prepared.collection.query)} pairs, {len(prepared.collection.corpus)} "
        f"passages; {rows['train']} train, {rows['validation']} validation, {rows['test']} test "
        f"({prepared.config.data.protocol})"
    )
    if not prepared.encoder.can_be_cut:
        yield f"{prepared.encoder.name} cannot be cut at a block: its frozen blocks run again in every step"


def describe_data(prepared: Prepared) -> dict[str, Any]:
    """Data and split in numbers and hashes, for the records of a run."""
    collection, data = prepared.collection, prepared.config.data
    domains = sorted(set(collection.domains))
    assignment = json.dumps(
        [[collection.texts[query], collection.texts[positive], part] for query, positive, part in zip(
            collection.query.tolist(), collection.positive.tolist(), prepared.parts.tolist(), strict=True
        )]
    )  # fmt: skip
    return {
        "data": {
            "pairs": data.pairs.name,
            "sha256": prepared.pairs_sha256,
            "rows": len(collection.query),
            "passages": len(collection.corpus),
            "domains": {domain: collection.domains.count(domain) for domain in domains},
        },
        "split": {
            "protocol": data.protocol,
            "seed": data.seed,
            "sample_share": data.sample_share,
            "validation_share": data.validation_share,
            "test_share": data.test_share,
            "rows": {part: len(prepared.rows(part)) for part in ("train", "validation", "test")},
            "sha256": hashlib.sha256(assignment.encode()).hexdigest(),
        },
    }
