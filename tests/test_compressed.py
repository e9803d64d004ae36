"""Smaller embeddings: what is kept of them, and what is found with it."""

import json
import sys

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nic_ray import console
from nic_ray.bundle.comparison import compare_with_base
from nic_ray.bundle.compressed import parse_dimensions, parse_precisions, results_by_size
from nic_ray.bundle.wanted import Wanted
from nic_ray.errors import InputError
from nic_ray.evaluate import main
from nic_ray.metrics.ranking import flat_metrics, score_metrics


def test_sizes_are_scored_as_sentence_transformers_makes_them(tiny_model_folder, tiny_pairs_file, tiny_pairs):
    kept = []
    compared = compare_with_base(str(tiny_model_folder), tiny_pairs_file, "all", wanted=Wanted(use=kept.append))
    found = results_by_size(kept[0], [8], ["float32", "int8", "binary"])
    assert [(each.dimensions, each.precision, each.bytes) for each in found] == [
        (32, "float32", 128), (32, "int8", 32), (32, "binary", 4),
        (8, "float32", 32), (8, "int8", 8), (8, "binary", 1),
    ]  # fmt: skip
    assert found[0].metrics == pytest.approx(compared.results["model"], abs=1e-6)
    model = SentenceTransformer(str(tiny_model_folder), device="cpu")
    corpus = list(dict.fromkeys(text for pair in tiny_pairs for text in (pair.positive, *pair.negatives)))
    passages = model.encode(corpus, precision="ubinary")
    queries = model.encode([pair.query for pair in tiny_pairs], precision="ubinary")
    differing = np.unpackbits(queries[:, None] ^ passages[None], axis=2).sum(axis=2)
    right = [np.array([corpus.index(pair.positive)]) for pair in tiny_pairs]
    metrics = flat_metrics(score_metrics(-differing.astype(float), right), [pair.domain for pair in tiny_pairs])
    assert found[2].metrics == pytest.approx(metrics, abs=1e-9)


def test_what_cannot_be_kept_is_refused(tiny_model_folder, tiny_pairs_file):
    assert parse_precisions(None) == ["float32"]
    assert parse_precisions("binary, int8") == ["float32", "int8", "binary"]
    assert parse_dimensions("16,8") == [16, 8]
    assert parse_dimensions(None) == []
    with pytest.raises(InputError, match=r"--precision: int4: no such precision; want float32, int8, binary"):
        parse_precisions("int4,int8")
    with pytest.raises(InputError, match=r"--dimensions: want whole numbers above 0, .*; got 0, x"):
        parse_dimensions("0,8,x")
    kept = []
    compare_with_base(str(tiny_model_folder), tiny_pairs_file, "all", wanted=Wanted(use=kept.append))
    with pytest.raises(InputError, match=r"--dimensions: must be fewer than the 32 of .*, got 32, 64"):
        results_by_size(kept[0], [32, 64, 8], ["float32"])


@pytest.mark.parametrize("form", ["--json", "table"])
def test_evaluate_shows_sizes_where_they_are_asked_for(tiny_model_folder, tiny_pairs_file, monkeypatch, capsys, form):
    asked = ["--split", "all", "--dimensions", "8", "--precision", "int8"]
    given = ["evaluate", str(tiny_model_folder), str(tiny_pairs_file), *asked, *([form] if form == "--json" else [])]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit, match="0"):
        console.run(main)
    said = capsys.readouterr().out
    if form == "--json":
        assert [each["dimensions"] for each in json.loads(said)["smaller"]] == [32, 32, 8, 8]
    else:
        shown = [line.split()[:3] for line in said.splitlines() if "int8" in line]
        assert shown == [["32", "int8", "32"], ["8", "int8", "8"]]
