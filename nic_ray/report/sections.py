"""The sections of a report that are mainly text: the verdict, single queries, the data and the split."""

import html
import re
import shlex
from collections.abc import Mapping

import plotly.graph_objects as go

from nic_ray.bundle.descriptions import (
    describe_calibration,
    describe_curve,
    describe_ranked,
    describe_refit,
    describe_word_search,
)
from nic_ray.bundle.picture import COLOURS
from nic_ray.bundle.previous import describe_previous
from nic_ray.bundle.previous import table_of as table_of_previous
from nic_ray.bundle.question_kinds import caution_of, describe_trained
from nic_ray.bundle.question_kinds import table_of as table_of_kinds
from nic_ray.dataset.form import form_of
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.lint import lint_pairs
from nic_ray.dataset.pairs import read_pairs
from nic_ray.dataset.profile import profile_pairs, texts_to_count
from nic_ray.domains import AT_EACH_END, MAX_SHOWN, omitted_domains, shown_domains
from nic_ray.errors import InputError
from nic_ray.evidence import RetrievedQuery, ShownPassage, interval_unit
from nic_ray.metrics.intervals import Interval
from nic_ray.metrics.learning_curve import FittedCurve
from nic_ray.metrics.table import METRICS, PRIMARY, label_of, macro_cells, metrics_in
from nic_ray.protocol import BY_PASSAGE, MEANINGS, OWN_SPLITS, describe_groups, shown_name
from nic_ray.readings import COLUMNS, cells_of, describe_readings
from nic_ray.report.elements import (
    FinishedRun,
    Html,
    figure_html,
    judged_part,
    label,
    model_name,
    objective_name,
    sentence,
    table,
)
from nic_ray.report.pairs import profile_section
from nic_ray.results import CROSS_FIT
from nic_ray.sources import Sources, listed
from nic_ray.tokens import chosen_prompts, count_tokens, stored_prompts
from nic_ray.words import count_words

WORST = 10
"""Number of queries shown for each domain."""
SHOWN = 400
"""Number of characters shown of each passage."""
QUESTION = re.compile(r"^(what|how|why|when|where|which|who|is|are|do|does|can|should|my|i)\b", re.IGNORECASE)
# Question marks of many scripts; the Greek one looks like a semicolon. Japanese, Chinese and Thai also ask questions
# without a mark, with the particles and words that are listed here.
QUESTION_MARK = re.compile(
    r"[?\uff1f]\W*$|[\u00bf\u061f\u055e\u1367\u037e]|(?<=[α-ωά-ώ]);\W*$"
    r"|か[。\s]*$|[吗呢][。\s]*$|อย่างไร|ยังไง|อะไร|ทำไม|ไหม|ไหน|เมื่อไ|เท่าไ|ใคร|กี่"
)
LENGTHS = ((6, "up to 6 words"), (9, "7 to 9 words"), (12, "10 to 12 words"), (10**9, "13 words or more"))


def summary(run: FinishedRun) -> Html:
    """The winner and its gain, any warnings, and whether it was exported."""
    result, objective = run.result, run.result["objective"]
    if said := caution_of(result["data"], result["split"]):
        yield f'<div class="warning"><p>{html.escape(said)}</p></div>'
    part, results = judged_part(result)
    gain = results["tuned"][objective] - results["base"][objective]
    yield sentence(
        f"The winner is {result['winner']['trial']}. On the {part} rows its {objective_name(run)} is "
        f"{results['tuned'][objective]:.3f}, {gain:+.3f} against the base model."
    )
    if previous := result.get("previous"):
        yield table(*table_of_previous(previous))
        yield sentence(describe_previous(previous))
    if warning := describe_readings(result.get("readings", [])):
        yield f'<div class="warning"><p>{html.escape(warning[0].upper() + warning[1:])}.</p></div>'
    guard = result.get("guard", {})
    if guard.get("objections"):
        verdict = "Exported over these objections" if guard["overridden"] else "Not exported"
        listed = "".join(f"<li>{html.escape(objection)}</li>" for objection in guard["objections"])
        yield f'<div class="warning"><p>{verdict}:</p><ul>{listed}</ul></div>'
    elif result.get("bundle"):
        yield sentence(f"Exported to {result['bundle']}.")


