"""Hard negatives: near a query for the model, and no answer to it."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray import console, mine
from nic_ray.data_config import DataConfig
from nic_ray.dataset.corpus import with_distractors
from nic_ray.dataset.pairs import Pair, index_pairs, read_pairs, relevant_passages
from nic_ray.errors import InputError
from nic_ray.model.base import load
from nic_ray.training.mining import mine_negatives, write_negatives
from nic_ray.training.prepared import divide

pytest.importorskip("datasets", reason="mining needs the extra nic_ray[mine]")


def mined(folder, pairs, rows=None, *, count=3, relative_margin=0.05):
    collection = index_pairs(pairs)
    chosen = range(len(pairs)) if rows is None else rows
    encoder = load(str(folder))
    found = mine_negatives(
        encoder, collection, list(chosen), count=count, relative_margin=relative_margin, max_tokens=64
    )
    return encoder, collection, found


def similarities(encoder, collection) -> np.ndarray:
    embeddings = encoder.model.encode(list(collection.texts), normalize_embeddings=True)
    return embeddings @ embeddings.T


def test_negatives_are_the_nearest_passages_that_keep_their_distance(tiny_model_folder, tiny_pairs):
    encoder, collection, found = mined(tiny_model_folder, tiny_pairs, count=2)
    similar, number = similarities(encoder, collection), {text: i for i, text in enumerate(collection.texts)}
    passages = np.unique(collection.positive)
    assert len(found) > 4
    for row, negatives in found.items():
        query, positive = collection.query[row], collection.positive[row]
        limit = similar[query, positive] * 0.95
        allowed = [p for p in passages if p != positive and similar[query, p] <= limit + 1e-6]
        nearest = sorted(allowed, key=lambda passage: -similar[query, passage])[:2]
        # ranks beyond those that were searched hold nothing that is near
        assert [number[text] for text in negatives] == nearest[: len(negatives)]


def test_no_known_answer_is_a_negative(tiny_model_folder, tiny_pairs):
    # every query gets a second answer, and the third row's is known from a row that is not mined
    others = [dataclasses.replace(pair, positive=tiny_pairs[row - 2].positive) for row, pair in enumerate(tiny_pairs)]
    pairs = [*tiny_pairs, *others]
    _, collection, found = mined(tiny_model_folder, pairs, rows=range(len(tiny_pairs)), relative_margin=0.0)
    assert found
    for row, negatives in found.items():
        answers = {collection.texts[text] for text in relevant_passages(collection)[int(collection.query[row])]}
        assert len(answers) >= 2
        assert not answers & set(negatives)


def test_nothing_that_is_nearly_an_answer_is_a_negative_and_as_many_are_found(tiny_model_folder, tiny_pairs):
    long = " When it is cold let the engine run for a while, look for leaks and tighten what is loose to {} Nm."
    pairs = [
        dataclasses.replace(pair, query=f"{pair.query} {torque}", positive=pair.positive + long.format(torque))
        for pair in tiny_pairs
        for torque in (40, 50, 60, 70)
    ]
    _, collection, found = mined(tiny_model_folder, pairs, count=3, relative_margin=0.0)
    number = {text: i for i, text in enumerate(collection.texts)}
    assert np.mean([len(negatives) for negatives in found.values()]) > 2.5
    for row, negatives in found.items():
        own = collection.near_group[collection.positive[row]]
        assert own not in [collection.near_group[number[text]] for text in negatives]


def test_passages_of_other_rows_are_not_looked_at(tiny_model_folder, tiny_pairs):
    _, _, found = mined(tiny_model_folder, tiny_pairs, rows=range(32), relative_margin=0.0)
    seen = {tiny_pairs[row].positive for row in range(32)}
    assert set(found) <= set(range(32))
    assert {text for negatives in found.values() for text in negatives} <= seen


def test_a_corpus_is_mined_too_but_for_what_is_nearly_an_answer(tiny_model_folder, tiny_pairs):
    words = " ".join(pair.positive for pair in tiny_pairs[4:9])
    rows = [dataclasses.replace(tiny_pairs[0], positive=words), *tiny_pairs[1:]]
    near, others = words.replace("when", "where", 1), [f"{pair.query} Really?" for pair in tiny_pairs[:9]]
    collection = with_distractors(index_pairs(rows), [near, *others])
    encoder = load(str(tiny_model_folder))
    given = {"count": 3, "relative_margin": 0.0, "max_tokens": 64}
    found = mine_negatives(encoder, collection, list(range(len(rows))), **given)
    assert {text for own in found.values() for text in own} & {*others}
    assert near not in found.get(0, ())
    alone = mine_negatives(encoder, index_pairs(rows), list(range(len(rows))), **given)
    assert not {text for own in alone.values() for text in own} & {near, *others}


def test_too_few_passages_are_refused(tiny_model_folder, tiny_pairs):
    with pytest.raises(InputError, match=r"mining 3 negatives a row needs more than 3 passages to train on, got 2"):
        mined(tiny_model_folder, tiny_pairs, rows=[0, 1, 2, 3])


def test_rows_are_written_with_all_their_fields(tmp_path):
    rows = [
        {"query": "a", "positive": "b", "domain": "x", "negative": "own", "kind": "direct"},
        {"query": "ü\u2028", "positive": "c", "domain": "x"},
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows)
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    pairs = [Pair("a", "b", "x", ("own",), line=1), Pair("ü\u2028", "c", "x", line=3)]
    write_negatives(tmp_path / "in.jsonl", pairs, {0: ("own", "new")}, tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert written == [rows[0] | {"negative": ["own", "new"]}, rows[1]]


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mine", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            console.run(mine.main)
        return stopped.value.code, *capsys.readouterr()

    return run


def test_a_folder_that_is_not_there_is_told_before_anything_is_embedded(run, tiny_pairs_file, tmp_path, monkeypatch):
    monkeypatch.setattr("nic_ray.training.mining.mine_negatives", lambda *_, **__: pytest.fail("embedded"))
    code, _, complaint = run(tiny_pairs_file, "-o", tmp_path / "none" / "mined.jsonl")
    assert (code, f"{tmp_path / 'none'}: no such folder; make it first" in complaint) == (2, True)


def test_the_command_gives_negatives_to_training_rows_alone(run, tiny_model_folder, tiny_pairs_file, tmp_path):
    out = tmp_path / "mined.jsonl"
    code, said, _ = run(tiny_pairs_file, "-o", out, "--model", tiny_model_folder, "--negatives", 2)
    assert code == 0
    assert f"written: {out}" in said
    before, after = read_pairs(tiny_pairs_file), read_pairs(out)
    assert [(row.query, row.positive, row.domain) for row in after] == [
        (row.query, row.positive, row.domain) for row in before
    ]
    parts = divide(before, DataConfig())[1]
    assert (parts == divide(after, DataConfig())[1]).all()
    corpus = {row.positive for row, part in zip(before, parts, strict=True) if part == "train"}
    grown = 0
    for old, new, part in zip(before, after, parts, strict=True):
        assert new.negatives[: len(old.negatives)] == old.negatives
        added = new.negatives[len(old.negatives) :]
        assert set(added) <= corpus
        assert part == "train" or not added
        grown += bool(added)
    line = next(line.split() for line in said.splitlines() if line.startswith("all"))
    assert line[:2] == ["all", str((parts == "train").sum())]
    assert int(line[2]) >= grown > 0


def test_an_existing_file_is_not_overwritten(run, tiny_pairs_file):
    code, _, complaint = run(tiny_pairs_file, "-o", tiny_pairs_file)
    assert code == 2
    assert "exists already; name another file with --out" in complaint


def test_a_copy_of_the_model_mines_on_the_device(tiny_model_folder, tiny_pairs, monkeypatch):
    moved = []

    def to(model, device):
        moved.append((model, str(device)))
        return model

    encoder = load(str(tiny_model_folder))
    monkeypatch.setattr(type(encoder.model), "to", to)
    options = {"count": 2, "relative_margin": 0.05, "max_tokens": 8, "device": "cuda"}
    mine_negatives(encoder, index_pairs(tiny_pairs), range(len(tiny_pairs)), **options)
    assert "cuda" in {device for _, device in moved}
    assert all(model is not encoder.model for model, _ in moved)
    assert encoder.model.max_seq_length == 64


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_negatives_are_near_by_the_models_prompts_and_by_cosine_as_in_training(changed_model, tiny_pairs, similarity):
    prompts = {"query": "pumps radios trucks ", "passage": "replace clean tighten "}
    folder = changed_model(prompts=prompts, similarity=similarity, behind=[Pooling(32)])
    encoder, collection, found = mined(folder, tiny_pairs, count=1, relative_margin=0.01)
    asked, read = (
        encoder.model.encode([prompt + text for text in collection.texts], normalize_embeddings=True)
        for prompt in prompts.values()
    )
    scores, passages = asked @ read.T, np.unique(collection.positive)
    assert len(found) > 4
    for row, (negative,) in found.items():
        query, positive = collection.query[row], collection.positive[row]
        limit = scores[query, positive] * 0.99
        allowed = [p for p in passages if p != positive and scores[query, p] <= limit + 1e-6]
        assert negative == collection.texts[max(allowed, key=lambda passage: scores[query, passage])]
