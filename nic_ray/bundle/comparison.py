"""Comparison of models on the same rows: an exported model with its base model, or several models."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from nic_ray.bundle.files import load_base_of
from nic_ray.bundle.noted import noted_reading
from nic_ray.bundle.question_kinds import caution, stored_kinds
from nic_ray.bundle.rows import (
    chosen_rows,
    data_for,
    domains_of,
    form_on,
    groups_on,
    is_ranked_as_folder,
    max_tokens_of,
    metadata_of,
    part_named,
    queries_of,
    split_on,
    split_sha256_on,
    trained_on_some,
)
from nic_ray.bundle.wanted import NOTHING_MORE, Wanted, other_corpus
from nic_ray.data_config import DataConfig
from nic_ray.dataset.beir import read_beir
from nic_ray.dataset.cut_passages import ranked_for
from nic_ray.dataset.form import AS_FOUND
from nic_ray.dataset.pairs import Collection, read_pairs
from nic_ray.dataset.replay import split_settings
from nic_ray.dataset.split import Part
from nic_ray.errors import InputError
from nic_ray.evidence import Metadata
from nic_ray.metrics.fusion import RANKS, VECTORS, WORDS, Fusion, Scored, ranking_figures
from nic_ray.metrics.intervals import Interval, count_passages, paired_intervals
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import PRIMARY
from nic_ray.model.base import load
from nic_ray.model.encoder import Encoder
from nic_ray.model.evaluation import Asked, fused_scores, texts_to_score
from nic_ray.model.whole_models import asked_of, encoder_scores
from nic_ray.progress import View
from nic_ray.protocol import BY_PASSAGE, held_back_by, shown_name
from nic_ray.results import Flat, StoredQuestionKind
from nic_ray.run_folder import RunFolder
from nic_ray.sources import Sources, shown
from nic_ray.stored import exported_bundle
from nic_ray.tokens import PACKAGED_NAMES


def compare(
    model: str,
    pairs: Sources,
    split: str | None,
    *,
    view: View | None = None,
    device: str = "cpu",
    wanted: Wanted = NOTHING_MORE,
) -> "Comparison":
    """Evaluate a model and its base model on a part of some pairs, or on a folder in BEIR form.

    Args:
        split: the part, or the name of the folder's qrels; None for validation, or test.

    Raises:
        InputError: as `compare_with_base` and `compare_on_folder`.
    """
    if isinstance(pairs, Path) and is_ranked_as_folder(metadata_of(model), pairs):
        return compare_on_folder(model, pairs, split or "test", view=view, device=device, wanted=wanted)
    return compare_with_base(model, pairs, part_named(split), view=view, device=device, wanted=wanted)


@dataclass(frozen=True)
class Comparison:
    """A model compared with its base model on the same rows."""

    model: str
    """The model, as the user named it."""
    base_model: str
    pairs: str
    """The file of pairs, or the folder in BEIR form."""
    split: str
    """The part of the rows, "all", or the name of the qrels file of a folder."""
    protocol: str | None
    """How the rows were held back, as `protocol.held_back_by`; None for all rows, where none were held back, and for a
    folder."""
    refit: bool
    """Whether the exported weights were trained again on the rows of all parts."""
    split_from: Literal["bundle", "defaults", "qrels"] | None
    """Whether the split is that of the model's training, the default one or that of a folder; None for all rows."""
    queries: int
    passages: int
    """Number of passages in the corpus."""
    results: dict[str, dict[str, float]]
    """"base" and "model" -> flat metrics; "model" alone if the model is the base model itself."""
    rankings: dict[str, Flat]
    """BM25, and each model alone and fused with it -> macro metrics; see `fusion.ranking_figures`."""
    asked: dict[str, int]
    """Domain -> number of passages that its queries ask about; "macro" -> their sum."""
    warnings: list[str]
    """Warnings about earlier readings of the test rows."""
    synthetic: int = 0
    """Number of the queries that were made from their passages."""
    kinds: list[StoredQuestionKind] = field(default_factory=list)
    """The queries by kind, the most frequent one first; empty if no row names its kind."""


