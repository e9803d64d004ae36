"""A prepared encoder is shared: whoever is handed it leaves it bit for bit as it was loaded, at every moment."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig

from nic_ray.bundle import comparison, onnx, retriever
from nic_ray.bundle import files as bundles
from nic_ray.config import Config
from nic_ray.dataset.pairs import Pair, index_pairs
from nic_ray.model import base, encoder, whole_models
from nic_ray.model.activations import Inputs, feed, frozen_inputs, upper_for
from nic_ray.model.cache import Budget, inputs_by_depth, is_kept, run_here
from nic_ray.model.encoder import Encoder, lower, upper, whole
from nic_ray.model.evaluation import evaluate
from nic_ray.progress import View
from nic_ray.selection import export
from nic_ray.selection.averaging import averaged
from nic_ray.selection.candidates import Candidate, best_of
from nic_ray.selection.interpolation import interpolation_path
from nic_ray.selection.refit import refit, trained_again
from nic_ray.selection.retention import load_retention_set, retention_of
from nic_ray.selection.scoring import Scorer
from nic_ray.selection.selection import Contestants, judge
from nic_ray.training import mining
from nic_ray.training.loop import TrainingData, Validation, fit
from nic_ray.training.prepared import Prepared, prepare

OBJECTIVE = "recall_at_5/macro"
RETENTION_SET = index_pairs(
    [Pair(f"what is {word}?", f"{word} is a thing", "words") for word in "hot loose dirty noisy stuck worn".split()]
)


@dataclasses.dataclass(frozen=True)
class Given:
    """What a search has at its end."""

    prepared: Prepared
    inputs: dict[int, Inputs]
    candidates: list[Candidate]
    folder: Path


@pytest.fixture
def given(tiny_model, tiny_pairs_file, tmp_path) -> Callable[[str], Given]:
    """`given(kind)`: of a base model whose blocks are plain ("bert"), are its own ("mpnet"), or cannot be cut."""

    def make(kind: str) -> Given:
        train = {
            "base_model": str(tiny_model("mpnet" if kind == "mpnet" else "bert", 3)), "frozen_layers": 1,
            "max_tokens": 24, "precision": "fp32", "batch_size": 16, "epochs": 1, "learning_rate": 1e-3,
            "attention_dropout": 0.1, "hidden_dropout": 0.2,
        }  # fmt: skip
        data = {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25}
        config = Config.model_validate({"data": data, "train": train, "refit": "all", "guard": {"retention_set": None}})
        prepared = prepare(config, on_gpu=False)
        if kind == "cannot be cut":
            uncut = dataclasses.replace(prepared.encoder, block_output=None, plain=False)
            prepared = dataclasses.replace(prepared, encoder=uncut)
        inputs = {depth: dataclasses.replace(prepared.tokens, depth=depth) for depth in (1, 2)}
        if prepared.encoder.can_be_cut:
            inputs = frozen_inputs(prepared.encoder, prepared.tokens, [1, 2])
        return Given(prepared, inputs, [trained(prepared, own) for own in inputs.values()], tmp_path)

    return make


def trained(prepared: Prepared, inputs: Inputs, *, bf16: bool = False) -> Candidate:
    config = prepared.config.train.model_copy(update={"frozen_layers": inputs.depth})
    source, rows = feed(inputs, "cpu"), prepared.rows("validation").tolist()
    *_, last = fit(
        config,
        upper_for(prepared.encoder, inputs),
        TrainingData(prepared.collection, prepared.rows("train"), source, bf16),
        Validation(lambda part: evaluate(part, source, prepared.collection, rows, bf16=bf16), OBJECTIVE),
    )
    return best_of(f"trial-{inputs.depth}", config, last.state)


def fingerprint(shared: Encoder) -> dict[str, Any]:
    """All of an encoder that somebody could change, by where it is."""
    model = shared.model
    tensors = [*model.named_parameters(), *model.named_buffers()]
    found = {
        name: (id(value), value.detach().numpy().tobytes(), value.requires_grad, value.device.type, value.dtype)
        for name, value in tensors
    }
    found |= {f"inference of {name}": value.is_inference() for name, value in tensors}
    for name, part in model.named_modules():
        found[f"module {name}"] = (id(part), type(part), part.training, getattr(part, "p", None), list(part._modules))
    for name in ("max_seq_length", "similarity_fn_name", "prompts", "default_prompt_name", "truncate_dim"):
        found[name] = repr(getattr(model, name))
    config = shared.transformer.config
    return found | {"config": config.to_dict(), "attention": config._attn_implementation}


@contextmanager
def watched(shared: Encoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is set meanwhile on a module, a config or a tensor of an encoder, though it be put back."""
    mine = {id(part): name for name, part in shared.model.named_modules()}
    mine |= {id(value): name for name, value in shared.model.named_parameters()}
    mine[id(shared.transformer.config)] = "config"
    touched: list[str] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: Any, *args: Any, **named: Any) -> Any:
            if id(self) in mine:
                touched.append(f"{args[0] if args else function.__name__} of {mine[id(self)]}")
            return function(self, *args, **named)

        return noted

    with monkeypatch.context() as patches:
        for kind in (torch.nn.Module, PreTrainedConfig):
            patches.setattr(kind, "__setattr__", noting(kind.__setattr__))
        patches.setattr(torch.Tensor, "requires_grad_", noting(torch.Tensor.requires_grad_))
        yield touched


