"""What a search survives: each case for real, with what was lost and how long it took to go on.

    python benchmarks/faults.py [--cases driver trial node disk damage malformed] [--kills 10] [--json]

A search of four short trials on a sample of the reference pairs is run once undisturbed, and then hurt: its driver is
killed at random moments and the search resumed; the process of a trial is killed; one of two simulated nodes is; the
disk is full (a small tmpfs, needs root); a checkpoint, the stored activations, the study or the exported folder is
damaged; and commands are given files that are none. Lost: finished trials that are gone or other than before. Left:
processes of the search that are still there a minute after it: two of Ray's agents try to tell the dead cluster of its
death before they go, for up to twenty seconds.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from nic_ray.record import checkpoints, read_ended
from nic_ray.run_folder import RunFolder

SETTINGS: dict[str, Any] = {
    "data": {"pairs": "data/reference/pairs.jsonl", "sample_share": 0.1, "validation_share": 0.2, "test_share": 0.2},
    "train": {"frozen_layers": 5, "epochs": 3, "evaluations_per_epoch": 2, "batch_size": 32, "learning_rate": 1e-4},
    "space": {"learning_rate": {"log_uniform": [1e-4, 1e-3]}},
    "search": {"trials": 4, "grace_period": 3},
    "confirm": {"seeds": 0},
}
PATIENCE = 60
"""Seconds that what was killed is given to disappear."""
MARK = "NIC_RAY_FAULTS"
"""A variable that every process of a search inherits, so that those left behind are found."""


def main() -> None:
    """Run the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", choices=list(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--kills", type=int, default=10, help="of the driver")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
        whole, _ = ended(start(root / "whole", root))
        for case in arguments.cases:
            for one in CASES[case](root, random.Random(arguments.seed), arguments.kills, whole):
                found.append({"case": case, **one})
                if not arguments.json:
                    print(json.dumps(found[-1]), flush=True)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"\nundisturbed {whole:.0f} s")
    for case in arguments.cases:
        own = [one for one in found if one["case"] == case]
        print(
            f"  {case:10} {len(own):3} times  {sum(one['good'] for one in own):3} good  "
            f"{sum(one.get('lost', 0) for one in own)} trials lost  {sum(one.get('left', 0) for one in own)} left  "
            f"tracebacks {sum(one.get('traceback', False) for one in own)}"
        )


def killed_drivers(root: Path, generator: random.Random, kills: int, whole: float) -> Iterator[dict[str, Any]]:
    """kill -9 of the driver at a random moment, then `--resume`."""
    for number in range(kills):
        place = root / f"driver-{number}"
        process = start(place, root)
        moment = generator.uniform(0, whole)
        time.sleep(moment)
        process.kill()
        process.wait()
        left = left_behind()
        (run,) = run_folders(place) or [None]
        before = {} if run is None else read_ended(run)
        started = time.monotonic()
        again = start(place, root, *(["--resume", str(run)] if run else []))
        trains = seconds_until(again, place, re.compile(r"^trial-\d+: (epoch|learning_rate)", re.MULTILINE), started)
        took, code = ended(again)
        (run,) = run_folders(place)
        after = read_ended(run)
        lost = sum(after.get(name) != row for name, row in before.items())
        yield {
            "moment_s": round(moment, 1),
            "ended_before": len(before),
            "lost": lost,
            "left": left,
            "resumed_in_s": trains and round(trains, 1),
            "took_s": round(took, 1),
            "traceback": has_traceback(place),
            "good": code == 0 and not lost and not left and len(after) == 4 and is_sound(place),
        }


def killed_trials(root: Path, generator: random.Random, kills: int, whole: float) -> Iterator[dict[str, Any]]:
    """kill -9 of the process of a running trial: once, after which it goes on."""
    for number in range(3):
        place = root / f"trial-{number}"
        process = start(place, root)
        seconds_until(process, place, re.compile(r"^trial-001: epoch", re.MULTILINE), time.monotonic())
        time.sleep(generator.uniform(0, 4))
        victims = [pid for pid, name in marked() if name.startswith("ray::trial-001")]
        victims = victims or [pid for pid, name in marked() if "ResourceTrainable" in name or "Trial." in name]
        if victims:
            os.kill(victims[0], signal.SIGKILL)
        took, code = ended(process)
        rows = read_ended(run_folders(place)[0])
        yield {
            "took_s": round(took, 1),
            "killed": bool(victims),
            "traceback": has_traceback(place),
            "left": left_behind(),
            "good": bool(victims) and code == 0 and all(row["status"] == "finished" for row in rows.values()),
        }


