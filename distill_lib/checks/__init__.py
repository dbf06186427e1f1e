"""Checkers for the exercises: a module a chapter, a function an exercise.

A checker takes what the student wrote, tries it on several inputs, some of them drawn afresh each
time, and compares it with a trusted reference. It prints a tick, or raises an `AssertionError`
whose message names the mistake and points at the idea, but never at the answer.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from distill_lib import plots

Function = Callable[..., Any]


def passed(name: str) -> None:
    """Print the tick."""
    print(f"✓ {name}")


def attempt(student: Function, *inputs: Any) -> Any:
    """Call the student's function; say kindly what went wrong.

    Warnings are kept quiet: nbgrader takes anything on stderr for a failure.

    Raises
    ------
    AssertionError
        If the function is still empty, returns nothing, or stops with an error of its own.
    """
    name = getattr(student, "__name__", "your function")
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return student(*inputs)
    except NotImplementedError:
        raise AssertionError(
            f"{name} is still empty: put your code in the place of `raise NotImplementedError()`."
        ) from None
    except Exception as error:
        raise AssertionError(
            f"{name} stopped with {type(error).__name__}: {error}. It was given {_show(inputs)}."
        ) from error


def compare(
    student: Function,
    reference: Function,
    cases: Sequence[tuple[Any, ...]],
    mistakes: Mapping[str, Function],
    *,
    hint: str,
) -> None:
    """Compare a student's function with the reference on every case.

    Parameters
    ----------
    student, reference : callable
        Functions of the same arguments that return a number or an array.
    cases : sequence of tuple
        The arguments of each call.
    mistakes : mapping of str to callable
        Typical wrong functions, by the message for whoever wrote one. The first that gives the
        student's results on all cases names the mistake.
    hint : str
        For a mistake that is not among them.

    Raises
    ------
    AssertionError
        If a result is missing, of the wrong shape, not a number, or wrong.
    """
    name = getattr(student, "__name__", "your function")
    results = []
    for case in cases:
        result = attempt(student, *copy.deepcopy(case))
        if result is None:
            raise AssertionError(f"{name} returns nothing: is there a `return`?")
        try:
            results.append(np.asarray(result, dtype=np.float64))
        except (TypeError, ValueError):
            raise AssertionError(
                f"{name} returns a {type(result).__name__}: expected numbers."
            ) from None
    expected = [np.asarray(reference(*case), dtype=np.float64) for case in cases]
    if _agree(results, expected):
        return
    for message, wrong in mistakes.items():
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a typical mistake may be one that PyTorch warns of
            if _agree(results, [np.asarray(wrong(*case), dtype=np.float64) for case in cases]):
                raise AssertionError(message)
    for case, result, right in zip(cases, results, expected, strict=True):
        if result.shape != right.shape:
            raise AssertionError(
                f"{name} returns an array of shape {result.shape}, where shape {right.shape} is "
                f"expected. It was given {_show(case)}."
            )
        if not np.isfinite(result).all():
            raise AssertionError(f"{name} returns {result}. It was given {_show(case)}. {hint}")
        if not _agree([result], [right]):
            raise AssertionError(
                f"{name} is not right yet: it returns {_show((result,))} for {_show(case)}. {hint}"
            )


def show_target(lab: str, figure: str) -> None:
    """Display the figure that an exercise of a lab asks for.

    The picture lies in the package, so that it shows wherever the lab runs, and again after "run
    all" (Colab shows neither files beside a notebook nor attachments of its cells).
    """
    picture = files("distill_lib") / "checks" / "figures" / f"{lab}-{figure}.png"
    plots.show_png(picture.read_bytes())


def _agree(results: Sequence[Any], expected: Sequence[Any]) -> bool:
    return all(
        result.shape == right.shape
        and np.allclose(result, right, rtol=1e-6, atol=1e-9, equal_nan=True)
        for result, right in zip(results, expected, strict=True)
    )


def _show(inputs: tuple[Any, ...]) -> str:
    with np.printoptions(precision=4, threshold=12, edgeitems=3):
        # a function has a name; its text would be an address in memory
        return ", ".join(str(getattr(x, "__name__", x)).replace("\n", "") for x in inputs)
