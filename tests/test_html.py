"""report.html of a run folder: from a small run made by hand; in Chromium where that is installed."""

import html
import json
import re
import shutil

import optuna
import pytest
import yaml

from nic_ray.bundle.picture import recall_png
from nic_ray.dataset.formats import content_sha256
from nic_ray.errors import InputError
from nic_ray.report import sections as page
from nic_ray.report.html import write_page
from nic_ray.report.profile import HEADINGS
from nic_ray.run_folder import RunFolder
from nic_ray.training.prepared import PARTS

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>"
DOMAINS = ("pumps", f"<b>{HOSTILE}")
FIGURES = [
    "recall",
    "confidence",
    "retention",
    "history",
    "rungs",
    "curves",
    "parallel",
    "importance",
    "lost",
    "timing",
]


def flat(value):
    names = (*DOMAINS, "macro", "worst")
    return {f"recall_at_5/{name}": value for name in names} | {f"mrr/{name}": value for name in (*DOMAINS, "macro")}


def own_interval(value):
    return {"difference": value, "low": value - 0.1, "high": value + 0.1, "queries": 12, "passages": 9}


@pytest.fixture
def make_run(tmp_path):
    """`make_run(trials=..., failed=..., retention_set=..., tested=...)`: a run folder as a search leaves it."""

    def make(*, trials=6, failed=0, retention_set=True, tested=True):
        folder = tmp_path / "models-v1-20260101T000000Z"
        folder.mkdir()
        space = {"learning_rate": {"log_uniform": [1e-5, 1e-3]}, "batch_size": {"choice": [32, 64]}}
        data = {"pairs": str(tmp_path / "none.jsonl")}
        search = {"trials": trials + failed, "grace_period": 1, "reduction_factor": 3}
        settings = {"data": data, "train": {"epochs": 3}, "space": space, "search": search}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
        study = optuna.create_study(storage=storage, study_name="any", direction="maximize")
        rows = []
        for number in range(trials + failed):
            rate, size = 1e-5 * 2**number, (32, 64)[number % 2]
            ends = "failed" if number >= trials else "finished" if number % 3 == 0 else "stopped"
            steps = {"failed": 0, "finished": 3, "stopped": 1}[ends]
            states = {"failed": "FAIL", "finished": "COMPLETE", "stopped": "PRUNED"}
            values = {step: 0.5 + 0.02 * number + 0.03 * step for step in range(1, steps + 1)}
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState[states[ends]],
                    value=values.get(steps),
                    params={"learning_rate": rate, "batch_size": size},
                    distributions={
                        "learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True),
                        "batch_size": optuna.distributions.CategoricalDistribution([32, 64]),
                    },
                    intermediate_values=values,
                    user_attrs={f"epoch at {step}": float(step) for step in values},
                )
            )
            row = {"trial": f"trial-{number:03d}", "status": ends, "learning_rate": rate, "batch_size": size}
            if values:
                row |= {"recall_at_5/macro": values[steps], "seconds": 10.0 + number}
                row |= {"epochs": float(steps), "best_epoch": float(steps)}
            rows.append(row | {"error": HOSTILE if ends == "failed" else ""})
        storage.engine.dispose()
        models = {"base": 0.5, "first trial": 0.6, "tuned": 0.7}
        results = {"validation": {model: flat(value) for model, value in models.items()}}
        evidence = {
            "guard": {"objections": [f"validation: {HOSTILE}"], "overridden": tested, "max_retention_loss": 0.05}
        }
        evidence |= {
            "word_search": {
                "chosen": {"tuned": {"form": "scores", "weight": 0.03}},
                "helps": tested,
                "gain": own_interval(0.125),
                "figures": {"validation": {"BM25": flat(0.4), "tuned, similarity + 0.03 BM25": flat(0.75)}},
            },
            "calibration": {
                "ranking": {"form": "scores", "weight": 0.03},
                "scores": [0.25, 0.75],
                "chances": [0.0, 1.0],
                "threshold": 0.5,
                "readings": {
                    "validation": {
                        "queries": 8, "right": 0.5, "brier": 0.125, "brier_of_the_mean": 0.25, "right_below": 0.0625,
                        "recognised": 0.75, "reliability": [{"chance": 0.25, "right": 0.5, "queries": 8}],
                    }
                },
            },
        }  # fmt: skip
        if tested:
            results["test"] = results["validation"] | {"BM25": flat(0.4)}
            names = (*DOMAINS, "macro")
            own = {model: {name: own_interval(value) for name in names} for model, value in models.items()}
            own["base"][DOMAINS[0]] |= {"low": None, "high": None}
            evidence |= {"recall_intervals": own, "intervals": {"tuned minus base": own["tuned"]}}
            RunFolder(folder).queries.write_text(json.dumps(asked()), encoding="utf-8")
        shown = ("recall_at_5/macro", "mrr/macro", "recall_at_5/worst")
        front = [
            {"alpha": alpha, **dict.fromkeys(shown, 0.5 + alpha / 5),
             "retention": {"recall_at_5": -alpha / 20, "mrr": 0.0} if retention_set else None}
            for alpha in (0.0, 0.5, 1.0)
        ]  # fmt: skip
        result = {
            "bundle": None,
            "objective": "recall_at_5/macro",
            "winner": {"trial": "trial-003", "averaged": [], "config": {}, "metrics": {}},
            "results": results,
            "alpha": 0.5,
            "front": front,
            "leaks": {"passage": {"validation": 0, "test": 0}, "near-duplicate query": {"validation": 2, "test": 17}},
            "trials": rows,
            "data": {
                "pairs": "none.jsonl",
                "sha256": "0",
                "rows": 40,
                "passages": 20,
                "domains": dict.fromkeys(DOMAINS, 20),
            },
            "split": {"protocol": "unseen_passages", "seed": 42, "rows": dict.fromkeys(PARTS, 10)},
            **evidence,
        }
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        return folder

    return make


