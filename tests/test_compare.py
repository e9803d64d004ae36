"""Several models on the same rows."""

import json
import sys

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nic_ray import compare, console
from nic_ray.bundle import comparison
from nic_ray.bundle.comparison import compare_models, compare_with_base, verdict
from nic_ray.bundle.files import file_sha256, write_bundle
from nic_ray.data_config import DataConfig
from nic_ray.dataset.pairs import read_pairs
from nic_ray.errors import InputError
from nic_ray.metrics.intervals import Interval
from nic_ray.readings import readings_of
from nic_ray.training.prepared import divide, split_sha256


@pytest.fixture
def models(tiny_model, tiny_pairs_file, tmp_path):
    """A bundle that was trained on the pairs, and its base model."""
    metadata = {
        "name": "tuned",
        "base_model": str(tiny_model()),
        "data": {"sha256": file_sha256(tiny_pairs_file), "pairs": "pairs.jsonl"},
        "split": {"protocol": "unseen_passages", "seed": 3, "validation_share": 0.25, "test_share": 0.25},
    }
    model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
    write_bundle(tmp_path / "tuned", model, metadata, training_log="")
    return str(tmp_path / "tuned"), str(tiny_model())


def ranked(names, pairs, split="validation"):
    return compare_models(names, pairs, split, say=lambda _: None)


def test_the_numbers_are_those_of_evaluate_and_the_differences_theirs(models, tiny_pairs_file):
    tuned, base = models
    found = ranked([base, tuned], tiny_pairs_file)
    expected = compare_with_base(tuned, tiny_pairs_file, "validation")
    assert found.results == {base: expected.results["base"], tuned: expected.results["model"]}
    assert found.rankings["BM25"] == expected.rankings["BM25"]
    for name, label in ((base, "base"), (tuned, "model")):
        alone = {key: value for key, value in found.results[name].items() if key in found.rankings[name]}
        assert found.rankings[name] == alone == expected.rankings[label]
        fused = f"{name}, reciprocal rank fusion"
        assert found.rankings[fused] == expected.rankings[f"{label}, reciprocal rank fusion"]
    assert (found.queries, found.passages) == (expected.queries, expected.passages)
    assert found.split_from == tuned
    assert found.warnings == []
    for domain, interval in found.intervals[tuned].items():
        key = f"recall_at_5/{domain}"
        gain = expected.results["model"][key] - expected.results["base"][key]
        assert interval.difference == pytest.approx(gain)
    exchanged = ranked([tuned, base], tiny_pairs_file).intervals[base]["macro"]
    macro = found.intervals[tuned]["macro"]
    assert (macro.difference, macro.queries) == (pytest.approx(-exchanged.difference), exchanged.queries)
    assert found.queries == macro.queries


def test_a_model_beside_its_copy_differs_by_nothing(models, tiny_pairs_file, tmp_path):
    tuned, _ = models
    copy = tmp_path / "copy"
    copy.symlink_to(tuned)
    found = ranked([tuned, str(copy)], tiny_pairs_file, "all").intervals[str(copy)]
    assert all(each.difference == 0 for each in found.values())
    assert (found["macro"].low, found["macro"].high) == (0, 0)


def test_a_run_stands_for_what_it_has_exported(models, tiny_pairs_file, tmp_path):
    tuned, base = models
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("")
    (run / "result.json").write_text(json.dumps({"bundle": tuned}))
    assert (
        ranked([str(run), base], tiny_pairs_file).results[str(run)]
        == ranked([tuned, base], tiny_pairs_file).results[tuned]
    )
    for content in (json.dumps({"bundle": None}), json.dumps({"bundle": str(tmp_path / "gone")}), "{"):
        (run / "result.json").write_text(content)
        with pytest.raises(InputError, match=r"has exported no model that is still there; export it with python -m"):
            ranked([str(run), base], tiny_pairs_file)


def test_a_single_training_stands_for_its_best_model(models, tiny_pairs_file, tmp_path):
    tuned, base = models
    run = tmp_path / "train-1"
    run.mkdir()
    (run / "config.yaml").write_text("")
    (run / "model").symlink_to(tuned)
    assert (
        ranked([str(run), base], tiny_pairs_file).results[str(run)]
        == (ranked([tuned, base], tiny_pairs_file).results[tuned])
    )


def test_pairs_that_are_not_there_are_a_users_mistake(models, tmp_path):
    with pytest.raises(InputError, match=r"typo\.jsonl: no such file"):
        ranked(models, tmp_path / "typo.jsonl")
    with pytest.raises(InputError, match=r"typo\.jsonl: no such file"):
        compare_with_base(models[0], tmp_path / "typo.jsonl", "test")


