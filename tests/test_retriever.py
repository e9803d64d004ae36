"""What a model finds for a question, beside its base model."""

import io
import json
import sys

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray import console, retrieve
from nic_ray.bundle.files import file_sha256, write_bundle
from nic_ray.bundle.retriever import describe, retriever
from nic_ray.dataset.passages import read_corpus
from nic_ray.errors import InputError
from nic_ray.metrics.bm25 import bm25


@pytest.fixture
def bundle(tiny_model, tmp_path):
    model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
    metadata = {"name": "tuned", "base_model": str(tiny_model())}
    write_bundle(tmp_path / "tuned", model, metadata, training_log="")
    return tmp_path / "tuned"


def test_both_models_rank_as_their_embeddings_say(bundle, tiny_model, tiny_pairs_file):
    passages = read_corpus(tiny_pairs_file)
    question = "How do I replace the leaking rotor?"
    answer = retriever(bundle, tiny_pairs_file, say=lambda _: None).ask(question, 5)
    found = answer.hits
    order = {}
    for name, folder in (("tuned", bundle), ("base", tiny_model())):
        model = SentenceTransformer(str(folder), device="cpu")
        query, texts = model.encode(question), model.encode([passage.text for passage in passages])
        cosines = texts @ query / np.linalg.norm(texts, axis=1) / np.linalg.norm(query)
        order[name] = np.argsort(-cosines).tolist()
        assert [each.text for each in found[name]] == [passages[number].text for number in order[name][:5]]
        assert [each.cosine for each in found[name]] == pytest.approx(sorted(cosines)[::-1][:5], abs=1e-5)
        assert [each.rank for each in found[name]] == [1, 2, 3, 4, 5]
    assert [each.other_rank for each in found["tuned"]] == [order["base"].index(n) + 1 for n in order["tuned"][:5]]
    assert [each.other_rank for each in found["base"]] == [order["tuned"].index(n) + 1 for n in order["base"][:5]]
    lines = list(describe(answer))
    first = found["tuned"][0]
    assert lines[0] == "tuned model:"
    assert lines[1] == (
        f"  1. {first.cosine:.3f}  BM25 {first.by_words:.1f}  {first.domain}  (base model: rank {first.other_rank})"
    )
    assert (answer.chance, answer.nothing_found) == (None, False)


FUSED = {
    "word_search": {
        "chosen": {"base": {"form": "ranks", "weight": 0.0}, "tuned": {"form": "scores", "weight": 0.05}},
        "helps": True,
        "gain": {"difference": 0.1, "low": 0.05, "high": 0.15, "queries": 9, "passages": 9},
        "figures": {},
    },
    "calibration": {
        "ranking": {"form": "scores", "weight": 0.05},
        "scores": [0.0, 2.0],
        "chances": [0.0, 1.0],
        "threshold": 1.0,
        "readings": {
            "test": {
                "queries": 9, "right": 0.5, "brier": 0.2, "brier_of_the_mean": 0.25, "right_below": 0.05,
                "recognised": 0.5, "reliability": [],
            }
        },
    },
}  # fmt: skip


@pytest.fixture
def fused_bundle(tiny_model, tmp_path):
    model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
    metadata = {"name": "fused", "base_model": str(tiny_model()), **FUSED}
    write_bundle(tmp_path / "fused", model, metadata, training_log="")
    return tmp_path / "fused"


def test_words_and_vectors_are_ranked_together_where_the_validation_rows_said_so(fused_bundle, tiny_pairs_file):
    passages, question = read_corpus(tiny_pairs_file), "How do I replace the leaking rotor?"
    found = retriever(fused_bundle, tiny_pairs_file, say=lambda _: None)
    answer = found.ask(question, 5)
    model, texts = SentenceTransformer(str(fused_bundle), device="cpu"), [passage.text for passage in passages]
    scores = (
        model.similarity(model.encode(question), model.encode(texts)).numpy()[0] + 0.05 * bm25(texts)([question])[0]
    )
    assert found.ranking == "similarity + 0.05 BM25"
    assert [hit.text for hit in answer.hits["tuned"]] == [texts[n] for n in np.argsort(-scores, kind="stable")[:5]]
    assert answer.chance == pytest.approx(scores.max() / 2, abs=1e-5)
    assert not answer.nothing_found
    alone = retriever(fused_bundle, tiny_pairs_file, words=False, say=lambda _: None)
    cosines = [hit.cosine for hit in alone.ask(question, 5).hits["tuned"]]
    assert (alone.ranking, cosines) == ("similarity", sorted(cosines, reverse=True))
    assert alone.ask(question, 1).chance is None  # the chances are those of another way to score


def test_on_other_passages_than_those_of_the_pairs_it_is_said_whose_chances_are_stated(
    tiny_model, tiny_pairs_file, tmp_path
):
    model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
    data = {"pairs": "ours.jsonl", "sha256": file_sha256(tiny_pairs_file), "passages": 24}
    metadata = {"name": "tuned", "base_model": str(tiny_model()), **FUSED, "data": data}
    write_bundle(tmp_path / "own", model, metadata, training_log="")
    write_bundle(tmp_path / "share", model, metadata | {"data": data | {"passages": 12}}, training_log="")
    other = tmp_path / "other.jsonl"
    other.write_text(tiny_pairs_file.read_text().replace("pumps", "pipes"))

    def caveat(bundle, corpus, **words):
        return retriever(tmp_path / bundle, corpus, say=lambda _: None, **words).caveat

    assert caveat("own", tiny_pairs_file) is None
    for bundle, corpus, passages in (("own", other, 24), ("share", tiny_pairs_file, 12)):
        assert caveat(bundle, corpus) == (
            f"the chances, and the score below which nothing counts as found, were set on the {passages} "
            "passages of ours.jsonl; on any others, take them as a hint"
        )
    assert caveat("own", other, words=False) is None  # no chance is stated


