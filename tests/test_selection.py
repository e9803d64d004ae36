"""How a search's best is judged: on rows that a tiny model can learn, and on the order of what is read."""

import dataclasses
import json

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray.bundle.card_evidence import evidence_section
from nic_ray.config import Config
from nic_ray.config_file import dump_config
from nic_ray.dataset.pairs import Pair, index_pairs
from nic_ray.metrics.fusion import FUSIONS, Fusion
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model.activations import feed, frozen_inputs
from nic_ray.model.encoder import upper
from nic_ray.model.evaluation import Asked, evaluate, fused_scores, score, texts_to_score
from nic_ray.model.whole_models import evaluate_encoder
from nic_ray.report.html import write_page
from nic_ray.report.terminal import show_result
from nic_ray.results import IN_DOMAIN
from nic_ray.search import outcome
from nic_ray.selection import selection
from nic_ray.selection.candidates import Confirmation, best_of
from nic_ray.selection.guard import Mixture
from nic_ray.selection.reading import read_once
from nic_ray.selection.retention import load_retention_set
from nic_ray.selection.scoring import Scorer
from nic_ray.selection.selection import Contestants, SearchResult, judge
from nic_ray.training.loop import TrainingData, Validation, fit
from nic_ray.training.prepared import prepare
from tests.conftest import ACTIONS, FAULTS, PARTS


def judged(searched, *, export_anyway=False, retention_set=None, **changes):
    prepared, inputs, candidates = searched
    if changes:
        prepared = dataclasses.replace(prepared, config=prepared.config.model_copy(update=changes))
    said = []
    loaded = retention_set and load_retention_set(prepared, retention_set, list(inputs))
    found = judge(
        prepared, inputs,
        Contestants({"first trial": candidates[0]}, candidates, [Confirmation("trial-000", {42: 0.5, 43: 0.7}, 1.0)]),
        loaded,
        export_anyway=export_anyway, say=said.append,
    )  # fmt: skip
    return prepared, found, said


def read(prepared, inputs, candidate):
    fusions = selection._chosen_fusions(prepared, inputs, candidate, lambda _: None)
    return read_once(prepared, inputs, {"tuned": candidate}, fusions)


def test_the_one_reading_holds_every_model_and_protocol(searched):
    prepared, inputs, (candidate,) = searched(1)
    reading = read(prepared, inputs, candidate)
    assert list(reading.results) == ["test", IN_DOMAIN, "unseen_queries"]
    for own in reading.results.values():
        assert list(own) == ["base", "BM25", "tuned", "tuned + BM25"]
    by_words = {part: reading.results[part]["BM25"] for part in ("test", IN_DOMAIN)}
    assert all(by_words[IN_DOMAIN][name] >= value for name, value in by_words["test"].items())
    rows = prepared.rows("test").tolist()
    whole = evaluate_encoder(prepared.encoder, prepared.collection, rows, 64)
    assert reading.results["test"]["base"] == pytest.approx(whole, abs=1e-6)
    # fewer rivals: no query finds less
    inside = reading.results[IN_DOMAIN]
    assert all(inside["tuned"][name] >= value for name, value in reading.results["test"]["tuned"].items())
    interval = reading.intervals["tuned minus base"]["macro"]
    gain = reading.results["test"]["tuned"]["recall_at_5/macro"] - whole["recall_at_5/macro"]
    assert interval["difference"] == pytest.approx(gain, abs=1e-6)
    assert list(reading.recall) == ["base", "tuned", "tuned + BM25"]
    own = reading.recall_intervals["tuned"]["macro"]
    assert own["difference"] == pytest.approx(reading.results["test"]["tuned"]["recall_at_5/macro"])


