"""Checkers for the exercises: a module a chapter, a function an exercise.

A checker takes what the student wrote, tries it on several inputs, some of them drawn afresh each
time, and compares it with a trusted reference. It prints a tick, or raises an `AssertionError`
whose message names the mistake and points at the idea, but never at the answer.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_lib import plots

Array = NDArray[np.float64]
Function = Callable[..., Any]


class _NamedError(Exception):
    """A mistake that is found, and named, while the student's function runs."""


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
    except _NamedError as error:
        raise AssertionError(str(error)) from None
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
    not_finite: str = "Is there a division by 0, or a logarithm of 0?",
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
    not_finite : str
        The hint for a result that is NaN or infinite, and not among the mistakes either.

    Raises
    ------
    AssertionError
        If a result is missing, of the wrong shape, not a number, or wrong.
    """
    name = getattr(student, "__name__", "your function")
    results, coarse = [], False
    for case in cases:
        result = attempt(student, *copy.deepcopy(case))
        if result is None:
            raise AssertionError(f"{name} returns nothing: is there a `return`?")
        try:
            results.append(_array(result))
        except (TypeError, ValueError):
            raise AssertionError(
                f"{name} returns a {type(result).__name__}: expected numbers."
            ) from None
        coarse = coarse or _is_coarse(result)
    expected = [_array(reference(*case)) for case in cases]
    if _agree(results, expected, coarse):
        return
    for message, wrong in mistakes.items():
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a typical mistake may be one that PyTorch warns of
            if _agree(results, [_array(wrong(*case)) for case in cases], coarse):
                raise AssertionError(message)
    for case, result, right in zip(cases, results, expected, strict=True):
        if result.shape != right.shape:
            raise AssertionError(
                f"{name} returns an array of shape {result.shape}, where shape {right.shape} is "
                f"expected. It was given {_show(case)}."
            )
        if not np.isfinite(result).all():
            raise AssertionError(
                f"{name} returns {_text(result)}. {not_finite} It was given {_show(case)}."
            )
        if not _agree([result], [right], coarse):
            raise AssertionError(
                f"{name} is not right yet. {hint} It returns {_text(result)} for {_show(case)}."
            )


def compare_gradient(student: Function, reference: Function, case: tuple[Any, ...]) -> None:
    """Compare the gradients with respect to the first argument, where the numbers are right.

    Raises
    ------
    AssertionError
        If no gradient reaches the argument, or another one than the reference's.
    """

    def gradient(function: Function) -> Tensor | None:
        z = case[0].detach().clone().requires_grad_()
        loss = attempt(function, z, *copy.deepcopy(case[1:]))
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            return None
        return torch.autograd.grad(loss.sum(), z, allow_unused=True)[0]

    found, right = gradient(student), gradient(reference)
    assert right is not None
    if found is None:
        raise AssertionError(
            "The number is right, but no gradient reaches the student: stay in PyTorch, without "
            "detach, item or NumPy."
        )
    if not found.isfinite().all():
        raise AssertionError("The number is right, but its gradient is not finite.")
    if not torch.allclose(found, right, rtol=1e-4, atol=1e-6):
        raise AssertionError(
            "The number is right, its gradient is not: which part of the student's was detached?"
        )


def without_autograd(student: Function) -> Function:
    """Return the student's function, run where PyTorch records no gradient."""

    @wraps(student)
    def function(*inputs: Any) -> Any:
        try:
            with torch.no_grad():
                return student(*inputs)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise _NamedError(
                "Autograd is switched off in this check: write the gradient as a formula."
            ) from None

    return function


def show_target(lab: str, figure: str) -> None:
    """Display the figure that an exercise of a lab asks for.

    The picture lies in the package, so that it shows wherever the lab runs, and again after "run
    all" (Colab shows neither files beside a notebook nor attachments of its cells).
    """
    picture = files("distill_lib") / "checks" / "figures" / f"{lab}-{figure}.png"
    plots.show_png(picture.read_bytes())


def _array(result: Any) -> Array:
    """The numbers of an array, of a tensor on any device, or of a list of them."""
    if isinstance(result, list | tuple):
        return np.asarray([_array(part) for part in result], dtype=np.float64)
    return np.asarray(_plain(result), dtype=np.float64)


def _plain(x: Any) -> Any:
    """A tensor, on any device and with a gradient or not, as an array; all else as it is."""
    if not isinstance(x, Tensor):
        return x
    x = x.detach().cpu()
    return np.asarray(x.double() if x.is_floating_point() else x)  # NumPy has no bfloat16


def _is_coarse(result: Any) -> bool:
    """Whether a result was computed with fewer than 64 bits."""
    parts = result if isinstance(result, list | tuple) else [result]
    kinds = {str(getattr(part, "dtype", "")).removeprefix("torch.") for part in parts}
    return bool(kinds & {"float32", "float16", "bfloat16"})


def _agree(results: Sequence[Array], expected: Sequence[Array], coarse: bool) -> bool:
    rtol, atol = (1e-4, 1e-6) if coarse else (1e-6, 1e-9)
    return all(
        result.shape == right.shape
        and np.allclose(result, right, rtol=rtol, atol=atol, equal_nan=True)
        for result, right in zip(results, expected, strict=True)
    )


def _show(inputs: tuple[Any, ...]) -> str:
    return ", ".join(_text(x) for x in inputs)


def _text(x: Any) -> str:
    """A value in a few words."""
    if isinstance(x, list | tuple):
        return f"[{_show(tuple(x))}]" if len(x) <= 12 else f"a list of {len(x)}"
    x = _plain(x)
    if isinstance(x, np.ndarray) and x.size > 12:
        return f"an array of shape {x.shape}"
    if isinstance(x, np.ndarray) and not x.shape:
        x = x.item()
    if isinstance(x, float):
        return f"{x:.6}"
    with np.printoptions(precision=4):
        # a function has a name; its text would be an address in memory
        return str(getattr(x, "__name__", x)).replace("\n", "")