def kinds(run: FinishedRun) -> Html:
    """Recall of the base model and the tuned one on the test questions of each kind; nothing if no row names one."""
    if found := run.result.get("question_kinds"):
        yield table(*table_of_kinds(found, interval_unit(run.result)))
        yield sentence(
            "Means over the questions of a kind, whatever their domain; a domain with more of them counts for more."
        )


def words(run: FinishedRun) -> Html:
    """Macro metrics of BM25, and of the models alone and fused with it."""
    found = run.result.get("word_search")
    if found is None:
        yield sentence("This run was not compared with a search by words.")
        return
    part = "test" if "test" in found["figures"] else "validation"
    yield table(
        [
            f"ranked by ({part} rows, mean over domains)",
            *(metric.label for metric in metrics_in(*found["figures"][part].values()).values()),
        ],
        [[ranking, *macro_cells(flat)] for ranking, flat in found["figures"][part].items()],
    )
    yield sentence(describe_word_search(found))


def confidence(run: FinishedRun) -> Html:
    """The stated chance that a first hit answers, against the share that does: a reliability diagram."""
    found = run.result.get("calibration")
    if found is None:
        yield sentence("This run states no chance that a first hit answers.")
        return
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="as stated", line={"color": "#666666", "dash": "dash"})
    for (part, read), colour in zip(found["readings"].items(), (COLOURS["base"], COLOURS["tuned"]), strict=False):
        figure.add_scatter(
            x=[row["chance"] for row in read["reliability"]],
            y=[row["right"] for row in read["reliability"]],
            mode="lines+markers",
            name=f"{part} rows",
            line={"color": colour},
            text=[f"{row['queries']} queries" for row in read["reliability"]],
            hovertemplate="%{text}: stated %{x:.2f}, right %{y:.2f}",
        )
    figure.update_xaxes(title="stated chance that<br>the first hit answers", range=[-0.02, 1.02])
    figure.update_yaxes(title="share of first hits<br>that answer", range=[-0.02, 1.02])
    yield figure_html("confidence", figure)
    yield sentence(describe_calibration(found))
    yield sentence("The chances were set on the validation rows, so only the test rows say how well they hold.")


def curve(run: FinishedRun) -> Html:
    """Recall on the test rows against the number of training passages, with the fitted line."""
    if run.curve is None:
        yield sentence(f"Not measured; do so with python -m nic_ray.curve {shlex.quote(str(run.folder))}")
        return
    points = [point for point in run.curve["points"] if point["share"]]
    base, key = run.curve["points"][0], f"{PRIMARY}/macro"
    figure = go.Figure()
    spans = [point["interval"] for point in points]
    figure.add_scatter(
        x=[point["passages"] for point in points],
        y=[point["metrics"][key] for point in points],
        mode="markers",
        name="measured",
        marker={"color": COLOURS["tuned"], "size": 10},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [0 if span["high"] is None else span["high"] - span["difference"] for span in spans],
            "arrayminus": [0 if span["low"] is None else span["difference"] - span["low"] for span in spans],
        },
    )
    whole, fitted = points[-1], FittedCurve(run.curve["at_one"], Interval(**run.curve["doubling"]))
    ends = [points[0]["share"], 2 * whole["share"]]
    figure.add_scatter(
        x=[whole["passages"] * share / whole["share"] for share in ends],
        y=[fitted.at(share) for share in ends],
        mode="lines",
        name="fitted, up to twice as many",
        line={"color": "#666666", "dash": "dash"},
    )
    figure.add_hline(y=base["metrics"][key], line={"color": COLOURS["base"], "width": 2}, opacity=1)
    figure.update_xaxes(title="training passages<br>(line across: base model)", type="log")
    figure.update_yaxes(title=f"{label_of(key)}, test rows")
    yield figure_html("curve", figure)
    yield sentence(describe_curve(run.curve))