def test_dimensions_that_were_trained_for_are_read_and_told(searched, tmp_path):
    prepared, inputs, (candidate,) = searched(1)
    trained = dataclasses.replace(candidate, config=candidate.config.model_copy(update={"dimensions": (8, 16)}))
    found = judge(
        prepared, inputs, Contestants({}, [trained], []), None, export_anyway=True, say=lambda _: None
    )  # fmt: skip
    sizes = found.evidence["truncate_dim"]
    assert [size["dimensions"] for size in sizes] == [16, 8]
    rows = prepared.rows("test").tolist()
    texts = texts_to_score(prepared.collection, rows)
    for label, weights in (("base", None), ("tuned", found.tuned.weights)):
        vectors = Scorer(prepared, inputs[1]).embeddings(weights, texts)[:, :8]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        flat = score(Asked(unit, texts, prepared.collection, rows, "dot"), "")
        assert sizes[1]["results"][label]["mrr/macro"] == pytest.approx(flat["mrr/macro"], abs=1e-9), label
    outcome.write_result(SearchResult(None, tmp_path, found, []), prepared, None)
    (tmp_path / "config.yaml").write_text(dump_config(prepared.config), encoding="utf-8")
    assert "truncate_dim=16" in write_page(tmp_path).read_text(encoding="utf-8")
    card = evidence_section({"name": "m", "base_model": "b", "objective": "mrr/macro", **found.evidence})
    assert f"| 8 | {sizes[1]['results']['base']['recall_at_5/macro']:.3f} |" in card
    plain = judge(prepared, inputs, Contestants({}, [candidate], []), None, export_anyway=True, say=lambda _: None)
    assert "truncate_dim" not in plain.evidence


def test_the_test_rows_are_noted_as_read_before_they_are_and_only_then(searched, monkeypatch):
    happened = []

    def note(model):
        happened.append(model)
        return [{"model": model}]

    def noted(*given):
        happened.append("read")
        return read_once(*given)

    monkeypatch.setattr(selection, "read_once", noted)
    prepared, inputs, candidates = searched(1)
    given = (prepared, inputs, Contestants({"first trial": candidates[0]}, candidates, []), None)
    found = judge(*given, export_anyway=True, say=lambda _: None, note_reading=note)
    assert happened == [found.tuned.name, "read"]
    assert found.evidence["readings"] == [{"model": found.tuned.name}]
    happened.clear()
    strict = prepared.config.guard.model_copy(update={"max_retention_loss": 0.0, "max_domain_drop": 0.0})
    prepared = dataclasses.replace(prepared, config=prepared.config.model_copy(update={"guard": strict}))
    monkeypatch.setattr(selection, "objections", lambda *_, **__: ["one"])
    found = judge(prepared, *given[1:], export_anyway=False, say=lambda _: None, note_reading=note)
    assert (happened, found.may_be_exported, "readings" in found.evidence) == ([], False, False)


def test_what_was_retrieved_agrees_with_the_figures(searched):
    prepared, inputs, (candidate,) = searched(1)
    reading = read(prepared, inputs, candidate)
    found, passages = reading.queries["queries"], reading.queries["passages"]
    rows = prepared.rows("test").tolist()
    assert [each["query"] for each in found] == [prepared.collection.texts[q] for q in prepared.collection.query[rows]]
    assert [each["recall"]["tuned"] for each in found] == reading.recall["tuned"].tolist()
    for each in found:
        numbers, cosines = zip(*each["retrieved"], strict=True)
        assert len(set(numbers)) == 5
        assert list(cosines) == sorted(cosines, reverse=True)
        assert {str(number) for number in (each["passage"], *numbers)} <= passages.keys()
        # each query of these pairs has one answer
        assert (each["passage"] in numbers[: each["rank"]]) == (each["rank"] <= 5)
    assert json.loads(json.dumps(reading.queries)) == reading.queries


def test_what_the_validation_rows_refuse_leaves_the_test_rows_unread(searched, monkeypatch):
    def refuse(*_):
        raise AssertionError("the test rows were read")

    monkeypatch.setattr(selection, "read_once", refuse)
    _, found, _ = judged(searched(1))
    assert not found.may_be_exported
    assert list(found.results) == ["validation"]
    assert found.evidence["guard"]["objections"]
    assert not found.evidence["guard"]["overridden"]
    assert found.evidence["confirmed"] == [
        {
            "trial": "trial-000",
            "epochs": 1.0,
            "by_seed": {42: 0.5, 43: 0.7},
            "seeds": 2,
            "mean": pytest.approx(0.6),
            "spread": pytest.approx(0.2),
        }
    ]


