"""What the service survives under load: its processes killed, its model exchanged, and requests that are none.

    python benchmarks/service_faults.py BUNDLE [PAIRS] [--cases kills reloads malformed] [--times 10] [--clients 16]
        [--requests 400] [--options "--replicas 2"]

Clients ask again and again for the vectors of 200 queries of the validation rows that sentence-transformers has
computed from the bundle before, so that each answer is held against the right one (cosine 0.9999, of an int8 model
0.999). An answer is right, wrong, busy (429, or 503 with Retry-After), refused (no connection) or lost (everything
else: a broken connection, a 5xx, none in a minute).

- `kills`: kill -9 of the process that `/version` names. Nothing may be wrong. What was in flight at that moment bounds
  what may be lost; what is asked later must not be.
- `reloads`: the folder is exchanged for one with other weights, and SIGHUP tells the service to read it again. Nothing
  may be lost, each answer is that of the one or the other version, and what the answer calls itself tells which.
- `malformed`: those of `benchmarks/malformed.py`, and whether there is a traceback in a log of the service, while two
  clients must get right answers.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from malformed import described, good, malformed, sent
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from servers import OURS, PLAIN, TUNED, Server, body_of, queries, runs, serving, setting, vectors_in, version_of

from nic_ray.bundle.files import read_metadata, write_bundle

REFERENCE = Path("data/reference/pairs.jsonl")
TEXTS = 200
QUIET_S = 2.0
"""How long after a fault the load goes on once everything is well again."""


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    begun: float
    ended: float
    kind: str
    """right, wrong, busy, refused or lost."""
    version: int = -1
    """Which of the known versions the vector is of."""
    mark: str = ""
    """What the answer calls itself, or what went wrong."""


@dataclass
class Load:
    """Requests so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    in_flight: int = 0
    over: bool = False

    def since(self, moment: float) -> list[Outcome]:
        """Those that were begun after it."""
        return [outcome for outcome in self.outcomes if outcome.begun > moment]


@dataclass(frozen=True, eq=False)
class Known:
    """Texts whose vectors are known."""

    texts: tuple[str, ...]
    vectors: tuple[NDArray[np.float32], ...]
    """(N, D) of each version, of length 1."""
    least_cosine: float