def test_advantages_are_told(models, tiny_model, tiny_pairs_file, tmp_path):
    tuned, base = models
    assert ranked([tuned, base], tiny_pairs_file, "all").warnings[0] == f"{tuned}: was trained on some of these rows"
    other = tmp_path / "other.jsonl"
    other.write_text(tiny_pairs_file.read_text() + '{"query": "q", "positive": "p", "domain": "pumps"}\n')
    assert ranked([tuned, base], other).warnings == [f"{tuned}: was trained on other pairs (pairs.jsonl)"]

    def made(name, **changes):
        metadata = json.loads((tmp_path / "tuned" / "metadata.json").read_text()) | {"name": name} | changes
        metadata.pop("files")
        model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
        write_bundle(tmp_path / name, model, metadata, training_log="")
        return str(tmp_path / name)

    again = made("again", refit="all")
    assert ranked([tuned, again], tiny_pairs_file).warnings == [
        f"{again}: was trained again on the rows of all parts (refit: all), these included"
    ]
    seed = made("seed", split={"protocol": "unseen_passages", "seed": 4, "validation_share": 0.25, "test_share": 0.25})
    assert ranked([tuned, seed], tiny_pairs_file).warnings == [f"{seed}: was trained on some of these rows"]


def test_a_reading_of_test_rows_is_noted_in_the_run_of_each_model_that_holds_them_back(
    models, tiny_model, tiny_pairs_file, tmp_path
):
    tuned, base = models
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.yaml").touch()
    metadata = json.loads((tmp_path / "tuned" / "metadata.json").read_text())
    metadata.pop("files")
    metadata |= {"name": "again", "run": str(tmp_path / "runs" / "a")}
    split = split_sha256(*divide(read_pairs(tiny_pairs_file), DataConfig.model_validate(metadata["split"])))
    metadata["split"] |= {"sha256": split, "rows": {"test": 9}}
    write_bundle(tmp_path / "again", SentenceTransformer(tuned, device="cpu"), metadata, training_log="")
    again = str(tmp_path / "again")
    assert ranked([again, base], tiny_pairs_file).warnings == []
    assert ranked([again, base], tiny_pairs_file, "test").warnings == []
    (second,) = ranked([base, again], tiny_pairs_file, "test").warnings
    assert f"{again}: the 9 test rows had been read once before: " in second
    assert [row["command"] for row in readings_of(tmp_path / "runs" / "a", split)] == ["compare", "compare"]
    seed = metadata | {"name": "seed", "split": metadata["split"] | {"seed": 4}}
    write_bundle(tmp_path / "seed", SentenceTransformer(tuned, device="cpu"), seed, training_log="")
    ranked([again, str(tmp_path / "seed")], tiny_pairs_file, "test")
    assert len(readings_of(tmp_path / "runs" / "a", split)) == 3


def test_models_that_are_read_at_once_are_one_reading(models, tiny_pairs_file, tmp_path):
    tuned, _ = models
    metadata = json.loads((tmp_path / "tuned" / "metadata.json").read_text())
    metadata.pop("files")
    split = split_sha256(*divide(read_pairs(tiny_pairs_file), DataConfig.model_validate(metadata["split"])))
    names = []
    for name in ("a", "b"):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
        own = metadata | {"name": name, "run": str(run), "split": metadata["split"] | {"sha256": split}}
        write_bundle(tmp_path / name, SentenceTransformer(tuned, device="cpu"), own, training_log="")
        names.append(str(tmp_path / name))
    assert ranked(names, tiny_pairs_file, "test").warnings == []
    assert all("had been read once before" in line for line in ranked(names, tiny_pairs_file, "test").warnings)


def test_all_models_are_read_on_the_device(models, tiny_pairs_file, monkeypatch):
    devices = []

    def noted(function):
        def call(*given, device="cpu", **others):
            devices.append(device)
            return function(*given, **others)

        return call

    for name in ("encoder_scores", "asked_of"):
        monkeypatch.setattr(comparison, name, noted(getattr(comparison, name)))
    compare_models(models, tiny_pairs_file, "validation", say=lambda _: None, device="cuda")
    compare_with_base(models[0], tiny_pairs_file, "validation", device="cuda")
    assert devices == ["cuda"] * 4


def test_one_model_or_the_same_twice_is_refused(models, tiny_pairs_file):
    for names in (["a"], [models[0], models[0]]):
        with pytest.raises(InputError, match="want two models or more, each named once"):
            ranked(names, tiny_pairs_file)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.2, "B is better"), (-0.2, -0.01, "A is better"), (-0.1, 0.1, "may be chance"), (None, None, "too few")],
)
def test_the_verdict_follows_the_interval(low, high, said):
    assert said in verdict(Interval(0.0, low, high, 10, 10))


def test_the_command_prints_a_table_or_json(models, tiny_pairs_file, monkeypatch, capsys):
    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compare", *models, "--pairs", str(tiny_pairs_file), *more])
        with pytest.raises(SystemExit) as stopped:
            console.run(compare.main)
        assert stopped.value.code == 0
        return capsys.readouterr().out

    found = json.loads(run("--json"))
    assert found["split"] == "validation"
    macro = found["intervals"][models[1]]["macro"]
    assert np.isfinite(macro["difference"])
    text = run()
    assert f"A = {models[0]}" in text
    (line,) = (line for line in text.splitlines() if line.startswith("macro"))
    assert f"{macro['difference']:+.3f}" in line
    assert line.split()[1] == str(macro["passages"])
    assert any(line.startswith("pumps") and "too few passages" in line for line in text.splitlines())