def killed_nodes(root: Path, generator: random.Random, kills: int, whole: float) -> Iterator[dict[str, Any]]:
    """One of two simulated nodes dies while both train."""
    place = root / "node"
    place.mkdir()
    # a module, so that Ray pickles what it says by its name
    (root / "on_two_nodes.py").write_text(ON_TWO_NODES)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, on_two_nodes; on_two_nodes.main(*sys.argv[1:])",
            str(root / "config.yaml"),
            str(place),
        ],
        stdout=(place / "log").open("w"),
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            MARK: "1",
            "RAY_AUTH_MODE": "token",
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        },
    )
    code = process.wait()
    rows = read_ended(run_folders(place)[0])
    yield {
        "good": code == 0 and len(rows) == 4 and all(row["status"] == "finished" for row in rows.values()),
        "traceback": has_traceback(place),
        "left": left_behind(),
    }


ON_TWO_NODES = """
import os, sys
from pathlib import Path
from nic_ray.config_file import load_config
from nic_ray.progress import Lines
from nic_ray.search.session import RAY_SWITCHES
from nic_ray.search.search import run_search
for name, value in RAY_SWITCHES.items():
    os.environ.setdefault(name, value)
import ray
from ray.cluster_utils import Cluster
cluster = None
nodes = []
seen = []
def say(line):
    print(line, flush=True)
    if line.startswith("trial-001: epoch") and not seen:
        seen.append(line)
        cluster.remove_node(nodes[1], allow_graceful=False)
def main(config, place):
    global cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True})
    try:
        nodes.extend(cluster.add_node(num_cpus=1) for _ in range(2))
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        run_search(load_config(Path(config)), out=Path(place) / "models", name="m", run_root=Path(place) / "runs",
                   overwrite=False, export_anyway=True, view=Lines(say))
        ray.shutdown()
    finally:
        cluster.shutdown()
"""


def full_disks(root: Path, generator: random.Random, kills: int, whole: float) -> Iterator[dict[str, Any]]:
    """Runs on a disk that is too small at different points; afterwards, with room, the run goes on."""
    for mebibytes in (1, 40, 80):
        place = root / f"disk-{mebibytes}"
        place.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)], check=False)
        if mounted.returncode:
            raise SystemExit("a tmpfs cannot be mounted here; leave the case disk away")
        try:
            log = root / f"disk-{mebibytes}.log"
            process = start(place, root, log=log)
            _, code = ended(process)
            text = log.read_text()
            subprocess.run(["mount", "-o", "remount,size=2g", str(place)], check=True)
            run = next(iter(run_folders(place)), None)
            again_code: int | None = None
            if run is not None and code != 0:
                _, again_code = ended(
                    start(place, root, "--resume", str(run), log=root / f"disk-{mebibytes}-again.log")
                )
            yield {
                "mebibytes": mebibytes,
                "code": code,
                "last_line": text.strip().splitlines()[-1][-200:] if text.strip() else "",
                "resumed_with": again_code,
                "traceback": "Traceback" in text,
                "left": left_behind(),
                "good": code in (0, 1, 2) and "Traceback" not in text and again_code in (None, 0),
            }
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False)


def damages(root: Path, generator: random.Random, kills: int, whole: float) -> Iterator[dict[str, Any]]:
    """A run that was cut off, with one of its files damaged, goes on; a damaged bundle is found out."""
    whole_run = root / "whole"
    place = root / "cut"
    process = start(place, root)
    seconds_until(process, place, re.compile(r" finished \(1 of"), time.monotonic())
    time.sleep(3)
    process.kill()
    process.wait()
    left_behind()
    (run,) = run_folders(place)
    damaged: dict[str, Callable[[Path], list[Path]]] = {
        "checkpoint": lambda copy: [
            found[0] / "state.pt" for name in ("trial-001", "trial-002") if (found := checkpoints(copy, name))
        ],
        "activations": lambda copy: list((copy.parent / ".activations").glob("*.npy")),
        "study": lambda copy: [RunFolder(copy).study],
        "ledger": lambda copy: [RunFolder(copy).ended],
    }
    for name, files_of in damaged.items():
        copy = root / f"damaged-{name}"
        shutil.copytree(place, copy)
        own = copy / "runs" / run.name
        rewrite_bundle(own, copy)
        files = files_of(own)
        for file in files:
            content = bytearray(file.read_bytes())
            for _ in range(20):
                content[generator.randrange(len(content))] ^= 255
            if name == "ledger":  # as a crash leaves it
                content = bytearray(file.read_bytes()[:-10])
            file.write_bytes(content)
        took, code = ended(start(copy, root, "--resume", str(own)))
        rows = read_ended(own)
        yield {
            "damaged": name,
            "files": len(files),
            "code": code,
            "took_s": round(took, 1),
            "traceback": has_traceback(copy),
            "good": bool(files) and code == 0 and len(rows) >= 3 and is_sound(copy),
        }
    bundle = root / "damaged-bundle"
    shutil.copytree(whole_run / "models" / "m", bundle)
    for file in sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "metadata.json"):
        content = bytearray(file.read_bytes())
        content[generator.randrange(len(content))] ^= 255
        kept = file.read_bytes()
        file.write_bytes(content)
        done = command("verify", str(bundle))
        file.write_bytes(kept)
        yield {
            "damaged": f"bundle: {file.name}",
            "code": done.returncode,
            "traceback": "Traceback" in done.stderr,
            "good": done.returncode == 1 and file.name in done.stderr,
        }