def operations(given: Given) -> dict[str, Callable[[], object]]:
    """All that is done with a prepared encoder, by name."""
    prepared, inputs, (first, second) = given.prepared, given.inputs, given.candidates
    shared, rows = prepared.encoder, prepared.rows("validation")
    retention_set = load_retention_set(prepared, RETENTION_SET, [1, 2])
    base_scores = Scorer(prepared, inputs[2]).scores(None, rows)
    winner = dataclasses.replace(first, metrics={**first.metrics, "step": 3.0})
    worse = [dataclasses.replace(each, metrics={**each.metrics, OBJECTIVE: 0.0}) for each in given.candidates]

    def kept() -> None:
        room, chain = Budget(1e9, 1e9, given.folder / "kept"), run_here("cpu", bf16=True)
        inputs_by_depth(shared, prepared.tokens, [2, 1], room, bf16=True, chain=chain, view=View())
        is_kept(shared, prepared.tokens, [2, 1], room, bf16=True)

    def judged() -> None:
        found = judge(
            prepared, inputs, Contestants({"first trial": first}, [first, second], []), retention_set,
            export_anyway=True, say=lambda _: None,
        )  # fmt: skip
        refit(prepared, inputs, found, retention_set)

    def mined() -> None:
        pytest.importorskip("datasets")
        rows = list(range(len(prepared.collection.query)))
        mining.mine_negatives(shared, prepared.collection, rows, count=1, relative_margin=0.0, max_tokens=16)

    def searched() -> None:
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(retriever.bundles, "load_base_of", lambda _: shared)
            retriever.retriever(given.folder / "model", prepared.config.data.pairs, say=lambda _: None).ask(
                "a hot rotor", 2
            )

    def compared() -> None:
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(comparison, "load", lambda _: shared)
            comparison.compare_with_base(str(given.folder / "model"), prepared.config.data.pairs, "validation")

    return {
        "frozen blocks": lambda: shared.can_be_cut and frozen_inputs(shared, prepared.tokens, [1, 2], bf16=True),
        "kept activations": kept,
        "training": lambda: trained(prepared, inputs[1]),
        "training in 16 bits": lambda: trained(prepared, dataclasses.replace(prepared.tokens, depth=1), bf16=True),
        "evaluation": lambda: whole_models.evaluate_encoder(shared, prepared.collection, rows.tolist(), 24),
        "score of the base model": lambda: Scorer(prepared, inputs[1]).metrics(None, rows),
        "score of trained weights": lambda: Scorer(prepared, inputs[1]).metrics(first.weights, rows),
        "retention_set": lambda: load_retention_set(prepared, RETENTION_SET, [1, 2]),
        "retention": lambda: retention_of(prepared, retention_set, second),
        "path to the base model": lambda: interpolation_path(prepared, inputs[1], first, base_scores, retention_set),
        "averaging": lambda: averaged(prepared, inputs, worse).candidate,
        "training again": lambda: trained_again(prepared, inputs, first, prepared.rows("validation")),
        "judgement": judged,
        "export": lambda: export.export(
            prepared, winner, {"results": {}}, given.folder / "model", training_log="", overwrite=False, view=View(),
        ),
        "mining": mined,
        "retrieval": searched,
        "comparison": compared,
    }  # fmt: skip


