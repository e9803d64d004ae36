"""Golden texts: every bundle holds what its model makes of them, and who embeds otherwise is found out."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from nic_ray import verify
from nic_ray.bundle.detector import weights_sha256
from nic_ray.bundle.files import file_sha256, find_faults, read_metadata, write_bundle
from nic_ray.bundle.golden import LEAST_COSINE, golden_faults, made_golden, read_golden, store_golden, write_golden
from nic_ray.bundle.golden_texts import golden_texts
from nic_ray.bundle.names import GOLDEN_TEXTS, GOLDEN_VECTORS
from nic_ray.errors import InputError, RunError

PROMPTS = {"query": "pumps radios ", "document": "replace: "}
METADATA = {"name": "m", "base_model": "base"}


@pytest.fixture
def model(changed_model):
    return SentenceTransformer(str(changed_model(prompts=PROMPTS)), device="cpu")


@pytest.fixture
def bundle(model, tmp_path):
    write_bundle(tmp_path / "m", model, METADATA, training_log="")
    return tmp_path / "m"


def faults_of(golden, query, document, least=LEAST_COSINE["fp32"]):
    return golden_faults(query, document, golden, least)


def test_the_texts_are_some_forty_of_both_roles_without_a_copy_and_hold_the_hard_kinds():
    queries, documents = golden_texts()
    assert len({*queries, *documents}) == len(queries) + len(documents) >= 40
    everything = " ".join((*queries, *documents))
    assert len(max(documents, key=len).split()) > 600  # more tokens than most models take
    assert any(text.isupper() and " " in text for text in (*queries, *documents))
    assert any(text != " ".join(text.split()) for text in queries)
    assert {"°", "µ", "\u00a0"} <= set(everything)
    assert all(text.strip() for text in (*queries, *documents))  # servers refuse an empty text


def test_a_bundle_holds_the_vectors_that_its_own_model_gives_after_its_prompts(bundle):
    golden, loaded = read_golden(bundle), SentenceTransformer(str(bundle), device="cpu")
    assert golden.prompts == PROMPTS
    assert golden.max_tokens == loaded.max_seq_length
    for place in (0, 5, len(golden.queries) - 1):
        expected = loaded.encode(PROMPTS["query"] + golden.queries[place], prompt="")
        assert golden.query_vectors[place] == pytest.approx(expected, abs=1e-6)
    expected = loaded.encode(PROMPTS["document"] + golden.documents[-1], prompt="")
    assert golden.document_vectors[-1] == pytest.approx(expected, abs=1e-6)
    assert faults_of(golden, loaded.encode_query, loaded.encode_document) == []
    assert find_faults(bundle) == []


def test_the_golden_files_are_hashed_like_every_other(bundle):
    text = (bundle / GOLDEN_TEXTS).read_text(encoding="utf-8")
    (bundle / GOLDEN_TEXTS).write_text(text.replace("corrosion", "erosion"), encoding="utf-8")
    (bundle / GOLDEN_VECTORS).unlink()
    assert [line.partition(":")[0] for line in sorted(find_faults(bundle))] == [GOLDEN_TEXTS, GOLDEN_VECTORS]


def test_a_forgotten_prompt_is_found_and_only_where_it_is_forgotten(bundle):
    golden, loaded = read_golden(bundle), SentenceTransformer(str(bundle), device="cpu")
    (fault,) = faults_of(golden, lambda texts: loaded.encode(list(texts), prompt=""), loaded.encode_document)
    assert fault.startswith("golden queries: ")
    assert "want 0.9999 at least" in fault


def test_the_worst_text_and_its_cosine_are_told(bundle):
    golden = read_golden(bundle)
    changed = golden.query_vectors.copy()
    other = np.linalg.qr(np.stack([changed[12], *np.eye(32, dtype=np.float32)[:2]], axis=1))[0][:, 1]
    changed[12] = 0.6 * changed[12] / np.linalg.norm(changed[12]) + 0.8 * other  # a cosine of 0.6
    (fault,) = faults_of(golden, lambda _: changed, lambda _: golden.document_vectors)
    assert "1 of 24 vectors" in fault
    assert f'"{golden.queries[12]}" has a cosine of 0.600000' in fault


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0])
def test_a_vector_that_is_no_vector_is_a_fault(bundle, broken):
    golden = read_golden(bundle)
    changed = golden.document_vectors.copy()
    changed[3] = broken
    (fault,) = faults_of(golden, lambda _: golden.query_vectors, lambda _: changed)
    assert fault.startswith("golden passages: 1 of 16 ")


@pytest.mark.parametrize("cut", [lambda values: values[:, :16], lambda values: values[:-1]])
def test_vectors_of_another_number_or_width_are_a_fault(bundle, cut):
    golden = read_golden(bundle)
    (fault,) = faults_of(golden, lambda _: golden.query_vectors, lambda _: cut(golden.document_vectors))
    assert "want (16, 32)" in fault


def test_the_length_of_a_vector_does_not_matter(bundle):
    golden = read_golden(bundle)
    assert faults_of(golden, lambda _: 7 * golden.query_vectors, lambda _: 0.1 * golden.document_vectors) == []


def test_a_bundle_of_an_older_version_has_none(tmp_path):
    assert read_golden(tmp_path) is None


def test_damaged_files_are_refused(bundle):
    (bundle / GOLDEN_VECTORS).write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"golden\.safetensors: cannot be read .*; export the model again"):
        read_golden(bundle)
    (bundle / GOLDEN_VECTORS).unlink()
    with pytest.raises(InputError, match=r"golden\.safetensors: cannot be read"):
        read_golden(bundle)


def test_texts_and_vectors_that_do_not_belong_together_are_refused(bundle):
    content = json.loads((bundle / GOLDEN_TEXTS).read_text(encoding="utf-8"))
    content["query"].pop()
    (bundle / GOLDEN_TEXTS).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"golden\.safetensors: arrays of shape .*\(24, 32\).*'query': 23"):
        read_golden(bundle)


def test_weights_of_sixteen_bits_are_run_in_thirty_two_and_stay_as_they_are(changed_model, tmp_path):
    model = SentenceTransformer(
        str(changed_model(dtype=torch.bfloat16)), device="cpu", model_kwargs={"dtype": torch.bfloat16}
    )
    write_golden(tmp_path, model)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    wide = SentenceTransformer(str(changed_model(dtype=torch.bfloat16)), device="cpu").float()
    assert faults_of(read_golden(tmp_path), wide.encode_query, wide.encode_document, 0.9999999) == []


def test_a_model_whose_embeddings_are_not_finite_is_not_exported(model, tmp_path):
    with torch.no_grad():
        model[0].auto_model.embeddings.LayerNorm.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="holds NaN or infinity; do not export this model"):
        write_bundle(tmp_path / "m", model, METADATA, training_log="")
    assert not (tmp_path / "m").exists()


def test_the_same_model_gives_the_same_bits(model):
    first, second = made_golden(model), made_golden(model)
    assert np.array_equal(first.query_vectors, second.query_vectors)
    assert np.array_equal(first.document_vectors, second.document_vectors)


def test_verify_compares_the_vectors_of_this_machine_with_the_stored_ones(bundle, run_main, model):
    code, out, err = run_main(verify.main, bundle)
    assert (code, err) == (0, "")
    assert "; embeds 40 golden texts as when it was exported" in out
    with torch.no_grad():
        model[0].auto_model.encoder.layer[1].output.dense.weight.mul_(1.5)  # as if a library computed otherwise
    golden = made_golden(model)
    store_golden(bundle, golden)
    metadata = json.loads((bundle / "metadata.json").read_text())
    for name in (GOLDEN_TEXTS, GOLDEN_VECTORS):
        metadata["files"][name] = file_sha256(bundle / name)
    (bundle / "metadata.json").write_text(json.dumps(metadata))
    code, _, err = run_main(verify.main, bundle)
    assert code == 1
    assert "golden queries: " in err
    assert "golden passages: " in err
    code, out, _ = run_main(verify.main, bundle, "--json")
    assert (code, len(json.loads(out)["faults"])) == (1, 2)


def test_verify_goes_without_vectors_where_a_bundle_has_none(bundle, run_main):
    metadata = json.loads((bundle / "metadata.json").read_text())
    for name in (GOLDEN_TEXTS, GOLDEN_VECTORS):
        (bundle / name).unlink()
        del metadata["files"][name]
    (bundle / "metadata.json").write_text(json.dumps(metadata))
    code, out, _ = run_main(verify.main, bundle)
    assert code == 0
    assert "golden" not in out


def test_a_detector_s_model_is_told_by_its_weights_alone(bundle):
    metadata = read_metadata(bundle)
    without = {**metadata, "files": {n: h for n, h in metadata["files"].items() if n != GOLDEN_VECTORS}}
    assert weights_sha256(metadata) == weights_sha256(without)
