"""General text: what comes with the interpreter, or what a user names."""

import contextlib
import dataclasses
import json
import platform
import sys

import numpy as np
import pytest

from nic_ray.config import Config
from nic_ray.dataset import general
from nic_ray.dataset.general import general_texts
from nic_ray.errors import InputError
from nic_ray.model.activations import frozen_inputs
from nic_ray.progress import View
from nic_ray.search import train_single
from nic_ray.search.train_single import train_one
from nic_ray.training.batches import NOTHING_HELD
from nic_ray.training.prepared import held_texts, prepare, training_data
from nic_ray.training.start import describe_data, describe_start, refuse_other_start


def test_the_interpreter_carries_paragraphs_of_prose():
    texts = general_texts(None)
    assert texts == general_texts(None)
    assert len(texts) == len(set(texts)) > 300
    assert all(30 <= len(text.split()) <= 250 and "\n" not in text and "**" not in text for text in texts)
    assert sum("Python" in text for text in texts) > 10


def test_a_users_own_texts_are_read_like_any_corpus(tmp_path, tiny_pairs_file, monkeypatch):
    monkeypatch.setattr(general, "FEWEST", 1)
    (tmp_path / "a.md").write_text(
        "A paragraph about birds that has more than twelve words, as headings do not have.\n"
    )
    assert general_texts(tmp_path) == [(tmp_path / "a.md").read_text().strip()]
    assert len(general_texts(tiny_pairs_file)) > 10
    with pytest.raises(InputError, match="no such file or folder"):
        general_texts(tmp_path / "none")


def test_of_few_texts_no_neighbours_are_compared_and_of_many_some_are_drawn(tmp_path, monkeypatch):
    (tmp_path / "a.md").write_text("\n\n".join(f"paragraph {n} with words " + "of its own " * 5 for n in range(50)))
    with pytest.raises(InputError, match=r"general_texts: .* holds 50 passages, want 100 or more; name more text, or"):
        general_texts(tmp_path)
    monkeypatch.setattr(general, "FEWEST", 20)
    monkeypatch.setattr(general, "MOST", 30)
    drawn = general_texts(tmp_path)
    assert (len(drawn), drawn) == (30, general_texts(tmp_path))


def test_an_interpreter_without_them_is_a_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match=r"general_texts: this Python comes without its documentation \(pydoc_data\)"):
        general_texts(None)


def test_a_training_that_no_guard_judges_reads_only_texts_that_it_holds(tiny_model, tiny_pairs_file, tmp_path):
    train = {"base_model": str(tiny_model()), "frozen_layers": 1, "max_tokens": 16, "epochs": 1}
    sections = {"data": {"pairs": str(tiny_pairs_file)}, "train": train, "general_texts": str(tmp_path / "none")}
    trained = train_one(Config.model_validate(sections), out=tmp_path, view=View())
    train_single.resume(trained.run_folder, None, view=View())
    with pytest.raises(InputError, match="none: no such file or folder"):
        train_one(Config.model_validate(sections | {"train": train | {"anchor": 1.0}}), out=tmp_path, view=View())


@pytest.fixture
def run(tiny_model, tiny_pairs_file, tmp_path, monkeypatch):
    """`run(anchor=..., space=..., guarded=...)`: a prepared run whose general texts are four paragraphs, a to d."""
    monkeypatch.setattr(general, "FEWEST", 1)
    (tmp_path / "texts").mkdir()
    for name in ("a", "b", "c", "d"):
        (tmp_path / "texts" / f"{name}.txt").write_text(
            f"{name} general paragraph " + "with many words of its own " * 4
        )

    def make(space=None, guarded=True, **train):
        settings = {"base_model": str(tiny_model()), "frozen_layers": 1, "max_tokens": 64, "precision": "fp32"}
        config = {"data": {"pairs": str(tiny_pairs_file)}, "train": settings | train, "space": space or {}}
        config |= {"general_texts": str(tmp_path / "texts")}
        return prepare(Config.model_validate(config), on_gpu=False, guarded=guarded)

    return make


def test_general_texts_stand_behind_the_collections_where_a_trial_may_hold_them(run):
    plain = run()
    assert (plain.general, held_texts(plain, frozen_inputs(plain.encoder, plain.tokens, [1])[1])) == ((), NOTHING_HELD)
    for prepared in (run(anchor=1.0), run(space={"anchor": {"uniform": [0, 3]}})):
        assert [text[0] for text in prepared.general] == ["b", "d"]
        assert [text[0] for text in prepared.measuring] == ["a", "c"]  # none that is held
        assert len(prepared.tokens.offsets) == len(plain.tokens.offsets) + 2
        own = slice(0, plain.tokens.offsets[-1])
        assert (prepared.tokens.values[own] == plain.tokens.values).all()
        inputs = frozen_inputs(prepared.encoder, prepared.tokens, [1])[1]
        held = held_texts(prepared, inputs)
        assert held.texts.tolist() == [len(plain.collection.texts), len(plain.collection.texts) + 1]
        model = prepared.encoder.model
        expected = model.encode(list(prepared.general))
        np.testing.assert_allclose(held.embeddings, expected, atol=1e-5)
        data = training_data(prepared, inputs, prepared.rows("train"))
        assert dataclasses.astuple(data.general)[0].tolist() == held.texts.tolist()


@pytest.mark.parametrize(("letter", "refused"), [("a", [True, True, False]), ("b", [False, True, True])])
def test_a_run_goes_on_with_the_general_texts_that_it_was_started_with(run, tmp_path, letter, refused):
    """Text a measures, text b is held."""
    kinds = {"measuring": {}, "both": {"anchor": 1.0}, "held": {"anchor": 1.0, "guarded": False}}
    started = {kind: json.loads(json.dumps(describe_start(run(**given)))) for kind, given in kinds.items()}
    assert {start["general_texts"]["source"] for start in started.values()} == {"texts"}
    used = [[*start["general_texts"]["sha256"]] for start in started.values()]
    assert used == [["measuring"], ["measuring", "held"], ["held"]]
    for kind, given in kinds.items():
        refuse_other_start(run(**given), started[kind], tmp_path)
    (tmp_path / "texts" / f"{letter}.txt").write_text(f"{letter} is another paragraph " + "with many words " * 5)
    for (kind, given), is_refused in zip(kinds.items(), refused, strict=True):
        message = r"texts: has changed since .* was started, and .*; put the old texts back, or start anew$"
        with pytest.raises(InputError, match=message) if is_refused else contextlib.nullcontext():
            refuse_other_start(run(**given), started[kind], tmp_path)
        earlier = {name: value for name, value in started[kind].items() if name != "general_texts"}
        refuse_other_start(run(**given), earlier, tmp_path)  # a run that did not note them goes on
    refuse_other_start(run(guarded=False), started["both"], tmp_path)  # reads none


def test_another_python_with_other_paragraphs_is_named(run, tmp_path):
    prepared = run()
    started = json.loads(json.dumps(describe_start(prepared)))
    started["general_texts"] |= {"source": "Python 3.9.1"}
    own = dataclasses.replace(
        prepared, config=prepared.config.model_copy(update={"general_texts": None}), measuring=("another",)
    )
    now = f"Python {platform.python_version()}"
    assert describe_data(own)["general_texts"]["source"] == now
    with pytest.raises(InputError) as refused:
        refuse_other_start(own, started, tmp_path)
    assert str(refused.value) == (
        f"general_texts: the language reference of this Python ({now}) has other paragraphs than that which {tmp_path} "
        "was started with (Python 3.9.1), and its models go with the old texts; go on with the same versions of Python "
        "and nic_ray, or start anew"
    )
