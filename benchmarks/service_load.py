"""The service under load: how much it carries beside the plainest one, what too much does to it, and its memory.

    python benchmarks/service_load.py throughput BUNDLE [PAIRS] [--rounds 3] [--seconds 20] [--clients 1 8 64]
    python benchmarks/service_load.py overload BUNDLE [PAIRS] [--seconds 60] [--times 2]
    python benchmarks/service_load.py memory BUNDLE [PAIRS] [--requests 200000]

Client and server share this machine. The texts are the queries of the validation rows, one in each request, and a
connection is kept for the next one. The load comes from wrk and h2load, which cost little processor time:

    apt-get install wrk nghttp2-client

- `throughput`: `python -m nic_ray.serve` beside `benchmarks/plain_service.py`, as most people would write it and at its
  best, with the same model; every side is started anew for each of its turns and has the machine to itself. A closed
  loop: a client asks again when it has its answer, so a slow answer delays the next question, and the latency is that
  of so many clients and not of a rate. wrk counts answers that took more than twice the mean several times over, to
  make up for questions that were not asked; that is taken out again, so that each answer counts once.
- `overload`: the capacity is what 64 clients get in a closed loop; then comes a multiple of it in an open loop, which
  asks at its times whatever the answers do, and the latency is that of the accepted ones. 512 connections share the
  rate; a connection whose answer is late asks late, which the rate that was really offered shows. A client of its own
  looks at what is refused.
- `memory`: proportional set sizes of all processes of the service, Ray's included, and how they grow.
"""

import argparse
import functools
import json
import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import pss, watching
from servers import OURS, PLAIN, TUNED, Server, asked, body_of, queries, serving, setting, vectors_in, version_of
from timing import in_turn, ratios, spread

REFERENCE = Path("data/reference/pairs.jsonl")
CONNECTIONS, GENERATORS = 512, 8
"""Of the open loop; and its processes, each with a text of its own."""

WRK = """
local requests, place = {}, 0
init = function(arguments)
  for body in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", "/v1/embeddings", {["Content-Type"] = "application/json"}, body)
  end
end
request = function()
  place = place % #requests + 1
  return requests[place]
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format('{"requests": %d, "duration_us": %d, "bad_status": %d, "failed": %d, "latencies": [',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
  for number = 1, #latency do
    local us, count = latency(number)
    io.write(string.format("%s[%d, %d]", number > 1 and ", " or "", us, count))
  end
  io.write("]}\\n")
end
"""
"""Asks for one text after the other, and prints what it saw as JSON."""


