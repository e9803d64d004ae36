"""README, runbook and the page of the service: their commands parse, and those of less than a minute are run."""

import importlib
import io
import json
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml

from nic_ray import console
from nic_ray.config import Config
from nic_ray.config_file import load_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "runbook.md", ROOT / "docs" / "service.md"]
TELLING = [*PAGES, ROOT / "docs" / "decisions.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:\.venv/bin/)?python -m nic_ray[^`\[]*)`")
OTHERS = {"source", "kubectl", "curl", "export", "pip", "tensorboard", "optuna-dashboard"}
"""Programs that are none of ours and none that the tests could start."""
PLACEHOLDERS = ("FILE", "SAMPLE")


def commands(page: Path) -> Iterator[str]:
    """Each command of a page, on one line: of the blocks without a language, and of the prose."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if not language:
            for line in block.replace("\\\n", " ").splitlines():
                if command := line.partition("  #")[0].strip():
                    yield command
    for found in INLINE.findall(FENCE.sub("", text)):
        yield " ".join(found.split())


ALL = sorted({command for page in PAGES for command in commands(page)} - {"python -m nic_ray"})
PICTURES = ("├", "──", "=", "/", "  ")


def is_command(line: str) -> bool:
    """Whether a line of a block without a language is for a shell, and no picture or list of files."""
    program = line.split()[0].removeprefix(".venv/bin/")
    return program in {"python", "make", "ray", "nic-ray", *OTHERS}


NAMES = {"nic_ray.check", "nic_ray.compare", "nic_ray.serve"}
"""Commands that prose names without the arguments that they need."""
COMMANDS = [line for line in ALL if is_command(line)]


def ours(command: str) -> list[str] | None:
    """Module and arguments of a command of ours, also if it is handed to Ray; None for another."""
    words = shlex.split(command)
    if words[0] == "ray" and "--" in words:
        words = words[words.index("--") + 1 :]
    words[0] = words[0].removeprefix(".venv/bin/")
    if words[:2] == ["python", "-m"] and words[2].startswith("nic_ray."):
        return words[2:]
    if words[0] == "nic-ray" and len(words) > 1 and not words[1].startswith("-"):
        return [f"nic_ray.{words[1]}", *words[2:]]
    return None


def parse(module: str, arguments: list[str]) -> None:
    app, found = typer.Typer(), importlib.import_module(module)
    if hasattr(found, "main"):
        app.command()(found.main)
    else:  # a command with verbs
        verb, *arguments = arguments
        app.command()(getattr(importlib.import_module(f"{module}.__main__"), verb))
    typer.main.get_command(app).make_context(module, console.with_lists(arguments))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_exists(command):
    words = shlex.split(command)
    found = ours(command)
    if found is not None:
        if len(found) > 1 or found[0] not in NAMES:
            parse(found[0], found[1:])
        for word in found[1:]:
            if word.startswith(("tune_configs/", "data/")):
                assert (ROOT / word).exists(), word
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[0] == "ray":
        assert words[1] in {"up", "job", "get-auth-token"}
        assert all((ROOT / word).exists() for word in words if word.startswith("deploy/"))
    else:
        assert words[0] in OTHERS | {"nic-ray"}


def both(parameter):
    """An option's names, those that turn it off included."""
    return [*parameter.opts, *parameter.secondary_opts]


def test_the_options_of_the_readmes_table_are_those_of_the_commands():
    rows = re.findall(r"^\| `python -m (nic_ray\.\w+) ([^`]*)` \|", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 17
    for module, arguments in rows:
        app, found = typer.Typer(), importlib.import_module(module)
        verb = arguments.partition(" ")[0]
        app.command()(
            found.main if hasattr(found, "main") else getattr(importlib.import_module(f"{module}.__main__"), verb)
        )
        known = {name for parameter in typer.main.get_command(app).params for name in both(parameter)}
        assert set(re.findall(r"--[a-z-]+", arguments)) <= known, module


def test_the_commands_are_found():
    modules = {found[0].removeprefix("nic_ray.") for command in COMMANDS if (found := ours(command))}
    assert modules >= {"tune", "plan", "check", "export", "verify", "evaluate", "compare", "retrieve", "convert"}


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_and_headings_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            name, _, heading = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), target
            assert not heading or heading in headings_of(file), target


def headings_of(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    return {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).strip().lower().replace(" ", "-")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    }


def test_the_readme_is_short_enough_to_be_read():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) < 250


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_nothing_is_said_to_be_the_same_bit_for_bit_without_saying_on_what(page):
    words = " ".join(page.read_text(encoding="utf-8").split())
    for sentence in re.split(r"(?<=[.!?])(?:\*\*)? ", words):
        if "bit for bit" in sentence.lower():
            assert re.search(r"\b(?:CPU|GPU)\b", sentence), sentence


