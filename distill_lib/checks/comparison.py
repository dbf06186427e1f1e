"""Checkers for the exercises of the chapter that compares the distillers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from distill_lib.analysis import paired_power
from distill_lib.checks import Function, attempt, compare, passed

Array = NDArray[np.float64]


def _interval(d: Array, probability: float, *, ddof: int = 1) -> tuple[float, float, float]:
    """The mean of d, and the ends of an interval that uses this quantile of Student's t."""
    half = stats.t.ppf(probability, len(d) - 1) * d.std(ddof=ddof) / np.sqrt(len(d))
    return float(d.mean()), float(d.mean() - half), float(d.mean() + half)


def paired(student: Function) -> None:
    """Exercise 1: the interval of a paired difference."""
    random = np.random.default_rng()

    def errors(n: int) -> tuple[list[int], list[int]]:
        luck = random.normal(0, 20, size=n)
        a, b = ((200 + luck + random.normal(5, 9, size=n)).astype(int).tolist() for _ in range(2))
        b[0] = a[0] + 17  # so that the differences are never all equal
        return a, b

    cases = [([210, 190, 205, 198], [220, 212, 209, 201]), errors(5), errors(8)]

    def reference(a: Any, b: Any) -> tuple[float, float, float]:
        return _interval(np.subtract(a, b).astype(float), 0.975)

    def normal(a: Any, b: Any) -> tuple[float, float, float]:
        d = np.subtract(a, b)
        half = stats.norm.ppf(0.975) * d.std(ddof=1) / np.sqrt(len(d))
        return float(d.mean()), float(d.mean() - half), float(d.mean() + half)

    def rounded_normal(a: Any, b: Any) -> tuple[float, float, float]:
        d = np.subtract(a, b)
        half = 1.96 * d.std(ddof=1) / np.sqrt(len(d))
        return float(d.mean()), float(d.mean() - half), float(d.mean() + half)

    def no_root(a: Any, b: Any) -> tuple[float, float, float]:
        d = np.subtract(a, b)
        half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1)
        return float(d.mean()), float(d.mean() - half), float(d.mean() + half)

    def all_degrees(a: Any, b: Any) -> tuple[float, float, float]:
        d = np.subtract(a, b)
        half = stats.t.ppf(0.975, len(d)) * d.std(ddof=1) / np.sqrt(len(d))
        return float(d.mean()), float(d.mean() - half), float(d.mean() + half)

    def strangers(a: Any, b: Any) -> tuple[float, float, float]:
        n, mean = len(a), float(np.mean(a) - np.mean(b))
        half = stats.t.ppf(0.975, n - 1) * np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / n)
        return mean, float(mean - half), float(mean + half)

    compare(
        student,
        reference,
        cases,
        {
            "The sign is the wrong one: the difference is the first less the second.": (
                lambda a, b: reference(b, a)
            ),
            "Low and high are exchanged: the lower end comes first.": (
                lambda a, b: np.array(reference(a, b))[[0, 2, 1]]
            ),
            "This is an interval of 90 %: on either side of a 95 % interval lie 2.5 %.": (
                lambda a, b: _interval(np.subtract(a, b).astype(float), 0.95)
            ),
            "The quantile is that of the normal distribution. The spread is itself estimated from "
            "a few seeds, and Student's t makes up for that.": normal,
            "The quantile 1.96 is that of the normal distribution. The spread is itself estimated "
            "from a few seeds, and Student's t makes up for that.": rounded_normal,
            "This is how far one difference may lie from the mean. The mean of n varies "
            "less.": no_root,
            "The spread divides by n (`ddof=0`): as an estimate it is too small.": (
                lambda a, b: _interval(np.subtract(a, b).astype(float), 0.975, ddof=0)
            ),
            "The degrees of freedom are one too many: the mean was estimated from the same "
            "differences.": all_degrees,
            "The seeds are not used as pairs: take the difference of each seed first, then its "
            "spread.": strangers,
        },
        hint="Take the difference of each pair; its mean, its standard error, and the quantile of "
        "Student's t that leaves 2.5 % above.",
    )
    passed("paired: seed by seed")