def asked():
    queries = [
        {"query": f"{HOSTILE} question {number}" if number else "what is rank-first?", "domain": domain, "passage": 1,
         "rank": number + 1, "retrieved": [[2, 0.9], [3, 0.8], [1, 0.7]],
         "recall": {"base": 0.0, "first trial": 0.0, "tuned": float(number < 5)}}
        for domain in DOMAINS for number in range(13)
    ]  # fmt: skip
    passages = {str(number): {"text": f"passage {number} {HOSTILE}", "domains": [DOMAINS[0]]} for number in (1, 2, 3)}
    return {"queries": queries, "passages": passages}


def text_of(folder):
    return write_page(folder).read_text(encoding="utf-8")


def section(text, name):
    return text.partition(f'<section id="{name}">')[2].partition("</section>")[0]


@pytest.mark.parametrize("helps", [True, False])
def test_words_and_the_first_hit_are_described(make_run, helps):
    text = text_of(make_run(tested=helps))
    assert "<td>tuned, similarity + 0.03 BM25</td><td>0.750</td><td>0.750</td>" in text
    told = "the tuned model finds +0.125 (+0.025 to +0.225) macro Recall@5 there against what it finds alone, "
    verdict = "so python -m nic_ray.retrieve ranks by both" if helps else "which may be chance"
    assert told + verdict in text
    assert "Brier score is 0.125, where stating 50% every time has 0.250" in text
    assert "said of 6.2% of the right first hits, and of 75.0% of the questions" in text


def test_every_section_is_there_and_every_figure_drawn(make_run):
    text = text_of(make_run())
    assert re.findall(r'<div id="figure-(\w+)"', text) == FIGURES
    assert "cannot be shown" not in text
    assert text.count("<h2>") == 15
    assert "near-duplicate query" in section(text, "split")
    assert "17" in section(text, "split")


