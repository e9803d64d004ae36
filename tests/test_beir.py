"""Folders in BEIR form: read as BEIR reads them, refused by line, and scored as trec_eval scores them."""

import json
import re
import sys

import numpy as np
import pytest
import pytrec_eval

from nic_ray import console, evaluate
from nic_ray.bundle.comparison import compare_on_folder, describe_rows
from nic_ray.dataset.beir import read_beir
from nic_ray.errors import InputError
from nic_ray.model.activations import feed, token_inputs
from nic_ray.model.base import load
from nic_ray.model.encoder import upper
from nic_ray.model.evaluation import Asked, embed, query_scores

CORPUS = [
    {"_id": "a", "title": "Rotor", "text": "replace the gasket"},
    {"_id": "b", "title": "", "text": "clean the antenna"},
    {"_id": "c", "text": "tighten the clutch"},
    {"_id": 4, "title": None, "text": ""},
    {"_id": "twin", "text": "clean the antenna"},
]
QUERIES = [{"_id": "1", "text": "antenna?"}, {"_id": "2", "text": "clutch?"}, {"_id": "3", "text": "nobody asks"}]
QRELS = "query-id\tcorpus-id\tscore\n2\tc\t1\n1\tb\t3\n1\ta\t0\n2\t4\t0.5\n3\ta\t0\n"


def write(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS, split="test"):
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "qrels" / f"{split}.tsv").write_text(qrels, encoding="utf-8")
    return folder


@pytest.mark.parametrize("qrels", [QRELS, "\n" + QRELS, QRELS.partition("\n")[2], QRELS.replace("\n", "\r\n")])
def test_questions_answers_and_all_passages_are_read_with_and_without_a_header(tmp_path, qrels):
    collection, rows = read_beir(write(tmp_path / "shop", qrels=qrels), "test")
    texts = collection.texts
    assert [texts[number] for number in collection.corpus] == [
        "Rotor replace the gasket", "clean the antenna", "tighten the clutch", "", "clean the antenna"
    ]  # fmt: skip
    named = [(texts[q], texts[p]) for q, p in zip(collection.query, collection.positive, strict=True)]
    assert named == [("clutch?", "tighten the clutch"), ("antenna?", "clean the antenna"), ("clutch?", "")]
    assert [texts[collection.query[row]] for row in rows] == ["clutch?", "antenna?"]
    assert set(collection.domains) == {"shop"}


