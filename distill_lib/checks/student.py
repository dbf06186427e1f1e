"""Checkers for the exercises of the chapter on the student."""

from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from distill_lib.checks import Function, attempt, compare, passed

Array = NDArray[np.float64]


def interval_widths(student: Function) -> None:
    """Exercise 1: how wide a paired interval is, and one that forgets the pairs."""
    random = np.random.default_rng()

    def runs(n: int, shared: float, own: float) -> tuple[Array, Array]:
        twins = random.normal(scale=shared, size=n)  # what the two of a pair have in common
        return (
            np.round(random.normal(210, own, n) + twins),
            np.round(random.normal(250, 3 * own, n) + twins),
        )

    fixed = (np.array([205.0, 221, 209, 230]), np.array([248.0, 251, 233, 290]))
    cases = [fixed, runs(8, 0.0, 6.0), runs(5, 30.0, 4.0), runs(12, 10.0, 5.0)]

    def paired(a: Array, b: Array, *, ddof: int = 1, confidence: float = 0.95) -> float:
        n = len(a)
        quantile = stats.t.ppf((1 + confidence) / 2, n - 1)
        return float(2 * quantile * np.std(a - b, ddof=ddof) / np.sqrt(n))

    def unpaired(a: Array, b: Array, *, equal_var: bool = False, confidence: float = 0.95) -> float:
        n, of_a, of_b = len(a), stats.sem(a) ** 2, stats.sem(b) ** 2
        df = (n - 1) * (of_a + of_b) ** 2 / (of_a**2 + of_b**2)  # Welch and Satterthwaite
        quantile = stats.t.ppf((1 + confidence) / 2, 2 * n - 2 if equal_var else df)
        return float(2 * quantile * np.sqrt(of_a + of_b))

    def both(a: Array, b: Array) -> tuple[float, float]:
        return paired(a, b), unpaired(a, b)

    def scaled(factor: Function) -> Function:
        return lambda a, b: factor(len(a)) * np.array(both(a, b))

    def normal(half: float) -> Function:
        def widths(a: Array, b: Array) -> tuple[float, float]:
            apart = np.hypot(stats.sem(a), stats.sem(b))
            return float(2 * half * stats.sem(a - b)), float(2 * half * apart)

        return widths

    compare(
        student,
        both,
        cases,
        {
            "The two are the wrong way round: first with pairs, then without.": (
                lambda a, b: both(a, b)[::-1]
            ),
            "These are half-widths: an interval reaches to both sides of the mean.": (
                scaled(lambda n: 0.5)
            ),
            "The quantile is that of the normal distribution. With a handful of seeds the spread "
            "itself is uncertain, and Student's distribution knows it.": (
                normal(stats.norm.ppf(0.975))
            ),
            "The quantile 1.96 is that of the normal distribution. With a handful of seeds the "
            "spread itself is uncertain, and Student's distribution knows it.": normal(1.96),
            "These intervals leave out 5 % on each side: 95 % are to be inside.": (
                lambda a, b: (paired(a, b, confidence=0.9), unpaired(a, b, confidence=0.9))
            ),
            "The spread of the differences divides by n here; `ddof=1` divides by n - 1.": (
                lambda a, b: (paired(a, b, ddof=0), unpaired(a, b))
            ),
            "The second supposes that both arms vary equally from seed to seed. Welch's does "
            "not: `equal_var=False`.": lambda a, b: (paired(a, b), unpaired(a, b, equal_var=True)),
            "The first has lost its √n: how does a mean of n differences vary?": (
                lambda a, b: (paired(a, b) * np.sqrt(len(a)), unpaired(a, b))
            ),
            "Both are computed with pairs: the second is for two independent samples.": (
                lambda a, b: (paired(a, b),) * 2
            ),
            "Both are computed without pairs: the first is about the difference within each "
            "pair.": lambda a, b: (unpaired(a, b),) * 2,
        },
        hint="With pairs: one difference a seed, then as for any sample. Without: Welch's "
        "interval of the difference of two means.",
    )
    passed("interval_widths: what it is worth to know the twins")


def seeds_needed(student: Function) -> None:
    """Exercise 2: the number of pairs for an interval of a given half-width."""
    random = np.random.default_rng()
    cases = [(10.0, 5.0), (10.0, 3.0), (0.1, 100.0), (14.0, 20.0)]
    cases += [
        (float(s), float(s / r)) for s, r in zip(*random.uniform(1.5, 4, (2, 5)), strict=True)
    ]

    n = np.arange(2, 2000)

    def first(*, df: int = -1, tail: float = 0.975, factor: float = 1.0) -> Function:
        quantile = stats.t.ppf(tail, n + df)

        def needed(s: float, half_width: float) -> int:
            return int(n[(factor * quantile * s / np.sqrt(n) <= half_width).argmax()])

        return needed

    reference = first()

    def by_normal(s: float, half_width: float) -> int:
        return max(2, int(np.ceil((stats.norm.ppf(0.975) * s / half_width) ** 2)))

    compare(
        student,
        reference,
        cases,
        {
            "The quantile is that of the normal distribution, which is too sure of a spread "
            "measured on few seeds.": by_normal,
            "Student's distribution has n - 1 degrees of freedom here: one went into the "
            "mean.": first(df=0),
            "The quantile leaves 5 % on one side: an interval of 95 % leaves 2.5 % on each.": first(
                tail=0.95
            ),
            "This makes the whole width as small as asked: the question is about half of "
            "it.": first(factor=2),
            "This is one pair too few: the interval is still too wide.": (
                lambda s, h: reference(s, h) - 1
            ),
            "This is one pair too many: is the one before it not enough already?": (
                lambda s, h: reference(s, h) + 1
            ),
            "This counts students: the question is how many pairs of them.": (
                lambda s, h: 2 * reference(s, h)
            ),
        },
        hint="Count upwards from 2 pairs, until the half-width is small enough.",
    )
    if not isinstance(attempt(student, 10.0, 5.0), (int, np.integer)):
        raise AssertionError("seeds_needed is right, but a number of pairs should be an integer.")
    passed("seeds_needed: what a claim costs")


