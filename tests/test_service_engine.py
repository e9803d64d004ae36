"""What a service loads: vectors as of the exported folder, the index, and the fallback where a bundle is not sound."""

import dataclasses
import logging

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray.bundle import onnx
from nic_ray.bundle.files import file_sha256, load, write_bundle
from nic_ray.errors import InputError
from nic_ray.service import engine as engines
from nic_ray.service import index as indexes
from nic_ray.service.engine import engine_of, same_engine, torch_engine
from nic_ray.service.index import index_of, search
from nic_ray.service.serving import described, load_serving
from nic_ray.service.settings import Settings, Version

TEXTS = ["How do I replace the leaking rotor of the pump?", "a", "hot " * 100, "Ünknown Wörds, 12.5 %", "OIL"]


def ignore(*_):
    pass


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def export(tiny_model, changed_model, tiny_pairs_file, tmp_path):
    def export(base=None, name="tuned", **metadata):
        folder = base or tiny_model(layers=3)
        stored = {
            "name": name,
            "base_model": str(tiny_model()),
            "data": {"sha256": file_sha256(tiny_pairs_file)},
            "split": {"protocol": "unseen_passages", "seed": 3, "validation_share": 0.25, "test_share": 0.25},
        }
        write_bundle(
            tmp_path / name, SentenceTransformer(str(folder), device="cpu"), stored | metadata, training_log=""
        )
        return tmp_path / name

    return export