def assert_all_leave_it(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = given.prepared.encoder
    for name, operation in operations(given).items():
        before = fingerprint(shared)
        with watched(shared, monkeypatch) as touched:
            operation()
        after = fingerprint(shared)
        changed = [place for place in before | after if before.get(place) != after.get(place)]
        assert not changed, f"{name} has changed {', '.join(changed[:3])}"
        assert not touched, f"{name} has set {', '.join(touched[:3])}"


@pytest.mark.parametrize("kind", ["bert", "mpnet", "cannot be cut"])
def test_nothing_that_is_handed_a_prepared_encoder_changes_it(given, monkeypatch, kind):
    assert_all_leave_it(given(kind), monkeypatch)


def into_the_shared_one(shared: Encoder, depth: int, weights: Any) -> Encoder:
    for name, value in encoder.base_weights(shared, depth).items():
        value.copy_(weights[name])
    return shared


def with_its_own_length(shared: Encoder, max_tokens: int) -> Any:
    shared.model.max_seq_length = max_tokens
    return shared.model


def in_training_mode(shared: Encoder, device: str = "cpu") -> Any:
    part = encoder._cut(shared, 0).upper
    part.train()
    return part


PLANTED = {
    "what trains is no copy": (encoder, "copy", SimpleNamespace(deepcopy=lambda value: value), "training has"),
    "what is run is made of the shared modules": (
        encoder,
        "sharing_weights",
        lambda module: module,
        "frozen blocks has",
    ),
    "a whole model is left with dropout on": (whole_models, "whole", in_training_mode, "evaluation has"),
    "an export writes into the base model": (export.encoders, "with_weights", into_the_shared_one, "export has"),
    "a limit is set on the base model": (encoder, "plain_model", with_its_own_length, "mining has"),
    "a retriever cuts off texts of the base model": (retriever, "plain_model", with_its_own_length, "retrieval has"),
}
"""What is planted, and where it is found."""


@pytest.mark.parametrize("fault", PLANTED)
def test_a_change_of_the_shared_encoder_is_found(given, monkeypatch, fault):
    everything = given("mpnet")
    room, name, planted, said = PLANTED[fault]
    monkeypatch.setattr(room, name, planted)
    with pytest.raises(AssertionError, match=said):
        assert_all_leave_it(everything, monkeypatch)


def test_a_conversion_changes_nothing_of_the_model_that_it_is_given(tiny_model, tiny_pairs_file, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx, "TIMED", 10)
    source = str(tiny_model())
    metadata = {"name": "tuned", "base_model": source, "data": {"sha256": bundles.file_sha256(tiny_pairs_file)}}
    bundles.write_bundle(tmp_path / "tuned", base.load(source).model, metadata, training_log="")
    shared = base.load(str(tmp_path / "tuned"))
    monkeypatch.setattr(bundles, "load", lambda _: shared.model)
    before = fingerprint(shared)
    onnx.convert(tmp_path / "tuned", tmp_path / "graph", "onnx", tiny_pairs_file, overwrite=False, say=lambda _: None)
    assert fingerprint(shared) == before


@pytest.mark.parametrize("kind", ["bert", "mpnet", "cannot be cut"])
def test_parts_that_are_run_share_the_weights_of_the_encoder_and_those_that_train_do_not(given, kind):
    shared = given(kind).prepared.encoder
    own = {value.data_ptr() for value in shared.model.parameters()}

    def shares(part: torch.nn.Module) -> set[bool]:
        return {value.data_ptr() in own for value in part.parameters()}

    assert shares(whole(shared)) == {True}
    assert shares(upper(shared, 1, from_ids=True)) == {False}
    if shared.can_be_cut:
        assert shares(lower(shared, 0, 2)) == {True}
