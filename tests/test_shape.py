"""How large the pieces of the package are: what grows beyond this is cut before it is merged."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nic_ray"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
LONGEST_FUNCTION, LONGEST_MODULE, MOST_PARAMETERS, MOST_UNTYPED = 60, 450, 7, 20
COMMANDS = {name for name in SOURCES if "/" not in name and "\ndef main(" in SOURCES[name]}
UNTYPED = re.compile(r"(dict|Mapping)\[str, Any\]")


def functions(source: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def lines_of(function: ast.FunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def parameters_of(function: ast.FunctionDef) -> int:
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def doors() -> set[str]:
    """Functions that a command imports and calls: their parameters are a user's choices."""
    imports = (
        node for name in COMMANDS for node in ast.walk(ast.parse(SOURCES[name])) if isinstance(node, ast.ImportFrom)
    )
    return {"main", *(alias.name for node in imports for alias in node.names)}


@pytest.mark.parametrize("module", SOURCES)
def test_no_function_is_longer_than_a_screen_or_takes_more_than_a_reader_can_hold(module):
    faults = [
        f"{function.name}: {lines_of(function)} lines"
        for function in functions(SOURCES[module])
        if lines_of(function) > LONGEST_FUNCTION
    ]
    faults += [
        f"{function.name}: {parameters_of(function)} parameters"
        for function in functions(SOURCES[module])
        if parameters_of(function) > MOST_PARAMETERS and function.name not in doors()
    ]
    assert faults == []


@pytest.mark.parametrize("module", SOURCES)
def test_no_module_is_longer_than_can_be_read_at_a_sitting(module):
    assert len(SOURCES[module].splitlines()) <= LONGEST_MODULE


def test_untyped_dictionaries_stay_at_the_edge():
    counts = {module: len(UNTYPED.findall(source)) for module, source in SOURCES.items()}
    assert sum(counts.values()) <= MOST_UNTYPED, {module: count for module, count in counts.items() if count}