def malformed(root: Path, generator: random.Random, kills: int, whole: float) -> Iterator[dict[str, Any]]:
    """Twenty files of pairs and twenty of settings that are none, as commands."""
    row = json.dumps({"query": "why is it hot?", "positive": "Replace the bearing.", "domain": "pumps"}).encode()
    config = yaml.safe_dump(SETTINGS).encode()
    for kind, content in (("pairs", row), ("settings", config)):
        for number in range(20):
            broken = bytearray(content)
            for _ in range(generator.randrange(1, 8)):
                broken[generator.randrange(len(broken))] = generator.randrange(256)
            file = root / f"malformed-{number}"
            file.write_bytes(bytes(broken[: generator.randrange(1, len(broken) + 1)]))
            done = (
                command("check", str(file))
                if kind == "pairs"
                else command(
                    "tune", str(file), "--data", str(root / "missing.jsonl"), "--run-dir", str(root / "no-runs")
                )
            )
            yield {
                "file": f"{kind} {number}",
                "code": done.returncode,
                "traceback": "Traceback" in done.stderr,
                # a file that has stayed sound may pass the linter
                "good": done.returncode in ((0, 2) if kind == "pairs" else (2,)) and "Traceback" not in done.stderr,
            }


CASES: dict[str, Callable[[Path, random.Random, int, float], Iterator[dict[str, Any]]]] = {
    "driver": killed_drivers,
    "trial": killed_trials,
    "node": killed_nodes,
    "disk": full_disks,
    "damage": damages,
    "malformed": malformed,
}


def start(place: Path, root: Path, *options: str, log: Path | None = None) -> subprocess.Popen[bytes]:
    """A search as a command; what it prints goes to `log`, in its place."""
    place.mkdir(exist_ok=True)
    if "--resume" in options:
        given = [*options, "--overwrite", "--export-anyway"]
    else:
        folders = ["--out", str(place / "models"), "--run-dir", str(place / "runs"), "--name", "m"]
        given = [str(root / "config.yaml"), *folders, "--export-anyway", *options]
    with (log or place / "log").open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "nic_ray.tune", *given],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, MARK: "1"},
        )


def ended(process: subprocess.Popen[bytes]) -> tuple[float, int]:
    """Wait for it: seconds, exit code."""
    started = time.monotonic()
    code = process.wait()
    return time.monotonic() - started, code


def seconds_until(
    process: subprocess.Popen[bytes], place: Path, wanted: re.Pattern[str], started: float
) -> float | None:
    """Seconds until a line is printed from now on; None if the process ends before."""
    known = (place / "log").stat().st_size if (place / "log").exists() else 0
    while process.poll() is None:
        with (place / "log").open("rb") as file:
            file.seek(known)
            if wanted.search(file.read().decode(errors="replace")):
                return time.monotonic() - started
        time.sleep(0.05)
    return None


def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    return subprocess.run(
        [sys.executable, "-m", f"nic_ray.{name}", *arguments], capture_output=True, text=True, check=False
    )


def run_folders(place: Path) -> list[Path]:
    """Run folders, without the activations'."""
    return [path for path in (place / "runs").glob("*") if not path.name.startswith(".")]


def rewrite_bundle(run: Path, place: Path) -> None:
    """Let a copied run export beside itself."""
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | {"bundle": str(place / "models" / "m")}))


def is_sound(place: Path) -> bool:
    """Whether the exported folder is."""
    return command("verify", str(place / "models" / "m")).returncode == 0


def has_traceback(place: Path) -> bool:
    """Whether the user saw one."""
    return "Traceback (most recent call last)" in (place / "log").read_text(errors="replace")


def marked() -> list[tuple[int, str]]:
    """Processes of a search, by the variable that they inherited."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # a process that has ended meanwhile is none
            if entry.name.isdigit() and f"{MARK}=1".encode() in (entry / "environ").read_bytes().split(b"\0"):
                name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((int(entry.name), name))
    return found


def left_behind() -> int:
    """Processes that are still there after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while marked() and time.monotonic() < deadline:
        time.sleep(0.5)
    return len(marked())


if __name__ == "__main__":
    main()
