"""A search over two base models, from start to export, resumed with more trials, and its learning curve."""

import json

import pytest

from nic_ray.bundle.files import find_faults, read_metadata
from nic_ray.curve import main as curve
from nic_ray.report.terminal import show_result
from nic_ray.run_folder import RunFolder
from nic_ray.stored import read_result
from nic_ray.tune import main as tune
from tests.searches import MARKS, said, search

pytestmark = [*MARKS, pytest.mark.usefixtures("local_cluster")]


def test_a_search_over_two_base_models_ends_in_a_bundle_of_the_better_one(
    tiny_model, tiny_pairs_file, tmp_path, capsys
):
    first, second = str(tiny_model()), str(tiny_model("mpnet", 4))
    found = search(
        tiny_model(),
        tiny_pairs_file,
        tmp_path,
        trials=3,
        train={"frozen_share": 0.5},
        space={
            "base_model": {"choice": [first, second, str(tiny_model(layers=3))]},
            "frozen_layers": {"choice": [1]},
            "frozen_share": {"choice": [0.5, None]},
        },
        search={"constraint": {"max_parameters": 10**9}},
        confirm={"seeds": 1},
        guard={"min_neighbours_kept": 0.01, "retention_set": str(tiny_pairs_file)},
    )
    show_result(found)
    result, run = read_result(found.run_folder), found.run_folder
    assert [row["base_model"] for row in result["trials"][:3]] == [first, second, str(tiny_model(layers=3))]
    assert {row["base_model"]: row["trials"] for row in result["bases"]} == dict.fromkeys(
        [row["base_model"] for row in result["trials"][:3]], 1
    )
    own = result["winner"]["config"]["base_model"]
    metadata = read_metadata(found.folder)
    assert metadata["base_model"] == own
    assert find_faults(found.folder) == []
    started = json.loads(RunFolder(run).start.read_text())
    assert started["other_base_weights_sha256"].keys() == {second, str(tiny_model(layers=3))}
    shown = capsys.readouterr().out
    assert "base models, on the validation rows:" in shown
    assert "ms a query" in (found.folder / "README.md").read_text()
    assert 'id="bases"' in RunFolder(run).report.read_text()
    assert sum("on validation" in line and line.startswith("base model ") for line in said) == 3

    tune(resume=str(run), trials=4, overwrite=True)
    assert len([row for row in read_result(run)["trials"] if "-seed-" not in row["trial"]]) == 4
    curve(run, shares="0.5,1")
