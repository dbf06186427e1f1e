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
    assert graph["distill_lib.distiller"] > {"distill_lib.layers", "distill_lib.objectives"}
    assert graph["distill_lib"] == set()
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_there_is_little_of_it():
    sizes = {path: len(code_lines(path)) for path in MODULES if path.parent.name != "checks"}
    assert 1000 < sum(sizes.values()) < 2500
    assert max(sizes.values()) < 250


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_method_is_chosen_by_comparing_its_name(path):
    """`if method == "this": … elif method == "that": …` is a table, or two functions."""
    assert most_names_compared(path.read_text("utf-8")) < 3  # two kinds of device make two


@pytest.mark.parametrize(
    "source",
    [
        "if m == 'a': f()\nelif m == 'b': g()\nelif m == 'c': h()",
        "if m == 'a': f()\nelse:\n  if 'b' == m: g()\n  elif m == 'c': h()",
        "def f(m):\n  if m == 'a': return 1\n  if m == 'b': return 2\n  if m == 'c': return 3",
        "def f(s):\n  if s.m != 'a': return 1\n  if s.m != 'b': return 2\n  return s.m == 'c'",
        "x = 1 if m == 'a' else 2 if m == 'b' else 3 if m == 'c' else 4",
        "if m in ('a', 'b'): f()\nelif m == 'c': g()",
        "if m in {'a', 'b', 'c'}: f()",
        "if m not in ['a', 'b', 'c']: raise ValueError",
        "match m:\n  case 'a': f()\n  case 'b': g()\n  case 'c': h()",
        "match m:\n  case 'a' | 'b': f()\n  case ('c', _): h()",
    ],
)
def test_a_choice_by_name_is_seen_in_each_of_its_forms(source):
    assert most_names_compared(source) == 3


@pytest.mark.parametrize(
    "source",
    [
        "METHODS = {'a': f, 'b': g, 'c': h}\nMETHODS[m]()",
        "if device == 'cuda': f()\nelif device == 'mps': g()",
        "def f(m):\n  return m == 'a'\ndef g(m):\n  return m == 'b'\ndef h(m):\n  return m == 'c'",
        "if x == 'a': f()\nif y == 'b': g()\nif z == 'c': h()",
        "if n == 1: f()\nelif n == 2: g()\nelif n in (3, 4): h()",
        "'a' in text and 'b' in text and 'c' in text",
    ],
)
def test_what_is_no_choice_by_name_is_left_in_peace(source):
    assert most_names_compared(source) < 3


def most_names_compared(source):
    """How many strings one function compares one expression with, at most.

    With `==`, `!=`, `in`, `not in` or as patterns of a `match`; the module counts as a function.
    """
    most, tree = 0, ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in (tree, *functions):
        names = {}
        for node in walk_within(function):
            for subject, texts in comparisons(node):
                names.setdefault(ast.unparse(subject), set()).update(texts)
        most = max([most, *map(len, names.values())])
    return most


def walk_within(function):
    """Its nodes, but not those of the functions inside it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from walk_within(child)


def comparisons(node):
    """Pairs of an expression and the strings that a node compares it with."""
    if isinstance(node, ast.Match):
        patterns = [part for case in node.cases for part in ast.walk(case.pattern)]
        yield node.subject, {text for part in patterns for text in texts(part)}
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, (operator,), (right,) = node.left, node.ops, node.comparators
        if isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn):
            yield left, texts(right)
        if isinstance(operator, ast.Eq | ast.NotEq):
            yield right, texts(left)


def texts(node):
    """The string that an expression is, or the strings that it lists."""
    parts = getattr(node, "elts", [node])
    return {p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)}
