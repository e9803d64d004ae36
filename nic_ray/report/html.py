"""report.html of a run folder: the results of a search, in one file that opens without a network."""

import html
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from nic_ray.metrics.table import METRICS, PRIMARY
from nic_ray.report import deployment, figures, sections
from nic_ray.report.elements import FinishedRun, Html, read_run, sentence
from nic_ray.run_folder import RunFolder

log = logging.getLogger("nic_ray.report")

SECTIONS: list[tuple[str, str, Callable[[FinishedRun], Html]]] = [
    ("recall", f"{METRICS[PRIMARY].label} in each domain, before and after", figures.recall),
    ("kinds", f"{METRICS[PRIMARY].label} by kind of question", sections.kinds),
    ("bases", "What a larger base model pays", deployment.bases),
    ("index", "What an index that stays valid costs", deployment.index),
    ("dimensions", "What fewer dimensions cost", deployment.dimensions),
    ("words", "What a search by words adds", sections.words),
    ("confidence", "How sure a first hit is", sections.confidence),
    ("retention", "What was gained, against what was forgotten", figures.retention),
    ("history", "How the search got better, trial by trial", figures.history),
    ("rungs", "Which trial was stopped where", figures.rungs),
    ("curves", "How each trial learned", figures.curves),
    ("parallel", "Which settings go with a high objective", figures.parallel),
    ("importance", "Which settings mattered most", figures.importance),
    ("lost", "Where recall is lost: lengths and kinds of queries", sections.lost),
    ("worst", "The queries that went worst", sections.worst),
    ("data", "The data, and what its check says", sections.data),
    ("split", "How rows were held back, and what they share with training", sections.split),
    ("curve", "What more pairs would bring", sections.curve),
    ("timing", "How long each trial took", figures.timing),
]
"""Name, heading and drawing function of each section, in the order of the page; one that draws nothing is left out."""


def write_page(run_folder: Path) -> Path:
    """Write report.html into a run folder that has a result.json.

    A section that cannot be drawn is replaced by a sentence that says so.

    Raises:
        InputError: the folder holds no result of a search.
    """
    path = RunFolder(run_folder).report
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(page(read_run(run_folder)), encoding="utf-8")
    unfinished.replace(path)
    return path


def page(run: FinishedRun) -> str:
    """The whole page as HTML."""
    drawn = [(key, heading, _drawn(draw, run)) for key, heading, draw in SECTIONS]
    drawn = [(key, heading, content) for key, heading, content in drawn if content]
    return document(run.folder.name, _drawn(sections.summary, run), drawn, get_plotlyjs())


def document(title: str, summary: str, drawn: Sequence[tuple[str, str, str]], script: str = "") -> str:
    """A page in one file: a title, a summary, and sections with links to them.

    Args:
        title: as plain text.
        summary: HTML.
        drawn: key, heading as plain text, and HTML of each section.
        script: JavaScript that they need.
    """
    name = html.escape(title)
    links = "".join(f'<a href="#{key}">{html.escape(heading)}</a>' for key, heading, _ in drawn)
    body = "\n".join(
        f'<section id="{key}"><h2>{html.escape(heading)}</h2>\n{content}\n</section>' for key, heading, content in drawn
    )
    scripts = f"\n<script>{script}</script>" if script else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style>{scripts}</head>\n"
        f"<body><header><h1>{name}</h1>\n{summary}</header>\n<nav>{links}</nav>\n"
        f"{body}\n</body></html>\n"
    )


def _drawn(draw: Callable[[FinishedRun], Html], run: FinishedRun) -> str:
    try:
        return "\n".join(draw(run))
    except Exception as error:  # an older or incomplete run must not prevent the other sections
        log.warning("%s: %s", RunFolder(run.folder).report, draw.__name__, exc_info=True)
        return sentence(f"This cannot be shown ({type(error).__name__}: {error}).")


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1100px; margin: 0 auto; padding: 0 16px 48px; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .9rem; } a { color: #0060a0; }
p, li, summary { overflow-wrap: anywhere; } .wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #666; } td { border-bottom: 1px solid #ddd; white-space: nowrap; }
td.long { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #D55E00; padding-left: 12px; } .query { font-weight: 600; margin-bottom: .2rem; }
.tag { background: #eef2f6; border-radius: 3px; padding: 0 .3rem; font-size: .9rem; }
details { margin: .5rem 0; border-top: 1px solid #ddd; }
summary { cursor: pointer; font-weight: 600; padding: .4rem 0; }
details ol { padding-left: 1.4rem; } details li { margin-bottom: .7rem; }
"""
