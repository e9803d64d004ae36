"""The anomaly detector of a bundle: fitted, stored, refused with another model, and what it says of queries."""

import json
import logging
import random
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nic_ray import check, verify
from nic_ray.anomaly import __main__ as anomaly
from nic_ray.anomaly import assessor, ensemble
from nic_ray.anomaly.embedded import embedded
from nic_ray.anomaly.ensemble import Known, Normal
from nic_ray.anomaly.surface import FEATURES
from nic_ray.bundle.assessed import Verdict, describe, verdicts, watch_log
from nic_ray.bundle.detector import detector_faults, load_detector, read_detector
from nic_ray.bundle.files import find_faults, load, write_bundle
from nic_ray.bundle.names import DETECTOR_ARRAYS, DETECTOR_RECORD
from nic_ray.bundle.query_files import Line, read_queries
from nic_ray.data_config import DataConfig
from nic_ray.dataset.division import divide
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.pairs import read_pairs
from nic_ray.errors import InputError
from nic_ray.readings import note_reading, readings_of
from nic_ray.training.prepared import split_sha256

METADATA = {"name": "m", "base_model": "all-MiniLM-L6-v2", "results": {}}
STRANGE = "zzzz qqqq xxxx zzzz qqqq xxxx zzzz qqqq xxxx zzzz {}[]<>"


@pytest.fixture(scope="module")
def fitted(tiny_model, tmp_path_factory):
    """A bundle of the tiny model with a detector, and the pairs that it was fitted to; only read it."""
    folder = tmp_path_factory.mktemp("anomaly")
    write_bundle(folder / "m", SentenceTransformer(str(tiny_model()), device="cpu"), METADATA, training_log="")
    rng, rows = random.Random(0), []
    parts = "rotor gasket impeller bearing flange coupling inlet casing".split()
    for number in range(60):
        part, fault = rng.choice(parts), rng.choice("leaking noisy hot stuck loose".split())
        passage = f"{number}: replace the {part} {rng.choice(parts)} {rng.choice(parts)} when it is {fault}."
        for kind in ("direct", "keyword"):
            query = (
                f"what to do about {part} {number} that is {fault}?" if kind == "direct" else f"{fault} {part} {number}"
            )
            rows.append({"query": query, "positive": passage, "domain": "pumps", "kind": kind})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def bundle(fitted):
    from nic_ray.bundle import detector_fit

    said = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(detector_fit, "FITTED_PER_KIND", 8)
        patched.setattr(detector_fit, "READ_PER_KIND", 3)
        detector_fit.fit_detector(
            fitted / "m",
            fitted / "pairs.jsonl",
            name="nearest",
            false_alarms=0.3,
            say=said.append,
            warn=said.append,
        )
    assert len(said) == 3  # no warning: no run has held rows of these pairs back
    return fitted / "m"


