"""A search over two base models, from start to export, resumed with more trials, and its learning curve."""

import json
import shutil

import pytest

from nic_ray.bundle.comparison import compare_with_base
from nic_ray.bundle.files import find_faults, read_metadata
from nic_ray.curve import main as curve
from nic_ray.errors import InputError
from nic_ray.report.terminal import show_result
from nic_ray.run_folder import RunFolder
from nic_ray.stored import read_result
from nic_ray.tune import main as tune
from tests.searches import MARKS, said, search

pytestmark = [*MARKS, pytest.mark.usefixtures("local_cluster")]


OWN_CODE = """
from transformers import BertConfig, BertModel
class OwnConfig(BertConfig):
    model_type = "own"
class OwnModel(BertModel):
    config_class = OwnConfig
"""


def test_a_model_with_code_of_its_own_is_searched_where_that_is_allowed(
    tiny_model, tiny_pairs_file, tmp_path, monkeypatch
):
    folder = tmp_path / "own"
    shutil.copytree(tiny_model(), folder)
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": names, "architectures": ["OwnModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(OWN_CODE)
    found = search(
        folder,
        tiny_pairs_file,
        tmp_path,
        trials=2,
        train={"trust_remote_code": True, "epochs": 1},
        space={"frozen_layers": {"choice": [0, 1]}},
    )
    assert {row["status"] for row in read_result(found.run_folder)["trials"]} <= {"finished", "stopped"}
    assert find_faults(found.folder) == []
    with pytest.raises(InputError, match="the environment variable NIC_RAY_TRUST_REMOTE_CODE to 1"):
        compare_with_base(str(found.folder), tiny_pairs_file, "validation")
    monkeypatch.setenv("NIC_RAY_TRUST_REMOTE_CODE", "1")
    assert [*compare_with_base(str(found.folder), tiny_pairs_file, "validation").results] == ["base", "model"]


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
    depths = {first: 1, second: 2, str(tiny_model(layers=3)): 2}
    assert all(row["frozen_layers"] == depths[row["base_model"]] for row in result["trials"])
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
