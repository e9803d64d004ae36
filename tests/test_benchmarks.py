"""Benchmarks are run by hand and seldom: what they import must still be there when they are."""

import ast
import importlib
from pathlib import Path

import pytest

from nic_ray.pairs import Pair

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


def loaded(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


def test_exports_are_told_with_the_exact_bound_of_their_share(monkeypatch):
    guard = loaded("guard", monkeypatch)
    one = {
        "exported": False,
        "objections": ["validation: no"],
        "truth": 0.0,
        "test": 0.1,
        "validation": 0.2,
        "seconds": 1.0,
    }
    none = guard.summary([one] * 60)
    assert none["at_most"] == pytest.approx(1 - 0.05 ** (1 / 60))  # 0 of 60: solved by hand
    assert none["passed_validation"] == 0
    assert none["test"] == pytest.approx({"mean": 0.1, "standard_error": 0.0})
    some = guard.summary([one] * 59 + [one | {"exported": True, "objections": []}])
    assert (some["exports"], some["passed_validation"]) == (1, 1)
    assert some["at_most"] > none["at_most"]


def test_a_search_that_was_cut_off_while_it_was_noted_is_run_again(monkeypatch, tmp_path):
    file = tmp_path / "guard.jsonl"
    file.write_text('{"protocol": "unseen_queries", "seed": 0}\n{"protocol": "unseen_q')
    assert [*loaded("guard", monkeypatch).read_lines(file)] == [("unseen_queries", 0)]


def test_a_drawn_answer_is_one_of_those_that_the_base_model_ranks_first(monkeypatch):
    guard = loaded("guard", monkeypatch)
    pairs = [Pair("why?", "because", "a"), Pair("how?", "so", "b")]
    ranked = [[f"{row}-{place}" for place in range(guard.NEAR)] for row in range(2)]
    drawn = [guard.relabelled(pairs, ranked, seed) for seed in range(200)]
    assert {rows[1]["positive"] for rows in drawn} == set(ranked[1])
    assert {(row["query"], row["domain"]) for rows in drawn for row in rows} == {("why?", "a"), ("how?", "b")}
