"""New rows later, from end to end: a model is tuned, then tuned further with new rows, and that search is resumed."""

import json
import shutil
from pathlib import Path

import pytest

from nic_ray.bundle.files import find_faults, read_metadata
from nic_ray.dataset.pairs import Pair
from nic_ray.errors import InputError
from nic_ray.run_folder import RunFolder
from nic_ray.stored import read_result
from nic_ray.tune import main
from tests.searches import MARKS, settings
from tests.test_replay import passage, write

pytestmark = [*MARKS, pytest.mark.usefixtures("local_cluster")]


def test_a_model_is_tuned_further_with_its_old_rows_and_the_search_can_be_resumed(
    tiny_model, tiny_pairs, tiny_pairs_file, tmp_path, capsys
):
    first, config = tmp_path / "models" / "first", tmp_path / "config.yaml"
    config.write_text(json.dumps(settings(tiny_model(layers=3), tiny_pairs_file) | {"refit": "all"}), encoding="utf-8")
    places = {"out": tmp_path / "models", "run_dir": tmp_path / "runs", "name": "second"}
    main(config, **places | {"name": "first"}, export_anyway=True)
    told = first / "metadata.json"  # the guard has objected to so small a model, which leaves it as it was measured
    told.write_text(json.dumps(json.loads(told.read_text()) | {"refit": "all"}), encoding="utf-8")
    before = read_metadata(first)
    new = [Pair(f"{kind} {name}?", passage(name), "radars") for name in "stuvwxyz" for kind in ("what", "how")]
    data = write(tmp_path / "new.jsonl", [*new, Pair("a pump?", passage("p"), "pumps"), tiny_pairs[0]])
    config.write_text(json.dumps(settings(Path("unused"), Path("unused"))), encoding="utf-8")
    main(config, data=data, from_model=first, **places, export_anyway=True)

    folder = tmp_path / "models" / "second"
    metadata = read_metadata(folder)
    assert find_faults(folder) == []
    assert metadata["base_model"] == str(first)
    assert metadata["data"]["rows"] == 48 + 17
    assert metadata["data"]["replay"][0]["sha256"] == before["data"]["sha256"]
    previous = metadata["previous"]
    assert {part: rows["old"] for part, rows in previous["rows"].items()} == before["split"]["rows"]
    assert sum(rows["new"] for rows in previous["rows"].values()) == 17
    assert list(previous["results"]) == ["validation", "test"]
    assert all([*kinds] == ["old", "new"] for kinds in previous["results"].values())
    (run,) = (tmp_path / "runs").glob("second-*")
    assert read_result(run)["previous"] == previous
    shown = " ".join(capsys.readouterr().out.split())
    for text in (shown, RunFolder(run).report.read_text(encoding="utf-8"), (folder / "README.md").read_text()):
        assert f"{first} was trained on all of its rows at last (refit: all)" in text
        assert "old, validation" in text
    assert "1 rows of the new file are old rows" in shown

    main(resume=str(run), trials=3, overwrite=True)
    assert len(read_result(run)["trials"]) == 3
    kept = shutil.copy(tiny_pairs_file, tmp_path / "kept.jsonl")
    write(tiny_pairs_file, tiny_pairs[1:])
    with pytest.raises(InputError, match=r"pairs\.jsonl: is not what .* was tuned on: its SHA-256 is"):
        main(resume=str(run), trials=4, overwrite=True)
    with pytest.raises(InputError, match=r"pairs\.jsonl: is not what .* name a copy of that file with --replay"):
        main(config, data=data, from_model=first, **places | {"name": "third"})
    main(config, data=data, from_model=first, replay=[kept], **places | {"name": "third"}, trials=1, export_anyway=True)
    assert read_metadata(tmp_path / "models" / "third")["split"]["sha256"] == metadata["split"]["sha256"]
