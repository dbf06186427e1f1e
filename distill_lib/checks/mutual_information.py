"""Checkers for the exercises of the chapter on mutual information."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill_lib.checks import Function, attempt, compare, passed
from distill_lib.information import (
    conditional_entropy,
    conditional_mutual_information,
    entropy,
    mutual_information,
)

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def information_in_bits(student: Function) -> None:
    """Exercise 1: the mutual information of a table of counts, in bits."""
    random = np.random.default_rng()
    skewed = random.multinomial(3000, random.dirichlet(np.full(24, 0.7))).reshape(4, 6)
    skewed[2] = 0
    cases = [
        (np.array([[30, 10], [5, 155]]),),
        (np.array([[0, 40, 0], [7, 0, 0], [0, 0, 0]]),),
        (skewed,),
        (np.outer([1, 2, 3], [4, 0, 6]),),
    ]

    def share(counts: Array) -> Array:
        return np.asarray(counts / counts.sum())

    def of(p: Array, independent: Array) -> Any:
        return (p * np.log2(p / independent)).sum()

    def product(p: Array) -> Array:
        return np.asarray(p.sum(axis=1, keepdims=True) * p.sum(axis=0))

    def skip_zeros(p: Array, independent: ArrayLike) -> Any:
        some = p > 0
        q = np.broadcast_to(independent, p.shape)
        return (p[some] * np.log2(p[some] / q[some])).sum()

    def equal_labels(counts: Array) -> float:
        some = counts[counts.sum(axis=1) > 0]
        rows = some / some.sum(axis=1, keepdims=True)
        return mutual_information(rows / len(rows), base=2)

    compare(
        student,
        lambda counts: mutual_information(share(counts), base=2),
        cases,
        {
            "This is in nats: the question is about bits.": (
                lambda counts: mutual_information(share(counts))
            ),
            "NaN came back: some counts are 0. Remember what 0 log 0 counts as.": (
                lambda counts: of(share(counts), product(share(counts)))
            ),
            "Counts are taken for probabilities here: a joint table of probabilities sums to "
            "one.": lambda counts: skip_zeros(counts, product(counts)),
            "Counts are taken for probabilities here, and a count of 0 made NaN.": (
                lambda counts: of(counts, product(counts))
            ),
            "This is the entropy of the answer that is left when the label is known, and not what "
            "the label saves.": (
                lambda counts: conditional_entropy(share(counts), given=0, base=2)
            ),
            "This is the entropy of the label that is left when the answer is known, and not what "
            "the answer saves.": (
                lambda counts: conditional_entropy(share(counts), given=1, base=2)
            ),
            "This is the joint entropy: what does it cost to tell the two separately?": (
                lambda counts: entropy(share(counts), axis=None, base=2)
            ),
            "This is the entropy of the label alone: the answer should come into it.": (
                lambda counts: entropy(share(counts).sum(axis=1), base=2)
            ),
            "The sign is wrong: mutual information is never negative.": (
                lambda counts: -mutual_information(share(counts), base=2)
            ),
            "Each row is divided by its own sum here, so that all labels count as equally "
            "frequent: divide by the sum of the whole table.": equal_labels,
            "This compares with a table whose cells are all equal. Independent variables keep "
            "their own margins.": lambda counts: skip_zeros(share(counts), 1 / counts.size),
        },
        hint="Turn the counts into shares of the whole, then take any of the five forms.",
    )
    passed("information_in_bits: from counts to what one says about the other")


def never_right(student: Function) -> None:
    """Exercise 2: a joint table with I(T;S) = H(T) and an empty diagonal."""
    random = np.random.default_rng()
    cases = [np.full(4, 0.25), np.array([0.7, 0.3])]
    cases += [random.dirichlet(np.full(k, 5.0)) for k in (3, 5, int(random.integers(6, 12)))]
    for p_t in cases:
        result = attempt(student, p_t.copy())
        if result is None:
            raise AssertionError("never_right returns nothing: is there a `return`?")
        try:
            p_ts = np.asarray(result, dtype=np.float64)
        except (TypeError, ValueError):
            raise AssertionError(
                f"never_right returns a {type(result).__name__}: expected a table of numbers."
            ) from None
        _check_never_right(p_ts, p_t)
    passed("never_right: all of the information, and none of the answers")


def _check_never_right(p_ts: Array, p_t: Array) -> None:
    k = len(p_t)
    if p_ts.shape != (k, k):
        raise AssertionError(
            f"The table has the shape {p_ts.shape}: for {k} answers it should be {(k, k)}."
        )
    if not np.isfinite(p_ts).all() or (p_ts < 0).any():
        raise AssertionError("Some cells are negative or NaN: these are probabilities.")
    if np.allclose(p_ts.sum(axis=1), 1) and not math.isclose(p_ts.sum(), 1):
        raise AssertionError(
            "Each row sums to one: this is p(s|t). A joint table sums to one as a whole."
        )
    if not np.isclose(p_ts.sum(), 1):
        raise AssertionError(f"The table sums to {p_ts.sum():.4g}: a joint table sums to one.")
    if not np.allclose(p_ts.sum(axis=1), p_t):
        if np.allclose(p_ts.sum(axis=0), p_t):
            raise AssertionError(
                "The columns have the teacher's probabilities: its answers go down the rows, "
                "p_ts[t, s]."
            )
        raise AssertionError(
            f"The teacher no longer gives its answers with the probabilities {np.round(p_t, 3)}: "
            f"the rows sum to {np.round(p_ts.sum(axis=1), 3)}."
        )
    if np.allclose(np.diag(p_ts), p_t):
        raise AssertionError("This student always gives the teacher's answer.")
    if np.diag(p_ts).max() > 1e-12:
        raise AssertionError(
            f"With {k} answers, this student sometimes gives the teacher's: it agrees with "
            f"probability {np.trace(p_ts):.3g}."
        )
    shared, h_t = mutual_information(p_ts), float(entropy(p_t))
    if not np.isclose(shared, h_t):
        raise AssertionError(
            f"It is never right, but I(T;S) is {shared:.3f} nats, where H(T) is {h_t:.3f}. Can you "
            "tell the teacher's answer from the student's, whatever the student says?"
        )


def shared_beyond_label(student: Function) -> None:
    """Exercise 3: the conditional mutual information of two answers, given the label."""
    random = np.random.default_rng()
    label = random.choice([0, 1, 3, 4], size=1500, p=[0.5, 0.25, 0.15, 0.1])  # there is no 2
    look = random.integers(5, size=1500)  # what the image shows beside its label
    answer_t = np.where(random.random(1500) < 0.6, label, look)
    answer_s = np.where(random.random(1500) < 0.4, label, (look + (random.random(1500) < 0.3)) % 5)
    coin_t, coin_s = random.integers(2, size=(2, 800))
    cases = [
        (answer_t, answer_s, label),
        (coin_t, coin_s, coin_t ^ coin_s),
        (coin_t, coin_t, coin_t),
        (random.integers(3, size=300), random.integers(4, size=300), random.integers(2, size=300)),
    ]

    def p(t: Integers, s: Integers, y: Integers) -> Array:
        counts = np.zeros((t.max() + 1, s.max() + 1, y.max() + 1))
        np.add.at(counts, (t, s, y), 1)
        return counts / len(y)

    def on(measure: Callable[[Array], Any]) -> Function:
        return lambda t, s, y: measure(p(t, s, y))

    def by_label(joint: Array) -> list[float]:
        weights = joint.sum(axis=(0, 1))
        return [
            mutual_information(joint[:, :, y] / weight)
            for y, weight in enumerate(weights)
            if weight
        ]

    def naive(joint: Array) -> Any:
        p_y = joint.sum(axis=(0, 1))
        independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True) / p_y
        return (joint * np.log(joint / independent)).sum()

    compare(
        student,
        on(conditional_mutual_information),
        cases,
        {
            "This is I(T;S), with the labels left out.": on(
                lambda joint: mutual_information(joint.sum(axis=2))
            ),
            "All labels count the same here: weigh each with its probability.": on(
                lambda joint: np.mean(by_label(joint))
            ),
            "The labels are added up here: take the mean over them, each with its probability.": on(
                lambda joint: np.sum(by_label(joint))
            ),
            "All labels count the same here, even those that never occur: weigh each with its "
            "probability.": on(lambda joint: np.sum(by_label(joint)) / joint.shape[2]),
            "This is in bits: the question is about nats.": on(
                lambda joint: conditional_mutual_information(joint, base=2)
            ),
            "This is H(T|S,Y), what the teacher alone knows, and not what the student saves.": on(
                lambda joint: conditional_entropy(joint, given=(1, 2))
            ),
            "This is H(T|Y): the student's answer has to come into it.": on(
                lambda joint: conditional_entropy(joint.sum(axis=1), given=1)
            ),
            "This is I(T;S,Y): the label's part is still in it.": on(
                lambda joint: mutual_information(joint.reshape(len(joint), -1))
            ),
            "This is I(T;Y|S): the student is known here, and the label is new. Turn it round.": on(
                lambda joint: conditional_mutual_information(joint.transpose(0, 2, 1))
            ),
            "This is I(T;S) - I(T;S|Y), the number in the centre of the three circles. It may be "
            "negative.": on(
                lambda joint: (
                    mutual_information(joint.sum(axis=2)) - conditional_mutual_information(joint)
                )
            ),
            "NaN came back: some cells of the table are empty. Joint entropies spare you the "
            "division.": on(naive),
        },
        hint="What does the student's answer save about the teacher's, for who knows the label?",
    )
    passed("shared_beyond_label: what no label says")


def information_along(student: Function) -> None:
    """Exercise 4: the information about the label in each of several quantised layers."""
    random = np.random.default_rng()
    y = random.integers(10, size=4000)
    noisy = np.where(random.random(4000) < 0.8, y, random.integers(10, size=4000))
    fine = random.permutation(120)[12 * noisy + random.integers(12, size=4000)]
    names = random.choice(10**6, size=10, replace=False) - 500_000
    wide = names.astype(np.int64).copy()
    wide[0] = 10**15  # a table with so many columns fits into no memory
    cases = [
        (y, [fine, noisy, noisy // 4, np.zeros_like(y)]),
        (
            np.array([3, 3, 8, 8, 8, 1]),
            [np.array([5, 5, 5, 6, 6, 7]), np.array([0, 0, 1, 1, 1, 1])],
        ),
        (y, [names[noisy], names[noisy // 2]]),
        (y, [wide[noisy]]),
    ]

    def p(y: Array, layer: Array) -> Array:
        rows, columns = (np.unique(v, return_inverse=True)[1] for v in (y, layer))
        counts = np.zeros((rows.max() + 1, columns.max() + 1))
        np.add.at(counts, (rows, columns), 1)
        return counts / len(y)

    def each(measure: Callable[[Array], Any]) -> Function:
        return lambda y, layers: np.array([measure(p(y, layer)) for layer in layers])

    def histogram(states: Callable[[Array], int]) -> Function:
        def measure(y: Array, layers: list[Array]) -> Array:
            tables = [np.histogram2d(y, layer, bins=(10, states(layer)))[0] for layer in layers]
            return np.array([mutual_information(counts / counts.sum()) for counts in tables])

        return measure

    compare(
        student,
        each(mutual_information),
        cases,
        {
            "The states still share ten bins: a layer may have many more.": histogram(lambda v: 10),
            "There are as many bins as states, but bins of equal width: two states whose numbers "
            "are close still share one. The numbers are only names.": histogram(
                lambda v: len(np.unique(v))
            ),
            "This is in bits: the question is about nats.": each(
                lambda joint: mutual_information(joint, base=2)
            ),
            "This is what remains unknown of the label, and not what the layer tells.": each(
                lambda joint: conditional_entropy(joint, given=1)
            ),
            "This is the entropy of the layer: most of it may have nothing to do with the "
            "label.": each(lambda joint: entropy(joint.sum(axis=0))),
            "This is the entropy of the layer that the label leaves open, and not what the layer "
            "tells.": each(lambda joint: conditional_entropy(joint, given=0)),
            "One number came back for all layers: return an array with one for each.": (
                lambda y, layers: mutual_information(p(y, layers[0]))
            ),
        },
        hint="Count how often each state meets each label; two states must never share a count.",
    )
    passed("information_along: downhill, as it must be")


def least_error(student: Function) -> None:
    """Exercise 5: Fano's inequality, solved for the error."""
    random = np.random.default_rng()
    cases = [(1.0, 10), (0.999 * math.log(5), 5), (0.02, 100)]
    cases += [(share * math.log(k), k) for k, share in ((3, 0.97), (20, 0.6), (1000, 0.4))]
    cases += [(random.uniform(0.1, 0.9) * math.log(k), k) for k in (7, 50)]
    _check_least_error(student, cases)
    _check_least_error(student, [(0.0, 10), (0.3, 2), (0.69, 2)])
    passed("least_error: who knows little must err")


