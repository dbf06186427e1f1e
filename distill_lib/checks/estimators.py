"""Checkers for the exercises of the chapter on estimating mutual information."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from distill_lib.checks import Function, attempt, compare, passed
from distill_lib.estimators import plug_in_mutual_information

Array = NDArray[np.float64]


def corrected(student: Function) -> None:
    """Exercise 1: the Miller-Madow estimate of mutual information."""
    random = np.random.default_rng()
    related = random.integers(6, size=200)
    cases = [
        tuple(random.integers(10, size=(2, 100))),
        (related, np.where(random.random(200) < 0.5, related, random.integers(6, size=200))),
        (3 * random.integers(4, size=80) + 1, random.integers(2, size=80)),
        (random.integers(3, size=1000), 5 * random.integers(3, size=1000)),
        (np.repeat(np.arange(4), 6), np.tile(np.arange(3), 8)),  # independent to the last count
    ]

    def seen(x: Array, y: Array) -> tuple[int, int, int, int]:
        pairs = np.unique(np.stack([x, y]), axis=1).shape[1]
        return len(np.unique(x)), len(np.unique(y)), pairs, len(x)

    def with_correction(term: Callable[[int, int, int, int], float]) -> Function:
        return lambda x, y: plug_in_mutual_information(x, y) + term(*seen(x, y))

    right = with_correction(lambda a, b, ab, n: (a + b - ab - 1) / (2 * n))

    def of_range(x: Array, y: Array) -> float:
        a, b, n = x.max() + 1, y.max() + 1, len(x)
        return plug_in_mutual_information(x, y) + (a + b - seen(x, y)[2] - 1) / (2 * n)

    compare(
        student,
        right,
        cases,
        {
            "This is the plug-in estimate itself: its correction is missing.": with_correction(
                lambda a, b, ab, n: 0.0
            ),
            "The correction goes the wrong way: the plug-in estimate is too large for independent "
            "variables, and yours is larger still.": with_correction(
                lambda a, b, ab, n: -(a + b - ab - 1) / (2 * n)
            ),
            "This takes every combination as possible. Miller's correction counts the different "
            "pairs that were seen.": with_correction(
                lambda a, b, ab, n: -(a - 1) * (b - 1) / 2 / n
            ),
            "The correction is twice as large as it should be: look at its denominator.": (
                with_correction(lambda a, b, ab, n: (a + b - ab - 1) / n)
            ),
            "Each entropy is corrected by one less than its number of outcomes: add the three up "
            "again.": with_correction(lambda a, b, ab, n: (a + b - ab) / (2 * n)),
            "All three corrections have the same sign here. With which sign does the joint entropy "
            "enter?": with_correction(lambda a, b, ab, n: (a + b + ab - 3) / (2 * n)),
            "The joint entropy is left as it was: it is too small as well.": with_correction(
                lambda a, b, ab, n: (a + b - 2) / (2 * n)
            ),
            "Values between 0 and the largest that never came up are counted as seen.": of_range,
            "Do not cut it off at zero: an estimate that is right on average must be able to come "
            "out below.": lambda x, y: max(0.0, right(x, y)),
            "This is in bits: the question is about nats.": lambda x, y: right(x, y) / math.log(2),
        },
        hint="What do the three corrections add up to, with their signs?",
    )
    passed("corrected: some of the luck, taken off again")


def infonce(student: Function) -> None:
    """Exercise 2: the InfoNCE bound of an array of scores."""
    random = np.random.default_rng()
    cases = [
        (random.normal(size=(4, 4)),),
        (2 * random.normal(size=(9, 9)) + 3 * np.eye(9),),
        (1000 * random.normal(size=(5, 5)),),
    ]

    def row_bound(scores: Array, axis: int = 1) -> float:
        return float(math.log(len(scores)) + np.diag(log_softmax(scores, axis=axis)).mean())

    def naive(scores: Array) -> float:
        softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return float(math.log(len(scores)) + np.log(np.diag(softmax)).mean())

    def halves(scores: Array) -> float:
        top = np.log(np.exp(np.diag(scores)) / np.exp(scores).sum(axis=1))
        return float(math.log(len(scores)) + top.mean())

    def apart(scores: Array) -> float:
        off = np.where(np.eye(len(scores), dtype=bool), -np.inf, scores)
        return float(math.log(len(scores)) + (np.diag(scores) - logsumexp(off, axis=1)).mean())

    overflow = (
        "Right for small scores, but scores near 1,000 give NaN or infinity: np.exp overflows. See "
        "the second hint."
    )
    compare(
        student,
        row_bound,
        cases,
        {
            overflow: naive,
            overflow + " (Only some of the rows went wrong.)": halves,
            "The softmax runs over the wrong axis: for each x the candidates are the y, and they "
            "are the columns.": lambda s: row_bound(s, axis=0),
            "Something is missing: the mean of a logarithm of probabilities is never above 0, but "
            "a bound on information should be. What did the game start with?": (
                lambda s: np.diag(log_softmax(s, axis=1)).mean()
            ),
            "This is the loss that one minimises, and not the bound.": (
                lambda s: -np.diag(log_softmax(s, axis=1)).mean()
            ),
            "The sign of the cross-entropy is wrong: better scores must raise the bound.": (
                lambda s: math.log(len(s)) - np.diag(log_softmax(s, axis=1)).mean()
            ),
            "The mean is taken inside the logarithm: take the logarithm of each probability "
            "first.": lambda s: (
                math.log(len(s)) + np.log(np.exp(np.diag(log_softmax(s, axis=1))).mean())
            ),
            "The partner itself is missing among the candidates, so this can exceed ln B.": apart,
            "The rows are added up: take their mean.": (
                lambda s: math.log(len(s)) + np.diag(log_softmax(s, axis=1)).sum()
            ),
            "This is a mean over all pairs: only the diagonal has the right answers.": (
                lambda s: math.log(len(s)) + log_softmax(s, axis=1).mean()
            ),
            "This is in bits: the question is about nats.": lambda s: row_bound(s) / math.log(2),
        },
        hint="ln B, and for each row the logarithm of the softmax at the partner.",
    )
    passed("infonce: which of B? Never more than ln B")


def dv(student: Function) -> None:
    """Exercise 3: the Donsker-Varadhan bound of an array of scores."""
    random = np.random.default_rng()
    cases = [
        (random.normal(size=(3, 3)),),
        (2 * random.normal(size=(8, 8)) + 2 * np.eye(8),),
        (random.normal(size=(5, 5)) + 1000,),
        (random.normal(size=(5, 5)) - 1000,),
    ]

    def apart(scores: Array) -> Array:
        off: Array = scores[~np.eye(len(scores), dtype=bool)]
        return off

    def right(scores: Array) -> float:
        off = apart(scores)
        return float(np.diag(scores).mean() - logsumexp(off) + math.log(len(off)))

    def naive(scores: Array) -> float:
        return float(np.diag(scores).mean() - np.log(np.exp(apart(scores)).mean()))

    def by_rows(scores: Array) -> float:
        n = len(scores)
        off = np.where(np.eye(n, dtype=bool), -np.inf, scores)
        return float((np.diag(scores) - logsumexp(off, axis=1)).mean() + math.log(n - 1))

    compare(
        student,
        right,
        cases,
        {
            "Right for small scores, but those near 1,000 or -1,000 give infinity: np.exp "
            "overflows, or all of it vanishes. See the second hint.": naive,
            "The mean under the exponential runs over all pairs: leave out those that belong "
            "together.": lambda s: np.diag(s).mean() - logsumexp(s) + 2 * math.log(len(s)),
            "The exponentials are added up and not averaged: how many are there?": (
                lambda s: np.diag(s).mean() - logsumexp(apart(s))
            ),
            "The sum is divided by the number of all pairs: those that belong together are not in "
            "it.": lambda s: np.diag(s).mean() - logsumexp(apart(s)) + 2 * math.log(len(s)),
            "This compares mean scores: where is the logarithm of the mean exponential?": (
                lambda s: np.diag(s).mean() - apart(s).mean()
            ),
            "One logarithm for each row, and then a mean: here the mean comes first, over all "
            "pairs that do not belong together.": by_rows,
            "The sign of the second term is wrong: shifting all scores by a constant must change "
            "nothing.": lambda s: 2 * np.diag(s).mean() - right(s),
            "The second term alone came back: where are the pairs that belong together?": (
                lambda s: right(s) - np.diag(s).mean()
            ),
            "The diagonal is added up: take its mean.": (
                lambda s: right(s) - np.diag(s).mean() + np.trace(s)
            ),
            "This is in bits: the question is about nats.": lambda s: right(s) / math.log(2),
        },
        hint="The mean over the diagonal, less the logarithm of a mean over the rest.",
    )
    passed("dv: safe from overflow, though not from a critic that learns by heart")


def permutation_p_value(student: Function) -> None:
    """Exercise 4: a permutation test of any estimate."""
    random = np.random.default_rng()
    n = int(random.integers(30, 50))
    x = random.normal(size=n)
    calls: list[tuple[Array, Array]] = []

    def correlation(x: Array, y: Array) -> float:
        calls.append((np.array(x), np.array(y)))
        return abs(float(np.corrcoef(x, y)[0, 1]))

    given = x.copy(), x.copy()
    p_copy = _one_number(attempt(student, *given, correlation, random, 99))
    if not all(np.array_equal(values, x) for values in given):
        raise AssertionError(
            "The samples came back in another order: shuffle a copy, and leave what you are given "
            "as it was."
        )
    _check_shuffles(calls, x, 99)
    p_same = _one_number(attempt(student, x, x, lambda x, y: 1.0, random, 99))
    if p_copy in (99, 98, 0) and p_copy != p_same:
        raise AssertionError(
            f"y is a copy of x, and p = {p_copy:g}. The real pairing counts as one of the possible "
            "shuffles: mind the ones, above and below."
        )
    if p_copy == 1 and p_same == 100:
        raise AssertionError("This is a count: divide it by the number of pairings.")
    if math.isclose(p_copy, 1 / 99):
        raise AssertionError(
            "The real pairing is counted above the fraction line, but not below it."
        )
    if math.isclose(p_copy, 1):
        raise AssertionError(
            "y is a copy of x, and yet p = 1: do you count the shuffles that reach the real "
            "estimate, or those that fall short of it?"
        )
    if not math.isclose(p_copy, 0.01):
        raise AssertionError(
            f"y is a copy of x, so no shuffle of 99 comes near it, but p = {p_copy:g}. Put that "
            "into the formula."
        )
    if not math.isclose(p_same, 1):
        raise AssertionError(
            f"With an estimate that is always the same nothing is surprising, but p = {p_same:g}: "
            "does a shuffle that equals the real estimate count?"
        )
    found = []
    for _ in range(60):
        u, v = random.normal(size=(2, 12))
        found.append(_one_number(attempt(student, u, v, lambda u, v: u @ v, random, 19)))
    if len(set(found)) == 1 or not 0.3 < np.mean(found) < 0.75:
        raise AssertionError(
            f"For independent samples p should be anything from 0 to 1, about one half on average; "
            f"yours is {np.mean(found):.2f} on average."
        )
    rows = random.normal(size=(20, 2))
    torn = []

    def look_at_rows(x: Array, y: Array) -> float:
        torn.append({tuple(row) for row in np.asarray(y)} != {tuple(row) for row in rows})
        return float(np.sum(x))

    attempt(student, rows.copy(), rows.copy(), look_at_rows, random, 19)
    if any(torn):
        raise AssertionError(
            "With two columns the shuffle tears rows apart: a sample is a row, and stays whole."
        )
    passed("permutation_p_value: chance, asked directly")


def _one_number(p: Any) -> float:
    if p is None:
        raise AssertionError("permutation_p_value returns nothing: is there a `return`?")
    if np.ndim(p) != 0 or not np.isreal(p) or not np.isfinite(p):
        what = f"an array of shape {np.shape(p)}" if np.ndim(p) else p
        raise AssertionError(f"permutation_p_value returns {what}: expected one number.")
    return float(p)


def _check_shuffles(calls: list[tuple[Array, Array]], x: Array, n_permutations: int) -> None:
    """Look at what was estimated, where y was a copy of x."""
    if not any(np.array_equal(a, x) and np.array_equal(b, x) for a, b in calls):
        raise AssertionError("The estimate of the real samples is missing: call estimate(x, y).")
    if len(calls) < n_permutations:
        raise AssertionError(
            f"n_permutations={n_permutations}, but the estimate was called {len(calls)} times: use "
            "`n_permutations`."
        )
    ordered = np.sort(x)
    if any(not np.array_equal(np.sort(part), ordered) for call in calls for part in call):
        raise AssertionError(
            "Some values come twice after the shuffle, and some not at all: draw without "
            "replacement."
        )
    together = [np.array_equal(a, b) for a, b in calls]
    if all(together):
        moved = any(not np.array_equal(a, x) for a, _ in calls)
        raise AssertionError(
            "Both samples are shuffled in the same way, so the pairs stay together."
            if moved
            else "Nothing is shuffled: each estimate is that of the real samples."
        )
    first = next(call for call, same in zip(calls, together, strict=True) if not same)
    if sum(np.array_equal(first[1], b) and np.array_equal(first[0], a) for a, b in calls) > 2:
        raise AssertionError("It is the same shuffle again and again: draw a new one each time.")
    if len(calls) != n_permutations + 1:
        raise AssertionError(
            f"n_permutations={n_permutations}, and with the real samples that makes "
            f"{n_permutations + 1} estimates; yours were {len(calls)}."
        )


def ksg_counts(student: Function) -> None:
    """Exercise 5: the numbers of neighbours that KSG counts."""
    random = np.random.default_rng()
    cases = []
    for n, k, scale in ((12, 1, 1.0), (40, 3, 8.0), (60, 5, 0.3)):
        x, noise = random.normal(size=(2, n))
        cases.append((x, scale * (0.7 * x + noise), k))

    def counts(
        x: Array,
        y: Array,
        k: int,
        *,
        place: int = 0,
        edge: bool = False,
        itself: int = 1,
        apart: Callable[[Array, Array], Array] = np.maximum,
    ) -> Array:
        apart_x, apart_y = abs(x[:, None] - x), abs(y[:, None] - y)
        epsilon = np.sort(apart(apart_x, apart_y), axis=1)[:, [k + place]]
        near = np.less_equal if edge else np.less
        return np.stack([near(a, epsilon).sum(axis=1) - itself for a in (apart_x, apart_y)])

    def standardised(x: Array, y: Array, k: int) -> Array:
        return counts((x - x.mean()) / x.std(), (y - y.mean()) / y.std(), k)

    compare(
        student,
        counts,
        cases,
        {
            "The k-th neighbour itself is counted: it lies at the distance, and only what is "
            "nearer counts.": lambda x, y, k: counts(x, y, k, edge=True),
            "Each sample counts itself: the others are asked for.": (
                lambda x, y, k: counts(x, y, k, itself=0)
            ),
            "Each sample counts itself, and its k-th neighbour too: neither is an other that is "
            "nearer.": lambda x, y, k: counts(x, y, k, edge=True, itself=0),
            "The neighbours are counted from the sample itself, so that your k-th is the one "
            "before.": lambda x, y, k: counts(x, y, k, place=-1),
            "The neighbours are counted from the sample itself, so that your k-th is the one "
            "before; and each sample counts itself.": (
                lambda x, y, k: counts(x, y, k, place=-1, itself=0)
            ),
            "This neighbour is one too far: place 0 of a sorted row is the sample itself.": (
                lambda x, y, k: counts(x, y, k, place=1)
            ),
            "The distance is that of a circle. The picture has a square: the larger of the two "
            "differences.": lambda x, y, k: counts(x, y, k, apart=np.hypot),
            "The two differences are added: take the larger one.": (
                lambda x, y, k: counts(x, y, k, apart=np.add)
            ),
            "This is the smaller of the two differences: the square is as large as the larger "
            "one.": lambda x, y, k: counts(x, y, k, apart=np.minimum),
            "The rows have changed places: x comes first.": lambda x, y, k: counts(x, y, k)[::-1],
            "The shape is (n, 2): one row for x and one for y was asked for.": (
                lambda x, y, k: counts(x, y, k).T
            ),
            "The columns have been standardised: take them as they are.": standardised,
        },
        hint="For each sample: how far is its k-th neighbour, and who is nearer than that in x?",
    )
    passed("ksg_counts: a column and a row through a square")