@dataclass(frozen=True)
class Load:
    """What some clients saw in a while."""

    per_s: float
    """Answers with the status 200."""
    other: int
    """Answers with another one, and none."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    server_cpu_s: float
    """Processor time for 1,000 answers, of all processes of the service."""
    client_cpu_s: float


def main() -> None:
    """Measure one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(WHAT))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pairs", type=Path, nargs="?", default=REFERENCE)
    parser.add_argument("--rounds", type=int, default=3, help="of throughput")
    parser.add_argument("--seconds", type=float, help="of each load; default: 20, overload 60")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="of throughput")
    parser.add_argument("--sides", nargs="+", choices=(OURS, PLAIN, TUNED), default=[OURS, PLAIN, TUNED])
    parser.add_argument("--encoding", choices=("float", "base64"), default="float")
    parser.add_argument("--times", type=float, default=2.0, help="of its capacity that overload offers")
    parser.add_argument("--requests", type=int, default=200_000, help="of memory")
    parser.add_argument("--options", default="", help="further ones of nic_ray.serve, in one argument")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    missing = [name for name in ("wrk", "h2load") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} not found: apt-get install wrk nghttp2-client")
    if not arguments.json:
        print(setting(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = WHAT[arguments.what](arguments, Path(folder))
    if arguments.json:
        print(json.dumps(found))


def throughput(arguments: argparse.Namespace, folder: Path) -> Any:
    """Every side in turn, and a table."""
    texts = queries(arguments.pairs)
    answers: dict[str, NDArray[np.float32]] = {}

    def turn(side: str, number: int) -> dict[int, Load]:
        with serving(side, arguments.bundle, folder / "log", arguments.options) as server:
            told = version_of(server)
            model, form = told["name"], told.get("format", "torch")
            answers[side] = vectors_in(asked(server.url + "/v1/embeddings", body_of(texts[:20], model))[1])
            (folder / "script.lua").write_text(WRK)
            lines = [json.dumps(body_of(text, model, arguments.encoding)) for text in texts]
            (folder / "bodies").write_text("\n".join(lines) + "\n")
            closed_loop(server, folder, 8, 3)
            loads = {each: closed_loop(server, folder, each, arguments.seconds or 20) for each in arguments.clients}
        if not arguments.json:
            for each, load in loads.items():
                print(f"round {number + 1}, {side} ({form}), {each} clients: {described(load)}", flush=True)
        return loads

    sides = {side: functools.partial(turn, side) for side in arguments.sides}
    found = in_turn(sides, arguments.rounds, warm_up=0)
    first = arguments.sides[0]
    agreed = {side: float(cosines(answers[first], other).min()) for side, other in answers.items()}
    if not arguments.json:
        print(
            f"\n{len(texts)} texts of {np.mean([len(text.split()) for text in texts]):.1f} words; {arguments.encoding}"
        )
        print(f"least cosine with the answers of {first}: {agreed}")
        for each in arguments.clients:
            show(each, {side: [turn[each] for turn in turns] for side, turns in found.items()})
    rows = {side: [{each: vars(load) for each, load in turn.items()} for turn in own] for side, own in found.items()}
    return {"loads": rows, "least_cosine": agreed}


def show(clients: int, found: Mapping[str, Sequence[Load]]) -> None:
    """Medians and ranges of the sides at so many clients."""
    rounds = min(map(len, found.values()))
    print(f"\n{clients} client{'s' if clients > 1 else ''}, closed loop; medians of {rounds} rounds")
    for side, loads in found.items():
        per_s, p50, p95, p99, server, client = (
            [getattr(load, name) for load in loads]
            for name in ("per_s", "p50_ms", "p95_ms", "p99_ms", "server_cpu_s", "client_cpu_s")
        )
        print(
            f"  {side:15} {spread(per_s, '.1f')} requests/s; p50 {spread(p50, '.1f')} ms, p95 {spread(p95, '.1f')}, "
            f"p99 {spread(p99, '.1f')}; CPU-s of 1,000: {spread(server)}, of the client {spread(client)}; "
            f"{sum(load.other for load in loads)} not answered with 200"
        )
    first, *others = found
    for side in others:
        times = ratios([load.per_s for load in found[first]], [load.per_s for load in found[side]])
        print(f"  {first} / {side}: {spread(times)} times the requests/s")


def closed_loop(server: Server, folder: Path, clients: int, seconds: float) -> Load:
    """So many clients that ask again as soon as they have their answer."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", "script.lua"]
    before, own = server.cpu_s(), children_cpu_s()
    done = subprocess.run(
        [*command, server.url, "--", "bodies"], cwd=folder, capture_output=True, text=True, check=True
    )
    server_cpu, client_cpu = server.cpu_s() - before, children_cpu_s() - own
    seen = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"requests"')))
    if not seen["requests"]:
        raise SystemExit(f"{server.side} answered nothing:\n{done.stdout}\n{server.log.read_text()[-4000:]}")
    latencies = uncorrected(seen["latencies"], seen["requests"], seen["duration_us"], clients)
    good = seen["requests"] - seen["bad_status"]
    p50, p95, p99 = percentiles(latencies)
    return Load(
        good / seen["duration_us"] * 1e6,
        seen["bad_status"] + seen["failed"],
        p50,
        p95,
        p99,
        1000 * server_cpu / max(good, 1),
        1000 * client_cpu / max(good, 1),
    )


def uncorrected(
    counts: Sequence[tuple[int, int]], requests: int, duration_us: int, clients: int
) -> NDArray[np.float64]:
    """Milliseconds of each answer, from a histogram of wrk.

    wrk adds to each latency of more than twice the mean of its connections that latency less the mean, less twice the
    mean and so on, as long as this is more than the mean.

    Args:
        counts: microseconds and how often they were recorded, or added.
        requests: that were answered; if all of them were measured, as many latencies are left.
    """
    left = Counter(dict(map(tuple, counts)))  # type: ignore[arg-type]
    mean = duration_us // max(1, requests // clients)
    for latency in sorted(left, reverse=True):
        if latency < 2 * mean or not left[latency]:
            continue
        for added in range(latency - mean, mean, -mean):
            left[added] -= left[latency]
    if min(left.values()) < 0 or left.total() != requests:
        raise SystemExit("wrk's latencies are not recorded as they were by wrk 4.1")
    return np.repeat([*left], [*left.values()]) / 1000


def percentiles(latencies_ms: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median, 95th and 99th; not a number where there are none."""
    if not len(latencies_ms):
        return (float("nan"),) * 3
    p50, p95, p99 = np.percentile(latencies_ms, [50, 95, 99], method="inverted_cdf").tolist()
    return p50, p95, p99


def overload(arguments: argparse.Namespace, folder: Path) -> Any:
    """Capacity, more than that, and how the service is afterwards."""
    seconds = arguments.seconds or 60
    with serving(arguments.sides[0], arguments.bundle, folder / "log", arguments.options) as server:
        model = version_of(server)["name"]
        texts = spaced(queries(arguments.pairs), GENERATORS)
        bodies = [json.dumps(body_of(text, model, arguments.encoding)) for text in texts]
        h2load(server, folder, bodies, 64, 3)
        full = h2load(server, folder, bodies, 64, min(seconds, 20))
        capacity = full.per_s(200)
        memory = server.memory()
        refused = functools.partial(asked, server.url + "/v1/embeddings", json.loads(bodies[0]))
        with watching(refused, every_s=0.5) as seen, watching(server.memory, every_s=2) as memories:
            over = h2load(server, folder, bodies, CONNECTIONS, seconds, rate=arguments.times * capacity)
        started = time.monotonic()
        status, *_ = asked(server.url + "/v1/embeddings", json.loads(bodies[0]))
        after_s = time.monotonic() - started
        again = h2load(server, folder, bodies, 64, min(seconds, 20)).per_s(200)
        found = {
            "capacity_per_s": capacity,
            "p99_at_capacity_ms": full.p99_ms(200),
            "statuses_at_capacity": full.counts(),
            "asked_for_per_s": arguments.times * capacity,
            "offered_per_s": len(over.status) / over.seconds,
            "statuses": over.counts(),
            "accepted_per_s": over.per_s(200),
            "p99_accepted_ms": over.p99_ms(200),
            "p99_refused_ms": over.p99_ms(429),
            "retry_after": [headers.get("retry-after") for status, _, headers in seen if status == 429],
            "memory_before_mib": memory / 2**20,
            "memory_most_mib": max(memories) / 2**20,
            "memory_after_mib": server.memory() / 2**20,
            "first_afterwards": [status, after_s],
            "capacity_afterwards_per_s": again,
        }
    if not arguments.json:
        show_overload(found)
    return found


def show_overload(found: Mapping[str, Any]) -> None:
    """Tell it in lines."""
    told = found["retry_after"]
    status, after_s = found["first_afterwards"]
    print(
        f"capacity: {found['capacity_per_s']:.1f} answers/s to 64 clients in a closed loop, p99 "
        f"{found['p99_at_capacity_ms']:.0f} ms; statuses {found['statuses_at_capacity']}\n"
        f"offered: {found['offered_per_s']:.1f} requests/s of {found['asked_for_per_s']:.1f} in an open loop; statuses "
        f"{found['statuses']}\n"
        f"accepted: {found['accepted_per_s']:.1f}/s, p99 {found['p99_accepted_ms']:.0f} ms, "
        f"{found['p99_accepted_ms'] / found['p99_at_capacity_ms']:.2f} times that at capacity; refused: p99 "
        f"{found['p99_refused_ms']:.0f} ms; Retry-After in {sum(map(bool, told))} of {len(told)} refusals looked at: "
        f"{sorted({each for each in told if each})}\n"
        f"memory: {found['memory_before_mib']:.0f} MiB before, {found['memory_most_mib']:.0f} at most, "
        f"{found['memory_after_mib']:.0f} after\n"
        f"afterwards: status {status} in {after_s * 1000:.0f} ms; {found['capacity_afterwards_per_s']:.1f} answers/s"
    )


@dataclass(frozen=True, eq=False)
class Log:
    """Every request of a load."""

    status: NDArray[np.int64]
    """-1: no answer."""
    ms: NDArray[np.float64]
    seconds: float
    """From the first question to the last one."""

    def per_s(self, status: int) -> float:
        """Answers of a kind in a second."""
        return float((self.status == status).sum() / self.seconds)

    def p99_ms(self, status: int) -> float:
        """Of the answers of a kind."""
        return percentiles(self.ms[self.status == status])[2]

    def counts(self) -> dict[int, int]:
        """Answers of every kind."""
        return {
            int(status): int(count) for status, count in zip(*np.unique(self.status, return_counts=True), strict=True)
        }


def h2load(
    server: Server, folder: Path, bodies: Sequence[str], clients: int, seconds: float, *, rate: float | None = None
) -> Log:
    """Some clients for a while, divided over as many processes as there are bodies, over HTTP/1.1.

    Args:
        rate: requests per second of all of them; without it each client asks again when it has its answer.
    """
    if rate is None:
        amount = [f"--clients={clients // len(bodies)}", f"--duration={max(1, round(seconds))}"]
    else:
        own = rate / len(bodies)
        requests = max(1, round(own * seconds))
        connections = min(clients // len(bodies), requests)
        # one connection after the other is made, at the times of the first questions; then each asks in its turn
        amount = [f"--clients={connections}", f"--requests={requests}", f"--rps={own / connections:.6f}"]
        amount += ["--rate=1", f"--rate-period={max(1, round(1000 / own))}ms"]
    started = []
    for number, body in enumerate(bodies):
        (folder / f"body-{number}").write_text(body)
        (folder / f"requests-{number}").unlink(missing_ok=True)
        command = ["h2load", "--h1", "-t1", *amount, "-d", f"body-{number}", f"--log-file=requests-{number}"]
        command += ["-H", "Content-Type: application/json", server.url + "/v1/embeddings"]
        where = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, **where))
    for process in started:
        process.wait()
    return read_log([line for number in range(len(bodies)) for line in (folder / f"requests-{number}").open()])


def read_log(lines: Sequence[str]) -> Log:
    """What h2load has noted: begin in µs, status and µs until the end of the answer."""
    columns = np.array([line.split()[:3] for line in lines], dtype=np.int64).reshape(-1, 3)
    begun = columns[:, 0]
    return Log(columns[:, 1], columns[:, 2] / 1000, max(float(np.ptp(begun)) / 1e6, 1e-9) if len(begun) else 1.0)


def memory(arguments: argparse.Namespace, folder: Path) -> Any:
    """Sizes of the processes after every twentieth part of many requests."""
    texts = queries(arguments.pairs)
    step, rows = arguments.requests // 20, []
    with serving(arguments.sides[0], arguments.bundle, folder / "log", arguments.options) as server:
        model = version_of(server)["name"]
        for number in range(21):
            if number:
                bodies = [json.dumps(body_of(text, model, arguments.encoding)) for text in texts[number::40][:4]]
                asked_by_number(server, folder, bodies, step)
            sizes = {member: pss(member) / 2**20 for member in server.members}
            rows.append({"requests": number * step, "mib": sum(sizes.values()), "sizes": sizes})
            if not arguments.json:
                print(f"{rows[-1]['requests']:7} requests: {rows[-1]['mib']:.1f} MiB", flush=True)
        names = {member: title(member) for member in server.members}
    growth = slope([row["requests"] for row in rows[2:]], [row["mib"] for row in rows[2:]])
    if not arguments.json:
        print(f"{growth * 100_000:+.1f} MiB with every 100,000 requests, after the first {2 * step}")
        last, early = rows[-1]["sizes"], rows[2]["sizes"]
        grown = sorted(((last[each] - early.get(each, 0), each) for each in last), reverse=True)[:5]
        print("most have grown: " + "; ".join(f"{names.get(each, each)} {mib:+.1f} MiB" for mib, each in grown))
    return {"rows": rows, "mib_per_request": growth}


def asked_by_number(server: Server, folder: Path, bodies: Sequence[str], requests: int) -> None:
    """So many requests of sixteen clients, all of which must be answered."""
    started = []
    for number, body in enumerate(bodies):
        (folder / f"body-{number}").write_text(body)
        command = ["h2load", "--h1", "-t1", "-c4", f"-n{requests // len(bodies)}", "-d", f"body-{number}"]
        command += ["-H", "Content-Type: application/json", server.url + "/v1/embeddings"]
        started.append(subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True))
    for process in started:
        told, _ = process.communicate()
        if " 0 failed, 0 errored, 0 timeout" not in told or ", 0 4xx, 0 5xx" not in told:
            print("not all were answered: " + " ".join(line for line in told.splitlines() if "requests:" in line))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the straight line that fits best."""
    return float(np.polyfit(x, y, 1)[0])


def title(pid: int) -> str:
    """What a process is called."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:60].strip()
    except OSError:
        return str(pid)


def spaced(texts: Sequence[str], number: int) -> list[str]:
    """So many of the texts, from short to long."""
    ordered = sorted(texts, key=len)
    return [ordered[(2 * place + 1) * len(ordered) // (2 * number)] for place in range(number)]


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the rows of two arrays."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(axis=1, dtype=np.float64) / lengths)


def children_cpu_s() -> float:
    """Processor time of the processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def described(load: Load) -> str:
    """A load in a line."""
    return (
        f"{load.per_s:.1f} requests/s, p50 {load.p50_ms:.1f} ms, p95 {load.p95_ms:.1f}, p99 {load.p99_ms:.1f}; "
        f"CPU-s of 1,000: {load.server_cpu_s:.2f}; {load.other} not answered with 200"
    )


WHAT = {"throughput": throughput, "overload": overload, "memory": memory}

if __name__ == "__main__":
    main()
