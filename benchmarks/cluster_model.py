"""How a search grows with the nodes of a cluster: simulated, from parts that are measured on this machine.

    python benchmarks/cluster_model.py [--nodes 1 8 64] [--trials 1000] [--slots 16] [--config tune_configs/cpu.yaml]
        [--network-gb-s 1.25] [--storage-gb-s 0.5] [--node-start-s 6] [--driver-trials 200] [--json]

The simulation follows the code. The output of the frozen blocks is computed once for the cluster, on all of its CPUs,
and comes together at the driver; each node fetches it once, from the driver. A trial waits for the driver, which asks
Optuna for its sample (the longer, the more trials there have been), for Ray, which schedules its process, for the
process to start, and for the activations where its node has none yet. After each part of its training it writes its
checkpoint to the storage that all nodes share, and waits until the driver has taken its report, which does one thing at
a time. After the last trial, the driver alone reads what each trial forgot, judges, trains on all rows and exports.

Measured here: what the driver does for a trial and for a report (trials that train nothing, with one report and with
six), what Ray does to schedule one, the rates of `plan`, from which follow a trial's start and training, the frozen
blocks, the size of a checkpoint and the end. Given: the number of trials at a time on a node, one CPU each; what the
driver's network and the shared storage transfer (10 Gbit/s; a common file server: both are assumptions); the start of a
node (`ray start` takes 4 to 6 s). Left out: faults, the second training of the best, and that trials which start
together learn nothing from each other. ASHA stops as many trials as if they differed by chance alone.
"""

import argparse
import dataclasses
import heapq
import itertools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nic_ray.config import Config
from nic_ray.config_file import load_config
from nic_ray.dataset.pairs import index_pairs, read_pairs
from nic_ray.model.activations import token_inputs
from nic_ray.progress import View
from nic_ray.run_folder import RunFolder
from nic_ray.search.session import RAY_SWITCHES, ray_session

os.environ.update(RAY_SWITCHES)  # Ray reads them when it is imported

from orchestration import SPACE, run_trials
from ray import tune
from ray.tune import Callback
from ray.util.placement_group import placement_group, remove_placement_group

from nic_ray.search import ray_hooks
from nic_ray.search.forecast import RAY_START_S, TUNE_START_S, drawn_epochs, estimate
from nic_ray.search.placement import Placement
from nic_ray.search.rates import measured
from nic_ray.training.bases import prepare_bases
from nic_ray.training.prepared import Prepared

MOST_NODES = 1024
FEW, MANY_REPORTS, SCHEDULED = 100, 6, 100
"""Trials of the smaller of two forecasts, reports of the longer of two trials, placement groups that are timed."""
GROWS = 0.9
"""A search still grows with its nodes where twice as many need less than this share of the time."""


@dataclass(frozen=True)
class Parts:
    """What the parts of a search take, in seconds unless the name says otherwise."""

    before: float
    """Until the frozen blocks run: Ray, the nodes, the driver's own start."""
    frozen_cpu: float
    """Processor seconds of the frozen blocks, for all depths."""
    activations_gb: float
    """Their output, all depths together."""
    start: float
    """The driver's work to start a trial where there was none before, and to end it."""
    start_growth: float
    """What each trial before adds to that."""
    schedule: float
    """Ray's work for a trial: its placement group and its process's place."""
    process: float
    """Until a trial's process can train."""
    train: float
    """A trial's training from one evaluation to the next, this one included."""
    report: float
    """The driver's work for a report."""
    checkpoint_gb: float
    network_gb_s: float
    """What the driver's node sends or receives."""
    storage_gb_s: float
    """What the storage that all nodes share writes and reads."""
    after_each: float
    """The driver's work for each trial after the last has ended."""
    after: float
    """Its other work then."""


@dataclass(frozen=True)
class Outcome:
    """A simulated search, in seconds."""

    total: float
    activations: float
    """Until every depth's output is with the driver."""
    trials: float
    """From then until the last trial has ended."""
    after: float
    bounds: dict[str, float]
    """What no number of nodes, or no faster part of another kind, could make shorter: for "trials on their CPUs" all of
    their time over the CPUs, for other parts the time that they are busy one after the other."""

    @property
    def bound(self) -> str:
        """The largest of the bounds."""
        return max(self.bounds, key=self.bounds.__getitem__)


class Server:
    """What does one thing at a time, in the order in which it is asked to."""

    def __init__(self) -> None:
        self.busy, self._free = 0.0, 0.0

    def serve(self, asked: float, seconds: float) -> float:
        """When a work is done that was asked for at a time."""
        self.busy += seconds
        self._free = max(asked, self._free) + seconds
        return self._free