def compare_with_base(
    model: str,
    pairs: Sources,
    split: Part | Literal["all"],
    *,
    view: View | None = None,
    device: str = "cpu",
    wanted: Wanted = NOTHING_MORE,
) -> Comparison:
    """Evaluate a model and its base model on one part of some pairs.

    Args:
        model: a bundle, another folder that Sentence Transformers loads, the packaged name or a hub id.
            A bundle states its base model, the number of tokens at which texts are cut off and, if it was trained on
            these very pairs, their split. Other models are compared with the packaged model on the default split.
        pairs: file of pairs, or several.
        split: part of the rows whose queries are asked; the corpus holds the passages of all parts.
        view: shows the progress.
        device: where the texts are embedded.
        wanted: what else is computed.

    Raises:
        InputError: the pairs, the model or the metadata of a bundle cannot be used.
    """
    metadata = metadata_of(model)
    read = read_pairs(pairs, domains_of(metadata), form_on(metadata, pairs))
    has_split = split_on(metadata, pairs) is not None
    data = data_for(metadata, pairs, split, Path(model))
    rows, chosen = chosen_rows(read, split, data, split_sha256_on(metadata, pairs))
    collection = wanted.of(rows)
    queries, encoders = queries_of(collection, chosen), _with_base(model, metadata)
    warnings = list(noted_reading(model, metadata, split, "evaluate")) if has_split else []
    warnings += other_corpus(model, metadata, wanted.corpus) if has_split else []
    scored = _evaluated(encoders, collection, chosen, metadata, view or View(), device, wanted.use)
    return Comparison(
        model=model,
        base_model=_base_of(metadata),
        pairs=shown(pairs),
        split=split,
        protocol=held_back_by(data.protocol, data.splits) if data else None,
        refit=metadata.get("refit") == "all",
        split_from=("bundle" if has_split else "defaults") if data else None,
        queries=len(chosen),
        passages=len(ranked_for(collection, chosen).corpus),
        results={label: flat_metrics(scores[VECTORS], queries.domains) for label, scores in scored.items()},
        rankings=ranking_figures(scored, queries.domains),
        asked=count_passages(queries),
        warnings=warnings,
        synthetic=_count_synthetic(collection, chosen),
        kinds=stored_kinds(collection, chosen, {name: own[VECTORS][PRIMARY] for name, own in scored.items()}, queries),
    )


def compare_on_folder(
    model: str,
    folder: Path,
    split: str,
    *,
    view: View | None = None,
    device: str = "cpu",
    wanted: Wanted = NOTHING_MORE,
) -> Comparison:
    """Evaluate a model and its base model on a folder in BEIR form, as one domain.

    Args:
        model: as for `compare_with_base`.
        folder: see `beir.read_beir`.
        split: the queries are those of qrels/`split`.tsv.
        view: shows the progress.
        device: where the texts are embedded.
        wanted: as for `compare_with_base`.

    Raises:
        InputError: the folder, the model or the metadata of a bundle cannot be used.
    """
    rows, chosen = read_beir(folder, split)
    collection = wanted.of(rows)
    metadata = metadata_of(model)
    queries, encoders = queries_of(collection, chosen), _with_base(model, metadata)
    scored = _evaluated(encoders, collection, chosen, metadata, view or View(), device, wanted.use)
    return Comparison(
        model=model,
        base_model=_base_of(metadata),
        pairs=str(folder),
        split=split,
        protocol=None,
        refit=metadata.get("refit") == "all",
        split_from="qrels",
        queries=len(chosen),
        passages=len(ranked_for(collection, chosen).corpus),
        results={label: flat_metrics(scores[VECTORS], queries.domains) for label, scores in scored.items()},
        rankings=ranking_figures(scored, queries.domains),
        asked=count_passages(queries),
        warnings=[],
    )


def _count_synthetic(collection: Collection, rows: Sequence[int]) -> int:
    return 0 if collection.synthetic is None else int(collection.synthetic[list(rows)].sum())


def _base_of(metadata: Metadata) -> str:
    return str(metadata.get("base_model", PACKAGED_NAMES[0]))