def together(student: Function) -> None:
    """Exercise 2: Bonferroni's intervals."""
    random = np.random.default_rng()
    shapes = [(2, 6), (3, 5), (int(random.integers(6, 20)), int(random.integers(4, 9)))]
    cases = [(random.normal(2, 10, size=shape),) for shape in shapes]

    def ends(d: Array, probability: float) -> Array:
        return np.array([_interval(row, probability)[1:] for row in d])

    def times_longer(d: Array) -> Array:
        mean = d.mean(axis=1, keepdims=True)
        return np.asarray(mean + len(d) * (ends(d, 0.975) - mean))

    def normal(d: Array) -> Array:
        half = stats.norm.ppf(1 - 0.025 / len(d)) * stats.sem(d, axis=1)
        return np.stack([d.mean(axis=1) - half, d.mean(axis=1) + half], axis=1)

    compare(
        student,
        lambda d: ends(d, 1 - 0.025 / len(d)),
        cases,
        {
            "Each of these intervals holds by itself with 95 %, but they don't hold all together: "
            "there are several chances to miss.": lambda d: ends(d, 0.975),
            "The share of the 5 % is right, but all of it lies on one side: half of it belongs on "
            "either side.": lambda d: ends(d, 1 - 0.05 / len(d)),
            "The quantile is that of the normal distribution. The spread is itself estimated from "
            "a few seeds, and Student's t makes up for that.": normal,
            "The 5 % are divided by the number of seeds. They are to be shared among the "
            "comparisons.": lambda d: ends(d, 1 - 0.025 / d.shape[1]),
            "The intervals are as many times longer as there are comparisons. It is the "
            "probability to miss that is shared, and the quantile follows.": times_longer,
            "These are intervals for a column, a seed. The rows are the comparisons.": (
                lambda d: ends(d.T, 1 - 0.025 / len(d))
            ),
            "The ends stand in two rows: one row for each comparison, please, with its two "
            "ends.": lambda d: ends(d, 1 - 0.025 / len(d)).T,
        },
        hint="An interval may miss with probability 0.05 divided by the number of rows. Which "
        "quantile of Student's t is that?",
    )
    passed("together: one guarantee for all")


def adjusted(student: Function) -> None:
    """Exercise 3: Holm's adjusted p-values."""
    random = np.random.default_rng()
    some = random.random(int(random.integers(8, 15))) ** 3
    cases = [
        (np.array([0.03]),),
        (np.array([0.02, 0.011, 0.9, 0.012]),),
        (np.array([0.4, 0.6, 0.02, 0.5]),),
        (np.array([0.3, 0.001, 0.04, 0.01, 0.02]),),
        (some,),
    ]

    def holm(p: Array, *, carry: bool = True, cap: bool = True, back: bool = True) -> Array:
        order = np.argsort(p)
        values = p[order] * np.arange(len(p), 0, -1)
        values = np.maximum.accumulate(values) if carry else values
        values = np.minimum(values, 1) if cap else values
        if not back:
            return values
        result = np.empty(len(p))
        result[order] = values
        return result

    def hochberg(p: Array) -> Array:
        order = np.argsort(p)
        values = np.minimum.accumulate((p[order] * np.arange(len(p), 0, -1))[::-1])[::-1]
        result = np.empty(len(p))
        result[order] = np.minimum(values, 1)
        return result

    def false_discoveries(p: Array) -> Array:
        return np.asarray(stats.false_discovery_control(p))

    def wrong_place(p: Array) -> Array:
        return np.asarray(holm(p, back=False)[np.argsort(p)])

    compare(
        student,
        holm,
        cases,
        {
            "Every p-value is multiplied by the number of all: that is Bonferroni. Holm multiplies "
            "the later ones by less.": lambda p: np.minimum(len(p) * p, 1),
            "Every p-value is multiplied by the number of all, that is Bonferroni, and some come "
            "out above 1.": lambda p: len(p) * p,
            "A later value is smaller than one before it. Holm stops at the first that fails, so "
            "no hypothesis can be rejected at a smaller level than one before it.": (
                lambda p: holm(p, carry=False)
            ),
            "Two things are missing: no value may be smaller than the one before it, and none may "
            "be above 1.": lambda p: holm(p, carry=False, cap=False),
            "Some values are above 1: they are meant as probabilities.": (
                lambda p: holm(p, cap=False)
            ),
            "The values are right, but sorted: each belongs in the place of its p-value.": (
                lambda p: holm(p, back=False)
            ),
            "The values went to the wrong places: `argsort` says where each sorted value comes "
            "from, so `result[order] = values` puts them back.": wrong_place,
            "This goes from the largest p-value down (Hochberg's procedure), and needs more than "
            "Holm's for its guarantee. Carry the largest value upwards.": hochberg,
            "This bounds the share of false discoveries (Benjamini and Hochberg), which is a "
            "weaker promise than Holm's.": false_discoveries,
            "The factors run the wrong way: the smallest p-value gets the largest.": (
                lambda p: np.minimum(p * (stats.rankdata(p, method="ordinal")), 1)
            ),
        },
        hint="Sort; multiply by m, m - 1, …, 1; carry the largest along; cut at 1; put back.",
    )
    passed("adjusted: step by step")


