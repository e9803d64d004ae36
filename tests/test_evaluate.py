"""The command that shows a model's numbers beside its base model's."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from sentence_transformers import SentenceTransformer

from nic_ray import console, evaluate
from nic_ray.bundle.comparison import compare_with_base
from nic_ray.bundle.files import file_sha256, write_bundle
from nic_ray.data_config import DataConfig
from nic_ray.dataset.pairs import read_pairs
from nic_ray.readings import note_reading, readings_of
from nic_ray.training.prepared import divide, split_sha256

DOMAINS = ["pumps", "radios", "trucks"]


@pytest.fixture
def bundle(tiny_model, tiny_pairs_file, tmp_path):
    metadata = {
        "name": "tuned",
        "base_model": str(tiny_model()),
        "data": {"sha256": file_sha256(tiny_pairs_file)},
        "split": {"protocol": "unseen_queries", "seed": 3},
    }
    model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
    write_bundle(tmp_path / "tuned", model, metadata, training_log="")
    return tmp_path / "tuned"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            console.run(evaluate.main)
        return stopped.value.code, *capsys.readouterr()

    return run


def test_json_is_the_comparison_of_the_library(bundle, tiny_pairs_file, tiny_model_folder, run):
    code, out, _ = run(bundle, tiny_pairs_file, "--split", "validation", "--json")
    expected = compare_with_base(str(bundle), tiny_pairs_file, "validation")
    assert code == 0
    assert json.loads(out) == {
        "model": str(bundle),
        "base_model": str(tiny_model_folder),
        "pairs": str(tiny_pairs_file),
        "split": "validation",
        "protocol": "unseen_queries",
        "refit": False,
        "split_from": "bundle",
        "queries": expected.queries,
        "passages": 24,
        "results": expected.results,
        "rankings": expected.rankings,
        "asked": {"pumps": 3, "radios": 3, "trucks": 3, "macro": 9},
        "warnings": [],
        "synthetic": 0,
        "kinds": [],
    }


def test_the_table_has_a_line_for_each_domain_and_a_column_for_each_model(bundle, tiny_pairs_file, run):
    code, out, _ = run(bundle, tiny_pairs_file)
    found = compare_with_base(str(bundle), tiny_pairs_file, "validation")
    results = found.results
    lines = {cells[0]: cells[1:] for cells in (line.split() for line in out.splitlines()) if cells}
    assert code == 0
    assert [name for name in lines if name in (*DOMAINS, "worst", "macro")] == [*DOMAINS, "worst", "macro"]
    for domain in (*DOMAINS, "macro"):
        shown = lines[domain][1:3] + lines[domain][4:6]
        assert lines[domain][0] == str(found.asked[domain])
        keys = [f"{metric}/{domain}" for metric in ("recall_at_5", "mrr")]
        assert shown == [f"{results[label][key]:.3f}" for key in keys for label in ("base", "model")]


def test_the_first_line_says_which_rows_were_read(bundle, tiny_pairs_file, run):
    first = run(bundle, tiny_pairs_file)[1].splitlines()[0]
    assert first.startswith(
        f"{bundle}: validation part of {tiny_pairs_file}, as the model was trained (unseen queries): "
    )
    assert first.endswith(" queries, ranked over 24 passages")


def exported(bundle, run_folder, pairs):
    """The bundle again, as a run that held the test rows back would have exported it; gives its split's SHA-256."""
    metadata = json.loads((bundle / "metadata.json").read_text())
    metadata.pop("files")
    split = split_sha256(*divide(read_pairs(pairs), DataConfig.model_validate(metadata["split"])))
    metadata["split"] |= {"sha256": split, "rows": {"test": 9}}
    first = note_reading(run_folder, command="tune", part="test", rows=9, model="trial-000", split=split)
    metadata |= {"run": str(run_folder), "readings": first}
    model = SentenceTransformer(str(bundle), device="cpu")
    write_bundle(bundle, model, metadata, training_log="", overwrite=True)
    return split


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "tuned-1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    return folder


def test_test_rows_are_read_only_if_they_are_asked_for_and_then_it_is_noted(bundle, run_folder, tiny_pairs_file, run):
    sha256 = exported(bundle, run_folder, tiny_pairs_file)
    out = run(bundle, tiny_pairs_file)[1]
    assert (f"{bundle}: validation part of" in out, "test rows" in out) == (True, False)
    assert len(readings_of(run_folder, sha256)) == 1
    for split, count in (("test", 1), ("all", 2)):
        out = " ".join(run(bundle, tiny_pairs_file, "--split", split)[1].split())
        times = {1: "once", 2: "2 times"}[count]
        assert f"warning: {bundle}: the 9 test rows had been read {times} before: " in out
        last = readings_of(run_folder, sha256)[-1]
        assert (last["command"], last["part"], last["model"], last["rows"]) == ("evaluate", split, str(bundle), 9)
        assert len(readings_of(run_folder, sha256)) == count + 1


def test_a_reading_that_cannot_be_noted_is_said_to_be_none(bundle, run_folder, tiny_pairs_file, run):
    exported(bundle, run_folder, tiny_pairs_file)
    shutil.rmtree(run_folder)
    found = json.loads(run(bundle, tiny_pairs_file, "--split", "test", "--json")[1])["warnings"]
    assert found == [
        f"{bundle}: this reading of its test rows (readings that it brings along: 1) is not recorded, the "
        f"folder of its run ({run_folder}) is not there or cannot be written"
    ]
    assert not run_folder.exists()


def test_rows_that_no_model_held_back_have_no_ledger(tiny_model_folder, tiny_pairs_file, run):
    assert json.loads(run(tiny_model_folder, tiny_pairs_file, "--split", "test", "--json")[1])["warnings"] == []


def test_an_unknown_model_is_refused(tmp_path, tiny_pairs_file, run):
    (tmp_path / "empty").mkdir()
    code, out, err = run(tmp_path / "empty", tiny_pairs_file)
    assert (code, out) == (2, "")
    assert "empty: holds no model" in err


def test_missing_pairs_are_refused_before_a_model_is_loaded(tmp_path, run):
    code, out, err = run(tmp_path / "no-model", tmp_path / "none.jsonl")
    assert (code, out) == (2, "")
    assert "none.jsonl: no such file" in err


def test_an_unknown_part_is_refused(tiny_pairs_file, tiny_model_folder, run):
    code, _, err = run(tiny_model_folder, tiny_pairs_file, "--split", "dev")
    assert code == 2
    assert "'dev' is not one of" in err


def test_help_loads_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['evaluate', '--help']\n"
        "try: runpy.run_module('nic_ray.evaluate', run_name='__main__')\n"
        "finally: print(sorted({'numpy', 'pydantic', 'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "MODEL" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_model_is_evaluated_in_no_more_threads_than_the_quota_grants(tiny_model_folder, tiny_pairs_file, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("nic_ray.hardware.usable_cpus", lambda: 1)
    try:
        torch.set_num_threads(2)
        compare_with_base(str(tiny_model_folder), tiny_pairs_file, "all")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