def _with_base(model: str, metadata: Metadata) -> dict[str, Encoder]:
    """Load the models, as "base" and "model"; "model" alone if it is the base model itself."""
    base_model = _base_of(metadata)
    is_base = model == base_model or {model, base_model} <= set(PACKAGED_NAMES)
    if is_base:
        return {"model": load(model)}
    # with the prompts that it was searched with
    base = load_base_of(metadata) if "base_model" in metadata else load(base_model)
    return {"base": base, "model": load(model)}


def _evaluated(
    encoders: Mapping[str, Encoder],
    collection: Collection,
    rows: Sequence[int],
    metadata: Metadata,
    view: View,
    device: str,
    use: Callable[[Asked], None],
) -> dict[str, Scored]:
    """Evaluate models, alone and fused with a search by words; `use` is called with what "model" makes of the texts."""
    texts, max_tokens = len(texts_to_score(collection, rows)), max_tokens_of(metadata)
    scored: dict[str, Scored] = {}
    for label, encoder in encoders.items():
        fusions = (WORDS, VECTORS, fusion_of(metadata, "base" if label == "base" else "tuned"))
        with view.work(f"embedding {texts:,} texts with {encoder.name}", texts) as done:
            asked = asked_of(encoder, collection, rows, max_tokens, done=done, device=device)
            scored[label] = fused_scores(asked, fusions)
        if label == "model":
            use(asked)
    return scored


def fusion_of(metadata: Metadata, model: str = "tuned") -> Fusion:
    """The fusion with a search by words that a bundle stores for a model ("base" or "tuned"); by ranks if none."""
    stored = metadata.get("word_search", {}).get("chosen", {}).get(model)
    return RANKS if stored is None else Fusion(**stored)


def describe_rows(comparison: Comparison) -> str:
    """Describe in one line which rows of which file were evaluated, by which protocol and over how many passages."""
    counts = f"{comparison.queries} queries, ranked over {comparison.passages} passages"
    if comparison.split_from == "qrels":
        return f"{comparison.split} questions of {comparison.pairs}: {counts}"
    if comparison.protocol is None:
        return f"all rows of {comparison.pairs}, those that a model was trained on included: {counts}"
    if comparison.refit and comparison.split_from == "bundle":
        return (
            f"{comparison.split} part of {comparison.pairs}: {counts}. The exported weights were trained again on the "
            "rows of all parts (refit: all), these included; what the configuration is worth on rows that it never saw "
            "stands in the model card"
        )
    whose = "as the model was trained" if comparison.split_from == "bundle" else "by the default split"
    return f"{comparison.split} part of {comparison.pairs}, {whose} ({shown_name(comparison.protocol)}): {counts}"


@dataclass(frozen=True)
class Ranking:
    """Several models on the same rows, each compared with the first."""

    pairs: str
    """The file of pairs."""
    split: Part | Literal["all"]
    split_from: str | None
    """The model whose split is used; None for the default split, and for all rows."""
    queries: int
    passages: int
    """Number of passages in the corpus."""
    results: dict[str, dict[str, float]]
    """Model, as the user named it -> flat metrics."""
    rankings: dict[str, Flat]
    """BM25, and each model alone and fused with it -> macro metrics; see `fusion.ranking_figures`."""
    intervals: dict[str, dict[str, Interval]]
    """Each model but the first -> domain -> first metric of the table minus that of the first, paired by query."""
    unit: str
    """What the intervals' sample consists of: "passages", or "documents" where the split keeps those together."""
    warnings: list[str]
    """Reasons why a model may have an advantage, and warnings about earlier readings of the test rows."""