def test_epochs_stand_beside_each_model_that_is_compared(searched):
    prepared, inputs, (first, other) = searched(1, 1)
    first = dataclasses.replace(first, epochs=1.0, finished=False)
    other = dataclasses.replace(other, epochs=3.0, metrics=other.metrics | {"epoch": 2.5})
    found = judge(
        prepared,
        inputs,
        Contestants({"first trial": first}, [other], []),
        None,
        export_anyway=False,
        say=lambda _: None,
    )
    assert found.evidence["trained"] == {
        "first trial": [
            {"trial": "trial-000", "epochs": 1.0, "of": 3, "best_epoch": 1.0, "finished": False},
        ],
        "tuned": [{"trial": "trial-001", "epochs": 3.0, "of": 3, "best_epoch": 2.5, "finished": True}],
    }


def test_words_and_vectors_are_judged_on_validation_and_read_on_test(searched):
    prepared, found, _ = judged(searched(1), export_anyway=True)
    words, flat = found.evidence["word_search"], found.results
    assert list(words["figures"]) == ["validation", "test"]
    for part, figures in words["figures"].items():
        rows = prepared.rows(part)
        assert figures["BM25"] == macro(flat[part]["BM25"])
        assert (
            figures["base"]
            == macro(flat[part]["base"])
            == pytest.approx(
                macro(evaluate_encoder(prepared.encoder, prepared.collection, rows.tolist(), 64)), abs=1e-6
            )
        )
        assert figures["tuned"] == pytest.approx(macro(flat[part]["tuned"]))
        fusion = Fusion(**words["chosen"]["tuned"])
        assert figures[f"tuned, {fusion}"] == macro(flat[part]["tuned + BM25"])
        assert "tuned, reciprocal rank fusion" in figures
    on_validation = words["figures"]["validation"]
    forms = [value["recall_at_5/macro"] for label, value in on_validation.items() if label.startswith("tuned, ")]
    assert on_validation[f"tuned, {fusion}"]["recall_at_5/macro"] == max(forms)
    gain = max(forms) - on_validation["tuned"]["recall_at_5/macro"]
    assert words["gain"]["difference"] == pytest.approx(gain)
    assert words["helps"] == (words["gain"]["low"] is not None and words["gain"]["low"] > 0)
    read = found.evidence["intervals"]["tuned + BM25 minus tuned"]["macro"]["difference"]
    after = flat["test"]["tuned + BM25"]["recall_at_5/macro"] - flat["test"]["tuned"]["recall_at_5/macro"]
    assert read == pytest.approx(after)


@pytest.mark.parametrize("objective", ["recall_at_5/fused", "mrr/fused"])
def test_a_search_may_be_for_the_best_partner_of_a_search_by_words(searched, objective, tmp_path):
    prepared, inputs, candidates = searched(1, 2)
    settings = prepared.config.search.model_copy(update={"objective": objective})
    prepared = dataclasses.replace(prepared, config=prepared.config.model_copy(update={"search": settings}))
    rows = prepared.rows("validation")
    for number, candidate in enumerate(candidates):
        found = Scorer(prepared, inputs[candidate.config.frozen_layers]).metrics(candidate.weights, rows)
        candidates[number] = dataclasses.replace(candidate, metrics={**candidate.metrics, **found})
    found = judge(
        prepared, inputs, Contestants({"first trial": candidates[0]}, candidates, []), None,
        export_anyway=True, say=lambda _: None,
    )  # fmt: skip
    metric, words = objective.partition("/")[0], found.evidence["word_search"]
    for part, figures in words["figures"].items():
        fusion = Fusion(**words["chosen"]["tuned"])
        assert found.results[part]["tuned"][objective] == figures[f"tuned, {fusion}"][f"{metric}/macro"]
    assert all(objective in row for row in found.evidence["front"])
    (tmp_path / "config.yaml").write_text(dump_config(prepared.config))
    outcome.write_result(SearchResult(None, tmp_path, found, []), prepared, None)
    page = write_page(tmp_path).read_text()
    assert "cannot be shown" not in page
    assert "<td>fused</td>" not in page