def simulate(parts: Parts, nodes: int, slots: int, evaluations: Sequence[int]) -> Outcome:
    """Run a search in thought.

    Args:
        slots: trials at a time on a node, one CPU each.
        evaluations: how many each trial comes to.
    """
    by_network = parts.activations_gb / parts.network_gb_s if nodes > 1 else 0.0
    activations = max(parts.frozen_cpu / (nodes * slots), by_network)
    driver, scheduler, storage, network = Server(), Server(), Server(), Server()
    fetched: dict[int, float] = {0: 0.0}  # node -> when it has the activations; the driver is on the first one
    order = itertools.count()
    # (when, order of equal times, what is asked for, trial, slot)
    events: list[tuple[float, int, str, int, int]] = []

    def then(when: float, what: str, trial: int, slot: int) -> None:
        heapq.heappush(events, (when, next(order), what, trial, slot))

    waiting = iter(range(len(evaluations)))
    for slot in range(min(nodes * slots, len(evaluations))):
        then(0.0, "begin", next(waiting), slot)
    reported, ended = Counter[int](), 0.0
    while events:
        now, _, what, trial, slot = heapq.heappop(events)
        node = slot % nodes  # as Ray fills them: one trial on each node, then a second one on each
        if what == "begin":
            then(driver.serve(now, parts.start + parts.start_growth * trial), "schedule", trial, slot)
        elif what == "schedule":
            then(scheduler.serve(now, parts.schedule) + parts.process, "fetch", trial, slot)
        elif what == "fetch":
            if node not in fetched:
                fetched[node] = network.serve(now, by_network)
            then(max(now, fetched[node]) + parts.train, "store", trial, slot)
        elif what == "store":
            then(storage.serve(now, parts.checkpoint_gb / parts.storage_gb_s), "report", trial, slot)
        else:
            done = driver.serve(now, parts.report)
            reported[trial] += 1
            if reported[trial] < evaluations[trial]:
                then(done + parts.train, "store", trial, slot)
                continue
            ended = max(ended, done)
            if (following := next(waiting, None)) is not None:
                then(done, "begin", following, slot)
    # of each trial, the driver reads the checkpoint
    after = parts.after + (parts.after_each + parts.checkpoint_gb / parts.storage_gb_s) * len(evaluations)
    alone = sum(evaluations) * parts.train + len(evaluations) * parts.process
    bounds = {
        "trials on their CPUs": alone / (nodes * slots),
        "the longest trial": max(evaluations) * parts.train + parts.process,
        "the driver, while trials run": driver.busy,
        "Ray's scheduling": scheduler.busy,
        "shared storage": storage.busy,
        "the driver's network": network.busy + by_network,
        "frozen blocks": parts.frozen_cpu / (nodes * slots),
        "the driver, before and after": parts.before + after,
    }
    return Outcome(parts.before + activations + ended + after, activations, ended, after, bounds)


def stops_growing(parts: Parts, slots: int, evaluations: Sequence[int]) -> int:
    """The fewest nodes, a power of two, of which twice as many would hardly be faster."""
    nodes, now = 1, simulate(parts, 1, slots, evaluations).total
    while nodes < MOST_NODES:
        twice = simulate(parts, 2 * nodes, slots, evaluations).total
        if twice > GROWS * now:
            break
        nodes, now = 2 * nodes, twice
    return nodes


