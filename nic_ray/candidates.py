"""Which weights a search ends with: the best trials', tried again, averaged, and drawn back towards the base."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nic_ray import encoder as encoders
from nic_ray import loop
from nic_ray.activations import Inputs, feed, frozen_inputs, token_inputs
from nic_ray.config import TrainConfig
from nic_ray.errors import InputError
from nic_ray.evaluation import embed, evaluate, query_scores, texts_to_score
from nic_ray.guard import Point, Queries
from nic_ray.pairs import Collection
from nic_ray.preparation import Prepared
from nic_ray.record import TrainingState
from nic_ray.retrieval import flat_metrics

ALPHAS = tuple(step / 10 for step in range(1, 11))


@dataclass(frozen=True)
class Candidate:
    """A configuration with the weights of its best evaluation."""

    name: str
    config: TrainConfig
    metrics: Mapping[str, float]
    """Of its best evaluation, on the validation rows."""
    weights: Mapping[str, Tensor]
    """Of the blocks above its cut; none where candidates are only compared: all of them might not fit into memory."""
    members: tuple["Candidate", ...] = ()
    """The candidates, without their weights, whose mean these are; none for a trial's own."""
    epochs: float | None = None
    """That it was trained, of those that its configuration asks for; None where that is not known."""
    finished: bool = True
    """Whether it came to its own end, and was not stopped or cut off before."""


@dataclass(frozen=True)
class Confirmation:
    """A configuration's objective on the validation rows, by the seed that it was trained with."""

    trial: str
    values: Mapping[int, float]
    epochs: float | None = None
    """That it was trained with each of them."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def spread(self) -> float:
        """The highest value minus the lowest."""
        return max(self.values.values()) - min(self.values.values())


@dataclass(frozen=True)
class Probe:
    """Questions from other fields: what a model still finds there shows what its tuning has forgotten."""

    collection: Collection
    inputs: Mapping[int, Inputs]
    """By frozen_layers."""
    base: Mapping[str, float]
    """Macro "recall_at_5" and "mrr" of the base model on it."""


def best_of(name: str, config: TrainConfig, state: TrainingState) -> Candidate:
    """The best evaluation in a training's last state."""
    best, epochs = state["best"], state["metrics"]["epoch"]
    return Candidate(name, config, best["metrics"], best["upper"], epochs=epochs, finished=state["finished"])


