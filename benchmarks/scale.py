"""From a file of pairs to the first training step, phase by phase, as the pairs grow.

    python benchmarks/scale.py --pairs 10000 100000 1000000 [--passages N ...] [--corpus N ...] [--near 0.05]
        [--seed 0] [--share-tokens 30000] [--ranked 500] [--threads 1] [--json]

The pairs are the reference pairs again and again, each passage with 15 % of its words exchanged and other numbers, its
questions with the same words exchanged and one more; no two passages are near duplicates, except for the share that
`--near` asks for. Without `--passages` a tenth as many as pairs, and in the corpus, whose passages no pair names, as
many again. Files are written first, which does not count. Each size is a process of its own; the phases are what a
search does, or `check`, in their order, with settings of the default search (4 frozen blocks, batches of 32 with 4
questions a passage).

Of each phase: seconds, processor seconds, and the largest resident memory of the process while it lasts, with all that
is still held from the phases before. What would take hours is measured on a share, and given for the whole in
proportion, in processor seconds: the frozen blocks' output and the embedding of an evaluation on tokens of texts drawn
at random, `--share-tokens` of them; the ranking on `--ranked` validation rows and on three times as many (over all
passages, with random embeddings). The first step runs from token ids, as it does where the activations are beyond the
budget; whether they are is said.
"""

import argparse
import contextlib
import json
import pickle
import random
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import result_of

from nic_ray import hardware
from nic_ray.config import Config
from nic_ray.dataset.form import form_of
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.groups import groups_of
from nic_ray.dataset.lint import lint_pairs
from nic_ray.dataset.pairs import Collection, Pair, index_pairs, read_pairs
from nic_ray.dataset.profile import profile_pairs, texts_to_count
from nic_ray.dataset.split import hold_back_queries, split_rows
from nic_ray.model.activations import Inputs, feed, frozen_inputs, token_inputs, upper_for
from nic_ray.model.base import load_base
from nic_ray.model.cache import budget, layout_of
from nic_ray.model.encoder import Encoder
from nic_ray.model.evaluation import Asked, embed, score, texts_to_score
from nic_ray.progress import View
from nic_ray.tokens import count_tokens
from nic_ray.training import loop
from nic_ray.training.batches import batches_of_epoch
from nic_ray.training.distractors import Place, ranked_corpus
from nic_ray.training.prepared import Prepared, tokens_of
from nic_ray.training.start import describe_run, describe_start

REFERENCE = Path(__file__).parent.parent / "data/reference/pairs.jsonl"
EXCHANGED = 0.15
"""Share of the distinct words of a passage that are exchanged: two such copies of one passage share about a third of
their pairs of successive words."""
TRAIN = {"frozen_layers": 4, "batch_size": 32, "queries_per_passage": 4}
WORD = re.compile(r"\w+")


def main() -> None:
    """Run every size in turn and print a table, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--passages", type=int, nargs="+", help="for each number of pairs")
    parser.add_argument("--corpus", type=int, nargs="+", help="passages that no pair names, for each number of pairs")
    parser.add_argument("--near", type=float, default=0.0, help="share of passages with a near copy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share-tokens", type=int, default=30_000)
    parser.add_argument("--ranked", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments)))
        return
    passages = arguments.passages or [max(400, pairs // 10) for pairs in arguments.pairs]
    corpora, cases = arguments.corpus or passages, []
    for pairs, named, unnamed in zip(arguments.pairs, passages, corpora, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), pairs, named, unnamed, seed=arguments.seed, near=arguments.near)
            cases.append(result_of("--case", folder))
        if not arguments.json:
            show(cases[-1])
    if arguments.json:
        print(json.dumps(cases))


def show(case: dict[str, Any]) -> None:
    """Print one size as a table."""
    told = ", ".join(f"{case[name]:,} {name}" for name in ("pairs", "passages", "corpus", "tokens"))
    print(f"\n{told}; activations at depth {TRAIN['frozen_layers']}: {case['activations']}")
    for name, phase in case["phases"].items():
        print(f"  {name:36} {phase['wall_s']:9.2f} s {phase['cpu_s']:9.2f} CPU-s {phase['peak_gib']:6.2f} GiB")
    for name, seconds in case["whole"].items():
        print(f"  {name:36} {'':11} {seconds:9.0f} CPU-s, in proportion to a share")


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every phase of one size, and what those of which a share was measured come to."""
    torch.set_num_threads(arguments.threads)
    hardware.keep_freed_memory()
    config = Config.model_validate(
        {"data": {"pairs": str(folder / "pairs.jsonl"), "corpus": str(folder / "corpus.jsonl")}, "train": TRAIN}
    )
    phases: dict[str, dict[str, float]] = {}
    with phase(phases, "reading the pairs"):
        pairs = read_pairs(config.data.pairs, form=form_of(config.data))
    with phase(phases, "their findings and profile, by check"):
        tokens, limit = count_tokens(config.train.base_model, texts_to_count(pairs), config.train.max_tokens)
        findings = lint_pairs(pairs, tokens, limit)
        profile_pairs(pairs, tokens, limit)
    found = {finding.code: finding.rows for finding in findings}
    del tokens, findings
    prepared = prepared_in_phases(config, pairs, phases)
    del pairs
    encoder, collection, inputs = prepared.encoder, prepared.collection, prepared.tokens
    layout = layout_of(
        encoder, inputs, [TRAIN["frozen_layers"]], budget(config.activations, folder), bf16=prepared.bf16
    )
    kept = "kept" if layout.cached else "beyond the budget, so the blocks run in every step"
    with phase(phases, "what the run folder notes and says"):
        describe_start(prepared)
        lines = [*describe_run(prepared)]
    with phase(phases, "the collection, sent and received"):
        sent = pickle.dumps(collection, protocol=5)
        pickle.loads(sent)
    size = len(sent)
    del sent
    step_in_phases(config, prepared, phases)
    whole = in_proportion(prepared, phases, arguments)
    return {
        "pairs": len(collection.query),
        "passages": len(collection.corpus) - collection.distractors,
        "corpus": collection.distractors,
        "tokens": len(inputs.values),
        "activations": f"{layout.size / 2**30:.1f} GiB, {kept}",
        "collection_gib": size / 2**30,
        "findings": found,
        "said": lines,
        "phases": phases,
        "whole": whole,
    }


