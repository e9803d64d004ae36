"""The exported folder: loads anywhere, whole or not at all, and every number in its card is a given one."""

import copy
import hashlib
import json
import logging
import os
import re
import socket
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer

from nic_ray import __version__
from nic_ray.bundle import files
from nic_ray.bundle.card import model_card
from nic_ray.bundle.files import library_versions, read_metadata, refuse_existing, write_bundle
from nic_ray.errors import InputError, RunError
from nic_ray.model.base import load
from nic_ray.model.cut import set_dropout
from nic_ray.model.encoder import tokenize


def flat(recall, mrr):
    """Metrics of two domains; macro and worst by hand."""
    return {
        "recall_at_5/pumps": recall,
        "recall_at_5/radios": recall / 2,
        "recall_at_5/macro": recall * 3 / 4,
        "recall_at_5/worst": recall / 2,
        "mrr/pumps": mrr,
        "mrr/radios": mrr / 2,
        "mrr/macro": mrr * 3 / 4,
    }


METADATA = {
    "name": "manuals-v1",
    "created": "2031-05-06T07:08:09+00:00",
    "base_model": "all-MiniLM-L6-v2",
    "base_weights_sha256": "ba5e" * 16,
    "trial": "trial-003",
    "objective": "recall_at_5/macro",
    "config": {"learning_rate": 3e-05, "frozen_layers": 4, "max_tokens": 192, "patience": None},
    "data": {
        "pairs": "pairs.jsonl",
        "sha256": "da7a" * 16,
        "rows": 4321,
        "passages": 876,
        "domains": {"pumps": 3000, "radios": 1321},
    },
    "split": {
        "protocol": "unseen_passages",
        "seed": 17,
        "rows": {"train": 3011, "validation": 654, "test": 656},
        "sha256": "5b17" * 16,
        "validation_share": 0.151,
        "test_share": 0.152,
        "sample_share": 0.9,
    },
    "results": {
        "validation": {"base": flat(0.40, 0.32), "first trial": flat(0.52, 0.42), "tuned": flat(0.64, 0.52)},
        "test": {
            "base": flat(0.444, 0.333),
            "first trial": flat(0.555, 0.435),
            "tuned": flat(0.6789012345678901, 0.1234567890123456),
        },
    },
    "best": {"epoch": 2.5, "step": 2345},
    "precision": "bf16",
    "versions": {"torch": "2.99", "sentence-transformers": "6.77"},
}
INTERVALS = {
    "pumps": {"difference": 0.1234, "low": 0.0432, "high": 0.2468, "queries": 400, "passages": 31},
    "radios": {"difference": -0.0345, "low": None, "high": None, "queries": 21, "passages": 7},
}
EVIDENCE = {
    "alpha": 0.7,
    "retention": {"tuned": {"recall_at_5": -0.0321, "mrr": -0.0234}},
    "front": [
        {"alpha": 0.0, "recall_at_5/macro": 0.4567, "mrr/macro": 0.3579, "retention": {"recall_at_5": 0.0, "mrr": 0.0}},
        {"alpha": 0.7, "recall_at_5/macro": 0.5678, "mrr/macro": 0.4679, "retention": None},
    ],
    "confirmed": [
        {
            "trial": "trial-003",
            "epochs": 2.5,
            "by_seed": {"42": 0.7123, "43": 0.6987},
            "seeds": 2,
            "mean": 0.7055,
            "spread": 0.0136,
        }
    ],
    "leaks": {"passage": {"validation": 0, "test": 0}, "near-duplicate query": {"validation": 11, "test": 13}},
    "intervals": {"tuned minus base": INTERVALS},
    "interval_rule": {"confidence": 0.95, "min_passages": 8},
    "guard": {
        "objections": [],
        "overridden": False,
        "max_retention_loss": 0.05,
        "max_domain_drop": 0.02,
        "lower_bounds": {"validation": 0.0111, "test": 0.0222},
    },
    "retention_set": {"pairs": "retention.jsonl", "sha256": "9a0b" * 16},
    "refit": "none",
}
TEXTS = ["my rotor is leaking", "replace the pumps rotor when it is leaking."]


