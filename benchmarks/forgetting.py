"""What keeps a tuned model from forgetting: gain on the validation rows against the change on real sets.

    python benchmarks/forgetting.py --sets ../shared/data/cacm ../shared/data/stackfaq [--variants anchor] [--seeds 2]

Every variant trains one configuration on the training rows of the reference set. Its best weights, and some between
them and the base model's, are scored on the validation rows and on real sets in BEIR form, which have nothing to do
with what was tuned: one line of the front for each. With --out, a line is added for each model that was scored, and
variants that it holds are not trained again.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from instruments import Model, real_set, scored

from nic_ray.config import Config, trial_config
from nic_ray.config_file import load_config
from nic_ray.model.activations import feed, frozen_inputs, upper_for
from nic_ray.model.evaluation import evaluate
from nic_ray.record import add_line, read_lines
from nic_ray.selection.candidates import Candidate, best_of
from nic_ray.selection.interpolation import interpolated
from nic_ray.selection.retention import load_general_text, neighbours_kept
from nic_ray.selection.scoring import Scorer
from nic_ray.training import loop
from nic_ray.training.prepared import Prepared, holds_general_texts, prepare, training_data

ALPHAS = (0.4, 0.7, 1.0)
PLAIN = {
    "frozen_layers": 3, "learning_rate": 2e-4, "batch_size": 128, "queries_per_passage": 4, "scale": 20.0,
    "warmup_share": 0.1, "schedule": "cosine", "weight_decay": 0.01,
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """Settings that differ from `PLAIN`."""

    name: str
    settings: Mapping[str, object]


VARIANTS = (
    Variant("as it is", {}),
    Variant("anchor 1", {"anchor": 1.0}),
    Variant("anchor 3", {"anchor": 3.0}),
    Variant("anchor 10", {"anchor": 10.0}),
    Variant("anchor 3, 8 texts a step", {"anchor": 3.0, "anchor_texts": 8}),
    Variant("anchor 10, 8 texts a step", {"anchor": 10.0, "anchor_texts": 8}),
    Variant("half the learning rate, twice the epochs", {"learning_rate": 1e-4, "epochs": 6}),
    Variant("a quarter of the learning rate", {"learning_rate": 5e-5}),
    Variant("random rows", {"queries_per_passage": 1}),
    Variant("four blocks frozen", {"frozen_layers": 4}),
    Variant("made to forget", {"learning_rate": 1e-3, "epochs": 10}),  # what the guard has to refuse at alpha 1
)


def main() -> None:
    """Train, score and print the fronts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("tune_configs/cpu.yaml"))
    parser.add_argument("--sets", nargs="+", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", default=[variant.name for variant in VARIANTS])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON lines to add to and to go on from")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [] if arguments.out is None else list(read_lines(arguments.out))
    config = load_config(arguments.config)
    if not holds_general_texts(config):  # they are read only where some trial may hold them
        config = load_config(arguments.config, {"train.anchor": 1.0})
    prepared = prepare(config, on_gpu=False)
    tasks = [*map(real_set, arguments.sets)]
    for variant in (each for each in VARIANTS if each.name in arguments.variants):
        for seed in range(42, 42 + arguments.seeds):
            if any((row["variant"], row["seed"]) == (variant.name, seed) for row in rows):
                continue
            began = time.monotonic()
            trained = train(prepared, config, variant, seed)
            took = time.monotonic() - began
            for model, kept in path(prepared, trained):
                row = {"variant": variant.name, "seed": seed, "seconds": took, "kept": kept}
                row |= scored(prepared, tasks, model)
                rows.append(row)
                if arguments.out is not None:
                    add_line(arguments.out, row)
                if not arguments.json:
                    print(described(row, [task.name for task in tasks]), flush=True)
    if arguments.json:
        print(json.dumps(rows))


def train(prepared: Prepared, config: Config, variant: Variant, seed: int) -> Candidate:
    """Train a variant; return its best evaluation."""
    settings = trial_config(config.train, {**PLAIN, "anchor": 0.0, **variant.settings, "seed": seed})
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, [settings.frozen_layers], bf16=prepared.bf16)
    at = inputs[settings.frozen_layers]
    upper, source, rows = upper_for(prepared.encoder, at), feed(at, "cpu"), prepared.rows("validation").tolist()
    objective = config.search.objective
    for evaluation in loop.fit(
        settings,
        upper,
        training_data(prepared, at, prepared.rows("train")),
        loop.Validation(
            lambda model: evaluate(model, source, prepared.collection, rows, bf16=prepared.bf16), objective
        ),
    ):
        state = evaluation.state
    return best_of(variant.name, settings, state)


def path(prepared: Prepared, trained: Candidate) -> Iterator[tuple[Model, float]]:
    """Mixtures of the base model's weights and the trained ones, with their results on the validation rows.

    Beside each, the share of the base model's neighbours that it keeps on the guard's general texts.
    """
    depth = trained.config.frozen_layers
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, [depth], bf16=prepared.bf16)[depth]
    general = load_general_text(prepared, [depth])
    assert general is not None
    for alpha in ALPHAS:
        weights = interpolated(prepared, trained, alpha)
        kept = neighbours_kept(prepared, general, replace(trained, weights=weights))
        flat = Scorer(prepared, inputs).metrics(weights, prepared.rows("validation"))
        yield Model(f"{alpha:g}", depth, weights, flat["recall_at_5/macro"]), kept


def described(row: Mapping[str, Any], sets: Sequence[str]) -> str:
    """A model in one line."""
    changes = "  ".join(
        f"{name} {row['measured'][name]['recall_at_5']:+.3f} {row['measured'][name]['mrr']:+.3f}" for name in sets
    )
    mean = np.mean([row["measured"][name]["recall_at_5"] for name in sets])
    return (
        f"{row['variant']}, seed {row['seed']}, alpha {row['model']}: validation {row['validation']:.4f}  {changes}  "
        f"mean {mean:+.4f}  {row['kept']:.1%} of neighbours kept  ({row['seconds']:.0f} s)"
    )


if __name__ == "__main__":
    main()
