"""Trials in forked processes: each under its own name, with nothing of those before it, and alone when it dies."""

import json
import subprocess
import sys
from pathlib import Path

from searches import MARKS, settings, tune_command

pytestmark = MARKS

SEARCH = """
import json, os, pathlib, sys
from nic_ray.progress import View
from nic_ray.search import session
folder = pathlib.Path(sys.argv[1])

def trial(config):
    import logging, numpy, torch
    from nic_ray.search import worker
    name = tune.get_context().get_trial_name()
    found = {
        "name": name, "pid": os.getpid(), "parent": os.getppid(), "raylet": int(os.environ["RAY_RAYLET_PID"]),
        "left": getattr(worker, "LEFT", None),
        "threads": torch.get_num_threads(), "grad": torch.is_grad_enabled(), "drawn": numpy.random.random(),
        "handlers": len(logging.getLogger("nic_ray").handlers), "variable": os.environ.get("LEFT"),
    }
    worker.LEFT, os.environ["LEFT"] = name, name
    torch.set_num_threads(7)
    torch.set_grad_enabled(False)
    logging.getLogger("nic_ray").addHandler(logging.NullHandler())
    (folder / f"{name}-{found['pid']}").write_text(json.dumps(found))
    if name == "trial-001" and len(list(folder.glob("trial-001-*"))) == 1:
        os._exit(1)
    tune.report({"objective": 1.0, "epoch": 1.0, "evaluation": 1, "finished": 1.0})

sys.modules["nic_ray.search.own_cluster"].usable_cpus = lambda: 1
with session.ray_begun(None), session.ray_session(View()):
    from ray import tune
    from ray.util.state import list_actors
    import psutil, ray
    from nic_ray.search import ray_hooks
    samples = [{ray_hooks.TRIAL_NAME: f"trial-{number:03d}"} for number in range(4)]
    results = tune.Tuner(
        ray_hooks.trial_class(trial, {"CPU": 1.0}),
        tune_config=tune.TuneConfig(
            num_samples=4, max_concurrent_trials=1, search_alg=ray_hooks.FixedSearch(samples),
            trial_name_creator=ray_hooks.name_of, trial_dirname_creator=ray_hooks.name_of,
        ),
        run_config=tune.RunConfig(
            name="ray", storage_path=str(folder), verbose=0, failure_config=tune.FailureConfig(max_failures=1)
        ),
    ).fit()
    listed = list_actors(ray.get_runtime_context().gcs_address, limit=100, detail=True)
    print(json.dumps({
        "ahead": session.own_cluster._ahead.get().process.pid,
        "starter": psutil.Process(json.loads(next(folder.glob("trial-*")).read_text())["raylet"]).ppid(),
        "errors": len(results.errors),
        "actors": [[actor.repr_name, actor.pid] for actor in listed if actor.class_name == "Trial"],
        "trials": [json.loads(path.read_text()) for path in sorted(folder.glob("trial-*"))],
    }))
"""


def test_trials_have_their_names_and_start_as_if_there_had_been_none_before(tmp_path: Path):
    folder = tmp_path / "trials"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    trials = found["trials"]
    assert found["errors"] == 0
    # the one that died was started again, and no other
    assert sorted(trial["name"] for trial in trials) == [
        "trial-000",
        "trial-001",
        "trial-001",
        "trial-002",
        "trial-003",
    ]
    assert {(trial["name"], trial["pid"]) for trial in trials} == {tuple(actor) for actor in found["actors"]}
    assert len({trial["pid"] for trial in trials}) == len(trials)
    assert len({trial["parent"] for trial in trials}) == 1
    assert trials[0]["parent"] != trials[0]["raylet"]  # they are forks
    # the cluster was that of the process that had begun ahead, and both are gone
    assert found["ahead"] == found["starter"]
    assert not any(Path("/proc", str(pid)).exists() for pid in (found["ahead"], trials[0]["raylet"]))
    assert len({trial["drawn"] for trial in trials}) == len(trials)
    assert [trial["left"] for trial in trials] == [trial["variable"] for trial in trials] == [None] * len(trials)
    assert {(trial["threads"], trial["grad"], trial["handlers"]) for trial in trials} == {
        (trials[0]["threads"], True, trials[0]["handlers"])
    }
    assert trials[0]["threads"] != 7


def test_so_are_all_processes_of_a_trial_of_several_workers(tiny_model, tiny_pairs_file, tmp_path):
    command = tune_command(
        tmp_path, settings(tiny_model(layers=3), tiny_pairs_file, trials=2, resources={"workers": 2})
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    (run,) = (path for path in (tmp_path / "runs").iterdir() if not path.name.startswith("."))
    assert "fork server" not in (run / "search.log").read_text()
    rows = (run / "trials.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["finished", "finished"]