@pytest.fixture
def model(tiny_model_folder):
    return SentenceTransformer(str(tiny_model_folder), device="cpu")


@pytest.fixture
def exported(model, tmp_path):
    folder = tmp_path / "models" / "manuals-v1"
    write_bundle(folder, model, METADATA, training_log="step 1\nStufe 2: größer\n")
    return folder


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table_row(card, section, first):
    """Cells of the table row that starts with `first`, in the part of the card after `section`."""
    lines = card.partition(section)[2].splitlines()
    return next(
        cells for cells in ([c.strip() for c in line.split("|")[1:-1]] for line in lines) if cells[:1] == [first]
    )


def test_plain_sentence_transformers_gives_the_same_embeddings(exported, model):
    loaded = SentenceTransformer(str(exported), device="cpu", local_files_only=True)
    assert loaded.encode(TEXTS).tolist() == model.encode(TEXTS).tolist()
    assert loaded.max_seq_length == model.max_seq_length


def test_a_shortened_cut_of_long_texts_is_exported(model, tmp_path):
    model.max_seq_length = 8
    write_bundle(tmp_path / "short", model, METADATA, training_log="")
    loaded = SentenceTransformer(str(tmp_path / "short"), device="cpu")
    long = " ".join(TEXTS * 3)
    assert loaded.encode(long).tolist() == model.encode(long).tolist()
    assert json.loads((tmp_path / "short" / "tokenizer.json").read_text())["truncation"]["max_length"] == 8


def test_the_folder_holds_what_was_promised_and_no_pickle(exported):
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert {
        "README.md",
        "metadata.json",
        "training.log",
        "model.safetensors",
        "config.json",
        "modules.json",
        "tokenizer.json",
        "1_Pooling/config.json",
    } <= names
    assert {name.rpartition(".")[2] for name in names} <= {"md", "json", "log", "png", "safetensors", "txt"}
    # a pickle starts with byte 0x80 and its protocol, a file of torch.save with the signature of a zip
    starts = [content[:2] for content in snapshot(exported).values()]
    assert not [start for start in starts if start[:1] == b"\x80" or start == b"PK"]
    assert (exported / "training.log").read_text(encoding="utf-8") == "step 1\nStufe 2: größer\n"


def test_metadata_is_stored_as_given_with_the_hash_of_every_other_file(exported):
    stored = read_metadata(exported)
    files = stored.pop("files")
    contents = {path.as_posix(): content for path, content in snapshot(exported).items()}
    del contents["metadata.json"]
    assert stored == METADATA
    assert files == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def test_the_picture_of_the_card_is_in_the_manifest_and_verified(exported):
    assert f"]({files.PICTURE})" in (exported / files.CARD).read_text(encoding="utf-8")
    assert files.PICTURE in read_metadata(exported)["files"]
    assert files.find_faults(exported) == []
    (exported / files.PICTURE).write_bytes(b"another")
    assert len(files.find_faults(exported)) == 1


def test_every_file_can_be_read_by_whom_the_umask_lets(exported):
    assert len({path.stat().st_mode for path in exported.rglob("*") if path.is_file()}) == 1


def test_dropout_of_a_training_does_not_reach_the_exported_config(model, tiny_model_folder, tmp_path):
    set_dropout(model, attention=0.37, hidden=0.38)
    write_bundle(tmp_path / "m", model, METADATA, training_log="")
    before, after = (json.loads((f / "config.json").read_text()) for f in (tiny_model_folder, tmp_path / "m"))
    shares = ("attention_probs_dropout_prob", "hidden_dropout_prob")
    assert [after[name] for name in shares] == [before[name] for name in shares] == [0.1, 0.1]


