"""What the base model makes of texts is kept for further searches, to the last bit, and for the same texts alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nic_ray.config import Config
from nic_ray.model.activations import frozen_inputs
from nic_ray.search import base_embeddings
from nic_ray.search.base_embeddings import kept_general_texts, untuned_metrics
from nic_ray.selection.bases import Base
from nic_ray.selection.scoring import Scorer
from nic_ray.training.prepared import Prepared, held_texts, prepare


@pytest.fixture
def prepared(tiny_model: Callable[[], Path], tiny_pairs_file: Path, tmp_path: Path) -> Prepared:
    texts = tmp_path / "general.jsonl"
    texts.write_text("".join(f'{{"text": "a general text of number {number}"}}\n' for number in range(100)))
    config = Config.model_validate({
        "data": {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25},
        "train": {"base_model": str(tiny_model()), "frozen_layers": 1, "anchor": 1.0},
        "general_texts": str(texts),
    })  # fmt: skip
    return prepare(config, on_gpu=False)


def inputs_of(prepared: Prepared):
    return frozen_inputs(prepared.encoder, prepared.tokens, [1], bf16=prepared.bf16)


def no_model(*_):
    raise AssertionError("the base model was asked again")


def test_metrics_are_those_of_the_base_model_and_cost_nothing_a_second_time(prepared, tmp_path, monkeypatch):
    inputs, runs = inputs_of(prepared), tmp_path / "runs"
    expected = Base(replace(prepared), inputs).untuned()
    assert untuned_metrics(Base(prepared, inputs), runs) == expected
    monkeypatch.setattr(Scorer, "computed", no_model)
    later = replace(prepared)  # as another process prepares it: it knows no embeddings
    assert untuned_metrics(Base(later, inputs), runs) == expected


def test_general_texts_are_kept_likewise(prepared, tmp_path, monkeypatch):
    inputs, runs = inputs_of(prepared)[1], tmp_path / "runs"
    expected = held_texts(prepared, inputs)
    assert len(expected.texts) == 50
    first = kept_general_texts(prepared, inputs, runs)
    monkeypatch.setattr(base_embeddings, "held_texts", no_model)
    for found in (first, kept_general_texts(prepared, inputs, runs)):
        np.testing.assert_array_equal(found.texts, expected.texts)
        np.testing.assert_array_equal(found.embeddings, expected.embeddings)


def test_what_was_kept_is_not_taken_for_other_texts_weights_or_pooling(prepared, tmp_path, monkeypatch):
    inputs, runs = inputs_of(prepared), tmp_path / "runs"
    untuned_metrics(Base(prepared, inputs), runs)
    encoder, tokens = prepared.encoder, prepared.tokens
    others = [
        replace(prepared, tokens=replace(tokens, values=tokens.values[::-1])),
        replace(prepared, encoder=replace(encoder, weights_sha256="0" * 64)),
        replace(prepared, bf16=not prepared.bf16),
        replace(prepared, parts=np.where(prepared.parts == "validation", "test", prepared.parts)),
    ]
    monkeypatch.setattr(Scorer, "computed", no_model)
    for other in others[:3]:
        with pytest.raises(AssertionError, match="asked again"):
            untuned_metrics(Base(other, inputs), runs)
    pooling = next(module for module in encoder.model if "Pooling" in type(module).__name__)
    monkeypatch.setattr(pooling, "pooling_mode", "max")
    with pytest.raises(AssertionError, match="asked again"):
        untuned_metrics(Base(replace(prepared), inputs), runs)


def test_nothing_is_kept_where_no_activations_are(prepared, tmp_path):
    activations = prepared.config.activations.model_copy(update={"disk_budget_gib": 0})
    other = replace(prepared, config=prepared.config.model_copy(update={"activations": activations}))
    runs = tmp_path / "runs"
    untuned_metrics(Base(other, inputs_of(prepared)), runs)
    assert not runs.exists()


def test_where_nothing_can_be_written_the_search_goes_on(prepared, tmp_path, caplog):
    inputs = inputs_of(prepared)
    (tmp_path / "full").write_text("no folder")
    caplog.set_level("INFO")
    found = untuned_metrics(Base(prepared, inputs), tmp_path / "full" / "runs")
    assert found == Base(replace(prepared), inputs).untuned()
    assert "not kept (Not a directory)" in caplog.text