def _check_least_error(student: Function, cases: list[tuple[float, int]]) -> None:
    errors = []
    for unknown, n_classes in cases:
        error = attempt(student, unknown, n_classes)
        if error is None:
            raise AssertionError("least_error returns nothing: is there a `return`?")
        if np.ndim(error) != 0 or not np.isfinite(float(error)):
            raise AssertionError(f"least_error returns {error}: expected one number.")
        errors.append(float(error))

    def near(wrong: Callable[[float, int], float], tolerance: float = 1e-5) -> bool:
        found = [wrong(unknown, k) for unknown, k in cases]
        return bool(np.allclose(errors, found, rtol=tolerance, atol=tolerance / 100))

    if near(_fano_error):
        return
    mistakes: dict[str, Callable[[float, int], float]] = {
        "This is one minus the error: the share of right answers.": (
            lambda h, k: 1 - _fano_error(h, k)
        ),
        "Here all K classes are left to choose from after an error. The guess was wrong, so one of "
        "them is out.": lambda h, k: _root(h, math.log(k), k),
        "Whether the guess was wrong must be told as well: the term H(E) is missing.": (
            lambda h, k: h / math.log(k - 1) if k > 2 else math.inf
        ),
        "This replaces H(E) by its largest value, ln 2. It gives a weaker bound, and below ln 2 "
        "none at all: keep H(E).": (
            lambda h, k: (h - math.log(2)) / math.log(k - 1) if k > 2 else math.inf
        ),
        "This replaces H(E) by its largest value, ln 2, and ln(K - 1) by ln K: a weaker bound. "
        "Keep both.": lambda h, k: (h - math.log(2)) / math.log(k),
        "This takes `unknown` for the mutual information. It is what remains: H(Y|X).": (
            lambda h, k: _fano_error(math.log(k) - h, k)
        ),
        "Two units are mixed: `unknown` is in nats.": (
            lambda h, k: _root(h * math.log(2), math.log(k - 1), k)
        ),
        "Two units are mixed: H(E) is in bits here, and the rest in nats.": (
            lambda h, k: _root(h, math.log(k - 1), k, unit=math.log(2))
        ),
    }
    for message, wrong in mistakes.items():
        if near(wrong):
            raise AssertionError(message)
    if len(errors) > 3 and len({round(error, 9) for error in errors}) == 1:
        raise AssertionError(f"It always returns {errors[0]:.4g}, whatever the input.")
    if min(errors) < 0 or max(errors) > 1:
        raise AssertionError("An error below 0 or above 1: it is a probability.")
    if near(_fano_error, 0.05):
        raise AssertionError("Close, but not to six digits: halve the interval more often.")
    for (unknown, k), error in zip(cases, errors, strict=True):
        reached = float(entropy([error, 1 - error])) + error * math.log(k - 1)
        if error > 1 - 1 / k + 1e-6 and math.isclose(reached, unknown, rel_tol=1e-5):
            raise AssertionError(
                f"For H(Y|X) = {unknown:.4g} and {k} classes it returns {error:.4g}. This solves "
                "the equation, but a blind guess errs less: there is a smaller solution."
            )
    right = np.isclose(errors, [_fano_error(*case) for case in cases], rtol=1e-5, atol=1e-7)
    (unknown, k), error = cases[int(np.argmin(right))], errors[int(np.argmin(right))]
    reached = float(entropy([error, 1 - error])) + error * math.log(k - 1)
    raise AssertionError(
        f"For H(Y|X) = {unknown:.4g} nats and {k} classes it returns {error:.4g}. With this error "
        f"Fano's inequality leaves at most {reached:.4g} nats unknown. Which half of the interval "
        "do you keep?"
    )


def _fano_error(unknown: float, n_classes: int) -> float:
    return _root(unknown, math.log(n_classes - 1), n_classes)


def _root(unknown: float, others: float, n_classes: int, unit: float = 1.0) -> float:
    """The e up to 1 - 1/K at which H(e) in `unit` nats, plus e times `others`, is `unknown`."""
    low, high = 0.0, 1 - 1 / n_classes
    for _ in range(60):
        e = (low + high) / 2
        if entropy([e, 1 - e]) / unit + e * others < unknown:
            low = e
        else:
            high = e
    return high