def test_what_is_chosen_by_is_the_best_fusion_of_each_model(searched):
    prepared, inputs, (candidate,) = searched(1)
    rows = prepared.rows("validation").tolist()
    texts = texts_to_score(prepared.collection, rows)
    embeddings = Scorer(prepared, inputs[1]).embeddings(candidate.weights, texts)
    asked = Asked(embeddings, texts, prepared.collection, rows)
    flat, found = score(asked, "mrr/fused"), fused_scores(asked, FUSIONS)
    assert flat["mrr/fused"] == max(flat_metrics(found[each], asked.domains)["mrr/macro"] for each in FUSIONS)
    assert score(asked).keys() == flat.keys() - {
        "mrr/fused",
        "recall_at_5/fused",
    }


def macro(flat):
    return {name: flat[name] for name in ("recall_at_5/macro", "mrr/macro")}


def test_the_chance_of_a_first_hit_is_set_on_validation_and_read_on_test(searched):
    prepared, found, _ = judged(searched(1), export_anyway=True)
    calibration, words = found.evidence["calibration"], found.evidence["word_search"]
    expected = words["chosen"]["tuned"] if words["helps"] else {"form": "vectors", "weight": 0.0}
    assert calibration["ranking"] == expected
    assert list(calibration["readings"]) == ["validation", "test"]
    for part, reading in calibration["readings"].items():
        assert reading["queries"] == len(prepared.rows(part))
        assert sum(row["queries"] for row in reading["reliability"]) == reading["queries"]
    own = calibration["readings"]["validation"]
    # isotonic regression is calibrated on the rows that it is fitted to, which are these and two imagined ones
    assert own["brier"] <= own["brier_of_the_mean"] + 2 / own["queries"]
    stated = sum(row["chance"] * row["queries"] for row in own["reliability"]) / own["queries"]
    assert stated == pytest.approx(own["right"], abs=1 / own["queries"])


def test_objections_can_be_overridden_and_that_is_kept(searched):
    _, found, _ = judged(searched(1), export_anyway=True)
    assert found.may_be_exported
    assert found.evidence["guard"]["overridden"]
    assert {objection.partition(":")[0] for objection in found.evidence["guard"]["objections"]} >= {"validation"}
    assert set(found.results) == {"validation", "test", IN_DOMAIN, "unseen_queries"}


def test_a_model_that_forgets_whatever_the_mix_is_refused(searched, monkeypatch):
    def path(prepared, inputs, winner, base, retention_set, general, alphas):
        size = len(prepared.rows("validation"))
        return [
            Mixture(alpha, {"recall_at_5/macro": 0.1 + alpha, "mrr/macro": 0.5, "recall_at_5/worst": 0.0},
                  {"recall_at_5": np.full(size, alpha), "mrr": np.full(size, alpha)},
                  {"recall_at_5": -0.2 * alpha - 0.05 * (alpha > 0), "mrr": 0.0})
            for alpha in (0.0, *alphas)
        ]  # fmt: skip

    monkeypatch.setattr(selection, "interpolation_path", path)
    _, found, _ = judged(searched(1))
    assert found.evidence["guard"]["objections"][0] == (
        "retention: every mix with the base model loses at least 0.07 Recall@5 on the retention set, more than "
        "guard.max_retention_loss 0.05; lower the learning rates or the epochs, or hold the model (train.anchor)"
    )
    assert found.evidence["alpha"] == 1.0  # the best by the objective, for whoever overrides


def test_the_exported_weights_are_those_that_were_chosen(searched):
    _, found, said = judged(searched(1), export_anyway=True)
    assert found.tuned.metrics["recall_at_5/macro"] == pytest.approx(
        next(p for p in found.evidence["front"] if p["alpha"] == found.evidence["alpha"])["recall_at_5/macro"]
    )
    assert any("of the way from the base model to it" in line for line in said)


