"""Which instrument sees what a tuned model has forgotten: each candidate against the change on real sets.

    python benchmarks/instruments.py RUN [RUN ...] --sets ../shared/data/cacm ../shared/data/stackfaq
        [--out models.jsonl]

The models are those of every trial of some searches, as trained and half-way back to the base model: learning rates,
depths and lengths differ, and so does what they have forgotten. Each is scored on real sets in BEIR form, which have
nothing to do with what it was tuned on, and by each candidate:

- questions: the retention set that comes along, written in the manner of the reference set; and each real set;
- neighbours: the share of a text's ten nearest neighbours that are the same as the base model's, which needs no
  questions;
- inverse cloze: a sentence finds its paragraph, from which it was taken; needs none either.

The last two run on any text. Tried are the chapters of Python's language reference that every interpreter carries
(`pydoc_data.topics`), the passages of the retention set, and those of the real sets. What counts is how well a
candidate ranks the models by the change of Recall@5 on the real sets that it was not taken from (Spearman). With --out,
a line is added for each model, and models that it holds are not scored again.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from nic_ray.config_file import load_config
from nic_ray.dataset.beir import read_beir
from nic_ray.dataset.general import general_texts
from nic_ray.dataset.pairs import Collection, Pair, index_pairs, read_pairs
from nic_ray.model.activations import Inputs, frozen_inputs, token_inputs
from nic_ray.model.encoder import base_weights
from nic_ray.record import add_line, last_state, read_lines
from nic_ray.run_folder import RunFolder
from nic_ray.selection.candidates import best_of
from nic_ray.selection.scoring import Scorer
from nic_ray.training.prepared import Prepared, prepare

RETENTION_SET = Path("data/retention/pairs.jsonl")
NEIGHBOURS = 10
MOST_TEXTS = 1500
"""Texts of a source that neighbours are looked for among."""
MOST_CLOZE = 600
"""Sentences of a source that look for their paragraphs."""
ALPHAS = (0.5, 1.0)


@dataclass(frozen=True)
class Task:
    """Texts that a model is scored on."""

    name: str
    collection: Collection
    rows: NDArray[np.int64]
    """Rows whose queries are asked; none where only neighbours are compared."""


@dataclass(frozen=True)
class Model:
    """Weights above a cut."""

    name: str
    depth: int
    weights: Mapping[str, Tensor]
    validation: float
    """Macro Recall@5 on the validation rows of the search."""


def main() -> None:
    """Score the models and print how well each candidate ranks them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--sets", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON lines to add to and to go on from")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    done = {} if arguments.out is None else {row["model"]: row for row in read_lines(arguments.out)}
    prepared = prepare(load_config(RunFolder(arguments.runs[0]).config), on_gpu=False)
    names = [path.name for path in arguments.sets]
    tasks = [*map(real_set, arguments.sets), *own_tasks(arguments.sets)]
    for run in arguments.runs:
        for trial in trials_of(run):
            models = [model for model in models_of(prepared, run, trial) if model.name not in done]
            for model in models:
                done[model.name] = scored(prepared, tasks, model)
                if arguments.out is not None:
                    add_line(arguments.out, done[model.name])
                if not arguments.json:
                    print(described(done[model.name], names), flush=True)
    rows = [*done.values()]
    result = {name: correlation(rows, name, names) for name in rows[0]["measured"]}
    if arguments.json:
        print(json.dumps({"correlations": result, "models": rows}))
        return
    print(f"\n{len(rows)} models; rank correlation with the change of Recall@5, and of MRR, on the other real sets:")
    for name, (recall, mrr) in sorted(result.items(), key=lambda item: -item[1][0]):
        print(f"  {name:45s} {recall:+.2f}  {mrr:+.2f}")


def trials_of(run: Path) -> list[str]:
    """Names of the trials that have left a state."""
    return sorted({path.parent.parent.name for path in run.glob("*/trial-*/checkpoint_*/*")})


def models_of(prepared: Prepared, run: Path, trial: str) -> Iterator[Model]:
    """A trial's best weights, as they are and between them and the base model's."""
    state = last_state(run, trial)
    row = next((row for row in json.loads(RunFolder(run).result.read_text())["trials"] if row["trial"] == trial), None)
    if state is None or row is None or "frozen_layers" not in row:
        return
    depth = int(row["frozen_layers"])
    best = best_of(trial, prepared.config.train, state)
    base = base_weights(prepared.encoder, depth)
    for alpha in ALPHAS:
        weights = {name: value.lerp(best.weights[name].to(value), alpha) for name, value in base.items()}
        yield Model(f"{run.name}/{trial} at {alpha:g}", depth, weights, best.metrics["recall_at_5/macro"])


def real_set(folder: Path) -> Task:
    """A public set with its questions."""
    collection, rows = read_beir(folder, "test")
    return Task(folder.name, collection, np.array(rows))


