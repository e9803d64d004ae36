"""What a service counts and times, as Prometheus reads it, summed over the replicas of a machine."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client is told where processes share their numbers, before it is imported."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Instruments:
    """What this process notes, and how all processes of this machine are read."""

    request: Callable[[str, int, float], None]
    """Note an answered request: its path, its status and its seconds."""
    batch: Callable[[int, int, float], None]
    """Note a batch: its number of texts, of tokens, and its seconds."""
    assessed: Callable[[int, int], None]
    """Note assessed queries, and how many of them were flagged."""
    waiting: Callable[[int], None]
    """Note the number of requests that are being answered."""
    fallback: Callable[[bool], None]
    """Note whether the fallback is served."""
    text: Callable[[], bytes]
    """All of it, in Prometheus' text format."""


def instruments(folder: Path) -> Instruments:
    """Make the instruments of this process; called once in it.

    Args:
        folder: where the processes of this machine share their numbers. What a process that ended had counted stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER] = str(folder)
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

    for path in folder.glob("gauge_live*.db"):
        if not Path(f"/proc/{(pid := path.stem.rpartition('_')[2])}").exists():
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
    own = CollectorRegistry()
    seconds = Histogram(
        "nic_ray_request_seconds", "Time to answer a request", ["path", "status"], buckets=_SECONDS, registry=own
    )
    texts = Histogram("nic_ray_batch_texts", "Texts of a batch", buckets=_TEXTS, registry=own)
    tokens = Histogram("nic_ray_batch_tokens", "Tokens of a batch", buckets=_TOKENS, registry=own)
    batch_seconds = Histogram("nic_ray_batch_seconds", "Time to compute a batch", buckets=_SECONDS, registry=own)
    assessed = Counter("nic_ray_queries_assessed", "Queries that the detector has assessed", registry=own)
    flagged = Counter("nic_ray_queries_flagged", "Queries among them that it has flagged", registry=own)
    waiting = Gauge(
        "nic_ray_requests_waiting", "Requests that are being answered", registry=own, multiprocess_mode="livesum"
    )
    fallback = Gauge(
        "nic_ray_fallback", "1 if the fallback is served anywhere", registry=own, multiprocess_mode="livemax"
    )

    def note_batch(number: int, size: int, took: float) -> None:
        texts.observe(number)
        tokens.observe(size)
        batch_seconds.observe(took)

    def note_assessed(number: int, of_them: int) -> None:
        assessed.inc(number)
        flagged.inc(of_them)

    def text() -> bytes:
        everyone = CollectorRegistry()
        multiprocess.MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)

    return Instruments(
        request=lambda path, status, took: seconds.labels(path, str(status)).observe(took),
        batch=note_batch,
        assessed=note_assessed,
        waiting=waiting.set,
        fallback=lambda served: fallback.set(int(served)),
        text=text,
    )