def test_what_is_stored_has_the_passages_of_each_part_and_a_line_for_each_domain(searched, tmp_path, capsys):
    prepared, found, _ = judged(searched(1), export_anyway=True)
    assert found.evidence["passages"]["test"] == {"pumps": 2, "radios": 2, "trucks": 2, "macro": 6}
    outcome.write_result(SearchResult(tmp_path, tmp_path, found, []), prepared, None)
    lines = (tmp_path / "domains.csv").read_text().splitlines()
    assert lines[0].startswith("part,domain,passages,recall_at_5 base,mrr base")
    assert [line.split(",")[:3] for line in lines if line.startswith("test,")] == [
        ["test", "pumps", "2"], ["test", "radios", "2"], ["test", "trucks", "2"], ["test", "macro", "6"]
    ]  # fmt: skip
    show_result(SearchResult(tmp_path, tmp_path, found, []))
    printed = capsys.readouterr().out
    assert "sages" in printed
    assert f"all domains: {tmp_path / 'domains.csv'}" in printed


def test_own_intervals_stay_within_what_a_recall_can_be(searched):
    prepared, inputs, (candidate,) = searched(1)
    for own in read(prepared, inputs, candidate).recall_intervals.values():
        for each in own.values():
            assert each["low"] is None or 0 <= each["low"] <= each["difference"] <= each["high"] <= 1


def test_retention_is_told_of_the_first_trial_and_of_the_winner(searched, tiny_pairs):
    _, found, _ = judged(searched(1), retention_set=index_pairs(tiny_pairs[:20]))
    assert set(found.evidence["retention"]) == {"first trial", "tuned"}


def manual(permuted_with=None):
    """3 domains of 40 passages, 3 questions each; the questions exchanged at random if a seed is given."""
    rows = [
        Pair(words.format(part=part, fault=fault), f"{action} the {domain} {part} when it is {fault}.", domain)
        for domain, parts in PARTS.items()
        for part in parts.split()
        for fault, action in list(zip(FAULTS.split(), ACTIONS.split(), strict=True))[:5]
        for words in ("what to do about a {fault} {part}?", "my {part} is {fault}", "{part} {fault}")
    ]
    if permuted_with is None:
        return rows
    order = np.random.default_rng(permuted_with).permutation(len(rows))
    return [dataclasses.replace(row, query=rows[other].query) for row, other in zip(rows, order, strict=True)]


def tuned_on(pairs, tiny_model, folder):
    """What a search of one trial would have at its end."""
    path = folder / "pairs.jsonl"
    rows = ({"query": pair.query, "positive": pair.positive, "domain": pair.domain} for pair in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"pairs": str(path), "validation_share": 0.25, "test_share": 0.25, "query_share": 0}
    train = {"base_model": str(tiny_model()), "frozen_layers": 1, "learning_rate": 3e-3, "epochs": 6, "max_tokens": 64}
    guard = {"min_neighbours_kept": 0}
    prepared = prepare(Config.model_validate({"data": data, "train": train, "guard": guard}), on_gpu=False)
    inputs = frozen_inputs(prepared.encoder, prepared.tokens, [1])
    source, rows = feed(inputs[1], "cpu"), prepared.rows("validation").tolist()
    part = upper(prepared.encoder, 1)
    for evaluation in fit(
        prepared.config.train,
        part,
        TrainingData(prepared.collection, prepared.rows("train"), source),
        Validation(lambda model: evaluate(model, source, prepared.collection, rows), "recall_at_5/macro"),
    ):
        state = evaluation.state
    return prepared, inputs, [best_of("trial-000", prepared.config.train, state)]


def test_what_was_learned_is_exported(tiny_model, tmp_path):
    _, found, _ = judged(tuned_on(manual(), tiny_model, tmp_path))
    assert found.evidence["guard"]["objections"] == []
    assert found.may_be_exported


def test_noise_is_not_exported(tiny_model, tmp_path):
    _, found, _ = judged(tuned_on(manual(permuted_with=1), tiny_model, tmp_path))
    assert not found.may_be_exported
    assert "may be chance" in found.evidence["guard"]["objections"][0]


def test_the_one_reading_scores_the_base_by_its_own_similarity(searched, changed_model):
    folder = changed_model(prompts={"query": "pumps radios "}, similarity="dot", behind=[Pooling(32)], layers=3)
    prepared, inputs, (candidate,) = searched(1, base=folder)
    reading = read(prepared, inputs, candidate)
    rows = prepared.rows("test").tolist()
    expected = evaluate_encoder(prepared.encoder, prepared.collection, rows, 64)
    assert reading.results["test"]["base"] == pytest.approx(expected, abs=1e-6)
