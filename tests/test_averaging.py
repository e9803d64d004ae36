"""The mean of the best trials' weights, how many cross-fitting takes."""

import dataclasses
import weakref

import numpy as np
import pytest
import torch

from nic_ray.metrics.intervals import Queries
from nic_ray.model.encoder import base_weights
from nic_ray.selection import averaging
from nic_ray.selection.averaging import averaged, cross_fitted, halves, mean_weights, means_tried
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.scoring import Scorer

TRIALS = 40


def queries_of(passages, domains=2):
    """One query a passage, in turn of each domain."""
    return Queries(np.arange(passages), [f"domain {number % domains}" for number in range(passages)])


def candidates_of(count, **changes):
    return [Candidate(f"trial-{number:03d}", None, {}, {}, **changes) for number in range(count)]


def flat(values):
    return {"recall_at_5": np.asarray(values, float), "mrr": np.asarray(values, float)}


def test_noise_gains_nothing_by_being_chosen():
    """Of equally good candidates the best one seems better than it is, but not on passages that did not choose it."""
    random, queries = np.random.default_rng(0), queries_of(80)
    found, seeming = [], []
    for seed in range(TRIALS):
        scores = (random.uniform(size=(8, 80)) < 0.5).astype(float)
        seeming.append(scores.mean(axis=1).max())
        crossed = cross_fitted(
            lambda members, scores=scores: flat(scores[list(members)].mean(axis=0)),
            candidates_of(8), (1, 4), queries, "recall_at_5/macro", seed,
        )  # fmt: skip
        found.append((crossed[1], crossed[4]))
    error = 0.5 / np.sqrt(80 * TRIALS)
    assert np.mean(seeming) > 0.55
    assert np.abs(np.mean(found, axis=0) - 0.5).max() < 4 * error


def test_a_better_candidate_is_found_by_either_half():
    scores = np.tile([0.0, 0.25, 0.5, 1.0], (80, 1)).T
    crossed = cross_fitted(
        lambda members: flat(scores[list(members)].mean(axis=0)), candidates_of(4), (1, 2), queries_of(80),
        "recall_at_5/macro", 0,
    )  # fmt: skip
    assert crossed == {1: 1.0, 2: 0.75}


def test_what_was_forgotten_counts_against_a_candidate():
    scores = np.tile([0.75, 0.5], (80, 1)).T
    forgetful, other = candidates_of(2)
    for loss, expected in ((-0.2, 0.75), (-0.3, 0.5)):
        forgetful = dataclasses.replace(forgetful, retention={"recall_at_5": loss})
        other = dataclasses.replace(other, retention={"recall_at_5": 0.5})  # a gain elsewhere counts for nothing
        crossed = cross_fitted(
            lambda members: flat(scores[list(members)].mean(axis=0)), [forgetful, other], (1,), queries_of(80),
            "recall_at_5/macro", 0,
        )  # fmt: skip
        assert crossed == {1: expected}


@pytest.mark.parametrize("seed", range(5))
def test_halves_divide_each_domain_and_keep_a_passages_questions_together(seed):
    passages = np.repeat(np.arange(21), 4)
    queries = Queries(passages, [f"domain {passage % 3}" for passage in passages])
    first = halves(queries, (seed, 0))
    for number in range(21):
        assert len(set(first[passages == number].tolist())) == 1
    for number in range(3):
        own = {passage for passage in range(21) if passage % 3 == number}
        assert {3, 4} >= {sum(first[passages == passage].all() for passage in own)}
    assert (first != halves(queries, (seed, 1))).any()


def test_a_single_passage_cannot_be_divided():
    queries = Queries(np.zeros(4, int), ["a"] * 4)
    assert cross_fitted(lambda _: flat(np.ones(4)), candidates_of(2), (1, 2), queries, "mrr/macro", 0) == {}


def test_the_mean_of_as_many_as_cross_fitting_says_is_returned(searched, monkeypatch):
    prepared, inputs, candidates = searched(1, 1, 1, 1)
    said = []
    monkeypatch.setattr(averaging, "cross_fitted", lambda *_: {1: 0.5, 2: 0.75, 4: 0.7})
    found = averaged(prepared, inputs, candidates, say=said.append)
    first, *others = candidates
    others.sort(key=lambda one: (one.metrics["recall_at_5/macro"], one.metrics["mrr/macro"]), reverse=True)
    own = [first, others[0]]
    assert [member.name for member in found.candidate.members] == [one.name for one in own]
    assert found.candidate.name == " + ".join(one.name for one in own)
    assert not any(member.weights for member in found.candidate.members)
    for name, value in found.candidate.weights.items():
        torch.testing.assert_close(value, torch.stack([one.weights[name] for one in own]).mean(0))
    expected = Scorer(prepared, inputs[1]).metrics(found.candidate.weights, prepared.rows("validation"))
    assert {name: found.candidate.metrics[name] for name in expected} == expected
    assert found.candidate.metrics["epoch"] == 1.0
    assert found.cross_fitted == {1: 0.5, 2: 0.75, 4: 0.7}
    assert said[1] == "the mean of the best 2, chosen on one half of the validation passages: 0.7500 on the other"


