"""The patches of docs/changes.md: they apply, touch as many files as is said, and the first ones do what they say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "changes.md").read_text(encoding="utf-8")
PATCHES = dict(re.findall(r"^## (.+)\n\n(?:.+\n)+\n```diff\n((?:.*\n)*?)```$", TEXT, re.MULTILINE))
ROWS = re.findall(r"^\| \[(.+)\]\(#.+\) \| (\d) \| \+(\d+) −(\d+) \|$", TEXT, re.MULTILINE)


@pytest.fixture
def patched(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def patched(name: str) -> Path:
        for folder in ("nic_ray", "deploy"):
            shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        command = ["git", "apply", "--verbose", "-"]
        done = subprocess.run(command, input=PATCHES[name], cwd=tmp_path, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return tmp_path

    return patched


def test_every_change_has_a_patch():
    assert [name for name, *_ in ROWS] == list(PATCHES)
    assert len(PATCHES) == 7


@pytest.mark.parametrize(("name", "files", "added", "removed"), ROWS)
def test_a_patch_applies_and_is_as_large_as_is_said(patched, name, files, added, removed):
    patched(name)
    found = [re.findall(pattern, PATCHES[name], re.MULTILINE) for pattern in (r"^\+\+\+ ", r"^\+(?!\+\+)", r"^-(?!--)")]
    assert [len(lines) for lines in found] == [int(files), int(added), int(removed)]


def run(folder: Path, code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_metric_is_computed_and_can_be_searched_by(patched):
    code = """
import numpy as np
from nic_ray.config import Config
from nic_ray.metrics.ranking import score_metrics
scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
found = score_metrics(scores, [np.array([1]), np.array([0, 2])], further=["r_precision"])["r_precision"]
assert found.tolist() == [0, 1 / 2], found
config = Config.model_validate({"search": {"objective": "r_precision/macro"}})
assert config.further_metrics() == ("r_precision",)
"""
    run(patched("A metric"), code)


def test_another_file_format_is_read(patched):
    code = """
from pathlib import Path
import pyarrow
from pyarrow import feather
from nic_ray.dataset.pairs import read_pairs
rows = [{"query": f"q{n}", "positive": f"a, b {n}", "domain": "pumps"} for n in range(3)]
feather.write_feather(pyarrow.Table.from_pylist(rows), "pairs.feather")
assert [(pair.query, pair.positive) for pair in read_pairs(Path("pairs.feather"))] == [
    (f"q{n}", f"a, b {n}") for n in range(3)
]
"""
    run(patched("A file format"), code)