def prepared_in_phases(config: Config, pairs: Sequence[Pair], phases: dict[str, dict[str, float]]) -> Prepared:
    """What `prepare` does with the rows that it has read, part by part."""
    data = config.data
    with phase(phases, "numbering the texts"):
        collection = index_pairs(pairs)
    with phase(phases, "near duplicates"):
        assert len(collection.near_group) == len(collection.texts)
    with phase(phases, "split"):
        groups = groups_of(collection, data.group_by)
        parts = split_rows(collection.query, groups, collection.domains, seed=data.seed)
        given = (collection.query, collection.positive, collection.domains, parts)
        parts = hold_back_queries(*given, share=data.query_share, seed=data.seed)
    encoder = load_base(config.train)
    bf16 = hardware.computes_in_bf16(config.train.precision, "cpu")
    with phase(phases, "a sample of the corpus, near copies"):
        asking, place = collection.query[parts == "validation"], Place("cpu", bf16, None, View())
        collection, corpus = ranked_corpus(config, collection, asking, encoder, place=place, hardest=False)
    with phase(phases, "tokens"):
        inputs = tokens_of(encoder, collection, (), config.train.max_tokens)
    return Prepared(
        config=config,
        collection=collection,
        passages=collection.near_group[collection.positive],
        groups=groups,
        parts=parts,
        pairs_sha256=content_sha256(data.pairs),
        encoder=encoder,
        tokens=inputs,
        device="cpu",
        bf16=bf16,
        corpus=corpus,
    )


def step_in_phases(config: Config, prepared: Prepared, phases: dict[str, dict[str, float]]) -> None:
    """The batches of an epoch, and the first step from token ids through all blocks."""
    inputs = Inputs(prepared.tokens.values, prepared.tokens.offsets, TRAIN["frozen_layers"], prepared.tokens.unpooled)
    upper, rows = upper_for(prepared.encoder, inputs), prepared.rows("train")
    data = loop.TrainingData(prepared.collection, rows, feed(inputs, "cpu"), prepared.bf16)
    with phase(phases, "answers of all queries, optimizer"):
        training = loop.new_training(config.train, upper, data)
    with phase(phases, "batches of an epoch"):
        batches = batches_of_epoch(config.train, prepared.collection, rows, 0)
    with phase(phases, "first step"):
        loop.train_step(training, batches[0])


