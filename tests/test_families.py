"""What holds for each family of base models; docs/families.md shows it as a table."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from nic_ray.bundle import onnx
from nic_ray.config import Config
from nic_ray.model.activations import Inputs, feed, frozen_inputs, upper_for
from nic_ray.model.encoder import base_weights, whole, with_weights
from nic_ray.model.evaluation import embed, evaluate
from nic_ray.progress import View
from nic_ray.record import load_state, save_state
from nic_ray.selection.candidates import Candidate, best_of
from nic_ray.selection.export import export
from nic_ray.selection.interpolation import interpolated
from nic_ray.training.loop import Evaluation, TrainingData, Validation, fit
from nic_ray.training.prepared import Prepared, prepare
from tests.families import BLOCKS, FAMILIES, Family

TABLE = Path(__file__).parent.parent / "docs" / "families.md"
OBJECTIVE = "recall_at_5/macro"
PROMPTS = {"query": "what to do about ", "document": "replace tighten "}


def rows_of_table() -> dict[str, list[str]]:
    """The cells of docs/families.md by family."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in rows}


@pytest.fixture
def prepared(family_model, tiny_pairs_file):
    """`prepared(name)`: what a training of this family's model is given, with prompts, half of its blocks frozen."""

    def make(name: str) -> Prepared:
        train = {
            "base_model": str(family_model(name)), "frozen_layers": depth_of(FAMILIES[name]), "prompts": PROMPTS,
            "max_tokens": 64, "precision": "fp32", "batch_size": 8, "epochs": 1, "learning_rate": 1e-3,
            "hidden_dropout": 0.0, "evaluations_per_epoch": 2,
        }  # fmt: skip
        data = {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25}
        guard = {"retention_set": None, "min_neighbours_kept": 0}
        return prepare(Config.model_validate({"data": data, "train": train, "guard": guard}), on_gpu=False)

    return make


def depth_of(family: Family) -> int:
    return 0 if family.kind == "albert" else BLOCKS // 2


def trained(prepared: Prepared, inputs: Inputs, state: Any = None) -> Iterator[Evaluation]:
    source, rows = feed(inputs, "cpu"), prepared.rows("validation").tolist()
    return fit(
        prepared.config.train,
        upper_for(prepared.encoder, inputs),
        TrainingData(prepared.collection, prepared.rows("train"), source),
        Validation(lambda model: evaluate(model, source, prepared.collection, rows), OBJECTIVE),
        state=state,
    )


def losses(evaluations: Iterator[Evaluation]) -> list[float]:
    return [each.metrics["loss"] for each in evaluations]


def exported(prepared: Prepared, winner: Candidate, folder: Path) -> SentenceTransformer:
    given = {"training_log": "", "overwrite": False, "view": View()}
    export(prepared, winner, {"results": {}}, folder, **given)
    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_each_family_is_trained_cached_resumed_mixed_and_exported(prepared, tmp_path, name):
    family, ready = FAMILIES[name], prepared(name)
    encoder, depth = ready.encoder, ready.config.train.frozen_layers
    assert (encoder.can_be_cut, encoder.plain) == (not family.uncut, family.plain)
    uncached = dataclasses.replace(ready.tokens, depth=depth)  # the frozen blocks run in every step
    inputs = frozen_inputs(encoder, ready.tokens, [depth])[depth] if encoder.can_be_cut else uncached

    evaluations = trained(ready, inputs)
    first = next(evaluations)
    save_state(first.state, tmp_path)
    *_, last = evaluations
    assert losses(trained(ready, inputs, load_state(tmp_path))) == pytest.approx([last.metrics["loss"]], abs=1e-6)

    if encoder.can_be_cut:
        expected = [first.metrics["loss"], last.metrics["loss"]]
        assert losses(trained(ready, uncached)) == pytest.approx(expected, abs=1e-5)

    winner = best_of("trial", ready.config.train, last.state)
    tuned = with_weights(encoder, depth, winner.weights)
    assert_only_blocks_above_the_cut_moved(encoder.transformer, tuned.transformer, depth)

    base = base_weights(encoder, depth)
    for alpha, expected in ((0.0, base), (1.0, winner.weights)):
        mixed = interpolated(ready, winner, alpha)
        assert all(torch.equal(mixed[key], expected[key]) for key in mixed)

    model = exported(ready, winner, tmp_path / "model")
    assert {model.prompts["query"], model.prompts["document"]} == set(PROMPTS.values())
    collection = ready.collection
    for numbers, encode in (
        (np.unique(collection.query), model.encode_query),
        (collection.corpus, model.encode_document),
    ):
        texts = [collection.texts[number] for number in numbers.tolist()]
        scored = embed(whole(tuned), feed(ready.tokens, "cpu"), numbers)
        np.testing.assert_allclose(encode(texts), scored, atol=1e-5)
        assert np.abs(model.encode(texts, prompt="") - scored).max() > 1e-3

    cut = f"no: {family.uncut}" if family.uncut else "yes, plain blocks" if family.plain else "yes"
    frozen = "none: trains whole" if depth == 0 else "unchanged"
    cached = "same" if encoder.can_be_cut else "not cached"
    assert rows_of_table()[name][:-1] == [cut, frozen, cached, "same", "kept", "same", "yes"]


def assert_only_blocks_above_the_cut_moved(before: torch.nn.Module, after: torch.nn.Module, depth: int) -> None:
    tuned = dict(after.named_parameters())
    moved = {name for name, value in before.named_parameters() if not torch.equal(value, tuned[name])}
    assert moved
    if depth:
        lists = [name for name, part in before.named_modules() if isinstance(part, torch.nn.ModuleList)]
        blocks = next(name for name in lists if len(before.get_submodule(name)) == BLOCKS)
        assert {name.removeprefix(f"{blocks}.").split(".")[0] for name in moved} == {
            str(block) for block in range(depth, BLOCKS)
        }
        assert all(name.startswith(f"{blocks}.") for name in moved)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_each_family_is_converted_to_onnx_or_says_why_not(prepared, tmp_path, name):
    pytest.importorskip("onnxruntime")
    ready = prepared(name)
    depth = ready.config.train.frozen_layers
    uncached = dataclasses.replace(ready.tokens, depth=depth)
    *_, last = trained(ready, uncached)
    exported(ready, best_of("trial", ready.config.train, last.state), tmp_path / "model")
    given = {"overwrite": False, "say": lambda _: None}
    parity = onnx.convert(tmp_path / "model", tmp_path / "graph", "onnx", ready.config.data.pairs, **given)
    assert parity.lowest_cosine > 0.9999
    assert rows_of_table()[name][-1] == "same"


def test_the_table_has_a_row_for_every_family_and_no_empty_cell():
    rows = rows_of_table()
    assert list(rows) == ["family", *FAMILIES]
    assert all(cells and all(cells) for cells in rows.values())
