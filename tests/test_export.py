"""The exported folder's numbers must be found again."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray.bundle import files
from nic_ray.errors import InputError, RunError
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model.whole_models import plain_scores
from nic_ray.progress import View
from nic_ray.selection import averaging
from nic_ray.selection import export as exporting
from nic_ray.selection.averaging import averaged
from nic_ray.selection.export import export, new_run_folder, refuse_other_numbers


def test_the_numbers_of_a_mean_are_found_again_in_the_exported_folder_and_the_base_stays_as_it_was(
    searched, tmp_path, monkeypatch
):
    prepared, inputs, candidates = searched(1, 2)
    weights = {name: value * 0 for name, value in candidates[0].weights.items()}
    useless = dataclasses.replace(candidates[0], weights=weights, metrics=dict.fromkeys(candidates[0].metrics, 0.0))
    monkeypatch.setattr(averaging, "cross_fitted", lambda *_: {1: 0.5, 2: 0.75})
    found = averaged(prepared, inputs, [useless, candidates[1]]).candidate
    assert found.members
    found = dataclasses.replace(found, metrics=found.metrics | {"epoch": 1.0, "step": 3.0})
    before = {name: value.sum() for name, value in prepared.encoder.model.state_dict().items()}
    written = export(
        prepared, found, {"results": {}}, tmp_path / "mean", training_log="", overwrite=False, view=View()
    )  # fmt: skip
    assert {name: value.sum() for name, value in prepared.encoder.model.state_dict().items()} == before
    assert written["averaged"] == [member.name for member in found.members]


def test_other_numbers_from_the_exported_folder_are_refused():
    metrics = {"recall_at_5/macro": 0.75, "mrr/macro": 0.6, "recall_at_5/radar": 0.7}
    refuse_other_numbers(metrics, metrics | {"recall_at_5/macro": 0.754, "recall_at_5/radar": 0.0}, 0.005)
    with pytest.raises(RunError, match=r"recall_at_5/macro 0\.7000 instead of 0\.7500; it was not kept"):
        refuse_other_numbers(metrics, metrics | {"recall_at_5/macro": 0.7}, 0.005)
    with pytest.raises(RunError, match=r"mrr/macro nan instead of"):
        refuse_other_numbers(metrics, metrics | {"mrr/macro": float("nan")}, 0.005)


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be made .*; name another place for runs"):
        new_run_folder(tmp_path / "file", "name")


def test_two_searches_that_start_in_one_second_have_a_folder_each(tmp_path):
    found = {new_run_folder(tmp_path, "name") for _ in range(3)}
    assert len(found) == 3
    assert all(folder.is_dir() for folder in found)


PROMPTS = {"query": "pumps radios trucks ", "document": "replace clean tighten "}


def exported(searched, folder, base, dtype="base"):
    """The first candidate of a search from a base model, exported; its data, itself and the metadata."""
    prepared, _, (candidate,) = searched(1, base=base)
    config = prepared.config.model_copy(update={"export_dtype": dtype})
    prepared = dataclasses.replace(prepared, config=config)
    candidate = dataclasses.replace(candidate, metrics=candidate.metrics | {"step": 3.0})
    given = {"training_log": "", "overwrite": False, "view": View()}
    return prepared, candidate, export(prepared, candidate, {"results": {}}, folder, **given)


@pytest.mark.parametrize("prompts", [PROMPTS, {"query": PROMPTS["query"], "passage": PROMPTS["document"]}])
def test_the_exported_folder_has_the_prompts_and_gives_the_numbers_by_them(searched, changed_model, tmp_path, prompts):
    prepared, candidate, metadata = exported(searched, tmp_path / "out", changed_model(prompts=prompts, layers=3))
    assert metadata["prompts"] == {"query": PROMPTS["query"], "passage": PROMPTS["document"]}
    rows = prepared.rows("validation").tolist()
    used = plain_scores(SentenceTransformer(str(tmp_path / "out"), device="cpu"), prepared.collection, rows)
    found = flat_metrics(used, [prepared.collection.domains[row] for row in rows])
    assert found == pytest.approx({name: candidate.metrics[name] for name in found}, abs=1e-6)


def test_an_export_that_lost_its_prompts_is_refused(searched, changed_model, tmp_path, monkeypatch):
    save = files._save_model

    def lose(model, folder):
        save(model, folder)
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"prompts": {}}))

    monkeypatch.setattr(files, "_save_model", lose)
    with pytest.raises(RunError, match=r"a text's two embeddings have a cosine of .*; it was not kept"):
        exported(searched, tmp_path / "out", changed_model(prompts=PROMPTS, layers=3))
    monkeypatch.setattr(exporting, "_refuse_other_embeddings", lambda *_: None)
    monkeypatch.setattr(exporting, "_one_query", lambda _: 0.0)
    with pytest.raises(RunError, match="the exported folder does not give the winner's numbers"):
        exported(searched, tmp_path / "out", changed_model(prompts=PROMPTS, layers=3))
    assert not (tmp_path / "out").exists()


def test_an_export_that_ranks_by_another_similarity_is_refused(searched, changed_model, tmp_path, monkeypatch):
    base = changed_model(similarity="dot", behind=[Pooling(32)], layers=3)
    monkeypatch.setattr(exporting.encoders, "for_cosine", lambda encoder, max_tokens: encoder.model)
    monkeypatch.setattr(exporting, "_one_query", lambda _: 0.0)
    with pytest.raises(RunError, match="the exported folder does not give the winner's numbers"):
        exported(searched, tmp_path / "out", base)


def test_a_model_from_a_base_for_dot_products_gives_its_numbers_by_its_own_similarity(
    searched, changed_model, tmp_path
):
    base = changed_model(similarity="dot", behind=[Pooling(32)], layers=3)
    prepared, candidate, metadata = exported(searched, tmp_path / "out", base)
    assert metadata["base_similarity"] == "dot"
    model, rows = SentenceTransformer(str(tmp_path / "out"), device="cpu"), prepared.rows("validation").tolist()
    for similarity in ("cosine", "dot"):
        model.similarity_fn_name = similarity
        scores = plain_scores(model, prepared.collection, rows)
        found = flat_metrics(scores, [prepared.collection.domains[row] for row in rows])
        assert found == pytest.approx({name: candidate.metrics[name] for name in found}, abs=1e-6)


DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.mark.parametrize(
    ("base", "asked", "written"),
    [
        ("fp16", "base", "fp16"),
        ("bf16", "base", "bf16"),
        ("fp32", "base", "fp32"),
        ("bf16", "fp32", "fp32"),
        ("fp32", "bf16", "bf16"),
    ],
)
def test_weights_are_exported_in_the_format_of_the_base_or_as_asked(
    searched, changed_model, tmp_path, base, asked, written
):
    folder = changed_model(dtype=DTYPES[base], layers=3)
    prepared, _, metadata = exported(searched, tmp_path / "out", folder, asked)
    assert (metadata["base_stored_in"], metadata["stored_in"]) == (base, written)
    assert {value.dtype for value in load_file(tmp_path / "out" / "model.safetensors").values()} == {DTYPES[written]}
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").dtype == DTYPES[written]
    assert next(prepared.encoder.model.parameters()).dtype == torch.float32