def main() -> None:
    """Run the cases and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pairs", type=Path, nargs="?", default=REFERENCE)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--times", type=int, default=10, help="that a process is killed, and the model exchanged")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=400, help="that are malformed")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--side", choices=(OURS, PLAIN, TUNED), default=OURS)
    parser.add_argument("--options", default="", help="further ones of nic_ray.serve, in one argument")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.json:
        print(setting(), flush=True)
    texts = queries(arguments.pairs)[:TEXTS]
    found = {}
    for case in arguments.cases:
        with tempfile.TemporaryDirectory() as folder:
            served = Path(folder) / arguments.bundle.name
            for own in (arguments.bundle, *arguments.bundle.parent.glob(f"{served.name}-*")):  # converted ones too
                shutil.copytree(own, served.with_name(own.name))
            with serving(arguments.side, served, Path(folder) / "log", arguments.options) as server:
                found[case] = asyncio.run(CASES[case](server, served, texts, arguments))
        if not arguments.json:
            show(case, found[case])
    if arguments.json:
        print(json.dumps(found))


def show(case: str, found: dict[str, Any]) -> None:
    """Tell it in lines, with two digits behind the point."""
    print(f"\n{case}")
    for row in found.pop("rows", []):
        print(
            "  "
            + json.dumps({name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()})
        )
    for name, value in found.items():
        print(f"  {name}: {json.dumps(value)}", flush=True)


async def kills(server: Server, served: Path, texts: Sequence[str], arguments: argparse.Namespace) -> Any:
    """kill -9 of the process that answers, again and again."""
    known = known_of(texts, [served], server)
    generator, rows = random.Random(arguments.seed), []
    replicas = len(await processes(server))
    async with under_load(server, known, arguments.clients) as load:
        for _ in range(arguments.times):
            await asyncio.sleep(generator.uniform(1, 3))
            while len(await processes(server)) < replicas:
                await asyncio.sleep(0.5)
            before = (await version_at_last(server))["pid"]
            killed, in_flight = time.monotonic(), load.in_flight
            os.kill(before, signal.SIGKILL)
            # on a busy machine its sockets take connections until it has ended, some milliseconds later
            while runs(before):
                await asyncio.sleep(0.001)
            gone = time.monotonic()
            await until(lambda moment=killed: any(outcome.kind == "right" for outcome in load.since(moment)))
            answers_in = min(outcome.ended for outcome in load.since(killed) if outcome.kind == "right") - killed
            while (await version_at_last(server)).get("pid") == before:
                await asyncio.sleep(0.1)
            replaced_in = time.monotonic() - killed
            await until_quiet(load)
            touched = [each for each in load.outcomes if each.ended > killed]
            in_flight += sum(killed < each.begun <= gone for each in touched)
            rows.append(
                {
                    "in_flight": in_flight,
                    "lost_of_these": counted(each for each in touched if each.begun <= gone),
                    "begun_later": counted(load.since(gone)),
                    "answers_again_in_s": answers_in,
                    "pause_s": longest_pause(touched, killed),
                    "another_process_in_s": replaced_in,
                }
            )
    return {"rows": rows, "replicas": replicas, **summary(load)}


async def reloads(server: Server, served: Path, texts: Sequence[str], arguments: argparse.Namespace) -> Any:
    """Exchange the folder for another version and back, again and again."""
    other = served.with_name("other")
    write_other_version(served, other)
    known, rows = known_of(texts, [served, other], server), []
    async with under_load(server, known, arguments.clients) as load:
        for number in range(arguments.times):
            await asyncio.sleep(2)
            before = await version_at_last(server)
            exchange(served, other)
            told = time.monotonic()
            server.process.send_signal(signal.SIGHUP)
            while (await version_at_last(server))["weights_sha256"] == before["weights_sha256"]:
                await asyncio.sleep(0.1)
            shown, new = time.monotonic(), (number + 1) % 2
            await until(lambda moment=shown, wanted=new: settled(load.since(moment), wanted))
            later = load.since(told)
            first_new = min(each.ended for each in later if each.version == new)
            last_old = max((each.begun for each in later if each.version == 1 - new), default=told)
            rows.append(
                {
                    "shown_in_s": shown - told,
                    "first_new_in_s": first_new - told,
                    "last_old_in_s": last_old - told,
                    "outcomes": counted(later),
                    "slowest_s": max(each.ended - each.begun for each in later),
                }
            )
    marks = Counter((each.version, each.mark) for each in load.outcomes if each.kind == "right")
    return {"rows": rows, **summary(load), "versions": [[*mark, count] for mark, count in sorted(marks.items())]}


async def bad_requests(server: Server, served: Path, texts: Sequence[str], arguments: argparse.Namespace) -> Any:
    """Malformed requests, and what they do to others."""
    known = known_of(texts, [served], server)
    cases = malformed(arguments.requests, version_of(server).get("name", ""), seed=arguments.seed)
    before, rows = tracebacks(server), []
    async with under_load(server, known, min(2, arguments.clients)) as load:
        for case in cases:
            rows.append((case, await asyncio.to_thread(sent, "127.0.0.1", server.port, case)))
    bad = [
        [case.name, answer.status, answer.content[:100].decode("latin-1")]
        for case, answer in rows
        if not good(case, answer)
    ]
    return {
        "statuses": described(Counter(answer.status for _, answer in rows)),
        "not_refused": bad,
        "slowest_s": max(answer.seconds for _, answer in rows),
        "tracebacks": {
            name: count - before[name] for name, count in tracebacks(server).items() if count > before[name]
        },
        **summary(load),
    }


CASES: dict[str, Callable[[Server, Path, Sequence[str], argparse.Namespace], Awaitable[Any]]] = {
    "kills": kills,
    "reloads": reloads,
    "malformed": bad_requests,
}


@contextlib.asynccontextmanager
async def under_load(server: Server, known: Known, clients: int) -> AsyncIterator[Load]:
    """Clients that ask without end, until that of the block."""
    load, model = Load(), version_of(server).get("name", "")
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(session, load, known, model, random.Random(number)))
        try:
            yield load
        finally:
            load.over = True


async def client(
    session: aiohttp.ClientSession, load: Load, known: Known, model: str, generator: random.Random
) -> None:
    """Asks for one text after the other."""
    while not load.over:
        number = generator.randrange(len(known.texts))
        load.in_flight += 1
        outcome = await answered(session, known, number, model)
        load.in_flight -= 1
        load.outcomes.append(outcome)
        if outcome.kind != "right":
            await asyncio.sleep(0.1)


async def answered(session: aiohttp.ClientSession, known: Known, number: int, model: str) -> Outcome:
    """Ask for a text and judge what comes."""
    begun = time.monotonic()
    try:
        async with session.post("/v1/embeddings", json=body_of(known.texts[number], model, "base64")) as answer:
            content, status, headers = await answer.read(), answer.status, answer.headers
    except aiohttp.ClientConnectorError as error:
        return Outcome(begun, time.monotonic(), "refused", mark=type(error).__name__)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Outcome(begun, time.monotonic(), "lost", mark=type(error).__name__)
    ended = time.monotonic()
    if status == 200:
        version = version_in(content, known, number)
        return Outcome(begun, ended, "right" if version >= 0 else "wrong", version, mark_of(content, headers))
    busy = status == 429 or (status == 503 and "Retry-After" in headers)
    return Outcome(begun, ended, "busy" if busy else "lost", mark=f"{status} {content[:120].decode('latin-1')}")


def version_in(content: bytes, known: Known, number: int) -> int:
    """The version that a vector is of; -1 if it is of none."""
    try:
        (vector,) = vectors_in(content)
    except (KeyError, ValueError):
        return -1
    cosines = [float(own[number] @ vector / np.linalg.norm(vector)) for own in known.vectors]
    best = int(np.argmax(cosines))
    return best if cosines[best] >= known.least_cosine else -1


def mark_of(content: bytes, headers: Mapping[str, str]) -> str:
    """What an answer calls itself: its model, and headers that name one."""
    named = [
        f"{name}: {value}" for name, value in sorted(headers.items()) if re.search("model|weights|bundle", name, re.I)
    ]
    return "; ".join([str(json.loads(content).get("model")), *named])


def known_of(texts: Sequence[str], folders: Sequence[Path], server: Server) -> Known:
    """The vectors of texts by each version, as plain sentence-transformers computes them."""
    models = [SentenceTransformer(str(folder), device="cpu") for folder in folders]
    vectors = [model.encode_query([*texts], normalize_embeddings=True, show_progress_bar=False) for model in models]
    is_int8 = "int8" in str(version_of(server).get("format", ""))
    known = Known(tuple(texts), tuple(vectors), 0.999 if is_int8 else 0.9999)
    for one, other in itertools.pairwise(vectors):
        if float((one * other).sum(axis=1).max()) >= known.least_cosine:
            raise SystemExit("the versions cannot be told from each other by each of the texts")
    return known


async def version_at_last(server: Server) -> dict[str, Any]:
    """What `/version` says, as soon as it says anything."""
    while not (said := await asyncio.to_thread(version_of, server)):
        if server.process.poll() is not None:
            raise SystemExit(f"{server.side} has ended:\n{server.log.read_text(errors='replace')[-4000:]}")
        await asyncio.sleep(0.05)
    return said


async def processes(server: Server) -> set[int]:
    """Those that answer, one for each replica."""
    return {(await version_at_last(server))["pid"] for _ in range(20)}


async def until(true: Callable[[], bool], limit_s: float = 120) -> None:
    """Wait for it."""
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"the service has not recovered in {limit_s:.0f} s")
        await asyncio.sleep(0.05)


async def until_quiet(load: Load) -> None:
    """Wait until everything that was begun in the last seconds is right."""
    await until(
        lambda: time.monotonic() - max((x.ended for x in load.outcomes if x.kind != "right"), default=0) > QUIET_S
    )


def settled(outcomes: Sequence[Outcome], version: int) -> bool:
    """Whether the last hundred answers are all of a version."""
    return len(outcomes) >= 100 and all(outcome.version == version for outcome in outcomes[-100:])


def longest_pause(outcomes: Sequence[Outcome], since: float) -> float:
    """Seconds without a right answer, at most."""
    moments = [since, *sorted(each.ended for each in outcomes if each.kind == "right")]
    return max((later - earlier for earlier, later in itertools.pairwise(moments)), default=float("inf"))


def counted(outcomes: Any) -> dict[str, int]:
    """How many of each kind."""
    return dict(Counter(outcome.kind for outcome in outcomes))


def summary(load: Load) -> dict[str, Any]:
    """All requests of a load, and what those that were not right were told."""
    told = Counter((each.kind, each.mark) for each in load.outcomes if each.kind != "right")
    return {"requests": counted(load.outcomes), "told": [[*what, count] for what, count in told.most_common(12)]}


def exchange(one: Path, other: Path) -> None:
    """Let two folders have each other's name."""
    aside = one.with_name(f".{one.name}.aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def write_other_version(bundle: Path, other: Path) -> None:
    """Export the model of a bundle with other weights, under its name."""
    model = SentenceTransformer(str(bundle), device="cpu")
    *_, last = (value for name, value in model.named_parameters() if name.endswith("output.dense.weight"))
    last.data *= 0.5
    metadata: Any = {name: value for name, value in read_metadata(bundle).items() if name != "files"}
    write_bundle(other, model, metadata, training_log="")


def tracebacks(server: Server) -> Counter[str]:
    """How many stand in each log of a service, Ray's included."""
    files = {server.log}
    for member in server.members:
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{member}/cmdline").read_bytes().decode(errors="replace")
            for session in {Path(found) for found in re.findall(r"/[^\0= ]*/session_\d[^/\0 ]*", line)}:
                files |= {path for path in (session / "logs").rglob("*") if path.is_file()}
    return Counter({file.name: file.read_bytes().count(b"Traceback (most recent call last)") for file in files})


if __name__ == "__main__":
    main()
