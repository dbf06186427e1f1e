"""Checkers for the exercises of the chapter on structural distillers."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform
from torch import Tensor
from torch.nn import functional as F

from distill_lib.checks import Function, attempt, compare, compare_gradient, passed
from distill_lib.relations import similarity_preserving_loss

Array = NDArray[np.float64]


def cosine_loss(student: Function) -> None:
    """Exercise 1: the mean squared difference of the cosines of all pairs."""
    random = np.random.default_rng()
    cases = [
        (_features(random, b, d), _features(random, b, e))
        for b, d, e in ((4, 2, 3), (6, 5, 5), (9, 3, 8))
    ]

    def cosines(a: Tensor) -> Tensor:
        a = F.normalize(a, dim=1)
        return a @ a.T

    def over_pairs(difference: Tensor) -> Tensor:
        n = len(difference)
        return difference.sum() / (n * (n - 1))

    def right(s: Tensor, t: Tensor) -> Tensor:
        return over_pairs((cosines(s) - cosines(t)).square())

    def inner(s: Tensor, t: Tensor) -> Tensor:
        difference = (s @ s.T - t @ t.T).square()
        return over_pairs(difference - difference.diag().diag())

    def centred(s: Tensor, t: Tensor) -> Tensor:
        return right(s - s.mean(dim=0), t - t.mean(dim=0))

    def by_column(s: Tensor, t: Tensor) -> Tensor:
        s, t = F.normalize(s, dim=0), F.normalize(t, dim=0)
        return inner(s, t)

    compare(
        student,
        right,
        cases,
        {
            "The mean is over all B² entries: a sample's cosine with itself is always 1 and says "
            "nothing. How many pairs of different samples are there?": (
                lambda s, t: (cosines(s) - cosines(t)).square().mean()
            ),
            "This is the sum over the pairs: take their mean.": (
                lambda s, t: (cosines(s) - cosines(t)).square().sum()
            ),
            "Each pair counts once in the sum, and twice in the number that it is divided by.": (
                lambda s, t: right(s, t) / 2
            ),
            "The sum counts each pair twice, and the number that it is divided by only once.": (
                lambda s, t: 2 * right(s, t)
            ),
            "This is the mean for each sample, added up over the samples: take the mean of both.": (
                lambda s, t: len(s) * right(s, t)
            ),
            "The differences are not squared.": (
                lambda s, t: over_pairs((cosines(s) - cosines(t)).abs())
            ),
            "These are inner products: divide by both lengths, and cosines are left.": inner,
            "The whole columns were brought to length 1. A cosine belongs to two samples, which "
            "are rows.": by_column,
            "The features are centred first here. The exercise takes the cosines of the features "
            "as they are.": centred,
            "This is the similarity-preserving loss: there a row of the matrix has length 1, here "
            "each sample has.": similarity_preserving_loss,
        },
        hint="Bring each row to length 1. Then one matrix product has all cosines.",
    )
    compare_gradient(student, right, cases[0])
    passed("cosine_loss: alike in direction, whatever the length")


def linear_cka(student: Function) -> None:
    """Exercise 2: centred kernel alignment of two layers."""
    random = np.random.default_rng()
    cases = []
    for n, d, e in ((12, 2, 3), (20, 5, 5), (30, 4, 7)):
        a = _features(random, n, d) + _features(random, 1, d)
        mixed = a @ _features(random, d, e) + _features(random, n, e) + 2 * _features(random, 1, e)
        cases.append((a, mixed))

    def centre(a: Tensor) -> Tensor:
        return a - a.mean(dim=0)

    def parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (a.T @ b).norm(), (a.T @ a).norm(), (b.T @ b).norm()

    def alignment(a: Tensor, b: Tensor, *, power: int = 2) -> Tensor:
        both, own, other = parts(a, b)
        return both**power / (own * other)

    def right(a: Tensor, b: Tensor) -> Tensor:
        return alignment(centre(a), centre(b))

    def trace(a: Tensor, b: Tensor) -> Tensor:
        both, *_ = parts(centre(a), centre(b))
        return both**2 / (centre(a).norm() * centre(b).norm()) ** 2

    def on_lengths(a: Tensor, b: Tensor) -> Tensor:
        both, *_ = parts(centre(a), centre(b))
        return both / (centre(a).norm() * centre(b).norm())

    compare(
        student,
        right,
        cases,
        {
            "The features are not centred: take off each unit's mean over the samples first.": (
                alignment
            ),
            "The mean of each *sample* was taken off, over its units. It is each unit's mean, over "
            "the samples.": (
                lambda a, b: alignment(
                    a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
                )
            ),
            "One mean was taken off for the whole layer: each unit has one of its own.": (
                lambda a, b: alignment(a - a.mean(), b - b.mean())
            ),
            "The norm in the numerator is not squared. Of what order in A are the two sides of "
            "the fraction?": lambda a, b: alignment(centre(a), centre(b), power=1),
            "The norms in the denominator belong to AᵀA and BᵀB, not to A and B.": trace,
            "The norms in the denominator belong to AᵀA and BᵀB, not to A and B; and the numerator "
            "is squared.": on_lengths,
            "The denominator is squared as well: a layer's alignment with itself should be 1, and "
            "that of a layer with twice itself, too.": (
                lambda a, b: right(a, b) ** 2 / parts(centre(a), centre(b))[0] ** 2
            ),
            "This is one minus the alignment: 1 should mean alike.": lambda a, b: 1 - right(a, b),
            "This is the square root of the alignment.": lambda a, b: right(a, b).sqrt(),
        },
        hint="Centre each column, make the three products AᵀB, AᵀA and BᵀB, and take the norm of "
        "each: the root of the sum of all squared entries.",
    )
    passed("linear_cka: how alike two layers are, whatever their width")


def neighbour_loss(student: Function) -> None:
    """Exercise 3: probabilistic transfer with a temperature."""
    random = np.random.default_rng()
    cases = [
        (_features(random, b, d), _features(random, b, e), tau)
        for b, d, e, tau in ((4, 2, 3, 0.5), (6, 5, 5, 0.2), (7, 3, 8, 2.0))
    ]

    def log_neighbours(
        a: Tensor, tau: float, *, itself: bool = False, cosine: bool = True
    ) -> Tensor:
        a = F.normalize(a, dim=1) if cosine else a
        scores = a @ a.T / tau
        if not itself:
            n = len(a)
            scores = scores[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)
        return scores.log_softmax(dim=1)

    def loss(
        s: Tensor,
        t: Tensor,
        tau: float,
        *,
        swap: bool = False,
        reduction: str = "batchmean",
        **how: bool,
    ) -> Tensor:
        log_q, log_p = log_neighbours(s, tau, **how), log_neighbours(t, tau, **how)
        if swap:
            log_p, log_q = log_q, log_p
        return F.kl_div(log_q, log_p, reduction=reduction, log_target=True)

    def cross_entropy(s: Tensor, t: Tensor, tau: float) -> Tensor:
        return -(log_neighbours(t, tau).exp() * log_neighbours(s, tau)).sum() / len(s)

    def as_in_the_chapter(s: Tensor, t: Tensor, tau: float) -> Tensor:
        def kernel(a: Tensor) -> Tensor:
            a = F.normalize(a, dim=1)
            others = (1 + a @ a.T)[~torch.eye(len(a), dtype=torch.bool)].view(len(a), -1) / 2 / tau
            return (others / others.sum(dim=1, keepdim=True)).log()

        return F.kl_div(kernel(s), kernel(t), reduction="batchmean", log_target=True)

    compare(
        student,
        loss,
        cases,
        {
            "Each sample is among its own neighbours here, and the nearest: the loss hardly sees "
            "the others.": lambda s, t, tau: loss(s, t, tau, itself=True),
            "The two are the wrong way round: the teacher's neighbours stand in front, as in all "
            "of this book's distillation.": lambda s, t, tau: loss(s, t, tau, swap=True),
            "The cosines are multiplied by τ: a temperature divides.": (
                lambda s, t, tau: loss(s, t, 1 / tau)
            ),
            "The temperature is not used.": lambda s, t, tau: loss(s, t, 1.0),
            "These are inner products: the exercise asks for cosines.": (
                lambda s, t, tau: loss(s, t, tau, cosine=False)
            ),
            "This is the sum over the batch: take the mean over the samples.": (
                lambda s, t, tau: loss(s, t, tau, reduction="sum")
            ),
            "This divides by the number of neighbours as well: a divergence is a sum over "
            "them.": lambda s, t, tau: loss(s, t, tau, reduction="mean"),
            "This divides by the number of samples twice.": (
                lambda s, t, tau: loss(s, t, tau) / len(s)
            ),
            "A factor τ² is on it, as for soft targets: the exercise asks for the divergence "
            "alone.": lambda s, t, tau: tau**2 * loss(s, t, tau),
            "This is the cross-entropy: it is not 0 for a perfect copy. Take the teacher's entropy "
            "off.": cross_entropy,
            "This is the chapter's kernel, (1 + cosine)/2, in which a factor 1/τ cancels. Here it "
            "is a softmax.": as_in_the_chapter,
        },
        hint="A softmax over the other samples, as over classes.",
        not_finite="With log-probabilities as its target, `kl_div` needs `log_target=True`; and a "
        "score of -inf leaves 0 · (-inf) in a sum.",
    )
    compare_gradient(student, loss, cases[0])
    passed("neighbour_loss: who is near, as sharply as you like")


def map_from_distances(student: Function) -> None:
    """Exercise 4: points that have given distances."""
    random = np.random.default_rng()
    triangle = np.array([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]])
    around = np.array([[0.0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]])
    cases = [(triangle, 2), (around, 2)]  # the second goes around a square, and is not flat
    for n, dims, k in ((6, 2, 2), (8, 3, 3), (10, 5, 2), (12, 2, 10)):  # axes to spare
        points = random.normal(size=(n, dims)) * np.geomspace(3, 1, dims)
        cases.append((squareform(pdist(points)), k))

    drawn: list[Array] = []
    for distances, k in cases:
        found = attempt(student, distances.copy(), k)
        if found is None:
            raise AssertionError("map_from_distances returns nothing: is there a `return`?")
        points = np.asarray(found)
        n = len(distances)
        if points.shape != (n, k):
            raise AssertionError(
                f"map_from_distances returns shape {points.shape} for {n} points in {k} "
                f"dimensions: expected ({n}, {k}), a row for each point."
            )
        if np.iscomplexobj(points):
            raise AssertionError(
                "The points are complex numbers: the matrix is symmetric, and `np.linalg.eigh` "
                "knows what to do with it."
            )
        if not np.isfinite(points).all():
            raise AssertionError(
                "Some coordinates are not finite: a negative eigenvalue has no root. Rounding "
                "makes one of 0 slightly negative. Is a large one negative, too? Then see how the "
                "distances are squared, and the sign."
            )
        drawn.append(squareform(pdist(points)))

    def embed(
        distances: Array, k: int, *, power: int = 2, factor: float = -0.5, centre: bool = True,
        root: float = 0.5, smallest: bool = False, product: bool = False,
    ) -> Array:  # fmt: skip
        n = len(distances)
        centring = np.eye(n) - (1 / n if centre else 0)
        table = distances @ distances if product else distances**power
        values, vectors = np.linalg.eigh(factor * centring @ table @ centring)
        keep = np.argsort(values)[:k] if smallest else np.argsort(values)[::-1][:k]
        points = vectors[:, keep] * values[keep].clip(min=0) ** root
        return squareform(pdist(points))

    def agree(expected: list[Array]) -> bool:
        return all(np.allclose(a, b, atol=1e-6) for a, b in zip(drawn, expected, strict=True))

    if agree([embed(*case) for case in cases]):
        passed("map_from_distances: the distances hold the whole map")
        return
    if all(np.ptp(points) == 0 for points in drawn):  # exactly: a wrong sign leaves rounding
        raise AssertionError("All points fall on one another.")
    mistakes: dict[str, dict[str, Any]] = {
        "The distances are not squared: it is their squares that a product of centred points can "
        "be read from.": {"power": 1},
        "Nothing is left: each distance is squared by itself, `**2`, not by a matrix product.": {
            "product": True
        },
        "The map is too large by a factor √2: where is the half?": {"factor": -1.0},
        "The sign is wrong: with it the large eigenvalues become negative.": {"factor": 0.5},
        "The rows and columns are not centred: the products still depend on where the origin "
        "lies.": {"centre": False},
        "The eigenvectors still have length 1: how long is each axis of the map?": {"root": 0.0},
        "Each axis is stretched by its eigenvalue. The matrix is a product of the points with "
        "themselves, so an eigenvalue is a squared length.": {"root": 1.0},
        "These are the smallest eigenvalues: `eigh` has them in rising order.": {"smallest": True},
    }
    for message, how in mistakes.items():
        if agree([embed(*case, **how) for case in cases]):
            raise AssertionError(message)
    off = float(np.abs(drawn[0] - triangle).max())
    raise AssertionError(
        f"A triangle with sides 3, 4 and 5 comes back with a side that is off by {off:.3g}."
        if off > 1e-6
        else "The triangle comes back right, but larger sets of points do not: which eigenvectors "
        "do you keep?"
    )


def _features(random: np.random.Generator, *shape: int) -> Tensor:
    return torch.tensor(random.normal(size=shape))
