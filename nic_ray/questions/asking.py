"""Questions about sections from a language model: asked for, kept as they arrive, and read in the order of sections."""

import asyncio
import collections
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nic_ray.errors import InputError, RunError
from nic_ray.evidence import JsonObject
from nic_ray.manuals.sections import MAX_LISTED, Section
from nic_ray.questions.answers import Parsed, parsed
from nic_ray.questions.cache import Answer, held, keep_answer, key_of, read_answer
from nic_ray.questions.endpoint import Endpoint, refuse_without_httpx2
from nic_ray.questions.prompts import SYSTEM, WITHOUT_RARE, Prompt, prompts_for
from nic_ray.questions.question import Kind, Question, kind_counts
from nic_ray.questions.spending import Budget, Spending, estimated_tokens
from nic_ray.questions.standing import Standing
from nic_ray.words import words

if TYPE_CHECKING:
    from nic_ray.questions.client import Connection

TOKENS_A_QUESTION, TOKENS_BESIDES = 150, 500
"""The longest answer that is allowed, unless the user allows another; a usual one has a fifth of it."""
LIKELY_A_QUESTION = 30
FAILED_IN_A_ROW = 8
"""Number of sections that fail one after another before the run stops: whatever is wrong, it would go on."""
GRACE_S = 10.0
"""How long answers on their way are waited for when the run ends early: they have been paid for."""


@dataclass(frozen=True)
class Asked:
    """The questions that a language model wrote, and what became of each section."""

    questions: tuple[Question, ...]
    """In the order of sections, and of each answer."""
    sections: int
    cached: int
    """Number of sections that an earlier run had asked about."""
    failed: Mapping[int, str]
    """Section -> why it has no questions."""
    unasked: tuple[int, ...]
    """Sections that the budget did not suffice for."""
    dropped: Mapping[str, int]
    """Why questions were dropped -> how many."""
    missing: int
    """Number of questions that were asked for and not written, where an answer could be read."""
    cut_off: int
    """Number of answers that were cut off, of which the whole questions were used."""
    giveaways: int
    """Number of symptom and shop questions that use a word that was forbidden them; they are kept."""
    calls: int
    """Number of requests of this run that were answered, or whose answer was lost on the way."""
    tokens: int
    """Number of tokens of this run."""
    estimated: bool
    """Whether tokens are estimated, since the endpoint does not count them."""


@dataclass(frozen=True)
class _Job:
    prompts: tuple[Prompt, ...]
    """What is asked first, and what is asked if the answer is no JSON."""
    keys: tuple[str, ...]
    """The key of the answer to each prompt."""
    members: tuple[int, ...]
    """The sections that it is about: one, or several that are the same."""


@dataclass
class _Run:
    """What the workers share."""

    endpoint: Endpoint
    cache_dir: Path
    counts: Mapping[Kind, int]
    spending: Spending
    tell: Callable[[Standing], None]
    standing: Standing
    begun: float = field(default_factory=time.monotonic)
    answers: dict[str, tuple[Answer, Parsed | None]] = field(default_factory=dict)
    """Key -> an answer, and what could be read of it."""
    failed: dict[int, str] = field(default_factory=dict)
    in_a_row: int = 0
    refused: bool = False

    @property
    def most_tokens(self) -> int:
        return self.endpoint.answer_tokens or TOKENS_A_QUESTION * sum(self.counts.values()) + TOKENS_BESIDES

    def take(self, key: str, answer: Answer) -> None:
        self.answers[key] = answer, parsed(answer.content, self.counts)

    def update(self, *, answered: int = 0, failed: int = 0) -> None:
        """Count further sections, and tell how far asking has got."""
        self.standing = replace(
            self.standing,
            answered=self.standing.answered + answered,
            failed=self.standing.failed + failed,
            tokens=self.spending.tokens,
            elapsed_s=time.monotonic() - self.begun,
        )
        self.tell(self.standing)


def ask_model(
    sections: Sequence[Section],
    endpoint: Endpoint,
    *,
    per_section: int,
    budget: Budget,
    cache_dir: Path,
    progress: Callable[[Standing], None],
) -> Asked:
    """Ask a language model for questions about each section, except where its answer is kept from before.

    Answers are written to the disk the moment they arrive. A run that was killed, interrupted or stopped by its budget
    goes on where it ended when it is started again with the same arguments. With all answers kept, nothing is sent.

    Args:
        sections: all sections, of which those that are the same are asked about once.
        endpoint: the model, and how it is asked.
        per_section: number of questions about each, at least 1.
        budget: what this run may spend.
        cache_dir: the folder of answers; it is created if there is none.
        progress: called with each change.

    Raises:
        InputError: the endpoint cannot be reached, or refuses what it is asked.
        RunError: it fails again and again. What was answered is kept.
        KeyboardInterrupt: interrupted; the message says how to go on.
    """
    refuse_without_httpx2()
    jobs = _jobs(endpoint, prompts_for(sections, per_section))
    run = _Run(endpoint, cache_dir, kind_counts(per_section), Spending(budget), progress, Standing(total=len(sections)))
    with held(cache_dir):
        _read_kept(jobs, run)
        open_jobs = [job for job in jobs if isinstance(_next_step(job, run), Prompt)]
        cached = len(sections) - sum(len(job.members) for job in open_jobs)
        run.standing = replace(run.standing, cached=cached)
        if open_jobs:
            _ask(open_jobs, sections, run)
    return _outcome(jobs, run, cached)


