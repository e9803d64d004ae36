"""Questions that a language model writes, as the options of a command say where and at what cost."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nic_ray import console
from nic_ray.errors import InputError
from nic_ray.manuals.sections import Section
from nic_ray.questions.asking import ask_model, summary_of
from nic_ray.questions.endpoint import Endpoint, checked_url, key_in
from nic_ray.questions.question import Question
from nic_ray.questions.spending import Budget
from nic_ray.questions.standing import display

CACHE_ENDING = ".cache"


@dataclass(frozen=True)
class Writer:
    """A language model that writes questions, and what it may cost."""

    endpoint: Endpoint
    budget: Budget


@dataclass(frozen=True)
class Limits:
    """What a language model may cost at once, for an answer and in a run."""

    concurrency: int
    """Number of requests that are on their way at once."""
    answer_tokens: int | None
    """Number of tokens after which an answer is cut off; None for enough for the questions."""
    budget: Budget
    """What a run may cost."""


def writer_of(
    llm: str | None, llm_model: str | None, limits: Limits, *, seed: int, glossary: Path | None
) -> Writer | None:
    """Return the language model that options name; None if they name none.

    Args:
        llm: the endpoint's address, of `--llm`.
        llm_model: the model's name there, of `--llm-model`.
        limits: what it may cost.
        seed: is sent to the model.
        glossary: shop words for the rules, of which a model makes no use.

    Raises:
        InputError: only one of the two is named, a budget or a glossary has no use, or the address or key is unusable.
    """
    if llm is None:
        if llm_model is not None or limits.budget != Budget():
            named = "--llm-model" if llm_model is not None else "--budget-calls and --budget-tokens"
            raise InputError(f"{named}: name the endpoint too, with --llm URL; without it questions are made by rules")
        return None
    if glossary is not None:
        raise InputError("--glossary: a language model makes no use of it; leave it out, or leave out --llm")
    if llm_model is None:
        raise InputError("--llm: name the model too, with --llm-model, as the endpoint calls it")
    endpoint = Endpoint(
        checked_url(llm),
        llm_model,
        key_in(os.environ),
        seed=seed,
        concurrency=limits.concurrency,
        answer_tokens=limits.answer_tokens,
    )
    return Writer(endpoint, limits.budget)


def ask_writer(writer: Writer, sections: Sequence[Section], out: Path, *, per_section: int) -> list[Question]:
    """Ask a language model about all sections in their own language, and say how far it is and what became of them.

    Answers are kept beside `out`, so that none is paid for twice.

    Args:
        out: the file of pairs that is being made.
        per_section: number of questions about each section.

    Raises:
        InputError: the endpoint cannot be reached, or refuses what it is asked.
        RunError: it fails again and again.
    """
    kept = out.with_name(out.name + CACHE_ENDING)
    with display(console.say) as progress:
        asked = ask_model(
            sections,
            writer.endpoint,
            per_section=per_section,
            budget=writer.budget,
            cache_dir=kept,
            progress=progress,
        )
    for line in summary_of(asked, sections, kept):
        console.say(line)
    return [*asked.questions]