def lost(run: FinishedRun) -> Html:
    """The mean of the primary metric over the test queries of each length and kind."""
    if run.queries is None:
        yield sentence(
            "This run kept no rankings of single test queries; they are read only for what the guard lets pass."
        )
        return
    queries = run.queries["queries"]
    groups: dict[str, list[RetrievedQuery]] = {}
    for _, name in LENGTHS:
        groups[name] = [query for query in queries if _length(query["query"]) == name]
    groups["asks a question"] = [query for query in queries if _asks(query["query"])]
    groups["keywords or a statement"] = [query for query in queries if not _asks(query["query"])]
    groups["with a number or code"] = [query for query in queries if re.search(r"\d", query["query"])]
    groups["without one"] = [query for query in queries if not re.search(r"\d", query["query"])]
    groups = {name: group for name, group in groups.items() if group}
    figure = go.Figure()
    for model in ("base", "tuned"):
        means = [sum(query["recall"][model] for query in group) / len(group) for group in groups.values()]
        figure.add_bar(
            x=means,
            y=[f"{name} ({len(group)})" for name, group in groups.items()],
            orientation="h",
            name=label(model_name(run, model)),
            marker={"color": COLOURS[model]},
            hovertemplate="%{y}: %{x:.3f}",
        )
    figure.update_xaxes(title=f"mean {METRICS[PRIMARY].label}<br>of the test queries", range=[0, 1.02])
    figure.update_yaxes(autorange="reversed")
    yield figure_html("lost", figure.update_layout(barmode="group"), height=150 + 48 * len(groups))
    yield sentence(
        "In brackets: the number of queries. A query belongs to one length and to one of each pair of kinds."
    )


def worst(run: FinishedRun) -> Html:
    """The test queries whose best answers rank lowest, and the passages that ranked first instead."""
    if run.queries is None:
        yield sentence(
            "This run kept no rankings of single test queries; they are read only for what the guard lets pass."
        )
        return
    passages = run.queries["passages"]
    yield sentence(
        f"Up to {WORST} test queries of each domain whose best answer stands lowest in the winner's ranking of all "
        "passages, and what came first instead. Read them to understand the model, not to change it: whatever is tuned "
        "by them can no longer be measured on the test rows."
    )
    by_domain: dict[str, list[RetrievedQuery]] = {}
    for query in run.queries["queries"]:
        by_domain.setdefault(query["domain"], []).append(query)
    names = sorted(by_domain)
    if len(names) > MAX_SHOWN:
        means = {
            name: sum(query["recall"]["tuned"] for query in group) / len(group) for name, group in by_domain.items()
        }
        names = sorted(names, key=lambda name: (means[name], name))[: 2 * AT_EACH_END]
        yield sentence(f"Of {len(by_domain):,} domains, the {len(names)} in which the winner finds least:")
    for domain in names:
        missed = [query for query in by_domain[domain] if query["rank"] > 1]
        missed = sorted(missed, key=lambda query: (-query["rank"], query["query"]))[:WORST]
        items = "".join(_miss(query, passages) for query in missed) or "<li>Every query finds its passage first.</li>"
        yield f"<details><summary>{html.escape(domain)}</summary><ol>{items}</ol></details>"


def _miss(query: RetrievedQuery, passages: Mapping[str, ShownPassage]) -> str:
    def excerpt(number: int) -> str:
        text = passages[str(number)]["text"]
        return html.escape(text if len(text) <= SHOWN else text[:SHOWN] + " …")

    instead = "".join(
        f'<li><span class="tag">{html.escape(", ".join(passages[str(number)]["domains"]) or "answer of no row")}, '
        f"cosine {cosine:.3f}</span> {excerpt(number)}</li>"
        for number, cosine in query["retrieved"][: min(3, query["rank"] - 1)]
        if number != query["passage"]
    )
    return (
        f'<li><p class="query">{html.escape(query["query"])}</p><p><span class="tag">its passage; the best answer '
        f"stands at rank {query['rank']}</span> {excerpt(query['passage'])}</p>"
        f"<p>Retrieved instead:</p><ol>{instead}</ol></li>"
    )