def compare_models(
    names: Sequence[str],
    pairs: Sources,
    split: Part | Literal["all"],
    *,
    say: Callable[[str], None],
    device: str = "cpu",
    wanted: Wanted = NOTHING_MORE,
) -> Ranking:
    """Evaluate models on the same rows, with intervals of the differences.

    Args:
        names: two or more run folders, bundles, other model folders, packaged names or hub ids. The folder of a search
            stands for the model that it exported, the folder of a single training for the best model of that training.
        pairs: file of pairs, or several. The split is that of the first model that was trained on them; else the
            default split.
        split: part of the rows whose queries are asked; the corpus holds the passages of all parts.
        say: called with a line that names each model before it is read.
        device: where the texts are embedded.
        wanted: what else is computed; without a function to call.

    Raises:
        InputError: fewer than two names are given, a name is given twice or stands for no model, or the pairs cannot
            be used.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"want two models or more, each named once; got {', '.join(names) or 'none'}")
    folders = {name: _model_of(name) for name in names}
    metadata = {name: metadata_of(folder) for name, folder in folders.items()}
    known = set[str]().union(*map(domains_of, metadata.values()))
    forms = (form for own in metadata.values() if (form := form_on(own, pairs)) != AS_FOUND)
    read = read_pairs(pairs, known, next(forms, AS_FOUND))
    trained = next((n for n in names if split_on(metadata[n], pairs)), None)
    owner, whose = None if split == "all" else trained, trained or names[0]
    data = data_for(metadata[whose], pairs, split, Path(folders[whose]))
    own, rows = chosen_rows(read, split, data, split_sha256_on(metadata[whose], pairs))
    collection = wanted.of(own)
    stored = split_on(metadata[whose], pairs)
    queries = groups_on(collection, rows, BY_PASSAGE if stored is None else stored.get("group_by", BY_PASSAGE))
    warnings = [line for name in names for line in _advantages(name, metadata[name], pairs, split, data)]
    if trained:
        warnings += other_corpus(whose, metadata[whose], wanted.corpus)
    if said := caution(_count_synthetic(collection, rows), len(rows)):
        warnings.insert(0, said)
    scored, now = {}, datetime.now(UTC)
    for name, folder in folders.items():
        say(f"reading {name}")
        encoder = load(folder)
        stored = split_on(metadata[name], pairs)
        if stored is not None and data in (None, split_settings(stored, Path(folder))):
            warnings += noted_reading(name, metadata[name], split, "compare", now)
        fusions, max_tokens = (WORDS, VECTORS, fusion_of(metadata[name])), max_tokens_of(metadata[name])
        scored[name] = encoder_scores(encoder, collection, rows, max_tokens, fusions, device=device)
    alone = {name: scores[VECTORS][PRIMARY] for name, scores in scored.items()}
    return Ranking(
        pairs=shown(pairs),
        split=split,
        split_from=owner,
        queries=len(rows),
        passages=len(ranked_for(collection, rows).corpus),
        results={name: flat_metrics(scores[VECTORS], queries.domains) for name, scores in scored.items()},
        rankings=ranking_figures(scored, queries.domains),
        intervals={
            name: paired_intervals(alone[name], alone[names[0]], queries.passages, queries.domains)
            for name in names[1:]
        },
        unit=queries.unit,
        warnings=warnings,
    )


def verdict(macro: Interval) -> str:
    """Conclude in one sentence from the interval of the macro mean of B minus A which model is better."""
    if macro.low is None or macro.high is None:
        return "The rows are too few to say how sure the difference is."
    if macro.low > 0 or macro.high < 0:
        return f"{'B' if macro.low > 0 else 'A'} is better: the interval of the macro mean leaves out zero."
    return "The difference may be chance: the interval of the macro mean holds zero."


def _model_of(name: str) -> str:
    """The folder of a model; for a run folder, the model that the run exported."""
    run = RunFolder(Path(name))
    if not run.config.is_file():
        return name
    if not run.result.exists() and run.trained.is_dir():
        return str(run.trained)
    bundle = exported_bundle(run.path)
    if bundle is None or not Path(bundle).is_dir():
        raise InputError(
            f"{name}: has exported no model that is still there; export it with python -m nic_ray.export "
            f"{shlex.quote(name)}, or name a model"
        )
    return bundle


def _advantages(
    name: str, metadata: Metadata, pairs: Sources, split: Part | Literal["all"], data: DataConfig | None
) -> list[str]:
    if "split" not in metadata:
        return []
    stored = split_on(metadata, pairs)
    if stored is None and trained_on_some(metadata, pairs):
        return [f"{name}: was trained on some of these rows"]
    if stored is None:
        return [f"{name}: was trained on other pairs ({metadata.get('data', {}).get('pairs', 'unknown')})"]
    if metadata.get("refit") == "all":
        return [f"{name}: was trained again on the rows of all parts (refit: all), these included"]
    if data is None or split == "train" or split_settings(stored, Path(name)) != data:
        return [f"{name}: was trained on some of these rows"]
    return []
