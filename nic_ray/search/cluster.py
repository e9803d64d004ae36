"""What a search needs from its Ray cluster: room for trials, GPUs, shared folders, the output of frozen blocks.

Everything here runs within a `session.ray_session`.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from numpy.typing import NDArray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nic_ray import hardware
from nic_ray.config import Config
from nic_ray.errors import InputError
from nic_ray.model.activations import Inputs, run_chain
from nic_ray.model.cache import Chain, StoredInputs
from nic_ray.model.cut import Lower
from nic_ray.search.placement import Placement, place_trials, trains_on_gpus
from nic_ray.training.prepared import Prepared


@dataclass(frozen=True)
class VisibleGpus:
    """The GPUs that PyTorch sees on a node."""

    missing: str
    """Why it sees no GPU; empty if it sees one."""
    bf16: bool
    """Whether the GPU should compute in 16 bits."""


def placement_on_cluster(config: Config) -> Placement:
    """Lay out the trials on Ray's cluster."""
    return place_trials(
        config, ray.cluster_resources().get("CPU", 1), [node["Resources"].get("GPU", 0) for node in _nodes()]
    )


def in_format_of_trials(prepared: Mapping[str, Prepared], placement: Placement, *, joined: bool) -> dict[str, Prepared]:
    """Return what is prepared with the number format of the devices that trials compute on, perhaps on other machines.

    Args:
        prepared: by base model; the settings of all of them ask for the same devices.
        joined: whether Ray was running before the search, perhaps on other machines.

    Raises:
        InputError: Ray and PyTorch do not see the same GPUs.
    """
    config = next(iter(prepared.values())).config
    bf16 = _computes_in_bf16(config, placement, joined=joined)
    return {name: replace(own, bf16=bf16) for name, own in prepared.items()}


def _computes_in_bf16(config: Config, placement: Placement, *, joined: bool) -> bool:
    if not placement.gpus_per_worker:
        if trains_on_gpus(config) and torch.cuda.is_available() and not joined:
            raise InputError(
                f"resources.gpus_per_worker: PyTorch sees {torch.cuda.device_count()} GPU(s) on this machine, and Ray "
                "sees none that it could give to trials; look at nvidia-smi, or train on CPUs with train.device: cpu"
            )
        return hardware.computes_in_bf16(config.train.precision, "cpu")
    formats = []
    for node in _nodes():
        if not node["Resources"].get("GPU"):
            continue
        visible = _on_node(node, look_for_gpus, config.train.precision)
        if visible.missing:
            raise InputError(
                f"node {node['NodeManagerAddress']}: Ray gives trials {node['Resources']['GPU']:g} GPU(s) there, and "
                f"{visible.missing}; or train on CPUs with train.device: cpu"
            )
        formats.append(visible.bf16)
    return all(formats)


def refuse_unshared_places(shared: Sequence[Path]) -> None:
    """Check that the files that trials will read and write are visible from every node that has CPUs.

    Args:
        shared: files that must be visible from all of these nodes.

    Raises:
        InputError: one of the files is not visible from a node.
    """
    for node in _nodes() if shared else ():
        if node["Resources"].get("CPU") and (missing := _on_node(node, missing_files, shared)):
            raise InputError(
                f"{missing[0]}: is not visible from node {node['NodeManagerAddress']}; name a folder that all nodes "
                "share, or a URI, with --storage (what does not fit activations.memory_budget_gib lies in its runs/)"
            )


def send_code_of_models() -> None:
    """Have Ray send the code that came with a model along with its modules: other processes cannot import it."""
    for name in [name for name in sys.modules if name.startswith("transformers_modules.")]:
        cloudpickle.register_pickle_by_value(sys.modules[name])


