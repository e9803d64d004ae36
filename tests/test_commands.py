"""What a user's mistake costs: one clear message, exit code 2, no traceback, nothing written."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nic_ray import compare, console, evaluate, mine, plan, retrieve, train, tune, verify
from nic_ray.bundle.files import read_metadata
from nic_ray.errors import InputError
from nic_ray.record import load_state, locked

Run = Callable[..., tuple[int, str]]

SPACE = {"space": {"learning_rate": {"log_uniform": [1e-5, 1e-3]}}}
GOOD = {"query": "why?", "positive": "because", "domain": "radar"}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path) -> Run:
    """Runs a command in this process, in an empty folder: exit code and what it wrote to stderr."""
    monkeypatch.chdir(tmp_path)

    def run(main: Callable[..., None], *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            console.run(main)
        return ended.value.code, capsys.readouterr().err

    return run


def config_file(folder: Path, **sections: object) -> Path:
    path = folder / "config.yaml"
    path.write_text(json.dumps(sections), encoding="utf-8")  # JSON is YAML
    return path


def rows(*changed: dict[str, object]) -> bytes:
    good = [{**GOOD, "positive": f"because {number}"} for number in range(4)]
    return "".join(json.dumps(row) + "\n" for row in [*good, *changed]).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "holds no rows"),
        (rows() + b"{oops\n", "line 5: not JSON"),
        (rows() + b'{"query": "caf\xe9"}\n', "line 5: not UTF-8"),
        (rows({"query": "why?", "domain": "radar"}), 'line 5: "positive" is missing (found: domain, query)'),
        (rows({**GOOD, "query": "  "}), 'line 5: "query" is empty'),
        (rows({**GOOD, "positive": [7]}), 'line 5: "positive" item 1 must be text, got a number'),
        (rows({**GOOD, "domain": "hvac"}), 'domain "hvac" has too few distinct positive passages, 1; want 3'),
    ],
)
@pytest.mark.parametrize("main", [tune.main, train.main])
def test_unusable_pairs_are_refused(run, tmp_path, main, content, message):
    pairs = tmp_path / "pairs.jsonl"
    if content is not None:
        pairs.write_bytes(content)
    code, complaint = run(main, config_file(tmp_path, **SPACE), "--data", pairs)
    assert code == 2
    assert message in complaint
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"learning_rat": 1e-3}}, "train.learning_rat: no such setting; did you mean learning_rate?"),
        ({"train": {"learning_rate": -1}}, "train.learning_rate: must be > 0"),
        ({"space": {"frozen_layer": {"choice": [1]}}}, "space.frozen_layer: no such hyperparameter; did you mean"),
        ({"search": {"grace_period": 9}}, "search.grace_period: must be at most train.epochs, 3, got 9"),
        ({"resources": {"workers": 64}}, "resources.workers: must be at most the smallest batch_size, 32, got 64"),
        ({"resources": {"gpus_per_worker": 1.5}}, "gpus_per_worker must be at most 1, or a whole number, got 1.5"),
        ({"train": {"epochs": 2}}, "space: names nothing to search; add a hyperparameter"),
        ({"train": {"base_model": "nowhere"}, **SPACE}, "nowhere: no such folder, and the model hub does not give it"),
        ({"train": {"base_model": "."}, **SPACE}, "holds no model"),
    ],
)
def test_unusable_settings_are_refused(run, tmp_path, tiny_pairs_file, sections, message):
    code, complaint = run(tune.main, config_file(tmp_path, **sections), "--data", tiny_pairs_file)
    assert code == 2
    assert message in complaint
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("section", ["train", "space"])
def test_more_frozen_blocks_than_the_model_has_are_refused(run, tmp_path, tiny_pairs_file, section):
    ten: dict[str, object] = {"train": {"frozen_layers": 10}, **SPACE}
    if section == "space":
        ten = {"space": {"frozen_layers": {"choice": [4, 10]}}}
    code, complaint = run(tune.main, config_file(tmp_path, **ten), "--data", tiny_pairs_file)
    assert code == 2
    assert f"{section}.frozen_layers: must be 0 to 5 for all-MiniLM-L6-v2, which has 6 blocks, got 10" in complaint


def test_a_resumed_search_takes_no_other_settings_and_says_how_to_search_on(run, tmp_path):
    code, complaint = run(tune.main, "--resume", "runs/my run", "--data", "a b.jsonl")
    assert code == 2
    assert "Traceback" not in complaint
    assert complaint.startswith("error: --data: --resume goes on with the settings of the run")
    assert "python -m nic_ray.tune 'runs/my run/config.yaml' --data 'a b.jsonl' --name NAME" in complaint
    code, complaint = run(tune.main, "--resume", "runs/a", "--corpus", "sections.jsonl")
    assert (code, complaint.startswith("error: --corpus: --resume goes on with the settings")) == (2, True)
    code, complaint = run(tune.main, "mine.yaml", "--resume", "runs/a", "--data", "pairs.jsonl")
    assert code == 2
    assert complaint.startswith("error: CONFIG, --data: ")
    assert "python -m nic_ray.tune mine.yaml --data pairs.jsonl --name NAME" in complaint


def test_a_resumed_training_takes_no_other_pairs_and_no_search(run, tmp_path):
    code, complaint = run(train.main, "--resume", tmp_path, "--data", "pairs.jsonl")
    assert (code, "a resumed run goes on with its own pairs" in complaint) == (2, True)
    code, complaint = run(train.main, "--resume", tmp_path, "--corpus", "sections.jsonl")
    assert (code, "--corpus: a resumed run goes on with its own corpus" in complaint) == (2, True)
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "study.db").write_text("")
    code, complaint = run(train.main, "--resume", tmp_path)
    assert (code, "is the run of a search" in complaint) == (2, True)


def test_an_existing_model_is_refused_before_anything_is_read(run, tmp_path):
    (tmp_path / "models" / "nic-embeddings-v1.0").mkdir(parents=True)
    (tmp_path / "pairs").mkdir()  # only of files, and of small ones, the faults are found before the imports
    (tmp_path / "pairs" / "pairs.jsonl").write_text("no pairs\n")
    code, complaint = run(tune.main, config_file(tmp_path), "--data", tmp_path / "pairs")
    assert code == 2
    assert "exists already" in complaint
    assert "--overwrite" in complaint


def test_a_cuda_device_that_is_not_there_is_refused(run, tmp_path, tiny_pairs_file, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = config_file(tmp_path, train={"device": "cuda"})
    code, complaint = run(train.main, config, "--data", tiny_pairs_file)
    assert code == 2
    assert re.search(r"train.device: cuda is asked for, and PyTorch \S+ sees no CUDA device: ", complaint)


def test_a_search_on_cuda_without_gpus_for_its_workers_is_refused(run, tmp_path, tiny_pairs_file):
    config = config_file(tmp_path, train={"device": "cuda"}, **SPACE)
    code, complaint = run(tune.main, config, "--data", tiny_pairs_file)
    assert code == 2
    assert "train.device: cuda is asked for, and resources.gpus_per_worker is 0" in complaint


def test_a_config_that_is_not_there_is_refused(run):
    code, complaint = run(tune.main, "tune_configs/cup.yaml")
    assert code == 2
    assert "tune_configs/cup.yaml: no such file" in complaint


def test_a_training_is_the_same_when_it_was_cut_off_and_resumed(run, tmp_path, tiny_pairs_file, tiny_model):
    settings = {
        "base_model": str(tiny_model(layers=3)),
        "frozen_layers": 1,
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 1e-3,
    }
    config = config_file(tmp_path, train=settings)
    assert run(train.main, config, "--data", tiny_pairs_file)[0] == 0
    (whole,) = (tmp_path / "runs").glob("train-*")
    again = tmp_path / "again"
    again.mkdir()
    for name in ("config.yaml", "data.json"):
        (again / name).write_text((whole / name).read_text())
    (whole / "checkpoints" / "epoch-001").rename(tmp_path / "first")
    (again / "checkpoints").mkdir()
    (tmp_path / "first").rename(again / "checkpoints" / "epoch-001")
    assert run(train.main, "--resume", again)[0] == 0
    last_lines = [(folder / "training.log").read_text().splitlines()[-1] for folder in (whole, again)]
    said = [re.sub(r"  pairs_per_second [0-9.]+", "", line.split("  evaluation  ")[1]) for line in last_lines]
    assert said[0] == said[1]
    for folder in (whole, again):
        assert (folder / "model" / "model.safetensors").is_file()
        assert (folder / "checkpoints" / "epoch-002" / "state.pt").is_file()
    # each end of a training reads the test rows, and the second one of the same rows says so
    assert run(train.main, "--resume", whole)[0] == 0
    readings = read_metadata(whole / "model")["readings"]
    assert [(row["command"], row["rows"]) for row in readings] == [("train", 12)] * 2
    assert "test rows had been read once before" in (whole / "model" / "README.md").read_text()
    # a damaged checkpoint costs its epoch; whoever goes on holds the run
    (whole / "checkpoints" / "epoch-002" / "state.pt").write_bytes(b"PK")
    assert run(train.main, "--resume", whole)[0] == 0
    assert load_state(whole / "checkpoints" / "epoch-002")["finished"]
    with locked(again):
        code, complaint = run(train.main, "--resume", again)
    assert (code, "another process is working on this run" in complaint) == (2, True)
    lines = tiny_pairs_file.read_text().splitlines(keepends=True)
    tiny_pairs_file.write_text("".join(lines[:-1]))
    code, complaint = run(train.main, "--resume", again)
    assert (code, "pairs.jsonl: has changed since" in complaint) == (2, True)
    settings = again / "config.yaml"
    edited = yaml.safe_load(settings.read_text())
    edited["train"] |= {"frozen_layers": 0, "epochs": 9, "device": "cpu"}
    settings.write_text(yaml.safe_dump(edited))
    code, complaint = run(train.main, "--resume", again)
    changed = ("train.frozen_layers is 0, was ", "train.epochs is 9, was ", "Put the old values back")
    assert (code, [each in complaint for each in changed], "device" in complaint) == (2, [True] * 3, False)


def test_resuming_with_other_settings_is_refused(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code, complaint = run(train.main, "--resume", folder)
    assert (code, "no run of nic_ray.train" in complaint) == (2, True)
    (folder / "config.yaml").write_text("train: {epochs: 5}")
    code, complaint = run(train.main, "--resume", folder)
    assert (code, "(no sound data.json)" in complaint) == (2, True)
    code, complaint = run(train.main, config_file(tmp_path, train={"epochs": 6}), "--resume", folder)
    assert (code, "was started with other settings" in complaint) == (2, True)
    code, complaint = run(train.main)
    assert (code, "name a CONFIG" in complaint) == (2, True)


@pytest.mark.parametrize("command", ["check", "mine", "train", "tune", "evaluate"])
def test_help_comes_without_the_heavy_libraries(command):
    script = (
        f"import sys, runpy; sys.argv = ['{command}', '--help']\n"
        f"try: runpy.run_module('nic_ray.{command}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'ray', 'optuna'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_an_exported_folder_is_verified(run, monkeypatch, capsys, tiny_model_folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    from nic_ray.bundle.files import write_bundle
    from nic_ray.model.base import load

    model = SentenceTransformer(str(tiny_model_folder), device="cpu")
    base = {
        "base_model": str(tiny_model_folder),
        "base_weights_sha256": load(str(tiny_model_folder)).weights_sha256,
    }
    folder = tmp_path / "m"
    write_bundle(folder, model, {"name": "m", **base}, training_log="")
    monkeypatch.setattr(sys, "argv", ["verify", str(folder)])
    with pytest.raises(SystemExit, match="0"):
        console.run(verify.main)
    assert f"{folder}: sound, " in capsys.readouterr().out
    (folder / "training.log").write_text("another")
    assert run(verify.main, folder)[0] == 1
    write_bundle(tmp_path / "n", model, {"name": "n", **base, "base_weights_sha256": "0" * 64}, training_log="")
    code, said = run(verify.main, tmp_path / "n")
    assert code == 1
    assert "its weights have SHA-256" in said
    code, said = run(verify.main, tmp_path)
    assert code == 2
    assert "holds no metadata.json" in said


GPU_CONFIG = Path(__file__).parent.parent / "tune_configs" / "gpu.yaml"
ON_A_DEVICE = {
    evaluate.main: ["model", "pairs.jsonl"],
    compare.main: ["model", "other", "--pairs", "pairs.jsonl"],
    mine.main: ["pairs.jsonl", "--out", "mined.jsonl"],
    retrieve.main: [
        "model",
        "why?",
        "--corpus",
        str(Path(__file__).parent.parent / "data" / "retention" / "pairs.jsonl"),
    ],
    plan.main: [str(GPU_CONFIG)],
}


@pytest.mark.parametrize("main", ON_A_DEVICE, ids=lambda main: main.__module__)
def test_cuda_where_there_is_none_is_refused(run, monkeypatch, main):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, said = run(main, *ON_A_DEVICE[main], "--device", "cuda")
    assert code == 2
    assert re.search(r"device: cuda is asked for, and PyTorch \S+ sees no CUDA device", said)


@pytest.mark.parametrize(
    ("main", "function"),
    [
        (evaluate.main, "nic_ray.bundle.comparison.compare_with_base"),
        (compare.main, "nic_ray.bundle.comparison.compare_models"),
        (mine.main, "nic_ray.training.mining.mine_negatives"),
        (retrieve.main, "nic_ray.bundle.retriever.retriever"),
    ],
)
@pytest.mark.parametrize(("options", "expected"), [([], "cuda"), (["--device", "cpu"], "cpu")])
def test_a_gpu_is_used_where_there_is_one(run, monkeypatch, tmp_path, main, function, options, expected):
    devices = []

    def stop(*_: object, device: str, **others: object) -> None:
        devices.append(device)
        raise InputError("far enough")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(function, stop)
    monkeypatch.setattr("nic_ray.model.base.load", lambda _: None)
    domains = [{**GOOD, "positive": f"{name} {each}", "domain": name} for name in "abc" for each in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in domains))
    assert run(main, *ON_A_DEVICE[main], *options) == (2, "error: far enough\n")
    assert devices == [expected]
