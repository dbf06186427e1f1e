"""The library stays small, and its modules depend on each other in one direction."""

import ast
import tokenize
from graphlib import TopologicalSorter

import pytest
from set_address import ROOT

PACKAGE = ROOT / "distill_lib"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path):
    """The modules of the library that one of them imports, wherever in the file it does."""
    names = {name_of(path) for path in MODULES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return (found & names) - {name_of(path), "distill_lib"}  # the package itself imports nothing


def code_lines(path):
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    with path.open("rb") as file:
        tokens = [t for t in tokenize.tokenize(file.readline) if t.type not in IGNORED]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return {n for t in tokens for n in range(t.start[0], t.end[0] + 1)} - docstrings


IGNORED = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def test_no_module_imports_itself_through_another():
    graph = {name_of(path): imported(path) for path in MODULES}
    assert graph["distill_lib.distiller"] > {"distill_lib.features", "distill_lib.objectives"}
    assert graph["distill_lib"] == set()
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_there_is_little_of_it():
    sizes = {path: len(code_lines(path)) for path in MODULES if path.parent.name != "checks"}
    assert 1000 < sum(sizes.values()) < 2500
    assert max(sizes.values()) < 250


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_method_is_chosen_by_comparing_its_name(path):
    """`if method == "this": … elif method == "that": …` is a table, or two functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        branches = 0
        while isinstance(node, ast.If) and compares_with_text(node.test):
            branches += 1
            node = node.orelse[0] if len(node.orelse) == 1 else None
        assert branches < 3  # two kinds of device make two


def compares_with_text(test):
    return isinstance(test, ast.Compare) and any(
        isinstance(side, ast.Constant) and isinstance(side.value, str)
        for side in (test.left, *test.comparators)
    )
