"""Checkers for the exercises of the chapter on entropy."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax, xlogy

from distill_lib.checks import Function, attempt, compare, passed
from distill_lib.information import conditional_entropy, entropy

Array = NDArray[np.float64]


def perplexity(student: Function) -> None:
    """Exercise 1: the number of equally likely classes with the same entropy."""
    random = np.random.default_rng()
    table = random.dirichlet(np.ones(6), size=4)
    cases = [(np.full(4, 0.25),), (np.array([1.0, 0, 0]),), (table,), (table.reshape(2, 2, 6),)]

    def naive(p: Array) -> Any:
        return np.exp(-(p * np.log(p)).sum(axis=-1))

    compare(
        student,
        lambda p: np.exp(entropy(p)),
        cases,
        {
            "This is the entropy itself. The question is how many equally likely classes have "
            "this entropy.": lambda p: entropy(p),
            "This is the entropy in bits. The question is how many equally likely classes have "
            "this entropy.": lambda p: entropy(p, base=2),
            "Two units are mixed: an entropy in nats must be undone with base e, not with base "
            "2.": lambda p: 2 ** np.asarray(entropy(p)),
            "Two units are mixed: an entropy in bits must be undone with base 2, not with base "
            "e.": lambda p: np.exp(entropy(p, base=2)),
            "The sign of the exponent is wrong: no distribution is worth less than one class.": (
                lambda p: np.exp(-np.asarray(entropy(p)))
            ),
            "One number came back for a whole array of distributions: sum over the last axis "
            "only.": lambda p: np.exp(-xlogy(p, p).sum()),
            "This is a mean over distributions: return one number for each of them.": (
                lambda p: np.mean(np.exp(entropy(p)))
            ),
            "A probability of 0 made NaN: remember what 0 log 0 counts as.": naive,
            "This counts the classes that can happen at all, however rare.": (
                lambda p: (p > 0).sum(axis=-1)
            ),
            "This is the number of classes, whatever their probabilities.": (
                lambda p: np.full(p.shape[:-1], p.shape[-1])
            ),
        },
        hint="What is the entropy of K equally likely classes? Solve for K.",
    )
    passed("perplexity: an entropy, told as a number of classes")


def shannon_code_lengths(student: Function) -> None:
    """Exercise 2: surprises in bits, rounded up."""
    random = np.random.default_rng()
    cases = [
        (np.array([0.5, 0.25, 0.125, 0.125]),),
        (np.array([1 - 2.0**-29, 2.0**-29]),),  # ln 2**29 / ln 2 is a little more than 29
        (np.array([0.9, 0.1]),),
        (random.dirichlet(np.ones(40)) * 0.999 + 0.001 / 40,),
    ]
    compare(
        student,
        lambda p: np.ceil(-np.log2(p)),
        cases,
        {
            "These lengths are not whole numbers of bits.": lambda p: -np.log2(p),
            "Rounded down, a word is shorter than its surprise, and the words do not fit: their "
            "shares add up to more than one.": lambda p: np.floor(-np.log2(p)),
            "Rounded to the nearest number, some words are shorter than their surprise: check that "
            "the shares add up to at most one.": lambda p: np.round(-np.log2(p)),
            "The surprise is in nats here. A word is made of bits.": lambda p: np.ceil(-np.log(p)),
            "The lengths are negative: mind the sign of the surprise.": lambda p: np.ceil(
                np.log2(p)
            ),
            "A word came out a bit too long, from a rounding error just above a whole number (try "
            "p = 2**-29). See the first hint.": lambda p: np.ceil(-np.log(p) / np.log(2)),
            "Adding one is not rounding up: what if the surprise is a whole number already?": (
                lambda p: np.floor(-np.log2(p)) + 1
            ),
            "These lengths are all the same, whatever the probabilities.": (
                lambda p: np.full(len(p), np.ceil(np.log2(len(p))))
            ),
        },
        hint="A word should be as long as its outcome is surprising, in whole bits.",
    )
    lengths = np.asarray(attempt(student, np.array([0.5, 0.5])))
    if not np.issubdtype(lengths.dtype, np.integer):
        raise AssertionError(
            f"The lengths are right, but of type {lengths.dtype}: return integers."
        )
    passed("shannon_code_lengths: at most one bit above the entropy")


def draw_smoothing(student: Function) -> None:
    """Exercise 3: the entropy of a smoothed label, drawn against epsilon."""
    for n_classes in (10, int(np.random.default_rng().integers(20, 60))):
        ax = Figure().subplots()
        attempt(student, ax, n_classes)
        curves = [(_numbers(line.get_xdata()), _numbers(line.get_ydata())) for line in ax.lines]
        long = [(x, y) for x, y in curves if len(x) > 2]
        if not long:
            raise AssertionError("There is no curve on the axes: draw on `ax`, with ax.plot.")
        _check_curve(*long[0], n_classes)
        _check_limit(ax, n_classes)
    for text, what in ((ax.get_xlabel(), "x"), (ax.get_ylabel(), "y")):
        if not text:
            raise AssertionError(f"The {what} axis has no label: say what it shows.")
    if "nat" not in ax.get_ylabel():
        raise AssertionError("The label of the y axis does not name the unit of the entropy.")
    passed("draw_smoothing: a little smoothing is a lot of entropy")


def _check_curve(x: Array, y: Array, n_classes: int) -> None:
    if len(x) < 50:
        raise AssertionError(
            f"The curve has {len(x)} points: with 50 or more its bend can be seen."
        )
    if np.isnan(y).any():
        raise AssertionError("The curve has gaps (NaN): remember what 0 log 0 counts as.")
    if x.min() < 0 or x.max() > 1 or x.min() > 0.02 or x.max() < 0.98:
        raise AssertionError(
            f"The curve runs from {x.min():g} to {x.max():g}: ε goes along x, from 0 to 1."
        )

    def right(epsilon: Array) -> Array:
        return _mixed_entropy(epsilon / n_classes, n_classes)

    mistakes = {
        "The entropy is in bits: the axis asks for nats.": lambda e: right(e) / math.log(2),
        "Here ε is shared among the other classes only. The uniform distribution is over all "
        "classes, that of the label too.": lambda e: _mixed_entropy(e / (n_classes - 1), n_classes),
        "This is how far the curve is from the top, and not the entropy.": (
            lambda e: math.log(n_classes) - right(e)
        ),
        "This is the surprise at the label, and not the entropy: the mean over all classes.": (
            lambda e: -np.log(1 - e + e / n_classes)
        ),
        "The entropy is negative: mind the sign.": lambda e: -right(e),
        "The curve does not change with the number of classes: use `n_classes`.": (
            lambda e: _mixed_entropy(e / 10, 10)
        ),
    }
    if np.allclose(y, right(x), atol=1e-6):
        return
    for message, wrong in mistakes.items():
        with np.errstate(all="ignore"):
            if np.allclose(y, wrong(x), atol=1e-6):
                raise AssertionError(message)
    raise AssertionError(
        f"The curve is not the entropy of the smoothed label: at ε = {x[len(x) // 2]:.2f} it is at "
        f"{y[len(y) // 2]:.3f} nats for {n_classes} classes. Do your probabilities add up to one?"
    )


def _check_limit(ax: Axes, n_classes: int) -> None:
    heights = [_numbers(line.get_ydata()) for line in ax.lines]
    level = [
        (height[0], line.get_linestyle())
        for height, line in zip(heights, ax.lines, strict=True)
        if len(height) > 1 and np.ptp(height) < 1e-9
    ]
    if not level:
        raise AssertionError("There is no horizontal line: where does the entropy end up?")
    if not np.isclose(level[0][0], math.log(n_classes), atol=1e-3):
        raise AssertionError(
            f"The horizontal line is not where the entropy ends up for {n_classes} classes: what "
            "is the label once it is all smoothed away?"
        )
    if level[0][1] in ("-", "None"):
        raise AssertionError(
            "The horizontal line should be dashed, to set it apart from the curve."
        )


def _mixed_entropy(other: Array, n_classes: int) -> Array:
    """Entropy of a distribution that gives `other` to each class but one, in nats."""
    label = 1 - (n_classes - 1) * other
    nats: Array = -xlogy(label, label) - (n_classes - 1) * xlogy(other, other)
    return nats


def temperature_for_entropy(student: Function) -> None:
    """Exercise 4: the temperature at which a softmax has a given entropy."""
    random = np.random.default_rng()
    cases = [(np.array([2.0, 1.0, 0.0]), 0.5)]
    for scale, n_classes, share in ((1.0, 10, 0.4), (200.0, 5, 0.7), (0.001, 30, 0.2)):
        scale *= random.uniform(0.8, 1.25)  # and the temperature with it
        logits = scale * random.permutation(np.linspace(-2, 3, n_classes))
        cases.append((logits + scale * random.normal(), share * math.log(n_classes)))

    def at(logits: Array, tau: float) -> float:
        return float(entropy(softmax(logits / tau)))

    taus = []
    for logits, target in cases:
        tau = attempt(student, logits.copy(), target)
        if tau is None:
            raise AssertionError("temperature_for_entropy returns nothing: is there a `return`?")
        if np.ndim(tau) != 0 or not np.isfinite(tau) or tau <= 0:
            raise AssertionError(
                f"temperature_for_entropy returns {tau}: a temperature is one number above zero."
            )
        taus.append(float(tau))
    reached = [at(z, tau) for (z, _), tau in zip(cases, taus, strict=True)]
    targets = [target for _, target in cases]
    if np.allclose(reached, targets, rtol=1e-5):
        passed("temperature_for_entropy: the dial, turned to a number")
        return
    pairs = list(zip(cases, taus, strict=True))
    if np.allclose([at(z, 1 / tau) for (z, _), tau in pairs], targets, rtol=1e-5):
        raise AssertionError(
            "The logits are multiplied by your number: a temperature divides them."
        )
    if np.allclose(np.divide(reached, math.log(2)), targets, rtol=1e-5):
        raise AssertionError("The entropy is right in bits, but the target is in nats.")
    rest = [math.log(z.size) - r for (z, _), r in zip(cases, reached, strict=True)]
    if np.allclose(rest, targets, rtol=1e-5):
        raise AssertionError("This reaches ln K less the target, and not the target.")
    if np.allclose(reached, targets, rtol=0.05):
        raise AssertionError("Close, but not to six digits: halve the interval more often.")
    near = np.isclose(reached, targets, rtol=1e-5)
    if near.any():
        (z, target), tau = pairs[int(np.argmin(near))]
        raise AssertionError(
            f"Right for some logits, but for logits between {z.min():.3g} and {z.max():.3g} and a "
            f"target of {target:.3f} nats it returns {tau:.4g}: does your search start wide enough?"
        )
    if len(set(np.round(taus, 9))) == 1:
        raise AssertionError(
            f"It always returns {taus[0]:.4g}, whatever the logits and the target."
        )
    too_hot = np.array(reached) > np.array(targets)
    ends = "too hot" if too_hot.all() else "too cold" if not too_hot.any() else "off"
    raise AssertionError(
        f"The temperatures are {ends}: for the logits 2, 1, 0 and a target of 0.5 nats it returns "
        f"{taus[0]:.4g}, where the entropy is {reached[0]:.4f}. Which half of the interval do you "
        "keep when the entropy is below the target?"
    )


def conditional_entropy_of_samples(student: Function) -> None:
    """Exercise 5: the conditional entropy of two samples of zeros and ones."""
    random = np.random.default_rng()
    known = (random.random(2000) < 0.3).astype(int)
    unknown = np.where(random.random(2000) < 0.2, 1 - known, known & (random.random(2000) < 0.7))
    never = np.zeros(2000, dtype=int)
    cases = [
        (known, unknown),
        (known.astype(bool), unknown.astype(bool)),
        (known, known),
        (never, unknown),
        (known, never),
    ]

    def table(known: ArrayLike, unknown: ArrayLike) -> Array:
        pair = 2 * np.asarray(known, dtype=int) + np.asarray(unknown, dtype=int)
        return np.bincount(pair, minlength=4).reshape(2, 2) / pair.size

    def rows(known: ArrayLike, unknown: ArrayLike) -> Array:
        p = table(known, unknown)
        return p / p.sum(axis=1, keepdims=True)

    def unweighted(known: ArrayLike, unknown: ArrayLike) -> Any:
        p = rows(known, unknown)
        return np.nanmean(-xlogy(p, p).sum(axis=1)) / math.log(2)

    def unsafe(known: ArrayLike, unknown: ArrayLike) -> Any:
        p = rows(known, unknown)
        return -(table(known, unknown) * np.log2(p)).sum()

    def divided(known: ArrayLike, unknown: ArrayLike) -> Any:
        p = rows(known, unknown)
        return np.dot(table(known, unknown).sum(axis=1), -xlogy(p, p).sum(axis=1)) / math.log(2)

    nan_message = (
        "NaN came back where a value never occurs: some pixels never have ink. Think of what 0 log "
        "0 counts as, and of a division by a probability of 0."
    )
    compare(
        student,
        lambda a, b: conditional_entropy(table(a, b), given=0, base=2),
        cases,
        {
            "It is the other way round: the entropy of what is *unknown* is asked for, given what "
            "is known.": lambda a, b: conditional_entropy(table(a, b), given=1, base=2),
            "This is the joint entropy: take away what is known already.": (
                lambda a, b: entropy(table(a, b), axis=None, base=2)
            ),
            "This is the entropy of the second pixel alone: the first should help.": (
                lambda a, b: entropy(table(a, b).sum(axis=0), base=2)
            ),
            "This is in nats: the question is about bits.": (
                lambda a, b: conditional_entropy(table(a, b), given=0)
            ),
            "The two cases (known is 0, known is 1) count the same here: weigh each with its "
            "probability.": unweighted,
            "This is what the two share, and not what remains unknown.": (
                lambda a, b: (
                    entropy(table(a, b).sum(axis=0), base=2)
                    - conditional_entropy(table(a, b), given=0, base=2)
                )
            ),
            nan_message: unsafe,
            nan_message + " (Only one of the two went wrong.)": divided,
        },
        hint="Which four frequencies do you need, and what does the chain rule say?",
    )
    passed("conditional_entropy_of_samples: what is left to learn")


def _numbers(values: Any) -> Array:
    return np.asarray(values, dtype=np.float64).ravel()
