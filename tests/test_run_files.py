"""Rankings as files for other tools: what trec_eval makes of them is what we print."""

import json
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from nic_ray import evaluate
from nic_ray.bundle.run_files import qrels_of, write_beir, write_run
from nic_ray.dataset.pairs import Collection
from nic_ray.model.evaluation import Asked

SETS = Path(__file__).parent.parent.parent / "shared" / "data"
METRICS = {"recall.5", "ndcg_cut.10", "recip_rank", "map", "P.3"}


def read(path, parse):
    """Query -> passage -> the number that `parse` finds in the fields of a line."""
    found: dict[str, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split(" ")
        found.setdefault(fields[0], {})[fields[2]] = parse(fields)
    return found


def by_trec_eval(run):
    """The means of trec_eval over all queries of a run, with the qrels beside it."""
    qrels = read(qrels_of(run), lambda fields: int(fields[3]))
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, METRICS)
    values = evaluator.evaluate(read(run, lambda fields: float(fields[4])))
    return {
        name.replace(".", "_"): np.mean([each[name.replace(".", "_")] for each in values.values()]) for name in METRICS
    }


@pytest.fixture
def asked():
    """60 queries with graded answers, and a row twice."""
    generator = np.random.default_rng(0)
    texts = (*(f"query {n}" for n in range(60)), *(f"passage {n}" for n in range(300)))
    query = np.repeat(np.arange(60), 3)
    collection = Collection(
        texts=texts,
        query=query,
        positive=np.concatenate([generator.choice(300, 3, replace=False) for _ in range(60)]) + 60,
        negatives=np.empty((180, 0), np.int64),
        domains=("a",) * 180,
        corpus=np.arange(60, 360),
        fully_judged=True,
        gains=generator.integers(1, 4, 180).astype(float),
        metrics=("ndcg_at_10", "map", "precision_at_3"),
    )
    return Asked(generator.normal(size=(360, 16)), np.arange(360), collection, [*range(0, 180, 3), 1])


def test_trec_eval_finds_in_the_files_what_we_compute(asked, tmp_path):
    from nic_ray.model.evaluation import query_scores

    write_run(tmp_path / "run.txt", asked)
    ours = {name: values[:60].mean() for name, values in query_scores(asked).items()}
    theirs = by_trec_eval(tmp_path / "run.txt")
    assert ours == pytest.approx(
        {
            "recall_at_5": theirs["recall_5"], "mrr": theirs["recip_rank"], "ndcg_at_10": theirs["ndcg_cut_10"],
            "map": theirs["map"], "precision_at_3": theirs["P_3"],
        },
        abs=1e-9,
    )  # fmt: skip
    first = (tmp_path / "run.txt").read_text().splitlines()[0].split(" ")
    assert (first[0], first[1], first[3], first[5]) == ("q0", "Q0", "1", "nic_ray")


def test_the_results_of_beir_are_those_of_trec_eval(asked, tmp_path):
    write_beir(tmp_path / "beir.json", asked)
    found = json.loads((tmp_path / "beir.json").read_text())
    assert {name: [*own] for name, own in found.items()} == {
        family: [f"{name}@{k}" for k in (1, 3, 5, 10, 100, 1000)]
        for family, name in {"ndcg": "NDCG", "map": "MAP", "recall": "Recall", "precision": "P", "mrr": "MRR"}.items()
    }
    once = Asked(asked.embeddings, asked.texts, asked.collection, asked.rows[:60])
    write_beir(tmp_path / "once.json", once)
    write_run(tmp_path / "run.txt", once)
    theirs, found = by_trec_eval(tmp_path / "run.txt"), json.loads((tmp_path / "once.json").read_text())
    assert (found["recall"]["Recall@5"], found["ndcg"]["NDCG@10"]) == pytest.approx(
        (theirs["recall_5"], theirs["ndcg_cut_10"]), abs=6e-6
    )


def test_ids_of_a_folder_name_queries_and_passages(asked, tmp_path):
    from dataclasses import replace

    names = tuple(f"id-{number}" for number in range(360))
    write_run(tmp_path / "run.txt", replace(asked, collection=replace(asked.collection, ids=names)))
    assert (tmp_path / "run.txt").read_text().startswith("id-0 Q0 id-")
    assert (tmp_path / "run.qrels.txt").read_text().startswith("id-0 0 id-")


def test_the_command_prints_further_metrics_and_writes_the_files(
    run_main, tiny_model_folder, tiny_pairs_file, tmp_path
):
    files = ["--run", tmp_path / "run.txt", "--beir", tmp_path / "beir.json"]
    arguments = [tiny_model_folder, tiny_pairs_file, "--split", "all", "--metrics", "nDCG@10,precision@3", *files]
    code, out, err = run_main(evaluate.main, *arguments, "--json")
    assert code == 0, err
    results = json.loads(out)["results"]["model"]
    assert {"ndcg_at_10/micro", "ndcg_at_10/macro", "ndcg_at_10/worst", "precision_at_3/macro"} <= results.keys()
    theirs = by_trec_eval(tmp_path / "run.txt")
    assert (results["ndcg_at_10/micro"], results["mrr/micro"]) == pytest.approx(
        (theirs["ndcg_cut_10"], theirs["recip_rank"]), abs=1e-6
    )
    assert json.loads((tmp_path / "beir.json").read_text())["ndcg"]["NDCG@10"] == round(theirs["ndcg_cut_10"], 5)
    code, _, err = run_main(evaluate.main, *arguments)
    assert (code, "run.txt: exists; name a new file, or remove it" in err) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "ndgc@10"], "--metrics ndgc@10: must be one of recall@k, precision@k"),
        (["--run", "nowhere/run.txt"], "nowhere/run.txt: there is no folder nowhere; create it, or name another"),
        (["--beir", "."], ".: exists; name a new file"),
    ],
)
def test_what_cannot_be_written_or_computed_is_refused_at_once(
    run_main, tiny_model_folder, tiny_pairs_file, options, message
):
    code, out, err = run_main(evaluate.main, tiny_model_folder, tiny_pairs_file, *options)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recall", "mrr"), [("cacm", 0.242, 0.695), ("stackfaq", 0.601, 0.884), ("vaswani", 0.143, 0.680)]
)
def test_public_sets_have_the_figures_that_are_known_and_that_trec_eval_finds(run_main, tmp_path, name, recall, mrr):
    if not (SETS / name).is_dir():
        pytest.skip(f"{name} is not beside this repository")
    arguments = ["all-MiniLM-L6-v2", SETS / name, "--metrics", "ndcg@10", "--run", tmp_path / "run.txt", "--json"]
    code, out, err = run_main(evaluate.main, *arguments)
    assert code == 0, err
    found, theirs = json.loads(out)["results"]["model"], by_trec_eval(tmp_path / "run.txt")
    assert (found[f"recall_at_5/{name}"], found[f"mrr/{name}"]) == pytest.approx((recall, mrr), abs=0.0006)
    assert found[f"recall_at_5/{name}"] == pytest.approx(theirs["recall_5"], abs=1e-6)
    assert found[f"ndcg_at_10/{name}"] == pytest.approx(theirs["ndcg_cut_10"], abs=1e-6)
    assert found[f"mrr/{name}"] == pytest.approx(theirs["recip_rank"], abs=1e-3)  # a run ends at rank 1000
