"""A whole search: this project's against `SentenceTransformerTrainer.hyperparameter_search`, in turn, in one run.

    python benchmarks/search_speed.py --trials 4 --epochs 3 --frozen-layers 4 [--pruning] [--backend ray] [--rounds 2]
        [--sides ours ours-alike theirs theirs-tuned] [--attention auto|sdpa|eager] [--json]

All sides get the same rows to train on, to choose by and to read once at the end, the same search space, trials,
epochs, evaluations, sampler (Optuna's TPE, same seed) and metric (macro Recall@5 over the whole corpus), and all CPU
cores; each side runs as a process of its own.

- `ours`: this project as it comes, which also searches `queries_per_passage`, for which the other side has no
  counterpart; batches with several questions of a passage are cheaper.
- `ours-alike`: the same search without it, on batches of random rows as the other side has them.
- `theirs`: as it comes, but that a batch holds no text twice, as its documentation advises for this loss.
- `theirs-tuned`: in the precision and with the dropout of our side, its evaluation in that precision too, and with the
  attention that is the faster one here (tried first, which is not in its time, unless it is named).

Theirs trains with its Optuna backend one trial after the other on all cores, with its Ray backend as many at a time as
there are cores, each on one, which is its default. Its sampler hears of a trial's last evaluation, ours of its best;
the test rows are read once, at the best evaluation of all. Ours includes the start of Ray, the frozen blocks' output,
the best trials trained again, their mean, the export and the reading of the exported folder. Memory is the largest sum
of the proportional set sizes of all processes of a side, read every other second, as is the processor time of each.
Needs the extra `bench`.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import usage_of
from timing import spread

SPACE: dict[str, Any] = {
    "learning_rate": {"log_uniform": [1e-5, 1e-3]},
    "scale": {"log_uniform": [10, 100]},
    "batch_size": {"choice": [32, 64, 128, 256]},
    "warmup_share": {"uniform": [0, 0.3]},
    "weight_decay": {"choice": [0, 0.01, 0.1]},
    "schedule": {"choice": ["cosine", "linear", "constant"]},
}
"""What all sides search. Batches of several queries a passage are those of `ours` alone."""

OURS, THEIRS = ("ours", "ours-alike"), ("theirs", "theirs-tuned")


def main() -> None:
    """Run the sides in turn and print a table, or be one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=Path("data/reference/pairs.jsonl"))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--frozen-layers", type=int, nargs="+", default=[4], help="one depth, or several to search")
    parser.add_argument("--pruning", action="store_true", help="stop weak trials early, on both sides")
    parser.add_argument(
        "--queries-per-passage", type=int, nargs="+", default=[1, 2, 4], help="of `ours`; it searches several"
    )
    parser.add_argument("--sides", nargs="+", choices=OURS + THEIRS, default=OURS + THEIRS)
    parser.add_argument("--attention", choices=("auto", "sdpa", "eager"), default="auto", help="of `theirs-tuned`")
    parser.add_argument("--backend", choices=("optuna", "ray"), default="optuna", help="of `hyperparameter_search`")
    parser.add_argument("--rounds", type=int, default=1, help="searches of each side, in turn")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sample-share", type=float, default=1.0, help="share of the passages, to try this out")
    parser.add_argument("--side", choices=OURS + THEIRS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        found = (our_search if arguments.side in OURS else their_search)(arguments)
        arguments.result.write_text(json.dumps(found), encoding="utf-8")
        return
    given = []
    if "theirs-tuned" in arguments.sides and arguments.attention == "auto":
        given = ["--attention", faster_attention(arguments)]
    rounds = [{side: run_side(side, given) for side in arguments.sides} for _ in range(arguments.rounds)]
    if arguments.json:
        print(json.dumps(rounds))
        return
    for number, sides in enumerate(rounds, 1):
        print(
            f"\nround {number}: {arguments.trials} trials of {arguments.epochs} epochs, theirs with the "
            f"{arguments.backend} backend"
        )
        for side, one in sides.items():
            print(
                f"  {side:13} {one['wall_s']:8.0f} s  {one['cpu_s']:8.0f} CPU-s  "
                f"{arguments.trials / one['wall_s'] * 3600:7.1f} trials/h  {one['peak_pss_gib']:5.2f} GiB  "
                f"validation {one['validation']:.4f}  test {one['test']:.4f}"
            )
            print(f"    {one['what']}; {one['rows']} training rows")
            picked = (
                f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in one["picked"].items()
            )
            print(f"    picked: {'  '.join(picked)}")
            if "phases_s" in one:
                print(f"    of it: {', '.join(f'{name} {seconds:.0f} s' for name, seconds in one['phases_s'].items())}")
    print()
    for ours, theirs in itertools.product(OURS, THEIRS):
        if {ours, theirs} <= set(arguments.sides):
            faster = [sides[theirs]["wall_s"] / sides[ours]["wall_s"] for sides in rounds]
            print(f"trials per hour, {ours} / {theirs}: {spread(faster)}")


def faster_attention(arguments: argparse.Namespace) -> str:
    """Try which attention `theirs-tuned` trains faster with."""
    import rival

    collection, parts = rows_of(arguments)
    found, seconds = rival.faster_attention(collection, parts["train"], frozen_layers=first_depth(arguments))
    shown = ", ".join(f"{attention} {spread(own)} s" for attention, own in seconds.items())
    print(f"two steps of 64 rows: {shown}; theirs-tuned has {found}", file=sys.stderr)
    return found


def rows_of(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The rows of each part: those of our search."""
    import rival

    return rival.rows_of(arguments.pairs, sample_share=arguments.sample_share)


def run_side(side: str, given: list[str]) -> dict[str, Any]:
    """Start this program as one side; its result with wall time, CPU time and peak memory."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, *sys.argv[1:], *given, "--side", side, "--result", str(result)]
        usage = usage_of(command, every_s=2, stdout=log, stderr=subprocess.STDOUT)
        if usage.code:
            log.seek(0)
            raise SystemExit(f"{side} failed:\n{log.read()[-4000:]}")
        found = json.loads(result.read_text(encoding="utf-8"))
    return found | {"wall_s": usage.wall_s, "cpu_s": usage.cpu_s, "peak_pss_gib": usage.peak_pss / 2**30}


def space_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The search space; depth is part of it where several are given."""
    depth = {"frozen_layers": {"choice": arguments.frozen_layers}} if len(arguments.frozen_layers) > 1 else {}
    return SPACE | depth


def first_depth(arguments: argparse.Namespace) -> int:
    """frozen_layers of the first trial."""
    return 4 if 4 in arguments.frozen_layers else int(arguments.frozen_layers[0])


def our_search(arguments: argparse.Namespace) -> dict[str, Any]:
    """`nic_ray.search.search.run_search`, export included."""
    from nic_ray.config import Config
    from nic_ray.progress import Lines, TrialBatch
    from nic_ray.search.search import run_search

    marks = [(time.monotonic(), "until trials run")]

    class Phases(Lines):
        def begin(self, trials: TrialBatch) -> None:
            super().begin(trials)
            marks.append((time.monotonic(), "trials" if trials.name == "search" else "the best again"))

        def end(self) -> None:
            super().end()
            marks.append((time.monotonic(), "what lies between and after"))

    kinds = arguments.queries_per_passage if arguments.side == "ours" else [1]
    grouped = {"queries_per_passage": {"choice": kinds}} if len(kinds) > 1 else {}
    config = Config.model_validate(
        {
            "data": {"pairs": str(arguments.pairs), "sample_share": arguments.sample_share},
            "train": {
                "epochs": arguments.epochs,
                "evaluations_per_epoch": 2,
                "schedule": "cosine",
                "frozen_layers": first_depth(arguments),
                "queries_per_passage": kinds[0],
                "hard_negatives": 0,  # the other side trains on the pairs alone
                "seed": arguments.seed,
            },
            "space": space_of(arguments) | grouped,
            "search": {
                "trials": arguments.trials,
                "seed": arguments.seed,
                # without pruning no rung lies before the end
                "grace_period": 1 if arguments.pruning else arguments.epochs,
            },
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        result = run_search(
            config,
            out=Path(folder),
            name="winner",
            run_root=Path(folder) / "runs",
            overwrite=False,
            export_anyway=True,  # a search of few trials may not convince the guard, and is timed all the same
            view=Phases(print),
        )
        metadata = json.loads((Path(folder) / "winner" / "metadata.json").read_text(encoding="utf-8"))
    phases: dict[str, float] = {}
    for (began, phase), (ended, _) in itertools.pairwise([*marks, (time.monotonic(), "")]):
        phases[phase] = phases.get(phase, 0.0) + ended - began
    results, key = result.judgement.results, "recall_at_5/macro"
    winner = result.judgement.winner.config.model_dump()
    return {
        "what": f"{metadata['precision']}, attention dropout {config.train.attention_dropout:g}, hidden dropout "
        f"{config.train.hidden_dropout:g}, queries_per_passage {' '.join(map(str, kinds))}",
        "rows": metadata["split"]["rows"]["train"],
        "validation": results["validation"]["tuned"][key],
        "test": results["test"]["tuned"][key],
        "picked": {name: winner[name] for name in config.space},
        "phases_s": phases,
    }


def their_search(arguments: argparse.Namespace, noted: Callable[[float], None] = lambda _: None) -> dict[str, Any]:
    """`hyperparameter_search` over the same space; it cannot be told which configuration to try first.

    Args:
        noted: called with the macro Recall@5 on the validation rows at each evaluation of a trial.
    """
    import optuna
    import rival
    import torch
    from filelock import FileLock
    from sentence_transformers import SentenceTransformerTrainer
    from sentence_transformers.base.sampler import BatchSamplers
    from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import SchedulerType

    from nic_ray.model.evaluation import Asked, score, texts_to_score
    from nic_ray.train_config import TrainConfig

    form = rival.AS_IT_COMES
    if arguments.side == "theirs-tuned":
        form = rival.tuned("cpu", "sdpa" if arguments.attention == "auto" else arguments.attention)
    collection, rows = rows_of(arguments)
    space = space_of(arguments)
    own: dict[str, Any] = {}
    """The sample of the trial that runs in this process."""

    class MacroRecall(SentenceEvaluator):  # type: ignore[misc]
        primary_metric = "macro"

        def __call__(self, model: Any, *_: Any, **__: Any) -> dict[str, float]:
            found = macro_recall(model, "validation")
            noted(found)
            return {"macro": found}

    def macro_recall(model: Any, part: str) -> float:
        texts = texts_to_score(collection, rows[part].tolist())
        with torch.autocast("cpu", torch.bfloat16, enabled=form.bf16):
            embeddings = model.encode([collection.texts[text] for text in texts], show_progress_bar=False)
        return score(Asked(embeddings, texts, collection, rows[part].tolist()))["recall_at_5/macro"]

    def suggest(trial: Any, name: str) -> Any:
        dimension = space[name]
        if "choice" in dimension:
            return trial.suggest_categorical(name, dimension["choice"])
        low, high = dimension.get("log_uniform") or dimension["uniform"]
        return trial.suggest_float(name, low, high, log="log_uniform" in dimension)

    def settings() -> dict[str, Any]:
        """Training arguments of the sample."""
        schedules = {"constant": "constant_with_warmup"}
        return {
            "learning_rate": own["learning_rate"],
            "per_device_train_batch_size": own["batch_size"],
            "warmup_steps": own["warmup_share"],  # below 1 it is a share
            "weight_decay": own["weight_decay"],
            "lr_scheduler_type": SchedulerType(schedules.get(own["schedule"], own["schedule"])),
            "eval_steps": max(1, -(-len(rows["train"]) // own["batch_size"]) // 2),
        }

    def hp_space(trial: Any) -> dict[str, Any]:
        # Ray asks once, for the space; Optuna's trial has been sampled by model_init, which is called before
        return tune_space(space) if trial is None else settings()

    def model_init(trial: Any = None) -> Any:
        if trial is not None:
            own.update(trial if isinstance(trial, dict) else {name: suggest(trial, name) for name in space})
            trainer.loss.scale = own["scale"]
            # Ray's samples hold what is no training argument, or depends on another one
            for name, value in settings().items():
                setattr(trainer.args, name, value)
        depth = own.get("frozen_layers", first_depth(arguments))
        return rival.model_of(form, TrainConfig().base_model, depth).model

    def objective(metrics: dict[str, float]) -> float:
        found = metrics["eval_macro"]
        with FileLock(Path(folder) / "lock"):  # Ray's trials are processes of their own
            if not best_file.exists() or found > torch.load(best_file)["validation"]:
                best = {"validation": found, "picked": own, "weights": trainer.model.state_dict()}
                torch.save(best, best_file)
        return found

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as during:
        best_file = Path(folder) / "best.pt"
        trainer = SentenceTransformerTrainer(
            model_init=model_init,
            args=rival.settings(
                form,
                folder,
                num_train_epochs=arguments.epochs,
                eval_strategy="steps",
                batch_sampler=BatchSamplers.NO_DUPLICATES,
                warmup_steps=0.1,  # a float, or the searched ones would be cut to whole numbers
                seed=arguments.seed,
            ),
            train_dataset=rival.data_of(collection, rows["train"]),
            evaluator=MacroRecall(),
            loss=lambda model: MultipleNegativesRankingLoss(model),
        )
        sampler = optuna.samplers.TPESampler(
            multivariate=True, constant_liar=True, n_startup_trials=4, seed=arguments.seed
        )
        if arguments.backend == "ray":
            during.enter_context(local_ray())
            options = ray_options(sampler, Path(folder), pruning=arguments.pruning)
        else:
            pruner = (
                optuna.pruners.MedianPruner(n_startup_trials=4) if arguments.pruning else optuna.pruners.NopPruner()
            )
            options = {"sampler": sampler, "pruner": pruner}
        trainer.hyperparameter_search(
            hp_space=hp_space,
            compute_objective=objective,
            n_trials=arguments.trials,
            direction="maximize",
            backend=arguments.backend,
            **options,
        )
        best = torch.load(best_file)
        model = rival.model_of(form, TrainConfig().base_model, 0).model
        model.load_state_dict(best.pop("weights"))
        what = f"{form}, no duplicates in a batch"
        return best | {"test": macro_recall(model, "test"), "what": what, "rows": len(rows["train"])}


def local_ray() -> Any:
    """A Ray session of this machine as its users start it, for `with`."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    return ray.init(address="local", include_dashboard=False)


def tune_space(space: dict[str, Any]) -> dict[str, Any]:
    """A search space in Ray Tune's terms."""
    from ray import tune

    kinds = {
        "choice": tune.choice,
        "uniform": lambda bounds: tune.uniform(*bounds),
        "log_uniform": lambda bounds: tune.loguniform(*bounds),
    }
    return {name: kinds[kind](given) for name, dimension in space.items() for kind, given in dimension.items()}


def ray_options(sampler: Any, folder: Path, *, pruning: bool) -> dict[str, Any]:
    """What `ray.tune.run` is given: the other backend's sampler and, to stop weak trials, the like of its pruner."""
    from ray.tune.schedulers import MedianStoppingRule
    from ray.tune.search.optuna import OptunaSearch

    from nic_ray.cpus import usable_cpus

    judged = {"metric": "objective", "mode": "max"}
    options: dict[str, Any] = {
        "search_alg": OptunaSearch(sampler=sampler, **judged),
        "storage_path": str(folder),
        "max_concurrent_trials": usable_cpus(),
        "verbose": 0,
    }
    if pruning:
        # its trials keep no checkpoint, so none must be paused: it would begin anew
        rule = {"time_attr": "training_iteration", "min_time_slice": math.inf}
        options["scheduler"] = MedianStoppingRule(**judged, **rule, min_samples_required=4, grace_period=0)
    return options


if __name__ == "__main__":
    main()