def in_proportion(
    prepared: Prepared, phases: dict[str, dict[str, float]], arguments: argparse.Namespace
) -> dict[str, float]:
    """What takes hours, on a share: seconds for the whole by what is computed."""
    encoder, collection, generator = prepared.encoder, prepared.collection, np.random.default_rng(arguments.seed)
    lengths, rows = prepared.tokens.lengths, prepared.rows("validation")
    needed = texts_to_score(collection, rows.tolist())
    drawn = generator.permutation(needed)
    drawn = drawn[: max(1, int(np.searchsorted(np.cumsum(lengths[drawn]), arguments.share_tokens)))]
    some = part_of(encoder, collection, drawn, prepared.config.train.max_tokens)
    with phase(phases, "frozen blocks, a share"):
        frozen = frozen_inputs(encoder, some, [TRAIN["frozen_layers"]], bf16=prepared.bf16)[TRAIN["frozen_layers"]]
    with phase(phases, "embedding from there, a share"):
        embed(upper_for(encoder, frozen), feed(frozen, "cpu"), np.arange(len(drawn)), bf16=prepared.bf16)
    embeddings = generator.standard_normal((len(needed), 384), dtype=np.float32)
    ranked = {f"ranking of {count} rows": count for count in (arguments.ranked, 3 * arguments.ranked)}
    for name, count in ranked.items():
        with phase(phases, name):
            score(Asked(embeddings, needed, collection, rows[:count].tolist()))
    fewer, more = (phases[name]["cpu_s"] for name in ranked)
    share, scored = len(some.values) / lengths.sum(), len(some.values) / lengths[needed].sum()
    return {
        "frozen blocks, once": phases["frozen blocks, a share"]["cpu_s"] / share,
        "an evaluation: embedding": phases["embedding from there, a share"]["cpu_s"] / scored,
        # what is prepared for any number of rows counts once
        "an evaluation: ranking": fewer + (more - fewer) / (2 * arguments.ranked) * (len(rows) - arguments.ranked),
    }


def part_of(encoder: Encoder, collection: Collection, texts: np.ndarray, max_tokens: int) -> Inputs:
    """Token ids of some texts."""
    own = [collection.texts[text] for text in texts.tolist()]
    return token_inputs(encoder, own, max_tokens, collection.is_query[texts])


@contextlib.contextmanager
def phase(phases: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Measure a block; its peak is exact, of the kernel's own count, which is set back before."""
    Path("/proc/self/clear_refs").write_text("5")
    started, cpu = time.perf_counter(), time.process_time()
    yield
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20
    phases[name] = {
        "wall_s": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu,
        "peak_gib": peak,
    }


def write_files(folder: Path, pairs: int, passages: int, corpus: int, *, seed: int, near: float) -> None:
    """Write pairs.jsonl, and corpus.jsonl with other passages."""
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for pair in changed_pairs(pairs, passages, seed=seed, near=near):
            row = {"query": pair.query, "positive": pair.positive, "domain": pair.domain}
            file.write(json.dumps(row) + "\n")
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for pair in changed_pairs(corpus, corpus, seed=seed + 1, near=near):
            file.write(json.dumps({"text": pair.positive}) + "\n")


def changed_pairs(pairs: int, passages: int, *, seed: int, near: float = 0.0) -> Iterator[Pair]:
    """Yield so many pairs about so many passages, all of them changed from the reference pairs; see the module.

    Args:
        pairs: as many as passages, or more.
        near: share of the passages that differ from another one in a single word.
    """
    questions: dict[Pair, list[str]] = defaultdict(list)
    for pair in read_pairs(REFERENCE):
        questions[Pair("", pair.positive, pair.domain)].append(pair.query)
    words = sorted({word for pair in questions for word in WORD.findall(pair.positive) if word.isalpha()})
    known = [*questions]
    for number in range(passages):
        source, generator = known[number % len(known)], random.Random(f"{seed} {number}")
        # of the copies of a passage every other one may be near the one before it
        is_near = number // len(known) % 2 == 1 and generator.random() < 2 * near
        drawn_for = number - len(known) if is_near else number
        exchanged = exchanges(source.positive, words, random.Random(f"{seed} words {drawn_for}"))
        text = replaced(source.positive, exchanged)
        if is_near:
            text = one_more(text, words, generator)
        count = pairs // passages + (number < pairs % passages)
        for place in range(count):
            asked = questions[source][place % len(questions[source])]
            query = one_more(replaced(asked, exchanged), words, generator)
            yield Pair(query, text, source.domain)


def exchanges(text: str, words: Sequence[str], generator: random.Random) -> dict[str, str]:
    """Other words for a share of those of a text, other numbers for all."""
    own = sorted(set(WORD.findall(text)))
    other = {word: re.sub(r"\d", lambda _: str(generator.randrange(10)), word) for word in own if not word.isalpha()}
    plain = [word for word in own if word.isalpha()]
    return other | {
        word: generator.choice(words) for word in generator.sample(plain, -(-len(plain) // round(1 / EXCHANGED)))
    }


def replaced(text: str, exchanged: dict[str, str]) -> str:
    """A text with its words exchanged."""
    return WORD.sub(lambda found: exchanged.get(found[0], found[0]), text)


def one_more(text: str, words: Sequence[str], generator: random.Random) -> str:
    """A text with one of its words, whichever, exchanged."""
    place = generator.choice([*WORD.finditer(text)])
    return f"{text[: place.start()]}{generator.choice(words)}{text[place.end() :]}"


if __name__ == "__main__":
    main()