def own_tasks(sets: Sequence[Path]) -> Iterator[Task]:
    """The candidates that are no real sets themselves."""
    collection = index_pairs(read_pairs(RETENTION_SET))
    yield Task("questions, retention set", collection, np.arange(len(collection.query)))
    sources = {"python": general_texts(None), "retention set": texts_of(collection)}
    sources |= {folder.name: texts_of(real_set(folder).collection) for folder in sets}
    for name, texts in sources.items():
        if pairs := cloze(texts):
            together = index_pairs(pairs)
            yield Task(f"inverse cloze, {name}", together, np.arange(len(pairs)))
        yield Task(f"neighbours, {name}", as_corpus(sample(texts, MOST_TEXTS)), np.array([], dtype=np.int64))


def texts_of(collection: Collection) -> list[str]:
    """The passages of a collection."""
    return [collection.texts[text] for text in collection.corpus.tolist()]


def sample(texts: Sequence[str], most: int) -> list[str]:
    """At most so many texts, drawn at random."""
    order = np.random.default_rng(0).permutation(len(texts))[:most]
    return [texts[number] for number in sorted(order.tolist())]


def cloze(texts: Sequence[str]) -> list[Pair]:
    """A sentence of each text, and the text without it."""
    random, pairs = np.random.default_rng(0), []
    for text in sample(texts, len(texts)):
        sentences = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
        places = [place for place, sentence in enumerate(sentences) if 6 <= len(sentence.split()) <= 40]
        if len(sentences) >= 3 and places:
            place = int(random.choice(places))
            rest = " ".join(sentences[:place] + sentences[place + 1 :])
            pairs.append(Pair(sentences[place], rest, "text"))
    order = random.permutation(len(pairs))[:MOST_CLOZE]
    return [pairs[number] for number in sorted(order.tolist())] if len(pairs) >= 30 else []


def as_corpus(texts: Sequence[str]) -> Collection:
    """Passages without questions."""
    nothing = np.array([], dtype=np.int64)
    return Collection(tuple(texts), nothing, nothing, nothing.reshape(0, 0), (), np.arange(len(texts)), True)


_inputs: dict[tuple[str, int], Inputs] = {}
_base: dict[str, Any] = {}


def inputs_of(prepared: Prepared, task: Task, depth: int) -> Inputs:
    """A task's texts at a cut, computed once."""
    if (task.name, depth) not in _inputs:
        tokens = token_inputs(prepared.encoder, task.collection.texts, 256, task.collection.is_query)
        at_once = sorted({depth, *(each for each in (3, 4, 5) if each < prepared.encoder.blocks)})
        cuts = frozen_inputs(prepared.encoder, tokens, at_once, bf16=prepared.bf16)
        _inputs.update({(task.name, at): cut for at, cut in cuts.items()})
    return _inputs[task.name, depth]


def scored(prepared: Prepared, tasks: Sequence[Task], model: Model) -> dict[str, Any]:
    """What every candidate says of a model, minus what it says of the base model."""
    measured = {}
    for task in tasks:
        if task.name not in _base:
            _base[task.name] = figures(prepared, task, inputs_of(prepared, task, prepared.encoder.blocks - 1), None)
        found, base = figures(prepared, task, inputs_of(prepared, task, model.depth), model.weights), _base[task.name]
        if len(task.rows):
            measured[task.name] = {name: found[name] - base[name] for name in found}
        else:
            kept = [len(set(own) & set(other)) / len(own) for own, other in zip(found, base, strict=True)]
            measured[task.name] = {"kept": float(np.mean(kept))}
    return {"model": model.name, "validation": model.validation, "measured": measured}


def figures(prepared: Prepared, task: Task, inputs: Inputs, weights: Mapping[str, Tensor] | None) -> Any:
    """Macro metrics of a task, or each text's nearest neighbours."""
    scorer = Scorer(prepared, inputs, task.collection)
    if len(task.rows):
        flat = scorer.metrics(weights, task.rows)
        return {name: flat[f"{name}/macro"] for name in ("recall_at_5", "mrr")}
    embeddings = scorer.embeddings(weights, task.collection.corpus)
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similar = embeddings @ embeddings.T
    np.fill_diagonal(similar, -np.inf)
    return np.argpartition(-similar, NEIGHBOURS, axis=1)[:, :NEIGHBOURS].tolist()


def correlation(rows: Sequence[Mapping[str, Any]], candidate: str, sets: Sequence[str]) -> tuple[float, float]:
    """Spearman's correlation of a candidate with the mean change on the real sets that it was not taken from."""
    others = [name for name in sets if name not in candidate]
    said = [next(iter(row["measured"][candidate].values())) for row in rows]
    return tuple(
        float(spearmanr(said, [np.mean([row["measured"][name][metric] for name in others]) for row in rows])[0])
        for metric in ("recall_at_5", "mrr")
    )  # type: ignore[return-value]


def described(row: Mapping[str, Any], sets: Sequence[str]) -> str:
    """A model in one line."""
    changes = "  ".join(f"{name} {row['measured'][name]['recall_at_5']:+.3f}" for name in sets)
    return f"{row['model']}: validation {row['validation']:.3f}  {changes}"


if __name__ == "__main__":
    main()