def test_recall_and_mrr_are_those_of_trec_eval(tmp_path, tiny_model_folder):
    rng = np.random.default_rng(1)
    words = "rotor gasket antenna clutch axle brake dial valve pump belt oil seal".split()
    corpus = [{"_id": f"p{n}", "text": " ".join(rng.choice(words, 5))} for n in range(60)]
    queries = [{"_id": f"q{n}", "text": " ".join(rng.choice(words, 3)) + f" {n}"} for n in range(20)]
    qrels = {f"q{n}": {f"p{p}": int(rng.integers(1, 3)) for p in rng.choice(60, 4, replace=False)} for n in range(20)}
    lines = "".join(f"{query}\t{passage}\t{score}\n" for query, own in qrels.items() for passage, score in own.items())
    collection, rows = read_beir(write(tmp_path / "made", corpus, queries, lines), "test")
    encoder = load(str(tiny_model_folder))
    texts = np.arange(len(collection.texts))
    embeddings = embed(upper(encoder, 0).eval(), feed(token_inputs(encoder, collection.texts, 64), "cpu"), texts)
    # no two passages score the same: what breaks ties is not compared
    embeddings = embeddings + rng.normal(scale=0.01, size=embeddings.shape).astype(np.float32)
    found = query_scores(Asked(embeddings, texts, collection, rows))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    run = {
        f"q{n}": {f"p{p}": float(unit[n] @ unit[20 + p]) for p in range(60)} for n in range(20)
    }  # questions first, as they are first named in the qrels
    expected = pytrec_eval.RelevanceEvaluator(qrels, {"recall.5", "recip_rank"}).evaluate(run)
    assert found["recall_at_5"].tolist() == pytest.approx([expected[f"q{n}"]["recall_5"] for n in range(20)])
    assert found["mrr"].tolist() == pytest.approx([expected[f"q{n}"]["recip_rank"] for n in range(20)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qrels": "1\tx\t1\n"}, r"test\.tsv: cannot be used\n  line 1: corpus-id 'x' is not in corpus\.jsonl"),
        ({"qrels": "9\ta\t1\n"}, r"line 1: query-id '9' is not in queries\.jsonl"),
        ({"qrels": "1 a 1\n"}, r"line 1: want query-id, corpus-id and score with tabs between, got 1 columns"),
        ({"qrels": "1\t0\ta\t1\n"}, r"line 1: want query-id, corpus-id and score with tabs between, got 4 columns"),
        ({"qrels": "1\ta\tyes\n"}, r"line 1: score must be a number, got 'yes'"),
        ({"qrels": "1\ta\t0\n"}, r"names no answer; want lines of query-id, corpus-id and a score above 0"),
        ({"qrels": ""}, r"names no answer"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, r"corpus\.jsonl: .*\n  line 6: \"_id\" 'a' stands in an earlier line too"),
        ({"corpus": [{"text": "t"}]}, r'line 1: "_id" is missing \(found: text\)'),
        ({"corpus": [{"_id": "a", "text": "\ud800"}]}, r'line 1: "text" must be text, got text with half a character'),
        ({"corpus": [{"_id": "a", "text": None}]}, r'line 1: "text" must be text, got null'),
        ({"corpus": [{"_id": "a", "text": "t", "title": 3}]}, r'line 1: "title" must be text, got a number'),
        ({"corpus": [{"_id": [1], "text": "t"}]}, r'line 1: "_id" must be text, got a list'),
        ({"corpus": "{\n"}, r"corpus\.jsonl: cannot be used\n  line 1: not JSON: "),
        ({"queries": "[]\n"}, r"queries\.jsonl: cannot be used\n  line 1: must be a JSON object, got a list"),
        ({"queries": ""}, r"holds nothing; want an object a line"),
        ({"queries": "{\n" * 100}, r"(\n  line \d+: not JSON.*){20}\n  \.\.\. and 80 more$"),
        ({"split": "dev"}, r"qrels/test\.tsv: no such file; name one of these with --split: dev"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_place(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_beir(write(tmp_path / "shop", **changes), "test")


def test_a_folder_without_its_files_says_which_it_wants(tmp_path):
    with pytest.raises(InputError, match=r"corpus\.jsonl: no such file; a folder in BEIR form holds corpus\.jsonl, qu"):
        read_beir(tmp_path, "test")
    write(tmp_path / "shop")
    (tmp_path / "shop" / "corpus.jsonl").write_bytes(b'{"_id": "a", "text": "\xe9"}\n')
    with pytest.raises(InputError, match=r"corpus\.jsonl: not UTF-8"):
        read_beir(tmp_path / "shop", "test")


def test_the_command_takes_a_folder_and_names_it_as_the_domain(tmp_path, tiny_model, monkeypatch, capsys):
    folder, model = write(tmp_path / "shop", split="dev"), str(tiny_model(layers=3))

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["evaluate", model, str(folder), *more])
        with pytest.raises(SystemExit) as stopped:
            console.run(evaluate.main)
        return stopped.value.code, *capsys.readouterr()

    code, out, _ = run("--split", "dev", "--json")
    found, expected = json.loads(out), compare_on_folder(model, folder, "dev")
    assert (code, found["results"]) == (0, expected.results)
    assert set(found["results"]) == {"base", "model"}
    assert (found["queries"], found["passages"], found["split_from"]) == (2, 5, "qrels")
    code, out, _ = run("--split", "dev")
    assert out.startswith(f"{model}: dev questions of {folder}: 2 queries, ranked over 5 passages\n")
    assert describe_rows(expected) in out
    assert re.search(r"^shop +2( +\d\.\d{3}){2} ", out, re.MULTILINE)
    code, out, err = run()
    assert (code, out, "no such file; name one of these with --split: dev" in err) == (2, "", True)


@pytest.mark.parametrize(("options", "expected"), [([], "cuda"), (["--device", "cpu"], "cpu")])
def test_the_command_reads_a_folder_on_a_gpu_where_there_is_one(
    tmp_path, tiny_model_folder, monkeypatch, capsys, options, expected
):
    devices = []

    def scored(encoder, collection, rows, max_tokens, *, device="cpu", **others):
        devices.append(device)
        return len(rows)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("nic_ray.bundle.comparison.asked_of", scored)
    monkeypatch.setattr(
        "nic_ray.bundle.comparison.fused_scores",
        lambda rows, fusions: {fusion: {"recall_at_5": np.ones(rows), "mrr": np.ones(rows)} for fusion in fusions},
    )
    arguments = [str(tiny_model_folder), str(write(tmp_path / "shop")), "--json", *options]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(SystemExit) as ended:
        console.run(evaluate.main)
    assert ended.value.code == 0, capsys.readouterr().err
    assert devices == [expected] * 2
