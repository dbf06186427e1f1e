"""What holds for every checker of every chapter; what is particular to one is in its own file."""

import copy
import importlib
import inspect
import re
import time
from functools import cache, partial

import checking
import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import torch
from lab_answers import answers
from make_labs import exercises
from matplotlib.axes import Axes
from set_address import ROOT
from torch import Tensor

from distill_lib.checks import compare

mpl.use("Agg")
SECONDS = 2.0


def chapters():
    """The module of checkers of each chapter, and its checkers in the order of the exercises."""
    found = {}
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = exercises(nbformat.read(path, as_version=4))
        source = "\n".join(cell.source for cell in cells if "nbgrader" in cell.metadata)
        if module := re.search(r"^from distill_lib\.checks import (\w+) as check$", source, re.M):
            graded = [cell for cell in cells if cell.metadata.get("nbgrader", {}).get("grade")]
            code = "\n".join(cell.source for cell in graded if cell.cell_type == "code")
            found[path.stem] = module[1], re.findall(r"^check\.(\w+)\(", code, re.M)
    return found


CHAPTERS = chapters()
CHECKERS = [(stem, name) for stem, (_, names) in CHAPTERS.items() for name in names]
every_checker = pytest.mark.parametrize(
    ("stem", "name"), CHECKERS, ids=[f"{stem[:2]}-{name}" for stem, name in CHECKERS]
)


@pytest.fixture
def check(stem, name):
    return getattr(importlib.import_module(f"distill_lib.checks.{CHAPTERS[stem][0]}"), name)


solutions = cache(partial(answers, cut=False))


@pytest.fixture
def solution(stem, name):
    return solutions(stem)[name]


def own_tests(stem):
    """The file with the tests of a chapter's checkers."""
    return importlib.import_module(f"test_checks_{CHAPTERS[stem][0]}")


@pytest.mark.parametrize("stem", CHAPTERS)
def test_a_chapter_has_three_checked_exercises_and_uses_every_checker(stem):
    module, names = CHAPTERS[stem]
    checks = importlib.import_module(f"distill_lib.checks.{module}")
    public = [
        name
        for name, item in vars(checks).items()
        if inspect.isfunction(item) and item.__module__ == checks.__name__ and name[0] != "_"
    ]
    assert len(names) >= 3
    assert names == public


@pytest.mark.parametrize("stem", CHAPTERS)
def test_a_chapters_own_tests_have_every_checker(stem):
    """There each is tested with its solution, its stub, and at least three typical mistakes."""
    _, names = CHAPTERS[stem]
    own = own_tests(stem)
    assert own.CHAPTER == stem
    assert list(own.EXERCISES) == names == list(own.MISTAKES)
    for test in (name for name in checking.__all__ if name.startswith("test_")):
        assert hasattr(own, test), f"{test}: from checking import *"


@every_checker
def test_three_wrong_answers_have_three_messages(stem, name, check):
    messages = set()
    for student, expected in own_tests(stem).MISTAKES[name]:
        with np.errstate(all="ignore"), pytest.raises(AssertionError, match=expected) as error:
            check(student)
        messages.add(re.sub(r"[\d.e+-]+", "", str(error.value)))  # without the drawn numbers
    assert len(messages) >= 3


@every_checker
def test_the_solution_passes_within_two_seconds(name, check, solution, capsys):
    started = time.process_time()  # others may be at work on this machine
    check(solution)
    assert time.process_time() - started < SECONDS
    assert capsys.readouterr().out.startswith(f"✓ {name}: ")


def record(solution, tape):
    """The solution, which writes down what it was given and how it answered."""

    def student(*inputs):
        before = [item if isinstance(item, Axes) else copy.deepcopy(item) for item in inputs]
        try:
            outcome = solution(*inputs)
        except Exception as error:  # where the answer is a test, or an error is to be let through
            tape.append((before, error))
            raise
        tape.append((before, fixed(outcome)))
        return outcome

    student.__name__ = solution.__name__
    return student


def fixed(outcome):
    """A copy, cut off from whatever it was computed from."""
    if isinstance(outcome, tuple | list):
        return type(outcome)(fixed(item) for item in outcome)
    return outcome.detach().clone() if isinstance(outcome, Tensor) else copy.deepcopy(outcome)


def replay(solution, tape):
    """A student who knows by heart what was right the last time, question by question."""
    questions = iter(tape)

    def student(*inputs):
        before, outcome = next(questions, tape[-1])
        if isinstance(outcome, Exception):
            raise outcome
        if inputs and isinstance(inputs[0], Axes):  # the answer is a drawing: draw the old one
            return solution(inputs[0], *before[1:])
        outcome = fixed(outcome)
        if isinstance(outcome, Tensor) and outcome.is_floating_point():
            for item in inputs:  # a gradient can flow, too, but the number is the old one
                if isinstance(item, Tensor) and item.requires_grad:
                    outcome = outcome + 0 * item.sum()
        return outcome

    student.__name__ = solution.__name__
    return student


@every_checker
def test_an_answer_learnt_by_heart_fails(check, solution):
    """So each check asks something new; now and then what is drawn happens to be the same."""
    tape = []
    check(record(solution, tape))
    failures = 0
    for _ in range(5):
        try:
            check(replay(solution, tape))
        except AssertionError:
            failures += 1
    assert failures >= 3


# ---- how results are compared


RIGHT = np.array([1 / 3, 2e4, 1e-9])


def compared(answer, **options):
    def student(x):
        return answer

    compare(student, lambda x: RIGHT, [(torch.randn(20, 30),)], {}, hint="Think!", **options)


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT.astype(np.float32),
        torch.tensor(RIGHT).float(),
        list(torch.tensor(RIGHT).float()),
        torch.tensor(RIGHT, requires_grad=True),
        [torch.tensor(x, requires_grad=True) for x in RIGHT],
        tuple(RIGHT),
    ],
)
def test_a_right_number_passes_in_whichever_form_it_comes(answer):
    compared(answer)


def test_more_digits_are_asked_of_double_precision():
    off = RIGHT * (1 + 2e-5)
    compared(off.astype(np.float32))
    with pytest.raises(AssertionError, match="not right yet"):
        compared(off)
    with pytest.raises(AssertionError, match="not right yet"):
        compared((RIGHT * 1.001).astype(np.float32))


def test_the_hint_comes_first_and_large_inputs_are_not_written_out():
    with pytest.raises(AssertionError) as error:
        compared(torch.zeros(3))
    assert str(error.value) == (
        "student is not right yet. Think! It returns [0. 0. 0.] for an array of shape (20, 30)."
    )
    with pytest.raises(AssertionError, match=r"returns \[nan nan nan\]. No means! It was given an"):
        compared(torch.zeros(3) / 0, not_finite="No means!")


def test_what_is_no_number_is_named():
    for answer in ("three", ["a", "b"], {}, [RIGHT, RIGHT[:2]]):
        with pytest.raises(AssertionError, match="expected numbers"):
            compared(answer)
