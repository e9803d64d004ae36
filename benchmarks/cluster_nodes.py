"""Trials over the nodes of a cluster, simulated on this machine, of which two die while trials run on them.

    python benchmarks/cluster_nodes.py [--nodes 10] [--cpus 2] [--trials 200] [--deaths 2] [--json]

Ray's own cluster utility starts a head without CPUs and so many nodes with so many each. The trials are those of a
search (`rounds.run_search_trials`: searcher, ASHA, ledger, a process a trial, checkpoints, retries); only what a trial
computes is trivial: four evaluations, 0.4 s apart. When a quarter of the trials has ended, the node of a
running trial is killed, and when this trial has gone on elsewhere, the node where it does: it loses its node as often
as nodes die.

Finished: trials that came to their last evaluation. Lost: trials that did not. Per node: how many trials began on each
of the nodes that lived. Gone on: seconds from the death of a node to the next evaluation of the trial that it hit.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nic_ray.config import Config
from nic_ray.progress import View
from nic_ray.record import read_ended
from nic_ray.search.session import RAY_SWITCHES

os.environ.update(RAY_SWITCHES)  # Ray reads them when it is imported

import ray
from ray import tune
from ray.cluster_utils import Cluster

from nic_ray.search import cluster as of_cluster
from nic_ray.search import rounds
from nic_ray.search.run import Run

EVALUATIONS, SECONDS = 4, 0.4
"""Of a trial, and between two of them."""
ENDED_BEFORE = 0.25
"""Share of the trials that have ended when the first node dies."""


def main() -> None:
    """Run the trials and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--cpus", type=int, default=2, help="of each node, and so many trials at a time on it")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--deaths", type=int, default=2)
    parser.add_argument("--at-a-time", type=int, help="trials at a time, if fewer than the CPUs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = searched(arguments.nodes, arguments.cpus, arguments.trials, arguments.deaths, arguments.at_a_time)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"  {name:24} {value}")


class Watch(View):
    """A view that sees on which nodes trials run, and kills the nodes of one of them."""

    def __init__(self, trials: int, deaths: int, kill: Callable[[str], None]) -> None:
        super().__init__()
        self.began: dict[str, str] = {}
        """Trial -> the node of its first evaluation."""
        self.killed: list[str] = []
        """Nodes, in the order of their deaths."""
        self.reasons: list[str] = []
        """Why trials were started again."""
        self.gone_on: list[float] = []
        """Seconds from each death to the next evaluation of the trial that it hit."""
        self._trials, self._deaths, self._kill = trials, deaths, kill
        self._victim, self._struck = "", 0.0

    def begin(self, trials: Any) -> None:
        """Count from here."""
        self._ended = 0

    def restarted(self, trial: str, reason: str) -> None:
        """Note why."""
        self.reasons.append(reason)

    def evaluated(self, trial: str, metrics: Mapping[str, Any]) -> None:
        """Note where, and kill this node if it is time to."""
        node = metrics["node"]
        self.began.setdefault(trial, node)
        if trial == self._victim and node not in self.killed and len(self.gone_on) < len(self.killed):
            self.gone_on.append(time.monotonic() - self._struck)
        elif self.killed or self._ended < ENDED_BEFORE * self._trials or metrics["evaluation"] > 1:
            return
        if len(self.killed) < self._deaths:
            self._victim = trial
            self.killed.append(node)
            self._kill(node)
            self._struck = time.monotonic()


def searched(nodes: int, cpus: int, trials: int, deaths: int, at_a_time: int | None) -> dict[str, Any]:
    """What became of the trials of a search on a simulated cluster."""
    config = Config.model_validate(
        {
            "train": {"epochs": EVALUATIONS},
            "space": {"learning_rate": {"log_uniform": [1e-5, 1e-3]}},
            "search": {"trials": trials, "grace_period": EVALUATIONS},
            "resources": {"concurrent_trials": at_a_time},
        }
    )
    simulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        own = [simulated.add_node(num_cpus=cpus) for _ in range(nodes)]
        ray.init(address=simulated.address, log_to_driver=False, logging_level="ERROR")

        def kill(node_id: str) -> None:
            Path(killed, node_id).touch()
            simulated.remove_node(next(node for node in own if node.node_id == node_id), allow_graceful=False)

        watch = Watch(trials, deaths, kill)
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as killed:
            rounds.worker.run_trial = partial(trivial, killed)
            run = Run(Path(folder), Path(folder, "models"), False, False, None, None, "tune")
            setup = rounds.SearchSetup(
                prepared=SimpleNamespace(config=config),  # type: ignore[arg-type]
                run=run,
                placement=of_cluster.placement_on_cluster(config),
                inputs=None,  # type: ignore[arg-type]
                base={},
                trackers=[],
                deadline=math.inf,
                runs_trials=True,
                view=watch,
            )
            started = time.monotonic()
            rounds.run_search_trials(setup)
            wall, ended = time.monotonic() - started, read_ended(run.folder)
        ray.shutdown()
    finally:
        simulated.shutdown()
    lived = Counter(node for node in watch.began.values() if node not in watch.killed)
    return {
        "trials": trials,
        "finished": sum(row["status"] == "finished" for row in ended.values()),
        "lost": trials - sum(row["status"] == "finished" for row in ended.values()),
        "errors": sorted({row["error"] for row in ended.values()} - {""}),
        "killed": len(watch.killed),
        "started again": len(watch.reasons),
        "reasons": sorted({*watch.reasons}),
        "per node": sorted(lived.values()) + [0] * (nodes - deaths - len(lived)),
        "gone on after s": [round(seconds, 1) for seconds in watch.gone_on],
        "wall_s": round(wall, 1),
    }


def trivial(killed: str, config: dict[str, Any], shared: None) -> None:
    """Evaluations of a number that a formula gives, from the last checkpoint on.

    A process outlives its node by up to seconds, in which a trial could end. So it stands still as soon as `killed`,
    a folder, has a file named after its node. `tune.report` returns when the view has seen the evaluation.
    """
    done, checkpoint = 0, tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            done = int(Path(folder, "done").read_text())
    for evaluation in range(done + 1, EVALUATIONS + 1):
        time.sleep(SECONDS)
        value = evaluation / EVALUATIONS - abs(config["learning_rate"] - 3e-4)
        metrics = {"epoch": float(evaluation), "objective": value, "evaluation": evaluation, "loss": 0.0}
        node, finished = ray.get_runtime_context().get_node_id(), float(evaluation == EVALUATIONS)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "done").write_text(str(evaluation))
            tune.report(
                metrics | {"node": node, "finished": finished}, checkpoint=tune.Checkpoint.from_directory(folder)
            )
        while Path(killed, node).exists():
            time.sleep(SECONDS)


if __name__ == "__main__":
    main()