def test_texts_are_embedded_as_the_exported_folder_embeds_them_with_its_prompts(export, changed_model):
    bundle = export(changed_model(prompts={"query": "ask: ", "document": "say: "}))
    engine, model = engine_of(bundle, "torch", None, threads=1), SentenceTransformer(str(bundle), device="cpu")
    np.testing.assert_allclose(engine.embed_queries(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    np.testing.assert_allclose(engine.embed_passages(TEXTS), model.encode_document(TEXTS), atol=1e-6)
    assert engine.two_sided
    assert not np.allclose(engine.embed_queries(TEXTS), engine.embed_passages(TEXTS))


def test_tokens_are_counted_with_the_prompt_and_without_a_cut(export, changed_model):
    engine = torch_engine(load(export(changed_model(prompts={"query": "ask me: ", "document": ""}))))
    model = SentenceTransformer(str(changed_model()), device="cpu")
    expected = [
        len(ids) for ids in model.tokenizer(["ask me: " + text for text in TEXTS], truncation=False)["input_ids"]
    ]
    assert engine.count_tokens(TEXTS, True) == expected
    assert max(expected) > engine.max_tokens


@pytest.fixture
def converted(export, tiny_pairs_file, monkeypatch):
    monkeypatch.setattr(onnx, "TIMED", 5)
    bundle = export()
    onnx.convert(bundle, bundle.with_name("tuned-onnx"), "onnx", tiny_pairs_file, overwrite=False, say=ignore)
    return bundle


def test_a_graph_beside_the_bundle_embeds_as_it_does_and_is_taken_by_name(converted):
    engine, model = engine_of(converted, "onnx", None, threads=1), load(converted)
    assert engine.form == "onnx"
    np.testing.assert_allclose(engine.embed_queries(TEXTS), model.encode_query(TEXTS), atol=1e-4)
    assert engine_of(converted, "auto", None, threads=1).form in ("onnx", "torch")


def test_of_several_forms_the_faster_one_is_taken(converted, monkeypatch):
    seconds = iter(np.arange(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(seconds)))
    slow_first = engine_of(converted, "auto", None, threads=1)
    assert slow_first.form == "torch"  # as fast as each other: the exported folder itself


def test_the_form_is_measured_once_and_kept_for_the_next_process(converted, monkeypatch):
    first = same_engine(converted, None, weights="ab" * 32, threads=1)
    monkeypatch.setattr(engines, "_fastest", lambda _: pytest.fail("measured again"))
    assert same_engine(converted, None, weights="ab" * 32, threads=1).form == first.form
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        same_engine(converted, None, weights="cd" * 32, threads=1)


def test_a_form_that_is_no_longer_there_is_chosen_anew(converted, monkeypatch):
    monkeypatch.setattr(engines, "_fastest", lambda offered: offered[-1])
    assert same_engine(converted, None, weights="ab" * 32, threads=1).form == "onnx"
    converted.with_name("tuned-onnx").rename(converted.with_name("gone"))
    assert same_engine(converted, None, weights="ab" * 32, threads=1).form == "torch"


def test_a_graph_of_another_model_is_not_taken(converted, export, tiny_model):
    other = export(tiny_model(layers=2), name="other")
    converted.with_name("tuned-onnx").rename(other.with_name("other-onnx"))
    assert engine_of(other, "auto", None, threads=1).form == "torch"
    with pytest.raises(InputError, match=r"holds no graph of .*nic_ray\.convert"):
        engine_of(other, "onnx", None, threads=1)


def test_a_damaged_graph_is_left_out_with_a_warning_and_refused_by_name(converted, caplog):
    (converted.with_name("tuned-onnx") / "model.onnx").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        assert engine_of(converted, "auto", None, threads=1).form == "torch"
    assert "tuned-onnx is not used" in caplog.text
    with pytest.raises(InputError, match="convert the model again"):
        engine_of(converted, "onnx", None, threads=1)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_the_search_is_the_exact_order_by_the_models_similarity(export, changed_model, tiny_pairs_file, similarity):
    bundle = export(changed_model(similarity=similarity, behind=[Pooling(32, "mean")]))
    model, engine = load(bundle), engine_of(bundle, "torch", None, threads=1)
    index = index_of(tiny_pairs_file, engine, None, "weights")
    texts = [passage.text for passage in index.passages]
    for query in TEXTS:
        expected = model.similarity(model.encode_query(query), model.encode_document(texts))[0].numpy()
        answer = search(index, query, engine.embed_queries([query])[0], 5)
        np.testing.assert_allclose([hit.similarity for hit in answer.hits], np.sort(expected)[::-1][:5], rtol=1e-4)
        assert (answer.chance, answer.nothing_found) == (None, False)


def test_blocks_change_no_result(export, tiny_pairs_file, monkeypatch):
    engine = engine_of(export(), "torch", None, threads=1)
    whole = index_of(tiny_pairs_file, engine, None, "weights")
    monkeypatch.setattr(indexes, "BLOCK", 3)
    blocks = index_of(tiny_pairs_file, engine, None, "weights")
    query = engine.embed_queries(["how is the pump replaced"])[0]
    np.testing.assert_allclose(whole.similarities(query), blocks.similarities(query), atol=1e-6)


def test_of_equal_scores_the_first_passages_come_first():
    scores = np.array([0.5, 0.9, 0.5, 0.9, 0.1], np.float32)
    assert indexes._highest(scores, 3).tolist() == [1, 3, 0]
    assert indexes._highest(scores, 9).tolist() == [1, 3, 0, 2, 4]


def test_passages_are_embedded_once_for_all_starts(export, tiny_pairs_file, monkeypatch):
    engine = engine_of(export(), "torch", None, threads=1)
    first = index_of(tiny_pairs_file, engine, None, "weights")
    monkeypatch.setattr(indexes, "_embed", lambda *_: pytest.fail("embedded again"))
    second = index_of(tiny_pairs_file, engine, None, "weights")
    query = engine.embed_queries(["pump"])[0]
    np.testing.assert_array_equal(first.similarities(query), second.similarities(query))
    with pytest.raises(pytest.fail.Exception, match="embedded again"):
        index_of(tiny_pairs_file, engine, None, "other weights")


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_kept_embeddings_that_are_damaged_are_made_anew(export, tiny_pairs_file, tmp_path, damage):
    engine = engine_of(export(), "torch", None, threads=1)
    query = engine.embed_queries(["pump"])[0]
    expected = np.array(index_of(tiny_pairs_file, engine, None, "weights").similarities(query))
    (kept,) = (tmp_path / "tmp").rglob("*.npy")
    kept.unlink()  # that which is mapped stays as it is
    kept.write_bytes(damage) if damage is not None else np.save(kept, np.ones((2, 2), np.float32))
    index = index_of(tiny_pairs_file, engine, None, "weights")
    np.testing.assert_array_equal(index.similarities(query), expected)


def test_a_folder_of_someone_else_is_not_used_for_embeddings(export, tiny_pairs_file, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("os.getuid", lambda: 4711)
    engine = engine_of(export(), "torch", None, threads=1)
    assert index_of(tiny_pairs_file, engine, None, "weights").passages
    assert "not kept for the next start" in caplog.text


def test_a_sound_bundle_is_served_with_what_it_holds(export, tiny_pairs_file):
    bundle = export()
    settings = Settings(corpus=(str(tiny_pairs_file),), form="torch")
    version = described(load_serving(settings, Version(bundle=str(bundle)), ignore))
    assert (version["name"], version["format"], version["fallback"], version["verified"]) == (
        "tuned",
        "torch",
        False,
        True,
    )
    assert version["passages"] > 3
    assert version["detector"] is False


@pytest.mark.parametrize("damage", ["weights", "golden", "metadata", "gone"])
def test_a_bundle_that_is_not_sound_is_never_served(export, damage, tiny_model):
    bundle = export()
    if damage == "weights":
        content = bytearray((bundle / "model.safetensors").read_bytes())
        content[-5] ^= 1
        (bundle / "model.safetensors").write_bytes(content)
    elif damage == "golden":
        (bundle / "golden.json").unlink()
    elif damage == "metadata":
        (bundle / "metadata.json").write_text("{")
    else:
        bundle = bundle.with_name("gone")
    with pytest.raises(InputError):
        load_serving(Settings(), Version(bundle=str(bundle)), ignore)
    served = load_serving(Settings(fallback=str(tiny_model())), Version(bundle=str(bundle)), ignore)
    base = SentenceTransformer(str(tiny_model()), device="cpu")
    np.testing.assert_allclose(served.engine.embed_queries(TEXTS), base.encode_query(TEXTS), atol=1e-6)
    assert described(served)["fallback"] is True
    assert described(served)["served"] == str(tiny_model())
    assert served.reason


def test_a_model_that_computes_other_vectors_than_at_its_export_is_not_served(export, monkeypatch):
    bundle, real = export(), engines.torch_engine

    def other(model):
        sound = real(model)
        return dataclasses.replace(sound, embed_queries=lambda texts: sound.embed_queries(["x" for _ in texts]))

    monkeypatch.setattr(engines, "torch_engine", other)
    with pytest.raises(InputError, match="does not give the embeddings that it was exported with"):
        load_serving(Settings(), Version(bundle=str(bundle)), ignore)


def test_the_dimensions_that_a_model_was_trained_for_may_be_asked_for(export):
    bundle = export(config={"train": {"dimensions": [8, 16]}})
    assert load_serving(Settings(), Version(bundle=str(bundle)), ignore).dimensions == (32, 16, 8)