@pytest.mark.parametrize("crossed", [{1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.4}, {}])
def test_the_best_trial_stays_alone_where_no_mean_is_better(searched, monkeypatch, crossed):
    prepared, inputs, candidates = searched(1, 2)
    monkeypatch.setattr(averaging, "cross_fitted", lambda *_: crossed)
    found = averaged(prepared, inputs, candidates)
    assert (found.candidate, found.cross_fitted) == (candidates[0], crossed)
    assert averaged(prepared, inputs, candidates[:1]) == averaging.Average(candidates[0], {})


@pytest.mark.parametrize(("candidates", "most"), [(8, None), (3, None), (14, None), (5, 2), (4, 1), (1, None)])
def test_no_more_means_are_evaluated_than_a_plan_says(searched, monkeypatch, candidates, most):
    read = []

    def scores(scorer, weights, rows):
        read.append(weights)
        return flat(np.random.default_rng(len(read)).uniform(size=len(rows)))

    monkeypatch.setattr(Scorer, "scores", scores)
    prepared, inputs, (candidate,) = searched(1)
    search = prepared.config.search.model_copy(update={"averaged_trials": most})
    prepared = dataclasses.replace(prepared, config=prepared.config.model_copy(update={"search": search}))
    averaged(prepared, inputs, [dataclasses.replace(candidate, name=f"{number}") for number in range(candidates)])
    assert len(read) <= means_tried(candidates, most)
    assert bool(read) == bool(means_tried(candidates, most))


def test_a_mean_over_unlike_depths_has_the_base_model_where_a_trial_was_frozen(searched):
    prepared, _, candidates = searched(2, 1)
    depth, weights = mean_weights(prepared, candidates, lambda candidate: candidate)
    assert depth == 1
    base = base_weights(prepared.encoder, 1)
    shallow, deep = candidates[1].weights, candidates[0].weights
    assert len(deep) < len(shallow) == len(weights)
    for name, value in weights.items():
        # block 1 of the model is the first above the shallow cut; block 2 the first above the deep one
        other = deep[name.replace("layer.1.", "layer.0.")] if "layer.1." in name else base[name]
        torch.testing.assert_close(value, (shallow[name] + other) / 2)


def test_a_mean_is_as_shallow_as_its_members_and_not_as_what_was_tried(searched, monkeypatch):
    prepared, inputs, candidates = searched(2, 1, 0)
    worse = {"recall_at_5/macro": 0.0, "mrr/macro": 0.0}
    candidates[2] = dataclasses.replace(candidates[2], metrics=candidates[2].metrics | worse)
    monkeypatch.setattr(averaging, "cross_fitted", lambda *_: {1: 0.5, 2: 0.75})
    found = averaged(prepared, inputs, candidates).candidate
    assert [member.name for member in found.members] == ["trial-000", "trial-001"]
    assert found.config.frozen_layers == 1


@pytest.mark.parametrize(("most", "tried"), [(1, []), (2, [1, 2]), (3, [1, 2]), (None, [1, 2, 4])])
def test_the_mean_has_no_more_members_than_it_may_have(searched, monkeypatch, most, tried):
    prepared, inputs, candidates = searched(1, 1, 1, 1)
    search = prepared.config.search.model_copy(update={"averaged_trials": most})
    prepared = dataclasses.replace(prepared, config=prepared.config.model_copy(update={"search": search}))
    asked = []
    monkeypatch.setattr(averaging, "cross_fitted", lambda _, __, sizes, *___: asked.extend(sizes) or {})
    averaged(prepared, inputs, candidates)
    assert asked == tried


def test_the_weights_of_one_candidate_at_a_time_are_held(searched):
    prepared, inputs, candidates = searched(1, 1, 1, 1)
    bare = [dataclasses.replace(candidate, weights={}) for candidate in candidates]
    by_name = {candidate.name: candidate for candidate in candidates}
    tensors, alive = [], []

    def load(candidate):
        alive.append(sum(each() is not None for each in tensors))
        weights = {name: value.clone() for name, value in by_name[candidate.name].weights.items()}
        tensors.append(weakref.ref(next(iter(weights.values()))))
        return dataclasses.replace(candidate, weights=weights)

    found = averaged(prepared, inputs, bare, load=load).candidate
    # the last one is still the loop's own when the next is asked for, and a mean of one is that candidate
    assert max(alive) <= 2
    assert found.weights