def test_words_can_be_asked_for_of_a_bundle_that_knows_nothing_of_them(bundle, tiny_pairs_file):
    found = retriever(bundle, tiny_pairs_file, words=True, say=lambda _: None)
    assert found.ranking == "reciprocal rank fusion"
    assert max(hit.by_words for hit in found.ask("a leaking rotor", 1).hits["tuned"]) > 0


def test_nothing_found_is_said(fused_bundle, tiny_pairs_file):
    answer = retriever(fused_bundle, tiny_pairs_file, say=lambda _: None).ask("zzz", 2)
    assert answer.chance < 0.5
    assert answer.nothing_found
    lines = list(describe(answer))
    assert lines[0].startswith("nothing found: ")
    assert lines[1] == f"tuned model (the first answers with a chance of {answer.chance:.0%}):"


def test_the_caveat_is_printed_once_and_stands_in_each_json_object(fused_bundle, tiny_pairs_file, run):
    given = (fused_bundle, "--corpus", tiny_pairs_file)
    said = [line for line in run(*given, "a hot rotor", "no sound") if line.startswith("the chances, and the score ")]
    assert len(said) == 1
    assert "were set on the training pairs' passages; on any others" in said[0]
    assert [json.loads(line)["caveat"] for line in run(*given, "a hot rotor", "no sound", "--json")] == said * 2


def test_both_models_are_put_on_the_device(bundle, tiny_pairs_file, monkeypatch):
    moved, to = [], SentenceTransformer.to

    def note(model, *where, **_):
        moved.extend(each for each in where if isinstance(each, str))
        return to(model, "cpu")

    monkeypatch.setattr(SentenceTransformer, "to", note)
    retriever(bundle, tiny_pairs_file, say=lambda _: None, device="cuda")
    assert moved.count("cuda") == 2


def test_a_damaged_bundle_answers_nothing(bundle, tiny_pairs_file):
    (bundle / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="not loaded"):
        retriever(bundle, tiny_pairs_file, say=lambda _: None)


@pytest.fixture
def run(monkeypatch, capsys):
    """`run(...)`: the lines that the command prints."""

    def run(*arguments: object, stdin: str = "") -> list[str]:
        monkeypatch.setattr(sys, "argv", ["retrieve", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as stopped:
            console.run(retrieve.main)
        assert stopped.value.code == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_questions_come_from_the_command_line_or_from_stdin(bundle, tiny_pairs_file, run):
    given = (bundle, "--corpus", tiny_pairs_file)
    (one,) = run(*given, "a hot rotor", "--top", "2", "--json")
    assert json.loads(one)["query"] == "a hot rotor"
    assert (json.loads(one)["ranking"], json.loads(one)["chance"]) == ("similarity", None)
    (one,) = run(*given, "a hot rotor", "--top", "2", "--json", "--words")
    assert json.loads(one)["ranking"] == "reciprocal rank fusion"
    assert [len(json.loads(one)[model]) for model in ("tuned", "base")] == [2, 2]
    asked = run(*given, "--json", stdin="a hot rotor\n\nno sound\n")
    assert [json.loads(line)["query"] for line in asked] == ["a hot rotor", "no sound"]
    text = run(*given, "a hot rotor")
    assert "a hot rotor" in text
    assert {"tuned model:", "base model:"} <= set(text)


def test_both_models_are_moved_to_the_device(bundle, tiny_pairs_file, monkeypatch):
    moved = []

    def to(model, device):
        moved.append(device)
        return model

    monkeypatch.setattr(SentenceTransformer, "to", to)
    retriever(bundle, tiny_pairs_file, say=lambda _: None, device="cuda")
    assert moved.count("cuda") == 2


def test_each_model_ranks_by_its_own_prompts_and_similarity(changed_model, tiny_pairs_file, tmp_path):
    prompts = {"query": "pumps radios trucks ", "passage": "replace clean tighten "}
    base = changed_model(prompts=prompts, similarity="dot", behind=[Pooling(32)])
    tuned = SentenceTransformer(str(changed_model(prompts={"query": "trucks "}, layers=3)), device="cpu")
    write_bundle(tmp_path / "tuned", tuned, {"name": "tuned", "base_model": str(base)}, training_log="")
    passages, question = read_corpus(tiny_pairs_file), "How do I replace the leaking rotor?"
    found = retriever(tmp_path / "tuned", tiny_pairs_file, say=lambda _: None).ask(question, 5).hits
    plain, texts = SentenceTransformer(str(base), device="cpu"), [passage.text for passage in passages]
    scores = plain.encode([prompts["passage"] + text for text in texts]) @ plain.encode(prompts["query"] + question)
    assert [each.text for each in found["base"]] == [texts[number] for number in np.argsort(-scores)[:5]]
    assert [each.cosine for each in found["base"]] == pytest.approx(sorted(scores)[::-1][:5], rel=1e-5)
    cosines = tuned.encode(texts) @ tuned.encode("trucks " + question)
    assert [each.text for each in found["tuned"]] == [texts[number] for number in np.argsort(-cosines)[:5]]