def activation_files(inputs: Mapping[int, Inputs | StoredInputs]) -> list[Path]:
    """List the files of activations on disk, which every node must see."""
    return [at_depth.path for at_depth in inputs.values() if isinstance(at_depth, StoredInputs)]


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _on_node(node: Mapping[str, Any], function: Callable[[Any], Any], argument: Any) -> Any:
    """Return a function's result on a node; on this node, call the function without a Ray task."""
    if node["NodeID"] == ray.get_runtime_context().get_node_id():
        return function(argument)
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.get(ray.remote(num_cpus=0)(function).options(scheduling_strategy=there).remote(argument))


def look_for_gpus(precision: Literal["auto", "bf16", "fp32"]) -> VisibleGpus:
    """Ray task: report the GPUs that PyTorch sees on this node."""
    missing = hardware.why_no_gpu()
    return VisibleGpus(missing, not missing and hardware.computes_in_bf16(precision, "cuda"))


def missing_files(paths: Sequence[Path]) -> list[Path]:
    """Ray task: return those of some paths that do not exist on this node."""
    return [path for path in paths if not path.exists()]


def chain_on_cluster(placement: Placement, *, bf16: bool) -> Chain:
    """Return a chain that runs frozen blocks where trials will train: a Ray task per shard, or a process per GPU."""

    def chain(blocks: Sequence[Lower], shards: Sequence[Inputs]) -> Iterator[list[NDArray[Any]]]:
        reference = ray.put(list(blocks))
        gpus = int(ray.cluster_resources().get("GPU", 0)) if placement.gpus_per_worker else 0
        if gpus:
            work = functools.partial(run_shard_on_gpu, reference, bf16)
            yield from on_gpus(work, shards, min(gpus, len(shards)))
            return
        task = ray.remote(num_cpus=1)(run_shard)
        # no more tasks in flight than CPUs and one that waits: the outputs of more would fill the object store
        most = 1 + max(1, int(ray.cluster_resources().get("CPU", 1)))
        pending: list[Any] = []
        for shard in shards:
            pending.append(task.remote(reference, shard, "cpu", bf16))
            if len(pending) == most:
                yield ray.get(pending.pop(0))
        while pending:
            yield ray.get(pending.pop(0))

    return chain


def on_gpus(work: Callable[[Any], Any], shards: Iterable[Any], gpus: int) -> Iterator[Any]:
    """Yield a function's result for each shard, in order, computed by one process per GPU.

    Ray would start a process for each task on a GPU, which costs seconds for work of milliseconds. These processes stay
    until the end, and then free their memory on the device.
    """
    runners = [ray.remote(num_cpus=0, num_gpus=1)(ShardRunner).remote() for _ in range(gpus)]
    try:
        # only processes that have received their GPU are given shards: the other GPUs may be in use
        busy = {runner.__ray_ready__.remote(): runner for runner in runners}
        pending: list[Any] = []
        for shard in shards:
            done, _ = ray.wait(list(busy), num_returns=1)
            runner = busy.pop(done[0])
            pending.append(runner.run.remote(work, shard))
            busy[pending[-1]] = runner
            if len(pending) > gpus:
                yield ray.get(pending.pop(0))
        while pending:
            yield ray.get(pending.pop(0))
    finally:
        for runner in runners:
            ray.kill(runner)


class ShardRunner:
    """Ray actor: a process that works on one shard after another."""

    def run(self, function: Callable[[Any], Any], shard: Any) -> Any:
        """Return a function's result for a shard."""
        return function(shard)


def run_shard(blocks: Sequence[Lower], shard: Inputs, device: str, bf16: bool) -> list[NDArray[Any]]:
    """Ray task: compute the values after each of some frozen blocks, for a part of the texts."""
    hardware.keep_freed_memory()
    torch.set_num_threads(1)
    return run_chain(blocks, shard, device=device, bf16=bf16)


def run_shard_on_gpu(blocks: "ray.ObjectRef[Sequence[Lower]]", bf16: bool, shard: Inputs) -> list[NDArray[Any]]:
    """Call `run_shard` on the GPU of this process."""
    return run_shard(ray.get(blocks), shard, "cuda", bf16)