def main() -> None:
    """Measure the parts, and print what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=16, help="trials at a time on a node, one CPU each")
    parser.add_argument("--config", type=Path, default=Path("tune_configs/cpu.yaml"))
    parser.add_argument("--network-gb-s", type=float, default=1.25)
    parser.add_argument("--storage-gb-s", type=float, default=0.5)
    parser.add_argument("--node-start-s", type=float, default=6.0)
    parser.add_argument("--driver-trials", type=int, default=200, help="trials that train nothing, to time the driver")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = load_config(arguments.config, {"search.trials": arguments.trials})
    parts = measured_parts(config, arguments)
    epochs = drawn_epochs(config.search, config.train.epochs)[0]
    evaluations = (epochs * config.train.evaluations_per_epoch).tolist()
    found = {nodes: simulate(parts, nodes, arguments.slots, evaluations) for nodes in arguments.nodes}
    most = stops_growing(parts, arguments.slots, evaluations)
    if arguments.json:
        outcomes = {nodes: {**dataclasses.asdict(one), "bound": one.bound} for nodes, one in found.items()}
        print(json.dumps({"parts": dataclasses.asdict(parts), "nodes": outcomes, "grows to": most}))
        return
    for name, value in dataclasses.asdict(parts).items():
        print(f"  {name:16} {value:12.4f}")
    print(f"\n{arguments.trials} trials, {sum(evaluations)} evaluations, {arguments.slots} trials at a time on a node")
    print("  nodes     total  activations    trials     after  trials/h   what bounds it, seconds")
    for nodes, one in found.items():
        bounds = sorted(one.bounds.items(), key=lambda bound: -bound[1])[:3]
        print(
            f"  {nodes:5} {one.total:7.0f} s {one.activations:10.0f} s {one.trials:7.0f} s {one.after:7.0f} s "
            f"{arguments.trials / one.total * 3600:9.0f}   {', '.join(f'{name} {value:.0f}' for name, value in bounds)}"
        )
    print(f"  from {most} nodes on, twice as many save less than {1 - GROWS:.0%}")


def measured_parts(config: Config, arguments: argparse.Namespace) -> Parts:
    """Measure on this machine what the search of a configuration consists of."""
    start, growth, report, schedule = driver_costs(arguments.driver_trials)
    (prepared,) = prepare_bases(config, on_gpu=False, roughly=True).prepared.values()
    rates = measured(prepared.config, 2, 1, "cpu")
    placement, retention = Placement(1, 0.0, arguments.slots, 1, None), retention_tokens(prepared)

    def forecast_of(trials: int) -> Any:
        search = config.search.model_copy(update={"trials": trials})
        own = dataclasses.replace(prepared, config=config.model_copy(update={"search": search}))
        return estimate([(own, rates)], placement, arguments.slots, retention)

    few, many = forecast_of(FEW), forecast_of(2 * FEW)
    after_each = (many.end_s - few.end_s) / FEW
    return Parts(
        before=rates.start + RAY_START_S + TUNE_START_S + arguments.node_start_s,
        frozen_cpu=many.activations_s * arguments.slots,
        activations_gb=many.activations / 1e9,
        start=start,
        start_growth=growth,
        schedule=schedule,
        process=rates.start,
        train=many.mean_trial_s / (config.train.epochs * config.train.evaluations_per_epoch),
        report=report,
        checkpoint_gb=(many.disk - few.disk) / FEW / 1e9,
        network_gb_s=arguments.network_gb_s,
        storage_gb_s=arguments.storage_gb_s,
        after_each=after_each,
        after=few.end_s - FEW * after_each + many.refit_s,
    )


def retention_tokens(prepared: Prepared) -> int:
    """The tokens of the guard's retention set."""
    config = prepared.config
    if config.guard.retention_set is None or not config.guard.retention_set.exists():
        return 0
    pairs = index_pairs(read_pairs(config.guard.retention_set))
    return len(token_inputs(prepared.encoder, pairs.texts, config.train.max_tokens, pairs.is_query).values)


def driver_costs(trials: int) -> tuple[float, float, float, float]:
    """The driver's processor seconds for a trial, what each trial before adds, and for a report; Ray's to schedule one.

    Trials train nothing, and keep their processes, so that the driver has the machine nearly for itself.
    """
    ended: dict[int, list[float]] = {}
    with ray_session(View()):
        schedule = scheduling_s(SCHEDULED)
        for reports in (1, MANY_REPORTS):
            clock = Clock()
            settings = {"space": SPACE, "train": {"epochs": reports}}
            config = Config.model_validate(settings | {"search": {"trials": trials, "grace_period": reports}})
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder)
                run_trials(
                    ray_hooks.trial_class(tune.with_parameters(reporting, reports=reports), {"CPU": 1.0}),
                    run,
                    [ray_hooks.Ledger(run), ray_hooks.ProgressCallback(View()), clock],
                    num_samples=trials,
                    reuse_actors=True,
                    search_alg=ray_hooks.study_search(config, RunFolder(run).study, {}),
                    scheduler=ray_hooks.asha(config.search, reports, None),
                )
            ended[reports] = clock.cpu
    costs = {reports: np.diff(seconds) for reports, seconds in ended.items()}
    report = max(0.0, float(costs[MANY_REPORTS].mean() - costs[1].mean()) / (MANY_REPORTS - 1))
    growth, first = np.polyfit(np.arange(1, trials), costs[1], 1)
    return max(0.0, float(first) - report), max(0.0, float(growth)), report, schedule


def scheduling_s(count: int) -> float:
    """Seconds that Ray takes for a placement group of one trial, of many that are asked for at once."""
    started = time.perf_counter()
    groups = [placement_group([{"CPU": 0.001}]) for _ in range(count)]
    for group in groups:
        assert group.wait(60)
    seconds = (time.perf_counter() - started) / count
    for group in groups:
        remove_placement_group(group)
    return seconds


class Clock(Callback):
    """Tune's callback that reads the driver's processor time whenever a trial has ended."""

    def __init__(self) -> None:
        self.cpu: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Read it."""
        self.cpu.append(time.process_time())


def reporting(config: dict[str, Any], reports: int) -> None:
    """Evaluations of a number that a formula gives."""
    for number in range(1, reports + 1):
        value = number / reports - abs(config["learning_rate"] - 3e-4)
        shown = {"recall_at_5/macro": value, "mrr/macro": value, "loss": 0.0}
        ended = float(number == reports)
        tune.report({"epoch": float(number), "objective": value, "evaluation": number, "finished": ended, **shown})


if __name__ == "__main__":
    main()
