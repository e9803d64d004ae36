"""Benchmarks are run by hand and seldom: what they import must still be there when they are."""

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SOURCES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.py"))}


def imported(source: ast.Module) -> list[tuple[str, str]]:
    """(module, name) of every `from ... import ...`, those inside functions too."""
    nodes = (node for node in ast.walk(source) if isinstance(node, ast.ImportFrom))
    return [(node.module or "", alias.name) for node in nodes for alias in node.names]


def defined(source: ast.Module) -> set[str]:
    """Names that a module has at its top."""
    names = {node.name for node in source.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = [target for node in source.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in source.body if isinstance(node, ast.AnnAssign)]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("benchmark", SOURCES)
def test_what_a_benchmark_imports_is_there(benchmark):
    for module, name in imported(SOURCES[benchmark]):
        if module in SOURCES:
            assert name in defined(SOURCES[module]), f"{module} has no {name}"
        elif module == "nic_ray":
            importlib.import_module(f"nic_ray.{name}")
        elif module.startswith("nic_ray."):
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


@pytest.mark.parametrize("benchmark", SOURCES)
def test_a_benchmark_says_how_it_is_run(benchmark):
    assert f"python benchmarks/{benchmark}.py" in (ast.get_docstring(SOURCES[benchmark]) or "")