def report_winner(student: Function) -> None:
    """Exercise 4: the winner by the seeds that chose it and by fresh ones."""
    random = np.random.default_rng()
    sizes = [(4, 3), (30, 7), (int(random.integers(5, 12)), int(random.integers(13, 20)))]
    cases = [tuple(random.normal(200, 12, size=(2, *size))) for size in sizes]

    def picked(chosen: Array, fresh: Array, winners: Any) -> tuple[float, float]:
        repeats = np.arange(len(chosen))
        return float(chosen[repeats, winners].mean()), float(fresh[repeats, winners].mean())

    def reference(chosen: Array, fresh: Array) -> tuple[float, float]:
        return picked(chosen, fresh, chosen.argmin(axis=1))

    def per_column(chosen: Array, fresh: Array) -> tuple[float, float]:
        winners = chosen.argmin(axis=0)
        columns = np.arange(chosen.shape[1])
        return float(chosen[winners, columns].mean()), float(fresh[winners, columns].mean())

    def one_winner(chosen: Array, fresh: Array) -> tuple[float, float]:
        winner = int(chosen.mean(axis=0).argmin())
        return float(chosen[:, winner].mean()), float(fresh[:, winner].mean())

    def grid(chosen: Array, fresh: Array) -> tuple[float, float]:
        winners = chosen.argmin(axis=1)
        return float(chosen[:, winners].mean()), float(fresh[:, winners].mean())

    compare(
        student,
        reference,
        cases,
        {
            "The fresh numbers chose a winner of their own. Then they are no longer fresh: take "
            "the method that won before.": lambda c, f: (
                float(c.min(axis=1).mean()),
                float(f.min(axis=1).mean()),
            ),
            "The winner has the most errors: fewer are better.": lambda c, f: picked(
                c, f, c.argmax(axis=1)
            ),
            "This looks for a winner in every column. A row is a repeat, with all the methods in "
            "it.": per_column,
            "One winner for all repeats: each repeat is an experiment of its own, with its own "
            "winner.": one_winner,
            "`fresh[:, winners]` takes these columns in every row. Each row wants its own: index "
            "with `np.arange(len(fresh))`, too.": grid,
            "The two numbers are the wrong way round: first by the seeds that chose.": (
                lambda c, f: reference(c, f)[::-1]
            ),
            "The fresh number is the mean of all methods: only the winner's counts.": lambda c, f: (
                float(c.min(axis=1).mean()),
                float(f.mean()),
            ),
            "The fresh numbers choose, and the others report: it should be the other way "
            "round.": lambda c, f: reference(f, c),
        },
        hint="In each row, find the method with the fewest errors in `chosen`, and look up the "
        "same method in `fresh`.",
    )
    passed("report_winner: chosen by some seeds, reported by others")


def seeds_needed(student: Function) -> None:
    """Exercise 5: the number of seeds for a power of 80 %."""
    random = np.random.default_rng()
    cases = [
        (10.0, 12.0, 1),
        (10.0, 12.0, 20),
        (-8.0, 9.0, 5),
        (60.0, 3.0, 1),
        (float(random.uniform(9, 12)), float(random.uniform(10, 14)), int(random.integers(3, 60))),
    ]

    def first(effect: float, spread: float, confidence: float, power: float, start: int = 2) -> int:
        n = start
        while paired_power(effect, spread, n, confidence=confidence) < power:
            n += 1
        return n

    def reference(effect: float, spread: float, comparisons: int) -> int:
        return first(effect, spread, 1 - 0.05 / comparisons, 0.8)

    compare(
        student,
        reference,
        cases,
        {
            "This is for a single comparison: its interval does not hold together with the "
            "others.": lambda e, s, m: first(e, s, 0.95, 0.8),
            "This is one seed too few: with it the power is still below 80 %.": (
                lambda e, s, m: reference(e, s, m) - 1
            ),
            "This is one seed too many: one less would do.": (
                lambda e, s, m: reference(e, s, m) + 1
            ),
            "The confidence is that of a one-sided 95 %: an interval has two sides, and "
            "`paired_power` knows of both.": lambda e, s, m: first(e, s, 1 - 0.1 / m, 0.8),
            "The 5 % are halved for the two sides, but `paired_power` does that "
            "itself.": lambda e, s, m: first(e, s, 1 - 0.025 / m, 0.8),
            "It is the 5 % that the comparisons share. The power asked for is 80 %, however many "
            "they are.": lambda e, s, m: first(e, s, 0.95, 1 - 0.2 / m),
            "Power and confidence are both set to 95 %: the power asked for is 80 %.": (
                lambda e, s, m: first(e, s, 1 - 0.05 / m, 0.95)
            ),
            "The spread of one pair is not that of a mean, but `paired_power` knows that: it wants "
            "the standard deviation of the pairs' differences.": lambda e, s, m: _shrinking(
                e, s, 1 - 0.05 / m
            ),
            "The search should begin with two seeds.": lambda e, s, m: first(
                e, s, 1 - 0.05 / m, 0.8, 3
            ),
        },
        hint="Try n = 2, 3, …, with the confidence 1 - 0.05 / comparisons, until the power is 0.8.",
    )
    if attempt(student, 40.0, 15.0, 51) != reference(40.0, 15.0, 51):
        raise AssertionError("seeds_needed is not right yet for 40 errors, spread 15 and 51 cases.")
    passed("seeds_needed: as many as it takes")


def _shrinking(effect: float, spread: float, confidence: float) -> int:
    """What comes out if the spread is divided by the root of n once more."""
    n = 2
    while paired_power(effect, spread / np.sqrt(n), n, confidence=confidence) < 0.8:
        n += 1
    return n
