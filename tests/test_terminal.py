"""What is printed when a search is over."""

from pathlib import Path
from types import SimpleNamespace

from nic_ray.report.terminal import describe_evidence, show_result

FLAT = {"recall_at_5/pumps": 0.5, "recall_at_5/macro": 0.5, "mrr/pumps": 0.4, "mrr/macro": 0.4}


def trained(name, epochs, *, finished=True):
    return {"trial": name, "epochs": epochs, "of": 3, "best_epoch": epochs, "finished": finished}


def evidence(first):
    return {
        "trained": {"first trial": [first], "tuned": [trained("trial-004", 3.0), trained("trial-007", 1.5)]},
        "confirmed": [
            {"trial": "trial-004", "epochs": 3.0, "by_seed": {42: 0.75, 43: 0.76}, "seeds": 2, "mean": 0.755},
            {"trial": "trial-007", "epochs": 1.5, "by_seed": {42: 0.74}, "seeds": 1, "mean": 0.74},
        ],
        "passages": {"validation": {"pumps": 9, "macro": 9}},
        "retention": None,
        "front": [],
        "leaks": {},
        "guard": {"objections": []},
    }


def test_epochs_stand_beside_every_model_in_a_table(tmp_path, capsys):
    found = evidence(trained("trial-000", 3.0))
    results = {"validation": {"base": FLAT, "first trial": FLAT, "tuned": FLAT}}
    judgement = SimpleNamespace(evidence=found, results=results)
    show_result(
        SimpleNamespace(judgement=judgement, folder=Path("models/a"), run_folder=tmp_path, ranked=None, caution=None)
    )
    shown = capsys.readouterr().out
    # the header is set in narrow columns, a few letters a line
    header = shown.partition("pumps")[0].split()
    assert [header.count(each) for each in ("3", "1.5", "epochs")] == [4, 2, 4]
    assert "trained: first trial: trial-000 3 epochs, best after 3; tuned: trial-004 3 epochs, best after 3 + " in shown
    assert "cut off" not in shown


def test_the_passages_of_each_domain_stand_in_every_table(tmp_path, capsys):
    found = evidence(trained("trial-000", 3.0)) | {
        "passages": {"validation": {"pumps": 9, "macro": 19}, "test": {"pumps": 8, "macro": 18}}
    }
    results = {part: {"base": FLAT, "tuned": FLAT} for part in ("validation", "test", "test in domain")}
    judgement = SimpleNamespace(evidence=found, results=results)
    show_result(
        SimpleNamespace(judgement=judgement, folder=Path("models/a"), run_folder=tmp_path, ranked=None, caution=None)
    )
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line[:1] == ["pumps"]] == [["pumps", "9"], ["pumps", "8"], ["pumps", "8"]]
    assert [line for line in lines if line[:1] == ["macro"]] == [["macro", "19"], ["macro", "18"], ["macro", "18"]]


def test_a_second_reading_of_the_test_rows_is_said_in_the_terminal():
    readings = [
        {"when": f"2026-01-0{day}", "command": command, "rows": 320, "model": "trial-004", "run": "a"}
        for day, command in ((1, "export"), (2, "tune --resume"))
    ]
    assert not any("had been read" in line for line in describe_evidence(evidence(trained("trial-000", 3.0))))
    said = describe_evidence(evidence(trained("trial-000", 3.0)) | {"readings": readings})
    assert any(line.startswith("warning: the 320 test rows had been read once before: 2026-01-01") for line in said)


def test_a_first_trial_that_was_cut_off_is_not_compared_in_silence():
    said = describe_evidence(evidence(trained("trial-000", 1.0, finished=False)))
    assert any(line.startswith("The first trial was cut off after 1 of 3 epochs: ") for line in said)


def test_what_averaging_is_worth_is_told_where_it_was_tried():
    found = evidence(trained("trial-000", 3.0))
    assert not any("averaged" in line for line in describe_evidence(found | {"averaging": {}}))
    said = "\n".join(describe_evidence(found | {"averaging": {1: 0.743, 2: 0.75}}))
    assert "the other half measures: 0.743 of 1, 0.750 of 2." in said


def test_each_confirmation_says_how_many_seeds_stand_behind_it():
    said = describe_evidence(evidence(trained("trial-000", 3.0)))
    assert "  trial-004: 0.755 over 2 seed(s), 3 epochs (0.750 with 42, 0.760 with 43)" in said
    assert "  trial-007: 0.740 over 1 seed(s), 1.5 epochs (0.740 with 42)" in said