@pytest.fixture
def copied(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copied")


def embed(texts):
    """Embeddings by the first letter of a text, so that tests know them."""
    return np.array(
        [[1.0, 0.1 * len(text) % 1, 0.0] if text[0] < "n" else [0.0, 0.0, 1.0] for text in texts], np.float32
    )


# the ensemble, on plain arrays


def normal_of(texts):
    count = len(texts)
    return Normal(embedded(texts, embed), np.arange(count) // 2, ["plain"] * count, embed(texts), np.arange(count) // 2)


def test_each_query_is_scored_by_what_was_fitted_to_other_passages():
    texts = [f"a question number {number}" for number in range(80)]
    seen = []

    def fit(rows, passages):
        return {*(rows // 2).tolist()}, {*(passages // 2).tolist()}

    def score(own, fitted):
        groups = {int(text.rsplit(" ", 1)[1]) // 2 for text in own.texts}
        seen.append(groups)
        assert not groups & (fitted[0] | fitted[1])
        return {"any": np.array([float(text.rsplit(" ", 1)[1]) for text in own.texts])}

    found = ensemble._held_out(normal_of(texts), fit, score, seed=0)
    assert found["any"].tolist() == [*map(float, range(80))]
    assert sorted(group for groups in seen for group in groups) == [*range(40)]


def test_the_sum_counts_what_is_rare_and_a_signal_that_finds_nothing_takes_nothing_away():
    texts = [f"a question number {number}" for number in range(200)]
    own = ensemble.fit(normal_of(texts), None, name="nearest-queries")
    scored = ensemble.score(embedded(["another question number 7", "zebra zebra zebra zebra"], embed), own)
    assert scored.signals == ["query", "part", "surface"]
    assert scored.rarities.shape == (3, 2)
    counted = [[max(value, ensemble.COUNTS_FROM) for value in own] for own in scored.rarities.T.tolist()]
    assert scored.total.tolist() == pytest.approx([2 * q + 2 * p + s for q, p, s in counted])
    assert scored.total[1] > 2 * scored.total[0]


def test_the_sentence_that_objects_is_named():
    texts = [f"a question number {number}" for number in range(200)]
    normal = normal_of(texts)
    own = assessor.calibrated(
        ensemble.fit(normal, None, name="nearest-queries"),
        normal.queries,
        normal.groups,
        normal.kinds,
        false_alarms=0.1,
    )
    (found,) = assessor.assess(embedded(["a question number one. zebras eat the grass"], embed), own)
    assert (found.flagged, found.signal, found.part) == (True, "part", "zebras eat the grass")


def test_a_long_query_is_embedded_apart_from_its_parts_which_are_not_padded_to_its_length():
    calls = []
    texts = ["short one", " ".join(f"word{number}" for number in range(40)), "another short one"]
    found = embedded(texts, lambda group: calls.append(group) or embed(group))
    assert [len(group) for group in calls] == [len(found.parts), 1]
    assert calls[1] == [texts[1]]
    assert found.whole.tolist() == embed(texts).tolist()
    assert found.of_parts.tolist() == embed(list(found.parts)).tolist()


def test_a_kind_that_is_left_out_is_not_fitted_to():
    known = Known(np.eye(4, dtype=np.float32), np.zeros((4, 2)), ["a", "b", "a", "c"])
    left = known.without(("a", "c"))
    assert (left.kinds, left.embeddings.tolist()) == (["b"], [[0.0, 1.0, 0.0, 0.0]])


def test_an_assessor_comes_back_from_its_arrays(bundle):
    own = read_detector(bundle).assessor
    again = assessor.from_arrays(assessor.as_arrays(own))
    queries = embedded(["what to do about a rotor", STRANGE], lambda texts: np.ones((len(texts), 32), np.float32))
    assert assessor.assess(queries, again) == assessor.assess(queries, own)
    with pytest.raises(ValueError, match="missing or of another shape"):
        assessor.from_arrays({"surface/middle": np.zeros((1, len(FEATURES)))})
    with pytest.raises(ValueError, match="another version of nic_ray fitted it"):
        assessor.from_arrays({"surface/middle": np.zeros((1, 2))})


# in a bundle


def test_the_rows_of_each_part_serve_their_purpose(bundle):
    record = read_detector(bundle).record
    assert [*record["rows"]] == ["train", "validation", "test"]
    assert len(record["questions"]) == record["rows"]["train"]
    everything, *kinds = record["normal"]
    assert (everything["kind"], everything["queries"]) == ("all questions", record["rows"]["test"])
    assert [each["kind"] for each in kinds] == ["direct", "keyword"]
    assert {*everything["shares"]} == {"detector", "nearest alone", "autoencoder alone"}
    assert everything["low"] <= everything["shares"]["detector"] <= everything["high"]
    assert len(record["abnormal"]) == 14


def test_a_verdict_names_the_nearest_normal_question(bundle):
    detector = read_detector(bundle)
    model = load(bundle)
    known = detector.record["questions"][5]
    (own,) = verdicts([known], detector, lambda texts: model.encode_query(texts))
    assert (own.nearest, own.similarity) == (known, pytest.approx(1.0, abs=1e-3))
    assert 0 < own.p_value <= 1


def test_a_detector_is_no_fault_of_the_model_and_is_verified_by_itself(bundle, copied, run_main):
    assert find_faults(bundle) == []
    assert detector_faults(bundle) == []
    code, out, _ = run_main(verify.main, bundle)
    assert (code, "anomaly detector sound" in out) == (0, True)
    content = bytearray((copied / DETECTOR_ARRAYS).read_bytes())
    content[-1] ^= 1
    (copied / DETECTOR_ARRAYS).write_bytes(content)
    assert find_faults(copied) == []  # the model itself can serve
    assert "SHA-256 is" in detector_faults(copied)[0]
    code, _, complaint = run_main(verify.main, copied)
    assert (code, DETECTOR_ARRAYS in complaint) == (1, True)
    (copied / "anomaly" / "other.txt").write_text("x")
    assert find_faults(copied) == ["anomaly/other.txt: was not exported"]


ODD_SHARE = {"kind": "code", "queries": 1, "shares": {"detectOr": 1.0}}


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / DETECTOR_RECORD).unlink(), "holds no anomaly detector"),
        (lambda folder: (folder / DETECTOR_ARRAYS).unlink(), "cannot be read"),
        (lambda folder: (folder / DETECTOR_ARRAYS).write_bytes(b"x"), "SHA-256 is"),
        (lambda folder: (folder / DETECTOR_RECORD).write_text("{"), "holds no anomaly detector"),
        (lambda folder: (folder / DETECTOR_RECORD).write_text("{}"), "damaged, "),
        (lambda folder: edit(folder / DETECTOR_RECORD, questions=["one"]), "does not belong to it"),
        (lambda folder: edit(folder / DETECTOR_RECORD, normal=[]), "does not belong to it"),
        (lambda folder: edit(folder / DETECTOR_RECORD, abnormal=[ODD_SHARE]), "does not belong to it"),
    ],
)
def test_a_service_goes_on_without_a_detector_that_is_missing_or_damaged(copied, caplog, damage, message):
    assert load_detector(copied) is not None
    damage(copied)
    with caplog.at_level(logging.WARNING, logger="nic_ray.bundle"):
        assert load_detector(copied) is None
    assert "no query is assessed" in caplog.text
    with pytest.raises(InputError, match=message):
        read_detector(copied)


def test_a_detector_of_another_model_is_refused(copied, caplog):
    metadata = json.loads((copied / "metadata.json").read_text())
    metadata["files"]["model.safetensors"] = "0" * 64
    (copied / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="fitted to the embeddings of another model; fit it with"):
        read_detector(copied)
    assert load_detector(copied) is None


def test_too_few_passages_to_flag_anything_are_refused_before_anything_is_embedded(fitted, run_main):
    code, _, complaint = run_main(anomaly.fit, fitted / "m", fitted / "pairs.jsonl", "--false-alarms", "0.01")
    assert code == 2
    assert "0.01 takes validation questions about 99 passages or more, got 12" in complaint


def test_pairs_with_a_domain_that_the_detector_does_not_know_are_told_to_fit_it_again(
    bundle, fitted, tmp_path, run_main
):
    rows = [{"query": f"tune set {number}", "positive": f"dial {number}", "domain": "radios"} for number in range(3)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    new = [tmp_path / "new.jsonl", "--bundle", bundle, "--fail-on", "unknown-domain"]
    code, out, complaint = run_main(check.main, *new)
    assert (code, "found unknown-domain (3 rows)" in complaint) == (1, True)
    assert f"python -m nic_ray.anomaly fit {bundle} PAIRS\n  line 1: domain radios: 3 rows" in out
    assert run_main(check.main, fitted / "pairs.jsonl", *new[1:])[0] == 0
    code, _, complaint = run_main(check.main, new[0], "--bundle", tmp_path)
    assert (code, "metadata.json" in complaint) == (2, True)


def test_a_reading_of_test_rows_that_a_run_has_held_back_is_noted_and_earlier_ones_are_told(
    fitted, tmp_path, run_main, monkeypatch
):
    for name in ("FITTED_PER_KIND", "READ_PER_KIND"):
        monkeypatch.setattr(f"nic_ray.bundle.detector_fit.{name}", 2)
    run, pairs = tmp_path / "runs" / "tuned-1", fitted / "pairs.jsonl"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    split = split_sha256(*divide(read_pairs(pairs), DataConfig()))
    metadata = {
        **METADATA,
        "data": {"pairs": "pairs.jsonl", "sha256": content_sha256(pairs)},
        "split": {**DataConfig().model_dump(mode="json"), "sha256": split, "rows": {"test": 24}},
        "run": str(run),
        "readings": note_reading(run, command="tune", part="test", rows=24, model="trial-000", split=split),
    }
    model = SentenceTransformer(str(fitted / "m"), device="cpu")
    write_bundle(tmp_path / "m", model, metadata, training_log="")
    code, out, _ = run_main(anomaly.fit, tmp_path / "m", pairs, "--false-alarms", "0.3", "--json")
    (warning,) = json.loads(out)["warnings"]
    assert (code, "the 24 test rows had been read once before" in warning) == (0, True)
    assert [each["command"] for each in readings_of(run, split)] == ["tune", "anomaly fit"]
    shutil.rmtree(run)
    code, out, _ = run_main(anomaly.fit, tmp_path / "m", pairs, "--false-alarms", "0.3")
    assert (code, "warning: " in out, "is not recorded" in " ".join(out.split())) == (0, True, True)


# the commands


def test_score_prints_verdicts_and_json_that_watch_reads(bundle, tmp_path, run_main):
    code, out, _ = run_main(anomaly.score, bundle, "what to do about rotor 3 that is hot?", STRANGE, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, [row["flagged"] for row in rows]) == (0, [False, True])
    assert {*rows[1]} == {*Verdict.__dataclass_fields__}
    normal, odd = out.splitlines()
    (tmp_path / "log.jsonl").write_text((normal + "\n") * 40 + (odd + "\n") * 60)
    code, out, _ = run_main(anomaly.watch, bundle, tmp_path / "log.jsonl")
    assert (code, "more than chance allows" in out, "zzzz (60 flagged, 0 not)" in " ".join(out.split())) == (
        1,
        True,
        True,
    )


def test_a_log_that_says_what_was_flagged_is_not_assessed_again(bundle, monkeypatch):
    monkeypatch.setattr("nic_ray.bundle.assessed.assess_with", None)
    lines = [Line("a", flagged=False), Line("b", flagged=True, objection="surface")] * 5
    found = watch_log(bundle, lines, "cpu")
    assert (found.queries, found.flagged, found.objections) == (10, 5, [("surface", 5)])


def test_evaluate_prints_the_share_of_each_kind_of_a_file(bundle, tmp_path, run_main):
    rows = [{"query": STRANGE, "kind": "odd"}, {"query": "hot rotor 3"}]
    (tmp_path / "abnormal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run_main(anomaly.evaluate, bundle, tmp_path / "abnormal.jsonl", "--json")
    shares = {each["kind"]: each["shares"]["detector"] for each in json.loads(out)["file"]}
    assert (code, shares["odd"], {*shares}) == (0, 1.0, {"odd", "(no kind)"})
    code, out, _ = run_main(anomaly.evaluate, bundle)
    assert (code, "again with every new domain" in " ".join(out.split())) == (0, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", None, "cannot be read"),
        ("q.txt", b"\n \n", "holds no queries"),
        ("q.txt", b"caf\xe9", "not UTF-8"),
        ("q.csv", b"query,kind\na,b\n", r"is a table \(\.csv\); write a query a line"),
        ("q.json", b'["a", "b"]', "line 1: must be a JSON object, got list"),
        ("q.jsonl", b'{"query": "\\ud800"}', '"query" holds half of a character'),
        ("q.jsonl", b'{"query": "a"}\n{"quer": 1}\n[]\n', "2 of 3 lines are unusable"),
        ("q.jsonl", b'{"query": 3}', 'line 1: "query" must be text, got int'),
        ("q.jsonl", b'{"query": "a", "flagged": "yes"}', '"flagged" must be true or false'),
    ],
)
def test_a_file_of_queries_that_cannot_be_used_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_queries(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_a_query(tmp_path):
    (tmp_path / "q.txt").write_bytes(b"\xef\xbb\xbfhot rotor\r\n\r\nb\x00c\n")
    (tmp_path / "q.ndjson").write_bytes(b'\xef\xbb\xbf{"query": "hot rotor"}\n{"query": "b\\u0000c"}')
    for name in ("q.txt", "q.ndjson"):
        assert [line.query for line in read_queries(tmp_path / name)] == ["hot rotor", "b\0c"]


def test_odd_queries_are_assessed_and_broken_ones_refused(bundle):
    detector, model = read_detector(bundle), load(bundle)
    texts = ["", " ", "\0", "\x1b[2J", "x" * 10_000_000, "two words " * 1_000_000, "\U0010ffff", "a\u2028b"]
    found = verdicts(texts, detector, lambda texts: model.encode_query(texts))
    assert [each.query for each in found] == texts
    assert all(each.flagged for each in found[4:6])
    with pytest.raises(InputError, match="query 2 holds half of a character"):
        verdicts(["a", "b\udcff"], detector, lambda texts: model.encode_query(texts))


def test_score_takes_queries_or_a_file(bundle, run_main):
    assert run_main(anomaly.score, bundle)[0] == 2


def test_what_a_terminal_would_obey_is_shown_as_an_escape():
    verdict = Verdict("\x1b[2Jhello", 0.01, True, "part", "a\u202eb", None, "what is hot", 0.3)
    assert describe(verdict).splitlines() == [
        "FLAGGED  p = 0.010  '\\\\x1b[2Jhello'",
        "         the embedding of a part of it does: 'a\\\\u202eb'",
        "         nearest (0.30): 'what is hot'",
    ]


def test_the_functions_are_named_behind_the_command_alone_and_under_one_name(bundle, monkeypatch, capsys):
    from nic_ray import __main__ as every

    for main, arguments in ((anomaly.main, []), (every.main, ["anomaly"])):
        monkeypatch.setattr("sys.argv", ["command", *arguments, "score", str(bundle)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert "name either a QUERY or several, or a --file" in capsys.readouterr().err
        monkeypatch.setattr("sys.argv", ["command", *arguments, "--help"])
        with pytest.raises(SystemExit):
            main()
        help_text = capsys.readouterr().out
        assert all(name in help_text for name in ("fit", "evaluate", "score", "watch"))