def _jobs(endpoint: Endpoint, prompts: Sequence[Prompt]) -> list[_Job]:
    members = collections.defaultdict[str, list[int]](list)
    for number, prompt in enumerate(prompts):
        members[_key(endpoint, prompt)].append(number)
    jobs = list[_Job]()
    for key, numbers in members.items():
        both = prompts[numbers[0]], replace(prompts[numbers[0]], firmer=True)
        jobs.append(_Job(both, (key, _key(endpoint, both[1])), tuple(numbers)))
    return jobs


def _ask(jobs: Sequence[_Job], sections: Sequence[Section], run: _Run) -> None:
    try:
        asyncio.run(_ask_all(jobs, sections, run))
    except KeyboardInterrupt:
        done = run.standing
        raise KeyboardInterrupt(
            f"interrupted with {done.cached + done.answered:,} of {done.total:,} sections answered; they are kept in "
            f"{run.cache_dir}, and the same command goes on from there"
        ) from None
    if run.failed and not run.standing.answered and not run.standing.cached:
        raise _given_up(run)


async def _ask_all(jobs: Sequence[_Job], sections: Sequence[Section], run: _Run) -> None:
    from nic_ray.questions.client import connected

    async with connected(run.endpoint) as connection:
        left = iter(jobs)
        tasks = {asyncio.create_task(_work(left, sections, connection, run)) for _ in range(run.endpoint.concurrency)}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:
            note = f"interrupted: waiting up to {GRACE_S:.0f} s for answers on their way; interrupt again to drop them"
            run.tell(replace(run.standing, note=note))
            await _drain(tasks, connection, run)
            raise
        errors = [error for task in done if (error := task.exception()) is not None]
        if errors:
            await _drain(tasks, connection, run)
            raise errors[0]


