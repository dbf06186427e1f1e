"""What the tests of every chapter's checkers have in common: `from checking import *`.

A file that does so is about one chapter. It has `CHAPTER`, `EXERCISES`, the module `check` with the
checkers, and `MISTAKES`: for each exercise what students wrote, and what the message says to it.
"""

import re
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from lab_answers import answers

mpl.use("Agg")
LONGEST = 600  # characters of a message
__all__ = [
    "checker",
    "own",
    "pytest_generate_tests",
    "test_a_check_is_quiet_about_warnings",
    "test_a_typical_mistake_is_named",
    "test_an_error_of_the_student_is_named",
    "test_checkers_are_stable",
    "test_messages_differ",
    "test_the_empty_stub_fails_kindly",
    "test_the_solution_passes",
]


def pytest_generate_tests(metafunc):
    """Repeat a test for every exercise, or for every mistake, if it asks for them."""
    mistakes = metafunc.module.MISTAKES
    if metafunc.definition.get_closest_marker("parametrize"):
        return
    if "number" in metafunc.fixturenames:
        all_of_them = [(name, i) for name, found in mistakes.items() for i in range(len(found))]
        metafunc.parametrize(("name", "number"), all_of_them)
    elif "name" in metafunc.fixturenames:
        metafunc.parametrize("name", metafunc.module.EXERCISES)


@pytest.fixture
def own(request):
    """The chapter's file."""
    return request.module


@pytest.fixture
def checker(own, name):
    return getattr(own.check, name)


def test_the_solution_passes(own, name, checker, capsys):
    checker(answers(own.CHAPTER, cut=False)[name])
    shown = capsys.readouterr()
    assert shown.out.startswith(f"✓ {name}: ")
    assert not shown.err


def test_the_empty_stub_fails_kindly(own, name, checker):
    with pytest.raises(AssertionError, match=f"{name} is still empty") as error:
        checker(answers(own.CHAPTER, cut=True)[name])
    assert error.value.__suppress_context__, "the student should not see two errors"


def test_an_error_of_the_student_is_named(checker):
    def student(*inputs):
        return undefined_name  # noqa: F821

    with pytest.raises(AssertionError, match=r"stopped with NameError: .*undefined_name") as error:
        checker(student)
    assert " at 0x" not in str(error.value)


def test_a_check_is_quiet_about_warnings(own, name, checker, capsys):
    """Since nbgrader takes anything on stderr for a failure."""
    solution = answers(own.CHAPTER, cut=False)[name]

    def student(*inputs):
        warnings.warn("careful", stacklevel=1)
        np.log(np.zeros(1))
        return solution(*inputs)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker(student)
    assert not capsys.readouterr().err


def test_a_typical_mistake_is_named(own, name, number, checker):
    student, message = own.MISTAKES[name][number]
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=message) as error:
        checker(student)
    assert len(str(error.value)) < LONGEST


def test_messages_differ(own, name, checker):
    """So that each tells its own mistake; in some chapters a few are alike."""
    messages = []
    for student, _ in own.MISTAKES[name]:
        with np.errstate(all="ignore"), pytest.raises(AssertionError) as error:
            checker(student)
        messages.append(re.sub(r"[\d.e+-]+", "", str(error.value)))
    assert len(set(messages)) >= getattr(own, "FEWEST", len(messages) - getattr(own, "ALIKE", 0))


def test_checkers_are_stable(own, name, checker):
    """Random inputs never fail a right answer, nor pass a wrong one."""
    solution = answers(own.CHAPTER, cut=False)[name]
    for _ in range(20):
        checker(solution)
        for student, message in own.MISTAKES[name]:
            with np.errstate(all="ignore"), pytest.raises(AssertionError, match=message):
                checker(student)
