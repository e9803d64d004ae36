"""Imports point down only, by one ordered list; Ray stays in a few rooms; a command defines nothing but `main`."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nic_ray"

COMMANDS = (
    "check sections ask terms train tune evaluate export verify validate plan mine compare retrieve convert curve serve"
).split()
VERBS = {"anomaly.__main__": {"fit", "evaluate", "score", "watch"}}
"""Commands with several functions, which lie in the folder of their name, and these functions."""
COMMANDS += VERBS
ORDER = [
    *"errors words stop_words protocol packaged cpus hardware run_folder results origin evidence validation".split(),
    *"sources stored".split(),
    *"metrics anomaly".split(),
    *"space train_config data_config config config_file tokens domains remote record readings study progress".split(),
    *"console options".split(),
    *"dataset manuals model questions training bundle acceptance selection report search service".split(),
]
"""Modules at the top, and folders: each may import what stands before it, and modules of its own folder."""
RAY_ROOMS = [
    f"search.{name}"
    for name in "ray_private session own_cluster worker ray_hooks cluster trackers rounds tasks again".split()
]
RAY_ROOMS += ["service.deployment", "service.running"]

PATHS = {path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {
    name.removesuffix(".__init__"): path.read_text(encoding="utf-8")
    for path, name in PATHS.items()
    if name != "__init__"
}
FOLDERS = {name.partition(".")[0] for name in SOURCES if "." in name}


def place_of(module: str) -> int | None:
    """Where a module stands; None if nowhere. Commands stand above all, and `__main__` above them."""
    room = module.partition(".")[0]
    if room == "__main__":
        return len(ORDER) + 1
    return len(ORDER) if module in COMMANDS else ORDER.index(room) if room in ORDER else None


def for_types_only(node: ast.AST) -> bool:
    """Whether `node` is an `if TYPE_CHECKING:` without anything that runs."""
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    )


def imported_names(node: ast.AST) -> Iterator[str]:
    """Dotted names that `node` imports when it runs, those inside functions too."""
    if for_types_only(node):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        origin = ".".join(part for part in ("nic_ray" if node.level else "", node.module) if part)
        yield from (f"{origin}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported_names(child)


def our_module(name: str, known: Mapping[str, str] = SOURCES) -> str | None:
    """The module of this package that an imported name is of; None for other packages, and for the version."""
    parts = name.split(".")
    if parts[0] != "nic_ray" or parts[1:] in ([], ["__version__"]):
        return None
    inside = parts[1:]
    return next((found for n in (2, 1) if (found := ".".join(inside[:n])) in known), ".".join(inside[:2]))


def import_faults(module: str, source: str) -> list[str]:
    """What `module` imports against the rules, one sentence each."""
    own = place_of(module)
    if own is None:
        return [f"{module} has no place: give it one in ORDER of tests/test_layers.py and in the design"]
    faults = []
    for name in imported_names(ast.parse(source)):
        if name.partition(".")[0] == "ray" and module not in RAY_ROOMS:
            faults.append(f"{module} imports {name}: only {', '.join(RAY_ROOMS)} know Ray")
        other = our_module(name)
        if other is None:
            continue
        theirs = place_of(other)
        if theirs is None or other not in SOURCES:
            faults.append(f"{module} imports {name}, which is no module with a place")
        elif theirs > own or (theirs == own and not shares_folder(module, other)):
            faults.append(f"{module} imports {other}: only downwards")
    return faults


def shares_folder(module: str, other: str) -> bool:
    if {module, other} & {*VERBS}:
        return False
    return module.partition(".")[0] == other.partition(".")[0] in FOLDERS


def command_faults(module: str, source: str) -> list[str]:
    """What a command module defines besides `main`, one sentence each."""
    statements = ast.parse(source).body
    defined = [node.name for node in statements if isinstance(node, ast.FunctionDef)]
    faults = [] if "main" in defined else [f"{module} defines no main"]
    for position, node in enumerate(statements):
        docstring = position == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        start = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        main = isinstance(node, ast.FunctionDef) and node.name in {"main", *VERBS.get(module, ())}
        if not (docstring or start or main or isinstance(node, ast.Import | ast.ImportFrom) or for_types_only(node)):
            first_line = ast.unparse(node).splitlines()[0]
            faults.append(f"{module}:{node.lineno} defines more than main: {first_line}")
    return faults


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down_only(module):
    assert import_faults(module, SOURCES[module]) == []


def test_no_two_modules_need_each_other():
    needed = {
        module: {other for name in imported_names(ast.parse(source)) if (other := our_module(name))} - {module}
        for module, source in SOURCES.items()
    }
    try:
        TopologicalSorter(needed).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_place_is_taken():
    named = {*ORDER, *COMMANDS, "__main__"} - {*VERBS}
    assert {module.partition(".")[0] for module in SOURCES} == named


def test_a_folder_earns_its_place_with_three_modules():
    for folder in FOLDERS:
        assert len([name for name in SOURCES if name.startswith(f"{folder}.")]) >= 3, folder


@pytest.mark.parametrize("folder", sorted(FOLDERS - {"bundle"}))
def test_a_folder_imports_nothing_on_the_way_in(folder):
    assert list(imported_names(ast.parse(SOURCES[folder]))) == []


def test_the_package_itself_imports_nothing():
    assert list(imported_names(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_defines_only_main(module):
    assert command_faults(module, SOURCES[module]) == []


def test_importing_the_commands_loads_neither_torch_nor_ray():
    code = (
        "import importlib, sys\n"
        f"for name in {[f'nic_ray.{module}' for module in COMMANDS]}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'ray'} & sys.modules.keys()\n"
        "    if heavy: sys.exit(f'{name} loads {sorted(heavy)}')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("metrics.ranking", "import nic_ray.training.loop", "metrics.ranking imports training.loop: only downwards"),
        ("dataset.pairs", "from nic_ray.search import search", "dataset.pairs imports search.search: only downwards"),
        ("bundle.files", "from nic_ray.report import html", "bundle.files imports report.html: only downwards"),
        ("errors", "import nic_ray.config", "errors imports config: only downwards"),
        ("words", "from nic_ray import words", "words imports words: only downwards"),
        ("check", "def main():\n    from nic_ray.train import main", "check imports train: only downwards"),
        ("training.loss", "import nic_ray.loss_helpers", "which is no module with a place"),
        ("helpers", "", "helpers has no place: give it one"),
        ("training.loop", "from ray import train", "only search.ray_private, search.session,"),
        ("tune", "def main():\n    import ray.tune", "only search.ray_private, search.session,"),
        ("training.loss", "if TYPE_CHECKING:\n    import os\nelse:\n    import ray", "only search.ray_private,"),
    ],
)
def test_a_forbidden_import_is_found(module, source, fault):
    assert fault in "; ".join(import_faults(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("training.loss", "import torch\nfrom nic_ray.errors import InputError"),
        ("training.loop", "from nic_ray.training.loss import anything"),
        ("search.rounds", "import ray\nfrom nic_ray import __version__\nfrom nic_ray.training import loop"),
        ("training.loss", "if TYPE_CHECKING:\n    import ray\n    from nic_ray.search.search import Result"),
        ("train", "def main():\n    from nic_ray.search.search import run_search"),
        ("training.loop", "import rayleigh"),
    ],
)
def test_a_lawful_import_is_let_through(module, source):
    assert import_faults(module, source) == []


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ("TRIALS = 3", "tune:2 defines more than main: TRIALS = 3"),
        ("def helper(): ...", "tune:2 defines more than main: def helper():"),
        ("class Trial: ...", "tune:2 defines more than main: class Trial:"),
        ("app = typer.Typer()", "tune:2 defines more than main: app = typer.Typer()"),
        ("print('at import')", "tune:2 defines more than main: print('at import')"),
        ("if verbose:\n    helper = 1", "tune:2 defines more than main: if verbose:"),
    ],
)
def test_a_definition_beside_main_is_found(extra, fault):
    assert command_faults("tune", f"'''Search.'''\n{extra}\ndef main() -> int: ...") == [fault]


def test_a_command_without_main_is_found():
    assert command_faults("tune", "import sys") == ["tune defines no main"]


def test_a_command_of_imports_main_and_its_start_is_let_through():
    source = "'''Search.'''\nimport sys\ndef main() -> int: ...\nif __name__ == '__main__':\n    sys.exit(main())"
    assert command_faults("tune", source) == []
