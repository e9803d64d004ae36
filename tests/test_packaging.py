"""What a wheel holds: every folder of the package, and the files that come along, found from any working folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from nic_ray.config import Config
from nic_ray.config_file import load_config
from nic_ray.packaged import packaged

ROOT = Path(__file__).parent.parent
CAME_ALONG = [
    "tune_configs/cpu.yaml",
    "tune_configs/smoke.yaml",
    "data/reference/pairs.jsonl",
    "data/retention/pairs.jsonl",
]


def test_every_folder_of_the_package_is_named_for_the_wheel():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "nic_ray").rglob("*.py")}
    assert {name for name in named if not name.startswith("nic_ray.packaged_files")} == folders


@pytest.mark.parametrize("name", CAME_ALONG)
def test_what_comes_along_is_found_in_any_folder_unless_that_has_its_own(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert packaged(Path(name)) == ROOT / name
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("")
    assert packaged(Path(name)) == Path(name)


def test_other_paths_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path("data/none.jsonl"), tmp_path / "tune_configs" / "cpu.yaml", Path("data")):
        assert packaged(path) == path


def test_settings_name_the_files_that_come_along_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("tune_configs/cpu.yaml"))
    assert config.data.pairs == ROOT / "data" / "reference" / "pairs.jsonl"
    assert config.guard.retention_set == ROOT / "data" / "retention" / "pairs.jsonl"
    monkeypatch.chdir(ROOT)
    assert load_config(Path("tune_configs/cpu.yaml")).data.pairs == Config().data.pairs


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The Python of an environment that holds a wheel of this project, and its dependencies, but no checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "runs", "models", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    (folder / "dist").mkdir()
    # setuptools changes sys.argv
    build = "import sys; from setuptools import build_meta as b; p = sys.argv[1]; b.build_sdist(p); b.build_wheel(p)"
    command = [sys.executable, "-c", build, str(folder / "dist")]
    subprocess.run(command, cwd=folder / "source", check=True, capture_output=True, timeout=300)
    (wheel,) = (folder / "dist").glob("*.whl")
    assert list((folder / "dist").glob("*.tar.gz"))
    shutil.rmtree(folder / "source")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # the dependencies of this environment; its checkout of nic_ray is not on this path
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=300)
    held = zipfile.ZipFile(wheel).namelist()
    assert {f"nic_ray/packaged_files/{name}" for name in CAME_ALONG} <= set(held)
    return python


def called(python: Path, folder: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python.parent / command[0]), *command[1:]],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_searches_in_any_folder_with_what_comes_along(installed, tmp_path):
    place = called(installed, tmp_path, "python", "-c", "import nic_ray; print(nic_ray.__file__)")
    assert Path(place.strip()).is_relative_to(installed.parent.parent)
    assert "tune" in called(installed, tmp_path, "nic-ray", "--help")
    called(installed, tmp_path, "nic-ray", "tune", "tune_configs/smoke.yaml", "--export-anyway")
    assert (tmp_path / "models" / "nic-embeddings-v1.0" / "model.safetensors").is_file()
    (run,) = (tmp_path / "runs").glob("nic-embeddings-*")
    assert "retention" in (run / "trials.csv").read_text().partition("\n")[0]  # the retention set was found
    called(installed, tmp_path, "nic-ray", "verify", "models/nic-embeddings-v1.0")
    called(installed, tmp_path, "nic-ray", "evaluate", "models/nic-embeddings-v1.0")