async def _drain(tasks: set[asyncio.Task[None]], connection: "Connection", run: _Run) -> None:
    """Send nothing more, and wait a while for what is on its way."""
    connection.ending.set()
    await run.spending.close()
    _, late = await asyncio.wait(tasks, timeout=GRACE_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _work(left: Iterator[_Job], sections: Sequence[Section], connection: "Connection", run: _Run) -> None:
    from nic_ray.questions.client import UnansweredError

    for job in left:
        try:
            failure = await _ask_about(job, sections, connection, run)
            run.refused = run.refused and failure is not None
        except UnansweredError as error:
            failure, run.refused = str(error), error.refused
        if failure is None and isinstance(_next_step(job, run), Prompt):
            return  # the budget is spent, or the run ends
        size = len(job.members)
        if failure is None:
            run.in_a_row = 0
            run.update(answered=size)
            continue
        run.failed |= dict.fromkeys(job.members, failure)
        run.in_a_row += 1
        run.update(failed=size)
        if run.in_a_row >= FAILED_IN_A_ROW:
            raise _given_up(run)


async def _ask_about(job: _Job, sections: Sequence[Section], connection: "Connection", run: _Run) -> str | None:
    """Ask about a section until there is an answer that can be read, or a failure, which is returned."""
    from nic_ray.questions.client import Request, answer_to

    section = sections[job.members[0]]
    while isinstance(step := _next_step(job, run), Prompt):
        key = job.keys[int(step.firmer)]

        def keep(answer: Answer, key: str = key) -> None:
            about: JsonObject = {"model": run.endpoint.model, "document": section.document, "section": section.section}
            keep_answer(run.cache_dir, key, answer, about)
            run.take(key, answer)

        messages: tuple[JsonObject, ...] = (
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": step.user},
        )
        likely = estimated_tokens(SYSTEM + step.user) + LIKELY_A_QUESTION * sum(run.counts.values())
        if await answer_to(connection, run.spending, Request(messages, run.most_tokens, likely, keep)) is None:
            return None
    return step if isinstance(step, str) else None


def _next_step(job: _Job, run: _Run) -> Prompt | Parsed | str:
    """What comes next for a section by the answers so far: a prompt to send, its questions, or why it has none."""
    for prompt, key in zip(job.prompts, job.keys, strict=True):
        if key not in run.answers:
            return prompt
        answer, read = run.answers[key]
        if read is not None:
            return read
    began = f"began with {answer.content.strip()[:80]!r}" if answer.content.strip() else "was empty"
    cut_off = f", cut off after {answer.completion_tokens:,} tokens" if answer.finish_reason == "length" else ""
    return f"answered twice without the JSON that was asked for; the last answer {began}{cut_off}"


def _read_kept(jobs: Sequence[_Job], run: _Run) -> None:
    for job in jobs:
        for key in job.keys:
            if (answer := read_answer(run.cache_dir, key, run.most_tokens)) is None:
                break
            run.take(key, answer)
            if run.answers[key][1] is not None:
                break


def _key(endpoint: Endpoint, prompt: Prompt) -> str:
    """The key of an answer: by all that is asked, except for the forbidden words, which change with other sections."""
    return key_of(
        {
            "model": endpoint.model,
            "temperature": endpoint.temperature,
            "seed": endpoint.seed,
            "system": SYSTEM,
            "user": replace(prompt, forbidden=()).user,
        }
    )


def _given_up(run: _Run) -> InputError | RunError:
    last = list(run.failed.values())[-1]
    done = run.standing
    kept = f"{done.cached + done.answered:,} of {done.total:,} sections are answered and kept in {run.cache_dir}"
    message = (
        f"{run.endpoint.url}: {run.endpoint.model} failed for {run.in_a_row:,} sections in a row, the last: {last}"
    )
    if run.refused:
        return InputError(f"{message}; correct what it refuses; {kept}")
    return RunError(f"{message}; {kept}; the same command goes on from there")


def _outcome(jobs: Sequence[_Job], run: _Run, cached: int) -> Asked:
    by_section, dropped = dict[int, list[Question]](), collections.Counter[str]()
    failed, unasked, cut_off, giveaways, missing = dict(run.failed), list[int](), 0, 0, 0
    wanted = sum(run.counts.values())
    for job in jobs:
        step = _next_step(job, run)
        if isinstance(step, str):
            failed |= dict.fromkeys(job.members, step)
        elif isinstance(step, Prompt):
            unasked += [member for member in job.members if member not in failed]
        else:
            dropped.update(step.dropped)
            missing += wanted - len(step.items)
            cut_off += _was_cut_off(job, run)
            hidden = [item for item in step.items if item.kind in WITHOUT_RARE]
            giveaways += sum(not set(words(item.query)).isdisjoint(job.prompts[0].forbidden) for item in hidden)
            for member in job.members:
                by_section[member] = [Question(item.query, item.kind, member) for item in step.items]
    return Asked(
        questions=tuple(question for member in sorted(by_section) for question in by_section[member]),
        sections=run.standing.total,
        cached=cached,
        failed=dict(sorted(failed.items())),
        unasked=tuple(sorted(unasked)),
        dropped=dict(sorted(dropped.items())),
        missing=missing,
        cut_off=cut_off,
        giveaways=giveaways,
        calls=run.spending.calls,
        tokens=run.spending.tokens,
        estimated=any(answer.estimated for answer, _ in run.answers.values()),
    )


def _was_cut_off(job: _Job, run: _Run) -> bool:
    answers = [run.answers[key][0] for key in job.keys if key in run.answers]
    return answers[-1].finish_reason == "length"


def summary_of(asked: Asked, sections: Sequence[Section], cache_dir: Path) -> list[str]:
    """Describe the outcome in lines: counts, what was dropped and why, what failed, and how to go on.

    Args:
        asked: the outcome.
        sections: the sections that were asked about.
        cache_dir: the folder of answers.
    """
    about = asked.sections - len(asked.failed) - len(asked.unasked)
    spent = f"{asked.calls:,} calls, {asked.tokens:,} tokens{' (estimated)' if asked.estimated else ''}"
    lines = [
        f"language model: {len(asked.questions):,} questions about {about:,} of {asked.sections:,} sections; "
        f"{asked.cached:,} sections kept from before; this run: {spent}"
    ]
    if asked.dropped:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in asked.dropped.items())
        lines.append(f"dropped from its answers: {counts}")
    if asked.missing:
        lines.append(f"{asked.missing:,} questions fewer than were asked for")
    if asked.cut_off:
        lines.append(f"{asked.cut_off:,} answers were cut off; their whole questions are used")
    if asked.giveaways:
        lines.append(f"{asked.giveaways:,} symptom or shop questions use a word that was forbidden them; they are kept")
    for number, reason in list(asked.failed.items())[:MAX_LISTED]:
        lines.append(f"failed: {_name(sections[number], number)}: {reason}")
    if len(asked.failed) > MAX_LISTED:
        lines.append(f"... and {len(asked.failed) - MAX_LISTED:,} more failed")
    if asked.unasked:
        first = _name(sections[asked.unasked[0]], asked.unasked[0])
        lines.append(
            f"the budget is spent: {len(asked.unasked):,} sections are left, from {first}; the same command with "
            f"--overwrite goes on from there, with the answers in {cache_dir}"
        )
    return lines


def _name(section: Section, number: int) -> str:
    return f"line {number + 1} ({' > '.join(part for part in (section.document, section.section) if part)})"