def best_first(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Candidates by objective, then mrr/macro, then the earlier epoch."""

    def order(candidate: Candidate) -> tuple[float, float, float]:
        metrics = candidate.metrics
        return metrics[objective], metrics["mrr/macro"], -metrics["epoch"]

    return sorted(candidates, key=order, reverse=True)


def confirm(tried: Sequence[Sequence[Candidate]], objective: str) -> tuple[Candidate, list[Confirmation]]:
    """The best of some configurations over their seeds, and what each was worth.

    Each is judged by the mean of what is known of it. One whose further trainings were cut off, or have failed, keeps
    the value that it was chosen for: that flatters it beside a mean with fresh seeds, by about the spread over seeds.
    To put it behind the others for that would let a training that happened to end decide, by any difference.
    Where the means are equal, more seeds are better.

    Args:
        tried: for each configuration its candidates, one a seed; the first one is the search's own.

    Returns:
        of the configuration with the best mean the best candidate; and the configurations, the best first.
    """
    found = [
        (Confirmation(own[0].name, {each.config.seed: each.metrics[objective] for each in own}, own[0].epochs), own)
        for own in tried
    ]
    # the sort keeps the order of equals
    found.sort(key=lambda each: (-each[0].mean, -len(each[0].values)))
    return best_first(found[0][1], objective)[0], [confirmation for confirmation, _ in found]


def averaged(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    candidates: Iterable[Candidate],
    objective: str,
    *,
    most: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Candidate:
    """The mean of candidates' weights, as far as each of them makes it better on the validation rows.

    Trials start from the same weights and go the same way, so the mean of two is a model too, and often a
    better one than either. The first candidate begins; each next one joins if the mean with it is better than
    without: by objective, then mrr/macro. Beside the mean, the weights of one candidate are held at a time.

    Args:
        inputs: by depth, at those of the candidates.
        candidates: the winner, then others, the best first. They are asked for one by one.
        most: candidates that the mean may have; None for any number.
        say: is told of each that joins.

    Returns:
        the first candidate itself if no other one helps; else a candidate whose configuration is that one's
        with the shallowest cut of the members, below which none of them was trained.

    Source: greedy soup, Wortsman et al. 2022, arXiv:2203.05482, algorithm 1.
    """
    left = iter(candidates)
    first = next(left)
    mean, members = first, [first]
    while len(members) != most and (candidate := next(left, None)) is not None:
        depth = min(mean.config.frozen_layers, candidate.config.frozen_layers)
        own = weights_at(prepared, candidate, depth)
        weights = {
            name: value.lerp(own[name], 1 / (len(members) + 1))
            for name, value in weights_at(prepared, mean, depth).items()
        }
        found = _validated(prepared, inputs[depth], depth, weights)
        if (found[objective], found["mrr/macro"]) > (mean.metrics[objective], mean.metrics["mrr/macro"]):
            members.append(replace(candidate, weights={}))
            config = first.config.model_copy(update={"frozen_layers": depth})
            mean = Candidate(f"{mean.name} + {candidate.name}", config, {**mean.metrics, **found}, weights)
            say(f"the mean with {candidate.name}: {objective} {found[objective]:.4f} on validation")
    if len(members) == 1:
        return first
    return replace(mean, members=(replace(first, weights={}), *members[1:]))


def refitted(prepared: Prepared, inputs: Mapping[int, Inputs], winner: Candidate) -> Candidate:
    """The winner's configurations trained again, as long as they were, on the rows of all parts.

    Its metrics stay those of the winner: nothing is held back to measure it on.

    Args:
        inputs: by depth, at those of the winner and of its members.
    """
    depth, rows = winner.config.frozen_layers, np.arange(len(prepared.parts))
    total: dict[str, Tensor] = {}
    members = winner.members or (winner,)
    for member in members:
        own = inputs[member.config.frozen_layers]
        # with more rows an evaluation of the same name falls on another fraction of the epoch, by less than half a step
        enough = member.metrics["epoch"] - 0.5 / member.config.evaluations_per_epoch
        upper = encoders.upper_copy(prepared.encoder, member.config.frozen_layers, from_ids=own.are_ids)
        upper = upper.to(prepared.device)
        data = loop.TrainingData(prepared.collection, rows, feed(own, prepared.device), prepared.bf16)
        config = member.config.model_copy(update={"patience": None})  # nothing is measured that could stop it
        for evaluation in loop.fit(config, upper, data, loop.UNJUDGED):
            if evaluation.metrics["epoch"] > enough:
                break
        trained = Candidate(member.name, member.config, member.metrics, upper.trained_state())
        for name, value in weights_at(prepared, trained, depth).items():
            total[name] = total.get(name, 0) + value / len(members)
    return replace(winner, weights=total)


def front(
    prepared: Prepared, inputs: Inputs, winner: Candidate, base: Mapping[str, NDArray[np.float64]], probe: Probe | None
) -> list[Point]:
    """What the weights between the base model's and the winner's are worth, from alpha 0 to 1 in steps of 0.1.

    Args:
        inputs: at the winner's depth.
        base: the base model's scores at the validation queries.
        probe: None measures no retention.
    """
    domains = queries_of(prepared, "validation").domains
    at_base = None if probe is None else dict.fromkeys(probe.base, 0.0)
    points = [Point(0.0, flat_metrics(base, domains), base, at_base)]
    for alpha in ALPHAS:
        weights = interpolated(prepared, winner, alpha)
        depth = winner.config.frozen_layers
        scores = scores_of(prepared, inputs, depth, weights, "validation")
        kept = None if probe is None else retention_of(prepared, probe, replace(winner, weights=weights))
        points.append(Point(alpha, flat_metrics(scores, domains), scores, kept))
    return points


def interpolated(prepared: Prepared, candidate: Candidate, alpha: float) -> dict[str, Tensor]:
    """Weights alpha * the candidate's + (1 - alpha) * the base model's, above the candidate's cut.

    Source: WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903.
    """
    base = encoders.upper_copy(prepared.encoder, candidate.config.frozen_layers, from_ids=False).trained_state()
    return {name: value.lerp(candidate.weights[name].to(value), alpha) for name, value in base.items()}


def _validated(
    prepared: Prepared, inputs: Inputs, frozen_layers: int, weights: Mapping[str, Tensor]
) -> dict[str, float]:
    """Flat metrics of some weights above a cut, on the validation rows."""
    upper = encoders.upper_copy(prepared.encoder, frozen_layers, from_ids=inputs.are_ids).to(prepared.device)
    upper.load_trained_state(dict(weights))
    source, rows = feed(inputs, prepared.device), prepared.rows("validation").tolist()
    return evaluate(upper, source, prepared.collection, rows, bf16=prepared.bf16)


def weights_at(prepared: Prepared, candidate: Candidate, depth: int) -> dict[str, Tensor]:
    """A candidate's weights above a cut that is no deeper than its own: those between are the base model's."""
    encoder = copy.deepcopy(prepared.encoder)
    encoders.upper(encoder, candidate.config.frozen_layers).load_trained_state(dict(candidate.weights))
    return encoders.upper(encoder, depth).trained_state()


def load_probe(prepared: Prepared, collection: Collection, depths: Sequence[int]) -> Probe:
    """Run a probe's texts through the frozen blocks, for each depth that it will be scored at, and score the base.

    Raises:
        InputError: the base model's embeddings of them are not finite.
    """
    encoder, config = prepared.encoder, prepared.config.train
    tokens = token_inputs(encoder, collection.texts, config.max_tokens, collection.is_query)
    wanted = sorted(set(depths)) if encoder.can_be_cut else []
    found = frozen_inputs(encoder, tokens, wanted, device=prepared.device, bf16=prepared.bf16)
    inputs = {depth: found.get(depth, tokens) for depth in depths}
    deepest = max(inputs)
    try:
        return Probe(collection, inputs, _probe_metrics(prepared, collection, inputs[deepest], deepest, None))
    except ValueError:
        raise _not_finite(prepared) from None


def retention_of(prepared: Prepared, probe: Probe, candidate: Candidate) -> dict[str, float]:
    """Macro "recall_at_5" and "mrr" of a candidate on the probe, minus the base model's."""
    depth = candidate.config.frozen_layers
    found = _probe_metrics(prepared, probe.collection, probe.inputs[depth], depth, candidate.weights)
    return {name: found[name] - probe.base[name] for name in found}


def queries_of(prepared: Prepared, part: str) -> Queries:
    """Passage and domain of each row of a part; passages that are nearly the same count as one."""
    rows = prepared.rows(part)
    return Queries(prepared.passages[rows], [prepared.collection.domains[row] for row in rows.tolist()])


def scores_of(
    prepared: Prepared, inputs: Inputs, frozen_layers: int, weights: Mapping[str, Tensor] | None, part: str
) -> dict[str, NDArray[np.float64]]:
    """Recall@5 and reciprocal rank of each query of a part.

    Args:
        inputs: at the depth of `frozen_layers`.
        weights: of the blocks above the cut; None for the base model's own.

    Raises:
        ValueError: an embedding is not finite.
    """
    collection, rows = prepared.collection, prepared.rows(part).tolist()
    texts = texts_to_score(collection, rows)
    similarity = "cosine" if weights is not None else prepared.encoder.similarity
    embeddings = embedded(prepared, inputs, frozen_layers, weights, texts)
    return query_scores(embeddings, texts, collection, rows, similarity=similarity)


def base_scores(prepared: Prepared, inputs: Mapping[int, Inputs], part: str) -> dict[str, NDArray[np.float64]]:
    """The base model's scores at the queries of a part.

    Raises:
        InputError: its embeddings are not finite.
    """
    return scores_of_base(prepared, base_embeddings(prepared, inputs, part), part)


def base_embeddings(
    prepared: Prepared, inputs: Mapping[int, Inputs], part: str, *, done: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """(n, D) embeddings of the texts that scoring a part needs, by the base model.

    Args:
        inputs: by depth; whatever lies above a cut is the base model's own, so the deepest costs least.
        done: is told how many more texts are embedded.
    """
    depth = max(inputs)
    texts = texts_to_score(prepared.collection, prepared.rows(part).tolist())
    return embedded(prepared, inputs[depth], depth, None, texts, done=done)


def scores_of_base(prepared: Prepared, embeddings: NDArray[np.float32], part: str) -> dict[str, NDArray[np.float64]]:
    """`base_scores`, from `base_embeddings`.

    Raises:
        InputError: the embeddings are not finite.
    """
    rows = prepared.rows(part).tolist()
    texts = texts_to_score(prepared.collection, rows)
    try:
        return query_scores(embeddings, texts, prepared.collection, rows, similarity=prepared.encoder.similarity)
    except ValueError:
        raise _not_finite(prepared) from None


def _not_finite(prepared: Prepared) -> InputError:
    return InputError(
        f"{prepared.encoder.name}: gives embeddings that are not finite, so there is nothing to tune; name "
        "another train.base_model"
    )


def embedded(
    prepared: Prepared,
    inputs: Inputs,
    frozen_layers: int,
    weights: Mapping[str, Tensor] | None,
    texts: NDArray[np.int64],
    *,
    done: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """(n, D) embeddings of texts (n,) by some weights above a cut; None for the base model's own."""
    upper = encoders.upper_copy(prepared.encoder, frozen_layers, from_ids=inputs.are_ids).to(prepared.device)
    if weights is not None:
        upper.load_trained_state(dict(weights))
    return embed(upper, feed(inputs, prepared.device), texts, bf16=prepared.bf16, done=done)


def _probe_metrics(
    prepared: Prepared,
    collection: Collection,
    inputs: Inputs,
    frozen_layers: int,
    weights: Mapping[str, Tensor] | None,
) -> dict[str, float]:
    rows = list(range(len(collection.query)))
    texts = texts_to_score(collection, rows)
    embeddings = embedded(prepared, inputs, frozen_layers, weights, texts)
    similarity = "cosine" if weights is not None else prepared.encoder.similarity
    scores = query_scores(embeddings, texts, collection, rows, similarity=similarity)
    found = flat_metrics(scores, collection.domains)
    return {name: found[f"{name}/macro"] for name in ("recall_at_5", "mrr")}