def test_what_was_tokenised_last_does_not_change_the_files(tiny_model_folder, exported, tmp_path):
    encoder = load(str(tiny_model_folder))
    tokenize(encoder, TEXTS, 9)
    write_bundle(tmp_path / "manuals-v1", encoder.model, METADATA, training_log="")
    assert (tmp_path / "manuals-v1/tokenizer.json").read_bytes() == (exported / "tokenizer.json").read_bytes()


def test_the_export_opens_no_connection(model, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write_bundle(tmp_path / "m", model, METADATA, training_log="")


def test_an_existing_bundle_is_refused_and_left_as_it_was(exported, model):
    before = snapshot(exported)
    with pytest.raises(InputError, match=r"manuals-v1: exists already; choose another --name, or .* --overwrite"):
        write_bundle(exported, model, METADATA, training_log="")
    assert snapshot(exported) == before


def test_overwrite_replaces_the_whole_bundle(exported, model):
    (exported / "left-over.txt").write_text("old")
    write_bundle(exported, model, METADATA | {"trial": "trial-009"}, training_log="", overwrite=True)
    assert read_metadata(exported)["trial"] == "trial-009"
    assert not (exported / "left-over.txt").exists()
    assert list(exported.parent.iterdir()) == [exported]


def test_overwrite_fills_an_empty_folder(model, tmp_path):
    (tmp_path / "m").mkdir()
    write_bundle(tmp_path / "m", model, METADATA, training_log="", overwrite=True)
    assert read_metadata(tmp_path / "m")["name"] == "manuals-v1"


@pytest.mark.parametrize("content", [None, "not JSON", "[]", '{"name": "a photo album", "files": {}}'])
def test_overwrite_spares_a_folder_that_is_no_bundle(content, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.jpg").write_text("sand")
    if content is not None:
        (folder / "metadata.json").write_text(content)
    before = snapshot(folder)
    with pytest.raises(InputError, match="photos: --overwrite replaces only what was exported before"):
        refuse_existing(folder, overwrite=True)
    assert snapshot(folder) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_or_a_link_in_the_place_is_refused(overwrite, exported, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(exported)
    for name, kind in (("file", "a file"), ("link", "a link")):
        with pytest.raises(InputError, match=f"{name}: is {kind}, and a bundle is a folder; choose another --name"):
            refuse_existing(tmp_path / name, overwrite)


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"m: cannot be made, .*file is a file; name another folder"):
        refuse_existing(tmp_path / "file" / "models" / "m", overwrite=False)


def test_a_place_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(files.os, "access", lambda place, mode: asked.append((place, mode)))
    with pytest.raises(InputError, match=r"m: cannot be made, .* is not writable; name another folder"):
        refuse_existing(tmp_path / "models" / "m", overwrite=False)
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_a_free_place_is_let_through_and_not_made(tmp_path):
    refuse_existing(tmp_path / "models" / "m", overwrite=False)
    assert list(tmp_path.iterdir()) == []


class Broken:
    """A model whose disk is full, or whose user has had enough, after its first file."""

    def __init__(self, error):
        self.error = error

    def preprocess(self, texts):
        pass

    def save(self, path, **options):
        Path(path, "config.json").write_text("{}")
        raise self.error


def test_a_failure_while_saving_leaves_the_old_bundle_and_nothing_else(exported):
    before = snapshot(exported)
    for error, raised in (
        (OSError(28, "No space left on device"), RunError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("odd weights"), ValueError),
    ):
        with pytest.raises(raised, match=r"manuals-v1: cannot be written .*No space left|odd|^$"):
            write_bundle(exported, Broken(error), METADATA, training_log="", overwrite=True)
        assert snapshot(exported) == before
        assert list(exported.parent.iterdir()) == [exported]


def test_a_failure_of_the_last_move_brings_the_old_bundle_back(exported, model, monkeypatch):
    before = snapshot(exported)
    rename = type(exported).rename

    def fail_for_the_new_one(self, target):
        if self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(exported), "rename", fail_for_the_new_one)
    with pytest.raises(RunError, match=r"cannot be written .*Input/output error"):
        write_bundle(exported, model, METADATA, training_log="", overwrite=True)
    assert snapshot(exported) == before
    assert list(exported.parent.iterdir()) == [exported]


def test_a_check_sees_the_finished_folder_and_can_stop_the_export(model, tmp_path):
    def check(folder):
        assert read_metadata(folder)["files"]
        assert not (tmp_path / "m").exists()
        raise RunError("other numbers")

    with pytest.raises(RunError, match="other numbers"):
        write_bundle(tmp_path / "m", model, METADATA, training_log="", check=check)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_appears_during_the_export_is_not_replaced(model, tmp_path):
    def somebody_else(folder):
        (tmp_path / "m").mkdir()

    with pytest.raises(InputError, match="m: exists already"):
        write_bundle(tmp_path / "m", model, METADATA, training_log="", check=somebody_else)
    assert list((tmp_path / "m").iterdir()) == []


def test_every_figure_of_the_card_is_in_the_metadata():
    metadata = METADATA | EVIDENCE

    def numbers(value):
        if isinstance(value, dict):
            return [found for key, each in value.items() for found in [*numbers(key), *numbers(each)]]
        if isinstance(value, list):
            return [found for each in value for found in numbers(each)]
        try:
            return [float(value)]
        except (TypeError, ValueError):
            return []

    known = numbers(metadata)
    text = model_card(metadata).partition("## Results")[2]
    figures = re.findall(r"(?<![\w./@:-])[+-]?\d+(?:\.\d+)?(?:e-\d+)?%?(?![\w.:-]*\w)", text)
    assert len(figures) > 60
    for figure in figures:
        shown = float(figure.rstrip("%")) / (100 if figure.endswith("%") else 1)
        places = len(figure.rstrip("%").partition(".")[2]) if "e" not in figure else 9
        accepted = [*known, 1.0]  # "1 / rank"
        assert any(abs(value - shown) <= 0.5001 * 10**-places for value in accepted), figure


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"some: holds no metadata\.json; name a folder"),
        (b"{", r"some/metadata\.json: not JSON"),
        (b"\xff{}", r"some/metadata\.json: not JSON"),
        (b"[1]", r"some/metadata\.json: must be a JSON object, got list"),
        (b'{"name": "x"}', r"some/metadata\.json: not that of a bundle, lacks base_model, files"),
        (
            b'{"name": "x", "base_model": "y", "files": {}, "split": null}',
            r"some/metadata\.json: damaged, split must be an object, got null; export the bundle again",
        ),
    ],
)
def test_metadata_of_what_is_no_bundle_is_refused(content, message, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    if content is not None:
        (folder / "metadata.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_metadata(folder)


def test_metadata_of_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="none: no such folder; name a folder"):
        read_metadata(tmp_path / "none")


def test_metrics_that_are_no_numbers_stop_the_export(model, tmp_path):
    broken = METADATA | {"best": {"epoch": float("nan"), "step": 1}}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_bundle(tmp_path / "m", model, broken, training_log="")
    assert list(tmp_path.iterdir()) == []


def test_the_card_names_the_test_results_of_the_tuned_model_to_the_last_digit(exported):
    data = ModelCard.load(exported / "README.md").data
    found = {f"{each.metric_type}/{each.dataset_config}": each.metric_value for each in data.eval_results}
    expected = dict(METADATA["results"]["test"]["tuned"])
    del expected["recall_at_5/worst"]
    assert found == expected
    assert {each.dataset_split for each in data.eval_results} == {"test"}
    assert {each.dataset_revision for each in data.eval_results} == {METADATA["data"]["sha256"]}
    assert (data.model_name, data.library_name) == ("manuals-v1", "sentence-transformers")
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"


def test_the_card_sets_base_first_trial_and_tuned_side_by_side():
    card = model_card(METADATA)
    assert table_row(card, "### Test part (656 queries)", "pumps") == [
        "pumps", "0.444", "0.555", "0.679", "0.333", "0.435", "0.123",
    ]  # fmt: skip
    assert table_row(card, "### Validation part (654 queries)", "macro") == [
        "macro", "0.300", "0.390", "0.480", "0.240", "0.315", "0.390",
    ]  # fmt: skip
    assert table_row(card, "### Test part", "domain")[1:4] == [
        "Recall@5 base",
        "Recall@5 first trial",
        "Recall@5 tuned",
    ]
    assert table_row(card, "### Test part", "worst")[4:] == ["–"] * 3


def test_the_card_says_how_far_its_figures_can_be_trusted():
    card = model_card(METADATA | EVIDENCE)
    assert table_row(card, "### Tuned minus base", "pumps") == ["pumps", "+0.123", "+0.043 to +0.247", "400", "31"]
    assert table_row(card, "### Tuned minus base", "radios")[2] == "–"
    assert "Intervals hold 95%, by Student's t over passages" in card
    assert "base + 0.7 * (tuned - base)" in card
    assert table_row(card, "### Between", "0") == ["0", "0.457", "0.358", "+0.000", "+0.000", "–"]
    assert table_row(card, "### Between", "0.7")[3:] == ["–", "–", "–"]
    assert table_row(card, "### Between", "tuned") == ["tuned", "-0.032", "-0.023"]
    assert table_row(card, "### Tried with", "trial-003")[1:] == [
        "0.712 (42), 0.699 (43)",
        "2",
        "2.5",
        "0.706",
        "0.014",
    ]
    assert table_row(card, "### Rows that share", "near-duplicate query") == ["near-duplicate query", "11", "13"]
    assert "over objections" not in card
    assert "trained again on the rows of all parts" not in card


def trained(name, epochs, *, finished=True):
    return {"trial": name, "epochs": epochs, "of": 3, "best_epoch": 0.5, "finished": finished}


def test_the_card_sets_epochs_beside_what_it_compares():
    models = {"first trial": [trained("trial-000", 3.0)], "tuned": [trained("trial-004", 1.5, finished=False)]}
    card = model_card(METADATA | EVIDENCE | {"trained": models, "intervals": {"tuned minus first trial": INTERVALS}})
    assert table_row(card, "### Test part", "domain")[1:4] == [
        "Recall@5 base",
        "Recall@5 first trial (3 epochs)",
        "Recall@5 tuned (1.5 of 3 epochs)",
    ]
    assert "### Tuned minus first trial (3 epochs): Recall@5 on the test part" in card
    assert "first trial: trial-000 3 epochs, best after 0.5; tuned: trial-004 1.5 of 3 epochs, best after 0.5" in card
    assert "cut off" not in card


def test_the_card_says_when_the_first_trial_was_cut_off():
    models = {"first trial": [trained("trial-000", 1.0, finished=False)], "tuned": [trained("trial-004", 3.0)]}
    card = model_card(METADATA | EVIDENCE | {"trained": models})
    assert "**The first trial was cut off after 1 of 3 epochs: " in card
    assert table_row(card, "### Test part", "domain")[2] == "Recall@5 first trial (1 of 3 epochs)"


def test_the_card_says_when_the_guard_was_overridden_and_when_the_weights_are_others():
    guard = {"objections": ["validation: may be chance"], "overridden": True}
    card = model_card(METADATA | EVIDENCE | {"guard": guard, "refit": "all"})
    assert "**This model was exported over objections** (`--export-anyway`):\n\n- validation: may be chance" in card
    assert "trained again on the rows of all parts" in card


def test_every_protocol_has_its_table_in_the_card():
    results = METADATA["results"] | {
        "test in domain": {"tuned": flat(0.8, 0.7)},
        "unseen_queries": {"tuned": flat(0.9, 0.8)},
    }
    split = METADATA["split"] | {"rows": METADATA["split"]["rows"] | {"unseen_queries": 77}}
    card = model_card(METADATA | {"results": results, "split": split})
    assert table_row(card, "### Test part within domains (656 queries)", "pumps") == ["pumps", "0.800", "0.700"]
    assert table_row(card, "### Unseen queries (77 queries)", "pumps") == ["pumps", "0.900", "0.800"]


def test_the_card_says_where_model_and_data_come_from():
    card = model_card(METADATA)
    assert table_row(card, "## Training", "trial")[1] == "trial-003"
    assert table_row(card, "## Training", "`learning_rate`")[1] == "3e-05"
    assert table_row(card, "## Training", "`patience`")[1] == "null"
    assert table_row(card, "## Training", "best step")[1] == "2345"
    assert table_row(card, "## Data", "SHA-256")[1] == METADATA["data"]["sha256"]
    assert table_row(card, "## Data", "rows of radios")[1] == "1321"
    assert table_row(card, "## Data", "split, seed")[1] == "17"
    assert 'SentenceTransformer("manuals-v1")' in card
    assert "all 876 passages" in card
    assert "at most 192 tokens" in card


def test_every_number_of_the_card_changes_with_the_metadata():
    """Without metadata, figures are left only in names: Recall@5, 1 / rank and int(...)."""
    bare = model_card({"name": "m", "base_model": "b"})
    assert [word for word in bare.split() if any(character.isdigit() for character in word)] == []
    assert "## Results" not in bare


@pytest.mark.parametrize(
    ("protocol", "said", "unsaid"),
    [
        (
            "unseen_passages",
            "No passage of a validation or test row was trained on as an answer",
            "flatters the",
        ),
        (
            "unseen_queries",
            "unseen queries only. The passages of validation and test rows may have been",
            "No pass",
        ),
    ],
)
def test_the_card_names_the_protocol_in_plain_words(protocol, said, unsaid):
    metadata = copy.deepcopy(METADATA)
    metadata["split"]["protocol"] = protocol
    card = model_card(metadata)
    assert said in card
    assert unsaid not in card


@pytest.mark.parametrize("key", sorted(METADATA.keys() - {"name", "base_model"}))
def test_the_card_does_without_any_optional_entry(key):
    card = model_card({name: value for name, value in METADATA.items() if name != key})
    assert ModelCard(card).text.startswith("\n# manuals-v1\n")


def test_the_card_does_without_a_first_trial():
    metadata = copy.deepcopy(METADATA)
    for results in metadata["results"].values():
        del results["first trial"]
    assert "first trial" not in model_card(metadata)


def test_odd_names_stay_inside_their_table_cells_and_the_header():
    name = 'a|b: "c" # d'
    metadata = METADATA | {"name": name, "data": METADATA["data"] | {"domains": {name: 1}}}
    card = ModelCard(model_card(metadata))
    assert card.data.model_name == name
    assert '| rows of a\\|b: "c" # d | 1 |' in card.text


@pytest.mark.parametrize(
    ("base_model", "named"),
    [
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("some-team/some-model", "some-team/some-model"),
        ("/srv/models/ours", None),
        ("../ours", None),
        ("tests", None),
    ],
)
def test_a_base_model_is_linked_only_by_its_name_on_the_hub(base_model, named, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    assert ModelCard(model_card(METADATA | {"base_model": base_model})).data.base_model == named


def test_the_versions_are_those_of_what_is_installed():
    import numpy

    versions = library_versions()
    assert versions["nic_ray"] == __version__
    assert versions["numpy"] == numpy.__version__
    assert set(versions) == set("python nic_ray torch transformers sentence-transformers ray optuna numpy".split())


def test_a_library_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(files, "LIBRARIES", ("numpy", "no-such-library"))
    assert set(library_versions()) == {"python", "nic_ray", "numpy"}


def test_a_bundle_as_it_was_exported_has_no_faults(exported):
    assert files.find_faults(exported) == []


def damaged(folder, how):
    weights = folder / "model.safetensors"
    if how == "changed":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "missing":
        weights.unlink()
    elif how == "another file":
        (folder / "1_Pooling" / "code.py").write_text("import os")
    elif how == "link":
        content = folder.parent / "elsewhere"
        weights.rename(content)
        weights.symlink_to(content)
    elif how == "hashes":
        content = json.loads((folder / "metadata.json").read_text())
        (folder / "metadata.json").write_text(json.dumps(content | {"files": ["model.safetensors"]}))


DAMAGE = {
    "changed": r"model\.safetensors: SHA-256 is [0-9a-f]{16}\.\.\., want [0-9a-f]{16}\.\.\.",
    "cut off": r"model\.safetensors: SHA-256 is",
    "missing": r"model\.safetensors: is missing",
    "another file": r"1_Pooling/code\.py: was not exported",
    "link": r"model\.safetensors: is a link or no file",
    "hashes": r"metadata\.json: files must give a SHA-256 for each path",
}


@pytest.mark.parametrize(("how", "message"), DAMAGE.items())
def test_a_damaged_bundle_is_not_loaded(how, message, exported, tiny_model_folder, caplog):
    damaged(exported, how)
    (found,) = files.find_faults(exported)
    assert re.search(message, found)
    with pytest.raises(InputError, match=rf"manuals-v1: not loaded: .*{message}"):
        files.load(exported)
    with caplog.at_level(logging.WARNING, "nic_ray.bundle"):
        model = files.load(exported, fallback=str(tiny_model_folder))
    assert re.search(message, caplog.text)
    assert model.encode(TEXTS).shape == (2, 32)


def test_a_sound_bundle_is_loaded_without_a_word(exported, model, caplog):
    assert files.load(exported, fallback="nowhere").encode(TEXTS).tolist() == model.encode(TEXTS).tolist()
    assert not [record for record in caplog.records if record.name.startswith("nic_ray")]


def test_a_folder_that_is_no_bundle_falls_back_too(tmp_path, tiny_model_folder):
    assert files.load(tmp_path / "none", fallback=str(tiny_model_folder)).encode(TEXTS).shape == (2, 32)
    with pytest.raises(InputError, match=r"none: not loaded: .*no such folder"):
        files.load(tmp_path / "none")


def test_the_card_tells_the_prompts_and_asks_by_them():
    card = model_card(METADATA | {"prompts": {"query": "ask: ", "passage": ""}})
    assert 'put "ask: " in front of a query, as the base model wants it' in card
    assert "its prompt included" in card
    assert "encode_query" in card.partition("```python")[2].partition("```")[0]
    assert "its prompt included" not in model_card(METADATA | {"prompts": {"query": "", "passage": ""}})


def test_the_snippet_of_the_card_ranks_as_the_model_was_scored(changed_model, tiny_pairs, tmp_path, monkeypatch):
    prompts = {"query": "pumps radios trucks ", "document": "replace clean tighten "}
    model = SentenceTransformer(str(changed_model(prompts=prompts)), device="cpu")
    write_bundle(tmp_path / METADATA["name"], model, METADATA, training_log="")
    passages = sorted({pair.positive for pair in tiny_pairs})
    code = (tmp_path / METADATA["name"] / files.CARD).read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    monkeypatch.chdir(tmp_path)
    exec(code.replace("[...]", repr(passages)), names)
    expected = (
        model.encode(prompts["query"] + "Why does it not start?")
        @ model.encode([prompts["document"] + passage for passage in passages]).T
    )
    assert names["scores"].tolist()[0] == pytest.approx(expected, abs=1e-5)  # type: ignore[attr-defined]
    assert names["best"] == passages[int(expected.argmax())]