def test_the_pairs_are_described_where_their_file_is_as_it_was(make_run):
    folder = make_run()
    file = folder.parent / "none.jsonl"
    rows = [
        {"query": f"open valve {number // 2}", "positive": f"{HOSTILE} valve {number}", "domain": domain}
        for domain in ("pumps", "<b>radar")
        for number in range(8)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = json.loads((folder / "result.json").read_text())
    result["data"]["sha256"] = content_sha256(file)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    drawn = section(text_of(folder), "data")
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", drawn)]
    told = {row[0]: row[1:] for row in cells if len(row) == len(HEADINGS)}
    assert [*told] == ["&lt;b&gt;radar", "pumps", "all"]
    assert told["all"][:2] == ["5, 5, 5, 5", "0.0%"]
    assert told["all"][4:] == ["1, 1", "8, 0, 0, 0, 0", "2, 2", "4", "50.0%", "Latin 100.0%", "0"]
    assert told["all"] == told["pumps"]
    traces, _ = plotted(drawn)
    assert [(trace["name"], sum(trace["y"])) for trace in traces] == [("queries", 4), ("passages", 8)]


def test_epochs_stand_beside_every_trial_and_model_that_is_compared(make_run):
    folder = make_run(trials=4, failed=1)
    result = json.loads((folder / "result.json").read_text())
    again = {"trial": "trial-001-seed-43", "status": "repeated", "epochs": 1.0, "best_epoch": 0.5}
    result["trials"].append(again | {"recall_at_5/macro": 0.6666})
    own = {"of": 3, "best_epoch": 1.0}
    result["trained"] = {
        "first trial": [own | {"trial": "trial-000", "epochs": 1.0, "finished": False}],
        "tuned": [own | {"trial": "trial-003", "epochs": 3.0, "finished": True}],
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    text = text_of(folder)
    rows = re.findall(r"<tr>(.*?)</tr>", section(text, "history"))
    cells = {row[0]: row[1:] for row in (re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows) if row}
    assert cells["trial-000"][:3] == ["finished", "3", "3"]
    assert cells["trial-001"][:3] == ["stopped", "1", "1"]
    assert cells["trial-004"] == ["failed", "–", "–", "–"]
    assert cells["trial-001-seed-43"] == ["repeated", "1", "0.5", "0.667"]
    recall = section(text, "recall")
    assert "<th>first trial (1 of 3 epochs)</th>" in recall
    assert "<th>winner (3 epochs)</th>" in recall
    assert "The first trial was cut off after 1 of 3 epochs" in recall


def test_nothing_is_fetched_and_what_others_wrote_stays_text(make_run):
    text = text_of(make_run())
    own = text.partition("</head>")[2]
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.?https?:", text.partition("<script>")[0] + own)
    assert "<img" not in own
    assert "document.title='taken'" not in own  # quotes are escaped too, in HTML and in the figures
    assert html.escape(HOSTILE) in own


def test_the_ten_lowest_answers_of_a_domain_are_shown_the_lowest_first(make_run):
    worst = section(text_of(make_run()), "worst")
    pumps = worst.partition("<summary>pumps</summary>")[2].partition("</details>")[0]
    assert re.findall(r"at rank (\d+)", pumps) == [str(rank) for rank in range(13, 3, -1)]
    assert "cosine 0.900" in pumps
    assert "rank-first" not in worst


def test_a_second_reading_of_the_test_rows_is_said_at_the_top_and_listed(make_run):
    folder = make_run()
    assert "had been read" not in text_of(folder)
    result = json.loads((folder / "result.json").read_text())
    row = {"when": "2026-01-02T03:04:05+00:00", "command": "tune", "part": "test", "rows": 10, "model": "m", "run": "r"}
    result["readings"] = [row, row | {"command": "export", "model": HOSTILE}]
    (folder / "result.json").write_text(json.dumps(result))
    text = text_of(folder)
    warned = "The 10 test rows had been read once before: 2026-01-02T03:04:05+00:00 by tune, of m (r). What was"
    assert warned in text.partition("</header>")[0]
    assert "<td>export</td>" in section(text, "split")
    assert html.escape(HOSTILE) in section(text, "split")


def test_a_damaged_study_costs_its_own_figures_only(make_run, caplog):
    folder = make_run()
    (folder / "study.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    text = write_page(folder).read_text(encoding="utf-8")
    assert "figure-recall" in text
    assert "figure-history" not in text
    assert "No trial has a value to draw." in section(text, "history")
    assert any("study.db: cannot be read" in record.getMessage() for record in caplog.records)


def test_a_search_of_two_trials_says_what_it_is_too_short_for(make_run):
    text = text_of(make_run(trials=2))
    assert "Needs four trials with a value, that differ" in section(text, "importance")
    assert "figure-parallel" in text


def test_failed_trials_are_shown_as_failed(make_run):
    text = text_of(make_run(trials=2, failed=2))
    assert '"name":"failed"' in section(text, "rungs")
    assert "cannot be shown" not in text


def test_without_a_retention_set_or_a_test_reading_it_says_so(make_run):
    text = text_of(make_run(retention_set=False, tested=False))
    assert "was not measured" in section(text, "retention")
    assert "Measured on the validation rows." in section(text, "recall")
    assert all("no rankings of single test queries" in section(text, name) for name in ("lost", "worst"))
    assert "Not exported" in text


@pytest.mark.parametrize(("with_set", "with_neighbours"), [(True, True), (True, False), (False, True)])
def test_each_limit_of_what_may_be_forgotten_is_drawn_where_it_was_measured(make_run, with_set, with_neighbours):
    folder = make_run(retention_set=with_set)
    result = json.loads((folder / "result.json").read_text())
    result["guard"]["min_neighbours_kept"] = 0.75
    for row in result["front"] if with_neighbours else []:
        row["neighbours"] = 1 - row["alpha"] / 2
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    drawn = section(text_of(folder), "retention")
    traces, layout = plotted(drawn)
    paths = [(trace["x"], trace["y"]) for trace in traces if trace["mode"] == "lines+markers+text"]
    gain, lost, kept = [0.5, 0.6, 0.7], [0.0, -0.025, -0.05], [1.0, 0.75, 0.5]
    assert paths == [(kept, gain)] * with_neighbours + [(lost, gain)] * with_set
    stars = [(trace["x"], trace["y"]) for trace in traces if trace["mode"] == "markers"]
    assert stars == [([0.75], [0.6])] * with_neighbours + [([-0.025], [0.6])] * with_set
    limits = [0.75] * with_neighbours + [-0.05] * with_set
    assert [line["x0"] for line in layout["shapes"]] == limits
    assert len({line["xref"] for line in layout["shapes"]}) == len(limits)
    assert f"left of a dashed line ({' or '.join(map(str, limits))}) nothing is exported" in drawn


def plotted(drawn):
    """The traces and the layout of a section's figure."""
    start = drawn.index("[", drawn.index("Plotly.newPlot("))
    traces, end = json.JSONDecoder().raw_decode(drawn, start)
    layout, _ = json.JSONDecoder().raw_decode(drawn, drawn.index("{", end))
    return traces, layout


def test_a_lost_study_costs_only_what_was_drawn_from_it(make_run):
    folder = make_run()
    (folder / "study.db").unlink()
    text = text_of(folder)
    assert "cannot be shown" not in text
    assert re.findall(r'<div id="figure-(\w+)"', text) == [
        "recall", "confidence", "retention", "parallel", "lost", "timing"
    ]  # fmt: skip


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no result of a search"):
        write_page(tmp_path)


def test_the_picture_of_the_card_is_a_png_and_always_the_same():
    results = {"base": flat(0.5), "BM25": flat(0.4), "tuned": flat(0.7)}
    intervals = {"tuned": {"pumps": own_interval(0.7), "macro": own_interval(0.7) | {"low": None, "high": None}}}
    first = recall_png(results, intervals)
    assert first.startswith(b"\x89PNG")
    assert first == recall_png(results, intervals)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        f"disable-component-update disable-sync disable-dev-shm-usage user-data-dir={tmp_path_factory.mktemp('user')}"
    ).split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_every_figure_without_an_error_and_within_its_width(make_run, chromium, width):
    folder = make_run(failed=1)
    write_page(folder)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chromium.get(RunFolder(folder).report.as_uri())
    errors = [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []
    assert chromium.title == folder.name  # no text of the data was run
    drawn = chromium.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('[id^=figure-]')].map(each => "
        "[each.id.slice(7), each.querySelectorAll('svg .trace').length]))"
    )
    assert sorted(drawn) == sorted(FIGURES)  # the driver sorts keys
    assert all(drawn.values()), drawn
    outer, inner = chromium.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert outer <= inner == width


@pytest.mark.parametrize(
    "query",
    [
        "How do I open it",
        "valve stuck?",
        "Почему горит лампа?",
        "Ποιο λάδι;",
        "Ποιο λάδι\u037e",
        "أي زيت؟",
        "कौन सा तेल?",
        "用什么油？",
        "什么时候换油吗",
        "どのオイルですか。",
        "ใช้น้ำมันอะไร",
        "어떤 오일?",
        "¿Qué aceite?",
    ],
)
def test_a_question_is_told_from_keywords_in_every_script(query):
    assert page._asks(query)


@pytest.mark.parametrize(
    "query", ["oil; filter", "масло фильтр", "机油滤清器", "オイル交換", "น้ำมันเครื่อง", "फ़िल्टर", "λάδι"]
)
def test_keywords_are_no_question_in_any_script(query):
    assert not page._asks(query)


def test_a_query_without_spaces_is_counted_in_words():
    assert page._length("如何更换液压泵的机油滤清器和密封圈") == "7 to 9 words"
    assert page._length("机油滤清器") == page._length("oil filter") == "up to 6 words"