def inherited(student: Function) -> None:
    """Exercise 3: the share of the teacher's mistakes that the student repeats."""
    generator = torch.Generator().manual_seed(int(np.random.default_rng().integers(2**31)))

    def networks(n: int, k: int, likeness: float) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.randint(k, (n,), generator=generator)
        noise = 1.5 * torch.randn(3, n, k, generator=generator)
        signal = 2.0 * F.one_hot(y, k)
        teacher = signal + noise[0]
        pupil = signal + likeness * noise[0] + (1 - likeness) * noise[1] + 0.3 * noise[2]
        return teacher, pupil, y

    # by hand: the teacher errs on three of five; the student repeats one, errs otherwise on one,
    # is right on one, and adds a mistake of its own
    answers = torch.tensor([[1, 2, 0, 0, 1], [1, 1, 0, 2, 2]])
    by_hand = (*(4.0 * F.one_hot(answers, 3) - 1), torch.tensor([0, 0, 1, 0, 1]))
    cases = [by_hand, networks(200, 6, 0.6), networks(300, 4, 0.2), networks(150, 10, 0.9)]

    def parts(teacher: Tensor, pupil: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t, s = teacher.argmax(dim=1), pupil.argmax(dim=1)
        return t != y, s != y, t == s, (t != y) & (t == s)

    def ratio(numerator: int, denominator: int) -> Function:
        def share(teacher: Tensor, pupil: Tensor, y: Tensor) -> float:
            found = [p.float() for p in parts(teacher, pupil, y)]
            found += [found[0] * found[1], torch.ones_like(found[0])]
            return float(found[numerator].sum() / found[denominator].sum())

        return share

    reference = ratio(3, 0)

    def complement(teacher: Tensor, pupil: Tensor, y: Tensor) -> float:
        return 1 - reference(teacher, pupil, y)

    def is_right(teacher: Tensor, pupil: Tensor, y: Tensor) -> float:
        return 1 - ratio(4, 0)(teacher, pupil, y)

    def how_many(teacher: Tensor, pupil: Tensor, y: Tensor) -> float:
        return float(parts(teacher, pupil, y)[3].sum())

    compare(
        student,
        reference,
        cases,
        {
            "This counts images on which both are wrong. To repeat a mistake is to give the same "
            "wrong answer.": ratio(4, 0),
            "This is the share of all images: the question is about those that the teacher gets "
            "wrong.": ratio(3, 5),
            "This is a share of the student's mistakes: take the teacher's as the whole.": (
                ratio(3, 1)
            ),
            "This is a share of the images on which both are wrong: the student may also be right "
            "where the teacher is wrong.": ratio(3, 4),
            "This is the agreement on all images. Look at those that the teacher gets wrong.": (
                ratio(2, 5)
            ),
            "This is the share of the teacher's mistakes that the student does *not* repeat.": (
                complement
            ),
            "This is the share of the teacher's mistakes that the student puts right.": is_right,
            "This is a count: divide by the number of the teacher's mistakes.": how_many,
            "This is the student's error rate.": ratio(1, 5),
        },
        hint="Make a mask of the images that the teacher gets wrong. On these alone, compare the "
        "two answers.",
    )
    passed("inherited: what a student takes over from its teacher")


def sign_flip_p(student: Function) -> None:
    """Exercise 4: the exact p-value over all ways to flip the signs of the differences."""
    random = np.random.default_rng()
    cases = [
        (np.array([-12, -30, -8, -21, -15]),),  # all of one sign
        (np.array([3, -1, 4, 1, -5, 9, 2, 6]),),
        (np.array([-20, 4, -9, 0, -14, -20]),),
        (random.integers(-30, 15, size=7),),
        (random.integers(-10, 25, size=8),),
    ]

    def sums(d: Array) -> Array:
        return np.array([np.dot(signs, d) for signs in product((-1, 1), repeat=len(d))])

    def p_value(d: Array) -> float:
        return float(np.mean(np.abs(sums(d)) >= abs(d.sum())))

    def one_sided(d: Array) -> float:
        return float(np.mean(sums(d) >= abs(d.sum())))

    def one_direction(d: Array) -> float:
        return float(np.mean(sums(d) <= d.sum()))

    def strict(d: Array) -> float:
        return float(np.mean(np.abs(sums(d)) > abs(d.sum())))

    def all_but_one(d: Array) -> float:
        return float((np.abs(sums(d)) >= abs(d.sum())).sum() - 1) / (2 ** len(d) - 1)

    def signs_only(d: Array) -> float:
        return float(stats.binomtest(int((d > 0).sum()), int((d != 0).sum())).pvalue)

    def t_test(d: Array) -> float:
        return float(stats.ttest_1samp(d, 0).pvalue)

    compare(
        student,
        p_value,
        cases,
        {
            "This is one-sided: the opposite sum, with every sign flipped, is as surprising.": (
                one_sided
            ),
            "This counts sums up to the one that was found, on one side. Compare sizes, without "
            "the sign.": one_direction,
            "Sums that are exactly as large as the one that was found belong to it: among them "
            "is the one that was found.": strict,
            "The signs that were found are one of the possible ways too: leave none out.": (
                all_but_one
            ),
            "This is the sign test, which forgets how large the differences are.": signs_only,
            "This is the t test. Here nothing is assumed normal: go through the signs.": t_test,
            "This is the complement: a p-value is small when the differences are surprising.": (
                lambda d: 1 - p_value(d)
            ),
            "This is how many ways there are: divide by the number of all of them.": (
                lambda d: p_value(d) * 2 ** len(d)
            ),
        },
        hint="There are 2ⁿ ways to give n differences a sign. In which share of them is the sum "
        "at least as far from 0 as the one that was found?",
    )
    passed("sign_flip_p: exact, and without a normal distribution")


class _Calls(TorchFunctionMode):
    """Counts what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def many_logits(student: Function) -> None:
    """Exercise 5: n networks with one hidden layer as a few products, without a loop."""
    generator = torch.Generator().manual_seed(int(np.random.default_rng().integers(2**31)))

    def case(n: int, batch: int, sizes: tuple[int, int, int]) -> tuple[Tensor, ...]:
        d, h, k = sizes
        shapes = ((batch, d), (n, h, d), (n, h), (n, k, h), (n, k))
        return tuple(torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes)

    def reference(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        each = zip(w1, b1, w2, b2, strict=True)
        return torch.stack([F.linear(F.relu(F.linear(x, w, b)), v, c) for w, b, v, c in each])

    def linear(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        hidden = torch.einsum("bd,nhd->nbh", x, w1) + b1[:, None]
        return torch.einsum("nbh,nkh->nbk", hidden, w2) + b2[:, None]

    def by_image(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        hidden = F.relu(torch.einsum("bd,nhd->nbh", x, w1) + b1)  # where there are n images
        return torch.einsum("nbh,nkh->nbk", hidden, w2) + b2

    def no_bias(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        return reference(x, w1, 0 * b1, w2, 0 * b2)

    def mean_of_hidden(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        hidden = F.relu(torch.einsum("bd,nhd->nbh", x, w1) + b1[:, None])
        return torch.einsum("mbh,nkh->nbk", hidden, w2) + b2[:, None]

    hint = "First for one network, then see where the axis of the networks goes."
    compare(
        student,
        reference,
        [case(4, 4, (6, 5, 3)), case(3, 3, (2, 8, 4))],  # as many images as networks
        {
            "There is no ReLU: two linear layers in a row are one.": linear,
            "The logits went through a ReLU as well: they may be negative.": (
                lambda *inputs: F.relu(reference(*inputs))
            ),
            "These are probabilities: networks return logits.": (
                lambda *inputs: reference(*inputs).softmax(dim=-1)
            ),
            "The biases are missing.": no_bias,
            "The biases of network i went to image i, which torch allows when there are as many "
            "images as networks: `b1` needs an axis for the images.": by_image,
            "The axes are in another order: the networks come first, then the images.": (
                lambda *inputs: reference(*inputs).transpose(0, 1)
            ),
            "The last two axes are swapped: images, then classes.": (
                lambda *inputs: reference(*inputs).transpose(1, 2)
            ),
            "This is a mean over the networks, that is, an ensemble: keep them apart.": (
                lambda *inputs: reference(*inputs).mean(dim=0)
            ),
            "The networks are mixed: each second layer gets the hidden units of all networks, "
            "added up. Does an index stand on one side of the arrow only?": mean_of_hidden,
        },
        hint=hint,
    )
    compare(
        student, reference, [case(3, 7, (6, 5, 3)), case(1, 2, (4, 3, 10))], mistakes={}, hint=hint
    )
    asked = []
    for n in (2, 9):
        inputs = case(n, 4, (6, 5, 3))
        with _Calls() as calls:
            attempt(student, *inputs)
        asked.append(calls.count)
    if asked[0] != asked[1]:
        raise AssertionError(
            f"The logits are right, but torch was called {asked[0]} times for two networks and "
            f"{asked[1]} times for nine: there is a loop over the networks in it."
        )
    passed("many_logits: many small products made one large one")
