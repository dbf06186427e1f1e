"""Checkers for the exercises of the chapter that asks whether it worked."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from distill_lib.checks import Function, attempt, compare, passed

Array = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def mlp_flops(student: Function) -> None:
    """Exercise 1: the operations of a fully connected network."""
    random = np.random.default_rng()
    drawn = [int(n) for n in random.integers(3, 60, size=5)]
    cases = [([784, 32, 10], 1), ([784, 10], 7), (drawn, int(random.integers(2, 40)))]

    def products(sizes: Sequence[int]) -> int:
        return sum(a * b for a, b in pairwise(sizes))

    def parameters(sizes: Sequence[int]) -> int:
        return sum((a + 1) * b for a, b in pairwise(sizes))

    compare(
        student,
        lambda sizes, batch: 2 * batch * products(sizes),
        cases,
        {
            "This counts multiply-adds. As floating-point operations each is two, a product and a "
            "sum.": lambda sizes, batch: batch * products(sizes),
            "This is the work for one image: a batch has several.": (
                lambda sizes, batch: 2 * products(sizes)
            ),
            "This counts the multiply-adds of one image: two things are missing.": (
                lambda sizes, batch: products(sizes)
            ),
            "This is the number of parameters. A parameter is used once for every image.": (
                lambda sizes, batch: parameters(sizes)
            ),
            "The biases are counted too. The counter leaves them out, as they cost little.": (
                lambda sizes, batch: 2 * batch * parameters(sizes)
            ),
            "The biases are counted too, once for each image. The counter leaves them out.": (
                lambda sizes, batch: batch * (2 * products(sizes) + sum(sizes[1:]))
            ),
            "This has the first layer alone: each pair of neighbours in `sizes` is a layer.": (
                lambda sizes, batch: 2 * batch * sizes[0] * sizes[1]
            ),
            "The sizes of all layers are multiplied with each other: layers come one after the "
            "other, so their costs add up.": lambda sizes, batch: 2 * batch * int(np.prod(sizes)),
        },
        hint="How many products does one output of a layer need, and how many outputs are there?",
    )
    passed("mlp_flops: as torch counts them")


def mcnemar_p(student: Function) -> None:
    """Exercise 2: the exact p-value from the samples that tell two networks apart."""
    random = np.random.default_rng()

    def networks(both: int, a: int, b: int, neither: int) -> tuple[Booleans, Booleans]:
        wrong_a = np.repeat([True, True, False, False], [both, a, b, neither])
        wrong_b = np.repeat([True, False, True, False], [both, a, b, neither])
        order = random.permutation(len(wrong_a))
        return wrong_a[order], wrong_b[order]

    few, more = (int(n) for n in random.integers(4, 14, size=2))
    cases = [
        networks(20, 3, 12, 200),
        networks(5, 12, 3, 100),
        networks(int(random.integers(20, 40)), few, few + more, 300),
    ]

    def counts(wrong_a: Booleans, wrong_b: Booleans) -> tuple[int, int]:
        return int((wrong_a & ~wrong_b).sum()), int((wrong_b & ~wrong_a).sum())

    def reference(wrong_a: Booleans, wrong_b: Booleans) -> float:
        a, b = counts(wrong_a, wrong_b)
        return float(stats.binomtest(a, a + b).pvalue) if a + b else 1.0

    def one_sided(wrong_a: Booleans, wrong_b: Booleans) -> float:
        a, b = counts(wrong_a, wrong_b)
        return float(stats.binom.cdf(min(a, b), a + b, 0.5))

    def one_direction(wrong_a: Booleans, wrong_b: Booleans) -> float:
        a, b = counts(wrong_a, wrong_b)
        return float(stats.binomtest(a, a + b, alternative="less").pvalue)

    def other_direction(wrong_a: Booleans, wrong_b: Booleans) -> float:
        a, b = counts(wrong_a, wrong_b)
        return float(stats.binomtest(a, a + b, alternative="greater").pvalue)

    def all_errors(wrong_a: Booleans, wrong_b: Booleans) -> float:
        a, b = int(wrong_a.sum()), int(wrong_b.sum())
        return float(stats.binomtest(a, a + b).pvalue)

    def all_samples(wrong_a: Booleans, wrong_b: Booleans) -> float:
        a, _ = counts(wrong_a, wrong_b)
        return float(stats.binomtest(a, len(wrong_a)).pvalue)

    def chi_squared(correction: float) -> Function:
        def p_value(wrong_a: Booleans, wrong_b: Booleans) -> float:
            a, b = counts(wrong_a, wrong_b)
            return float(stats.chi2.sf((abs(a - b) - correction) ** 2 / (a + b), 1))

        return p_value

    def unpaired(wrong_a: Booleans, wrong_b: Booleans) -> float:
        table = [[w.sum(), len(w) - w.sum()] for w in (wrong_a, wrong_b)]
        return float(stats.fisher_exact(table).pvalue)

    compare(
        student,
        reference,
        cases,
        {
            "This is one tail: the test is two-sided, since either network might have been the "
            "better one.": one_sided,
            "The test looks in one direction only: either network might have been the better "
            "one.": one_direction,
            "The test looks in one direction only, the other one: either network might have been "
            "the better one.": other_direction,
            "All errors of the two networks are counted. Those that both make tell nothing about "
            "which is better.": all_errors,
            "The tosses of the coin are not all samples, but those that tell the networks "
            "apart.": all_samples,
            "This is the approximation by chi squared; the exact test asks the binomial "
            "distribution.": chi_squared(0),
            "This is the approximation by chi squared with a correction; the exact test asks the "
            "binomial distribution.": chi_squared(1),
            "The two networks are treated as if each had had samples of its own: use that they "
            "saw the same.": unpaired,
        },
        hint="Count the samples that only one of the two gets wrong. If the networks were equally "
        "good, each of these would be the toss of a coin.",
    )
    same = networks(4, 0, 0, 6)
    if attempt(student, *same) != 1:
        raise AssertionError(
            "Two networks that err on exactly the same samples cannot be told apart: the p-value "
            "is 1. (No tosses at all: `binomtest` refuses that.)"
        )
    passed("mcnemar_p: the coin and its tosses")


def agreement_range(student: Function) -> None:
    """Exercise 3: the least and the most that two networks can agree, given their errors."""
    random = np.random.default_rng()
    small, large = random.uniform(0.01, 0.05), random.uniform(0.1, 0.4)
    cases = [(0.01, 0.03), (large, small), (small, small), (0.0, large), (0.75, 0.6)]
    compare(
        student,
        lambda a, b: (max(0, 1 - a - b), 1 - abs(a - b)),
        cases,
        {
            "The least is below zero in one case: no two networks agree on less than "
            "nothing.": lambda a, b: (1 - a - b, 1 - abs(a - b)),
            "The most is too small: two networks can agree on a wrong answer too.": (
                lambda a, b: (max(0, 1 - a - b), 1 - max(a, b))
            ),
            "The two ends are the wrong way round: first the least, then the most.": (
                lambda a, b: (1 - abs(a - b), max(0, 1 - a - b))
            ),
            "The least that you give is that of independent errors. Errors can avoid each other "
            "better than that.": lambda a, b: ((1 - a) * (1 - b), 1 - abs(a - b)),
            "The least is too large: when both are wrong, they need not give the same wrong "
            "answer, nor be wrong on the same samples.": (
                lambda a, b: (1 - max(a, b), 1 - abs(a - b))
            ),
            "The most is too large: two networks that do not err equally often cannot always "
            "agree.": lambda a, b: (max(0, 1 - a - b), 1.0),
            "These are the ends for how often they disagree.": (
                lambda a, b: (abs(a - b), min(1, a + b))
            ),
        },
        hint="Lay the samples out in a row. Where do you put the errors of the second network so "
        "that they agree as often as they can, and where so that they agree as rarely?",
    )
    passed("agreement_range: what two error rates leave open")


def standard_errors(student: Function) -> None:
    """Exercise 4: of a difference of error rates, with the samples apart and in pairs."""
    random = np.random.default_rng()
    hard = random.random((2, 400)) < np.where(np.arange(400) < 40, 0.7, 0.02)
    wrong_a = random.random(300) < 0.2
    wrong_b = np.where(random.random(300) < 0.1, ~wrong_a, wrong_a)
    cases = [(hard[0], hard[1]), (wrong_a, wrong_b), (wrong_b, ~wrong_b)]

    def of_mean(values: Array, ddof: int = 1) -> float:
        return float(np.std(values, ddof=ddof) / np.sqrt(len(values)))

    def both(a: Booleans, b: Booleans, ddof: int = 1) -> tuple[float, float]:
        a_, b_ = a.astype(float), b.astype(float)
        return float(np.hypot(of_mean(a_, ddof), of_mean(b_, ddof))), of_mean(a_ - b_, ddof)

    def added(a: Booleans, b: Booleans) -> tuple[float, float]:
        return of_mean(a.astype(float)) + of_mean(b.astype(float)), both(a, b)[1]

    def discordant(a: Booleans, b: Booleans) -> tuple[float, float]:
        return both(a, b)[0], float(np.sqrt((a != b).sum()) / len(a))

    def unequal(a: Booleans, b: Booleans) -> tuple[float, float]:
        return both(a, b)[0], of_mean((a != b).astype(float))

    def scaled(factor: Function) -> Function:
        return lambda a, b: np.array(both(a, b)) * factor(len(a))

    compare(
        student,
        both,
        cases,
        {
            "The two ends are the wrong way round: first as if the samples were not shared, then "
            "with pairs.": lambda a, b: both(a, b)[::-1],
            "These are standard deviations of one sample: how does a mean over N samples "
            "vary?": scaled(lambda n: np.sqrt(n)),
            "These are for the number of errors. The question is about the error rate.": (
                scaled(lambda n: n)
            ),
            "These are variances: take the square root.": lambda a, b: np.square(both(a, b)),
            "The standard errors of two independent means are added: it is their squares that add "
            "up.": added,
            "The spread divides by N here; `ddof=1` divides by N - 1.": (
                lambda a, b: both(a, b, ddof=0)
            ),
            "The second is that of equally good networks, as McNemar's test supposes: take the "
            "spread of the differences around their mean.": discordant,
            "The second forgets which of the two was wrong: a difference has a sign.": unequal,
            "Both are computed as if the samples were not shared: the second is about the "
            "difference on each sample.": lambda a, b: (both(a, b)[0], both(a, b)[0]),
        },
        hint="First: the variances of two independent means add up. Second: make one difference "
        "a sample, then treat it as any sample.",
    )
    passed("standard_errors: what it is worth that they saw the same images")


def ece(student: Function) -> None:
    """Exercise 5: the expected calibration error."""
    random = np.random.default_rng()

    def sample(n: int, shift: float) -> tuple[Array, Booleans]:
        confidence = random.beta(3, 1, size=n)
        return confidence, random.random(n) < np.clip(confidence - shift, 0, 1)

    # binary fractions: away from the edges of ten bins, and on those of four
    easy = (np.array([0.96875, 0.90625, 0.96875, 0.59375]), np.array([True, False, True, True]), 10)
    edge = (np.array([1.0, 0.90625, 0.25, 0.3125]), np.array([False, True, False, True]), 4)
    modest = (np.full(8, 0.59375), np.arange(8) > 0, 10)  # right more often than it says
    cases = [easy, modest, (*sample(300, 0.1), 15), (*sample(60, -0.1), 40), edge]

    def bins(confidence: Array, n_bins: int, upper: bool = True) -> NDArray[np.int64]:
        places = np.ceil(confidence * n_bins) - 1 if upper else np.floor(confidence * n_bins)
        return places.astype(np.int64)

    def gaps(confidence: Array, right: Booleans, n_bins: int, upper: bool = True) -> Any:
        place = bins(confidence, n_bins, upper)
        filled = [place == i for i in np.unique(place)]
        return (
            np.array([right[here].mean() - confidence[here].mean() for here in filled]),
            np.array([here.mean() for here in filled]),
        )

    def reference(confidence: Array, right: Booleans, n_bins: int, upper: bool = True) -> float:
        gap, share = gaps(confidence, right, n_bins, upper)
        return float(share @ np.abs(gap))

    def every_bin(confidence: Array, right: Booleans, n_bins: int) -> float:
        gap, _ = gaps(confidence, right, n_bins)
        return float(np.abs(gap).sum() / n_bins)

    def squared(confidence: Array, right: Booleans, n_bins: int) -> float:
        gap, share = gaps(confidence, right, n_bins)
        return float(np.sqrt(share @ gap**2))

    def certain_lost(confidence: Array, right: Booleans, n_bins: int) -> float:
        place = bins(confidence, n_bins, upper=False)
        filled = [place == i for i in range(n_bins) if (place == i).any()]
        return float(
            sum(here.mean() * abs(right[here].mean() - confidence[here].mean()) for here in filled)
        )

    def lower_clipped(confidence: Array, right: Booleans, n_bins: int) -> float:
        return reference(np.minimum(confidence, 1 - 1e-12), right, n_bins, upper=False)

    compare(
        student,
        reference,
        cases,
        {
            "All bins count the same here: weigh each with the share of the samples in it.": (
                lambda c, r, n: float(np.abs(gaps(c, r, n)[0]).mean())
            ),
            "The sum is divided by the number of bins: weigh each bin with the share of the "
            "samples in it instead.": every_bin,
            "This is the largest gap, called the maximum calibration error.": (
                lambda c, r, n: float(np.abs(gaps(c, r, n)[0]).max())
            ),
            "Gaps of opposite sign cancel here: what is left is accuracy less mean confidence, "
            "whatever the bins.": lambda c, r, n: float(r.mean() - c.mean()),
            "Gaps of opposite sign cancel here: what is left is mean confidence less accuracy, "
            "whatever the bins.": lambda c, r, n: float(c.mean() - r.mean()),
            "Gaps of opposite sign cancel here: take the size of each gap before you add "
            "up.": lambda c, r, n: float(abs(r.mean() - c.mean())),
            "Confidence and outcome are compared sample by sample: no single sample can be 80 % "
            "right. Take means within each bin first.": (
                lambda c, r, n: float(np.abs(c - r).mean())
            ),
            "The gaps are squared: this is another measure, which punishes large gaps more.": (
                squared
            ),
            "An empty bin made NaN: leave out the bins without samples.": (
                lambda c, r, n: np.nan if len(np.unique(bins(c, n))) < n else reference(c, r, n)
            ),
            "A sample with confidence 1 is lost: the last bin has its upper end.": certain_lost,
            "A confidence on an edge went into the bin above: a bin has its upper end, not its "
            "lower one.": lower_clipped,
        },
        hint="For each bin with samples: the mean confidence, the share that is right, and the "
        "share of all samples that fall into it.",
    )
    passed("ece: how far confidence is from accuracy, bin by bin")