def generated():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("generate")
    finally:
        sys.path.pop(0)


def test_schema_and_settings_are_those_of_the_code():
    generate = generated()
    assert (ROOT / generate.SCHEMA).read_text(encoding="utf-8") == generate.schema(), "run: python docs/generate.py"
    text = (ROOT / generate.RUNBOOK).read_text(encoding="utf-8")
    assert text == generate.runbook(text), "run: python docs/generate.py"


@pytest.mark.parametrize("path", sorted((ROOT / "tune_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_name_the_schema_and_follow_it(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    schema = json.loads((path.parent / "schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)


WORDS = "one two three four five six seven eight".split()
COUNT = r"\b(\d[\d,.]*\d|\d|" + "|".join(WORDS) + r")"
SHIPPED = {path.name: load_config(path) for path in (ROOT / "tune_configs").glob("*.yaml")}
REPEATED: dict[str, Callable[[Config], list[float]]] = {
    rf"{COUNT} trials of (?:up to )?{COUNT} epochs?\b": lambda each: [each.search.trials, each.train.epochs],
    rf"\({COUNT} trials\b": lambda each: [each.search.trials],
    rf"trials of {COUNT} workers\b": lambda each: [each.resources.workers],
    rf"{COUNT} trials share (?:the|a) GPU": lambda each: [1 / each.resources.gpus_per_worker],
    rf"not lose more than {COUNT} Recall@5": lambda each: [each.guard.max_retention_loss],
    r"(?:all|every) depths?\b": lambda each: [float(6 - len(each.space["frozen_layers"].choice or ()))],
}
"""Sentences that repeat values of a shipped file, and these in the order of their numbers. (All depths of the packaged
model, of six blocks, leave no depth out.)"""


def claims(text: str, about: str) -> Iterator[tuple[str, str, str]]:
    """Each value that a text repeats: of which file, by which pattern or setting, and the words.

    A sentence is about the file that its paragraph has named last.

    Args:
        about: the file that a paragraph is about until it names one.
    """
    for paragraph in re.split(r"\n\s*\n|\n(?=[|#-])", text):
        words = " ".join(paragraph.split())
        named = [(0, about), *((each.start(), each[1]) for each in re.finditer(r"(\w+\.yaml)\b", words))]
        for pattern in (*REPEATED, r"`([\w.]+): ([^`{}]+)`"):
            for each in re.finditer(pattern, words, re.IGNORECASE):
                yield next(name for place, name in reversed(named) if place <= each.start()), pattern, each[0]


def heading_of(path: Path) -> str:
    """What stands above the settings of a shipped file, as one paragraph."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))


CLAIMS = [
    *(claim for page in TELLING for claim in claims(FENCE.sub("", page.read_text(encoding="utf-8")), "cpu.yaml")),
    *(claim for name in SHIPPED for claim in claims(heading_of(ROOT / "tune_configs" / name), name)),
]


@pytest.mark.parametrize(("file", "pattern", "words"), [claim for claim in CLAIMS if claim[1] in REPEATED])
def test_a_sentence_that_repeats_a_value_of_a_shipped_file_is_true(file, pattern, words):
    found = re.search(pattern, words, re.IGNORECASE)
    assert found is not None
    told = [
        WORDS.index(each.lower()) + 1 if each.lower() in WORDS else float(each.replace(",", ""))
        for each in found.groups()
    ]
    assert (told or [0.0]) == REPEATED[pattern](SHIPPED[file]), f"{file}: {words}"


SETTINGS = {
    f"{section}.{key}": section
    for section, field in Config.model_fields.items()
    if hasattr(field.annotation, "model_fields")
    for key in field.annotation.model_fields
}


@pytest.mark.parametrize(("file", "pattern", "words"), [claim for claim in CLAIMS if claim[1] not in REPEATED])
def test_a_setting_that_a_page_names_with_a_value_exists_and_takes_it(file, pattern, words):
    name, value = re.match(pattern, words).groups()
    found = [each for each in [*SETTINGS, *Config.model_fields] if each == name or each.endswith(f".{name}")]
    assert len(found) == 1, f"{name}: is {found}"
    section, _, key = found[0].rpartition(".")
    given = yaml.safe_load(value)
    Config.model_validate({section: {key: given}} if section else {key: given})


def test_a_value_that_a_page_gives_for_a_shipped_file_is_that_files():
    # apart from advice: of the sentence that describes the file, in "Set-ups"
    text = PAGES[1].read_text(encoding="utf-8").split("## Set-ups")[1].split("\n## ")[0]
    given = [claim for claim in claims(FENCE.sub("", text), "cpu.yaml") if claim[1] not in REPEATED]
    assert given
    for file, pattern, words in given:
        name, value = re.match(pattern, words).groups()
        (section,) = (section for setting, section in SETTINGS.items() if setting.endswith(f".{name}"))
        assert getattr(getattr(SHIPPED[file], section), name) == yaml.safe_load(value), f"{file}: {words}"


def test_sentences_that_repeat_values_are_found():
    assert {pattern for _, pattern, _ in CLAIMS} >= REPEATED.keys()
    assert {file for file, _, _ in CLAIMS} == SHIPPED.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"search": {"trails": 3}},
        {"search": {"trials": 0}},
        {"search": {"time_budget": "soon"}},
        {"space": {"seed": {"choice": [1, 2]}}},
        {"train": {"schedule": "sometimes"}},
    ],
)
def test_the_schema_refuses_what_the_code_refuses(wrong):
    schema = json.loads((ROOT / "tune_configs" / "schema.json").read_text(encoding="utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_a_duration_and_choices_of_all_kinds_follow_the_schema():
    schema = json.loads((ROOT / "tune_configs" / "schema.json").read_text(encoding="utf-8"))
    space = {"schedule": {"choice": ["cosine", "linear"]}, "patience": {"choice": [None, 3]}}
    jsonschema.validate({"search": {"time_budget": "2h"}, "space": space}, schema)


STANDS_FOR = {"PAIRS": "pairs.jsonl", "RUN_DIR": "runs/RUN", "FOLDER": "beir"} | dict.fromkeys(
    ("BUNDLE", "MODEL"), "models/nic-embeddings-v1.0"
)
"""What of the smoke search is meant where prose names an argument."""
QUICK = sorted(
    {
        shlex.join(["python", "-m", *(STANDS_FOR.get(word, word) for word in found)])
        for command in COMMANDS
        if (found := ours(command))
        and len(found) > 1
        and "--endpoint" not in found
        and found[0].removeprefix("nic_ray.")
        in {"check", "verify", "evaluate", "compare", "retrieve", "convert", "export"}
    }
)


@pytest.mark.slow
def test_the_smoke_search_runs_as_a_command(smoke_search):
    folder, done = smoke_search
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for word in (
        "dashboard: http://127.0.0.1:",
        "ray get-auth-token",
        "macro",
        "worst",
        "exporting trial-00",
        "retention (change on the retention set",
        "report.html",
    ):
        assert word in done.stdout
    (run,) = (path for path in (folder / "runs").iterdir() if path.name == "RUN")
    log = (run / "search.log").read_text(encoding="utf-8")
    assert all(line in log for line in done.stdout.splitlines() if line.startswith("trial-00"))
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder / "models" / "nic-embeddings-v1.0"), device="cpu")
    assert model.encode(["How?"]).shape == (1, 384)
    command = [sys.executable, "-m", "nic_ray.tune", "tune_configs/smoke.yaml"]
    again = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.slow
# Ray leaves its processes to the operating system when it is shut down
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("command", QUICK)
def test_commands_run_as_they_stand(command, smoke, monkeypatch, capsys):
    module, *arguments = ours(command) or []
    monkeypatch.chdir(smoke)
    # the smoke search convinces no guard, and what an earlier command has written may be replaced
    more = {"export": ["--overwrite", "--export-anyway"], "convert": ["--overwrite"]}
    arguments += more.get(module.removeprefix("nic_ray."), [])
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO("How is the belt tightened?\n"))
    with pytest.raises(SystemExit) as stopped:
        console.run(importlib.import_module(module).main)
    said = capsys.readouterr()
    # findings, and a graph that is not the model, are answers as well
    answers = (0, 1) if "--fail-on" in arguments or "the graph is not the model" in said.err else (0,)
    assert stopped.value.code in answers, said.out + said.err
    assert "Traceback" not in said.out + said.err


@pytest.mark.slow
def test_optunas_dashboard_opens_the_study_of_a_run(smoke):
    (command,) = (line for line in COMMANDS if line.startswith("optuna-dashboard"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).parent / "optuna-dashboard"
    with subprocess.Popen(
        [str(program), *shlex.split(command)[1:], "--port", str(port)],
        cwd=smoke, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as dashboard:  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=10) as answer:
                        (study,) = json.load(answer)["study_summaries"]
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard/", timeout=10) as answer:
                        page = answer.read().decode()
                    break
                except urllib.error.URLError:
                    assert dashboard.poll() is None, dashboard.stdout and dashboard.stdout.read()
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
        finally:
            dashboard.terminate()
            dashboard.wait(20)
    assert study["study_name"] == "nic_ray"
    assert study["directions"] == ["maximize"]
    assert "<title>" in page
