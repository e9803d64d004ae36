"""Imports point down only, Ray stays in two rooms, and a command defines nothing but `main`."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nic_ray"

FLOORS = {
    -2: ["words", "metric_table", "packaged", "evidence", "run_folder"],
    -1: ["duplicates", "errors", "domains", "layout", "broken", "validation"],
    0: (
        "blocks config console hardware lexical loss mirror pairs progress record retrieval split "
        "statistics tokens manuals anomaly ray_private"
    ).split(),
    0.5: ["cut", "config_file"],
    1: [
        "encoder",
        "guard",
        "lint",
        "picture",
        "corpus",
        "placement",
        "readings",
        "beir",
        "session",
        "study",
        "batches",
    ],
    1.5: ["base", "card"],
    2: ["activations", "bundle"],
    2.5: ["gradients"],
    3: ["loop", "evaluation", "mining", "preparation", "cache", "retriever"],
    3.5: ["scoring"],
    4: ["worker", "ray_hooks", "cluster", "tracking", "candidates", "comparison"],
    4.5: ["retention", "averaging", "page_elements"],
    4.7: ["interpolation", "figures", "page_sections"],
    5: ["judgement", "outcome", "forecast", "page", "conversion"],
    6: ["run", "single"],
    7: ["rounds"],
    8: ["search"],
    9: ["report", "checkup"],
    10: "check train tune evaluate export verify plan mine compare retrieve convert".split(),
    11: ["__main__"],
}
COMMANDS = FLOORS[10]
RAY_ROOMS = ["ray_private", "session", "worker", "ray_hooks", "cluster", "tracking", "rounds"]

FLOOR_OF = {module: floor for floor, modules in FLOORS.items() for module in modules}
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}


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


def import_faults(module: str, source: str) -> list[str]:
    """What `module` imports against the rules, one sentence each."""
    if module not in FLOOR_OF:
        return [f"{module} has no floor: give it one in FLOORS of tests/test_layers.py and in the design"]
    faults = []
    for name in imported_names(ast.parse(source)):
        top, _, rest = name.partition(".")
        if top == "ray" and module not in RAY_ROOMS:
            faults.append(f"{module} imports {name}: only {', '.join(RAY_ROOMS)} know Ray")
        room = rest.partition(".")[0]
        if top != "nic_ray" or room == "__version__":
            continue
        if room not in FLOOR_OF:
            faults.append(f"{module} imports {name}, which is no module with a floor")
        elif FLOOR_OF[room] >= FLOOR_OF[module]:
            faults.append(
                f"{module} (floor {FLOOR_OF[module]}) imports {room} (floor {FLOOR_OF[room]}): only downwards"
            )
    return faults


def command_faults(module: str, source: str) -> list[str]:
    """What a command module defines besides `main`, one sentence each."""
    statements = ast.parse(source).body
    defined = [node.name for node in statements if isinstance(node, ast.FunctionDef)]
    faults = [] if "main" in defined else [f"{module} defines no main"]
    for position, node in enumerate(statements):
        docstring = position == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        start = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        main = isinstance(node, ast.FunctionDef) and node.name == "main"
        if not (docstring or start or main or isinstance(node, ast.Import | ast.ImportFrom) or for_types_only(node)):
            first_line = ast.unparse(node).splitlines()[0]
            faults.append(f"{module}:{node.lineno} defines more than main: {first_line}")
    return faults


def test_every_module_stands_on_one_floor():
    assert len(FLOOR_OF) == sum(len(modules) for modules in FLOORS.values())
    assert [module for module in SOURCES if module not in FLOOR_OF and module != "__init__"] == []


@pytest.mark.parametrize("module", [module for module in SOURCES if module != "__init__"])
def test_imports_point_down_only(module):
    assert import_faults(module, SOURCES[module]) == []


def test_the_package_itself_imports_nothing():
    assert list(imported_names(ast.parse(SOURCES["__init__"]))) == []


@pytest.mark.parametrize("module", [module for module in SOURCES if module in COMMANDS])
def test_a_command_defines_only_main(module):
    assert command_faults(module, SOURCES[module]) == []


def test_importing_the_commands_loads_neither_torch_nor_ray():
    names = [f"nic_ray.{module}" for module in SOURCES if module in COMMANDS]
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
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
        ("loss", "from nic_ray.retrieval import recall_at", r"loss (floor 0) imports retrieval (floor 0)"),
        ("encoder", "import nic_ray.loop", "encoder (floor 1) imports loop (floor 3)"),
        ("pairs", "from nic_ray import search", "pairs (floor 0) imports search (floor 8)"),
        ("bundle", "from . import report", "bundle (floor 2) imports report (floor 9)"),
        ("loop", "from .evaluation import evaluate", "loop (floor 3) imports evaluation (floor 3)"),
        ("errors", "import nic_ray.pairs", "errors (floor -1) imports pairs (floor 0)"),
        (
            "check",
            "def main():\n    from nic_ray.train import main",
            "check (floor 10) imports train (floor 10)",
        ),
        ("loss", "import nic_ray.loss_helpers", "which is no module with a floor"),
        ("helpers", "", "helpers has no floor: give it one"),
        (
            "loop",
            "from ray import train",
            "only ray_private, session, worker, ray_hooks, cluster, tracking, rounds know Ray",
        ),
        (
            "tune",
            "def main():\n    import ray.tune",
            "only ray_private, session, worker, ray_hooks, cluster, tracking, rounds know Ray",
        ),
        (
            "loss",
            "if TYPE_CHECKING:\n    import os\nelse:\n    import ray",
            "only ray_private, session, worker, ray_hooks, cluster, tracking, rounds know Ray",
        ),
    ],
)
def test_a_forbidden_import_is_found(module, source, fault):
    assert fault in "; ".join(import_faults(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("loss", "import torch\nfrom nic_ray.errors import InputError"),
        ("rounds", "import ray\nfrom .worker import run\nfrom nic_ray import __version__, loop"),
        ("loss", "if TYPE_CHECKING:\n    import ray\n    from nic_ray.search import Result"),
        ("train", "def main():\n    from nic_ray.search import run_search"),
        ("loop", "import rayleigh"),
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