def data(run: FinishedRun) -> Html:
    """The pairs: how many, what they are like, and the findings of the data check on them."""
    data, sources = run.result["data"], run.config.data.pairs
    files = ", ".join([*(old["pairs"] for old in data.get("replay", ())), data["pairs"]])
    yield sentence(f"{files}: {data['rows']:,} rows and {data['passages']:,} passages were used.")
    if trained := describe_trained(data, run.result["split"]):
        yield sentence(trained)
    if "corpus" in data:
        yield sentence(f"Each query was ranked against {describe_ranked(data)}.")
    sizes = {name: float(rows) for name, rows in data["domains"].items()}
    yield table(
        ["domain", "rows"],
        [
            [omitted_domains(sizes), ""] if name is None else [name, f"{data['domains'][name]:,}"]
            for name in shown_domains(sizes)
        ],
    )
    if not _is_there(sources, data["sha256"]):
        yield sentence("The file is no longer there as it was, so it cannot be checked here.")
        return
    rows = read_pairs(sources, data["domains"], form_of(run.config.data))
    train = run.config.train
    prompts = chosen_prompts(stored_prompts(train.base_model), train.prompts)
    tokens, limit = count_tokens(train.base_model, texts_to_count(rows, prompts), train.max_tokens)
    yield from profile_section(profile_pairs(rows, tokens, limit, prompts))
    findings = lint_pairs(rows, tokens, limit, prompts)
    if not findings:
        yield sentence(f"The check finds no fault in the {len(rows):,} rows of the file.")
        return
    cells = [[finding.code, f"{finding.rows:,}", finding.effect] for finding in findings]
    yield table(["finding", "rows", "what it does"], cells)
    yield sentence(f"Single rows: python -m nic_ray.check {shlex.join(map(str, listed(sources)))}")


def _is_there(sources: Sources, sha256: str) -> bool:
    try:
        return content_sha256(sources) == sha256
    except (OSError, InputError):  # a report is no place to say why
        return False


def split(run: FinishedRun) -> Html:
    """The number of rows in each part, the readings of the test rows, and what rows share with the training rows."""
    held_back = run.result["split"]
    if held_back.get("splits") == "own":
        yield sentence(f"The rows were held back {MEANINGS[OWN_SPLITS]}.")
    else:
        yield sentence(f"Protocol {shown_name(held_back['protocol'])}, seed {held_back['seed']}.")
    if described := describe_groups(held_back.get("group_by", BY_PASSAGE), held_back.get("splits")):
        yield sentence(f"{described}.")
    yield table(["part", "rows"], [[shown_name(part), f"{rows:,}"] for part, rows in held_back["rows"].items()])
    if readings := run.result.get("readings"):
        yield sentence("Readings of the test rows, including those by neighbouring runs with the same held-back rows:")
        yield table(COLUMNS, cells_of(readings))
    yield from _folds(run)
    if "refitted" in run.result:
        yield sentence(describe_refit(run.result["refitted"]))
    leaks = run.result.get("leaks")
    if not leaks:
        yield sentence("This run holds no leak report.")
        return
    parts = list(dict.fromkeys(part for counts in leaks.values() for part in counts))
    yield sentence("Rows that share something with the training rows:")
    yield table(
        ["shared", *map(shown_name, parts)],
        [[name, *(f"{counts.get(part, 0):,}" for part in parts)] for name, counts in leaks.items()],
    )
    if "unseen_queries" in parts:
        yield sentence(
            "Unseen queries are new questions about trained passages, so they share their passages, and with them "
            "their documents, on purpose."
        )


def _folds(run: FinishedRun) -> Html:
    """What the winner's configuration is worth on all rows, if every passage was held out once."""
    if "folds" not in run.result:
        return
    found, results = run.result["folds"], run.result["results"][CROSS_FIT]
    gain = found["intervals"]["tuned minus base"]["macro"]
    sure = "" if gain["low"] is None else f" ({gain['low']:+.3f} to {gain['high']:+.3f})"
    yield sentence(
        f"Every passage held out once, in {found['folds']} folds, each answered by a model that was trained without "
        f"it: the tuned model finds {gain['difference']:+.3f}{sure} macro {METRICS[PRIMARY].label} against the base "
        f"model, over {gain['passages']:,} {interval_unit(run.result)}."
    )
    yield table(
        ["all rows, macro", *(metric.label for metric in metrics_in(*results.values()).values())],
        [[label, *macro_cells(flat)] for label, flat in results.items()],
    )


def _length(query: str) -> str:
    return next(name for most, name in LENGTHS if count_words(query) <= most)


def _asks(query: str) -> bool:
    return bool(QUESTION_MARK.search(query) or QUESTION.match(query.strip()))
