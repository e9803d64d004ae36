"""From questions to a file of pairs: all filters in their order, and the table of what they refused."""

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nic_ray import console
from nic_ray.errors import InputError, RunError, is_disk_full
from nic_ray.evidence import JsonObject
from nic_ray.manuals.sections import Section, read_sections
from nic_ray.progress import View
from nic_ray.questions.filters import (
    BROKEN,
    COPY,
    JUDGE,
    MORE,
    NEAR,
    ROUND_TRIP,
    TITLE,
    VAGUE,
    chosen,
    refuse_faulty,
    rows_of,
)
from nic_ray.questions.judge import refuse_misjudged
from nic_ray.questions.kept import parts_of
from nic_ray.questions.question import KINDS, Question
from nic_ray.questions.round_trip import refuse_lost
from nic_ray.train_config import TrainConfig

if TYPE_CHECKING:
    from nic_ray.model.encoder import Encoder

FILTERS = (BROKEN, TITLE, COPY, VAGUE, NEAR, ROUND_TRIP, JUDGE, MORE)
"""In the order in which they are applied."""


@dataclass(frozen=True)
class Made:
    """The rows, and where the other questions were left."""

    rows: list[JsonObject]
    questions: list[Question]
    """Those that are kept; several of them may share a row."""
    made: Counter[str]
    """Kind -> number of questions before the filters."""
    refused: Counter[str]
    """Filter of `FILTERS` -> number of questions that it refused."""
    without: list[int]
    """Numbers of the sections without any question."""


def read_all_sections(paths: Sequence[Path]) -> list[Section]:
    """Read files of sections, one after the other; a section that is in them twice is taken once.

    Raises:
        InputError: any file is unusable.
    """
    sections = [section for path in paths for section in read_sections(path)]
    return list({(section.domain, section.passage): section for section in sections}.values())


def refuse_place(out: Path, *, overwrite: bool | None = None) -> None:
    """Refuse a file that exists, or whose folder is not there, before any work is done.

    Args:
        out: the file that is to be written.
        overwrite: whether it may be replaced; None where the command has no such option.

    Raises:
        InputError: either is so.
    """
    if out.exists() and not (overwrite and out.is_file()):
        way_out = "" if overwrite is None else ", or replace it with --overwrite"
        raise InputError(f"{out}: exists already; name another file{way_out}")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out.parent}: is no folder; make it, or name a file in another one")


def keep_good(
    questions: Sequence[Question],
    sections: Sequence[Section],
    encoder: "Encoder",
    *,
    per_section: int,
    judge: Path | None,
    device: str,
    view: View,
) -> Made:
    """Put questions through all filters, and make rows of those that are kept.

    Args:
        encoder: the base model of the round trip.
        per_section: largest number of questions a section.
        judge: folder of a cross-encoder; None for none.
        device: where to embed.
        view: where progress is shown.
    """
    faultless = refuse_faulty(questions, sections)
    refused = faultless.refused
    with view.work("looking for each question's section", len(faultless.questions)) as done:
        found = refuse_lost(
            faultless.questions, sections, encoder, max_tokens=TrainConfig().max_tokens, device=device, done=done
        )
    refused += found.refused
    left = found.questions
    if judge is not None:
        with view.work("judging", len(left)) as done:
            judged = refuse_misjudged(left, sections, judge, device=device, done=done)
        left, refused = judged.questions, refused + judged.refused
    best = chosen(left, per_section)
    asked = {each.section for each in best.questions}
    return Made(
        rows=rows_of(best.questions, sections),
        questions=best.questions,
        made=Counter(each.kind for each in questions),
        refused=refused + best.refused,
        without=[number for number in range(len(sections)) if number not in asked],
    )


def write_made(made: Made, sections: Sequence[Section], out: Path) -> None:
    """Write the rows, remove what was kept for another start, and show what was kept and what was refused.

    Raises:
        InputError: the file cannot be written.
        RunError: there are none; nothing is written.
    """
    if made.rows:
        write_text(as_lines(made.rows), out)
    shutil.rmtree(parts_of(out), ignore_errors=True)
    console.show(console.table(*kinds_table(made)))
    if made.refused.total():
        console.show(console.table(*filters_table(made)))
    console.say(description(made, sections))
    if not made.rows:
        raise RunError(
            f"{out}: is not written, since no question was left about {len(sections):,} sections; rules know English "
            "best: for other languages name --language, or have a language model ask, with --llm"
        )
    console.say(f"written: {out}")


def write_text(text: str, out: Path) -> None:
    """Write a file, which is there whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    unfinished = out.with_name(f"{out.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(out)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{out}: cannot be written ({error.strerror}); name another file") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def as_lines(rows: Sequence[JsonObject]) -> str:
    """Write rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def kinds_table(made: Made) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of a table of the questions by kind."""
    kept = Counter(each.kind for each in made.questions)
    total = max(1, len(made.questions))
    rows = [[kind, f"{made.made[kind]:,}", f"{kept[kind]:,}", f"{kept[kind] / total:.0%}"] for kind in KINDS]
    rows.append(["all", f"{sum(made.made.values()):,}", f"{len(made.questions):,}", "100%" if made.questions else "0%"])
    return ["kind", "made", "kept", "share"], rows


def filters_table(made: Made) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of a table of what each filter refused; refused and kept add up to what was made."""
    rows = [[name, f"{made.refused[name]:,}"] for name in FILTERS if made.refused[name]]
    return ["refused because it", "ques-tions"], rows


def description(made: Made, sections: Sequence[Section]) -> str:
    """Describe in a line how many rows there are, and which sections have no question."""
    asked = len(sections) - len(made.without)
    line = f"{len(made.rows):,} rows about {asked:,} of {len(sections):,} sections"
    if not made.without:
        return line
    first = sections[made.without[0]]
    name = " > ".join(part for part in (first.document, first.chapter, first.section) if part)
    return f"{line}; {len(made.without):,} ({len(made.without) / len(sections):.1%}) have no question, such as {name!r}"
