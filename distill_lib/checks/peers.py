"""Checkers for the exercises of the chapter on students that teach students."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from distill_lib.checks import Function, compare, passed, without_autograd

Array = NDArray[np.float64]


def smoothing_teacher(student: Function) -> None:
    """Exercise 1: logits whose softmax is the smoothed label."""
    random = np.random.default_rng()
    cases = [(torch.tensor([2, 0, 1]), 3, 0.3)]
    for b, k in ((5, 10), (4, 7)):
        y = torch.tensor(random.integers(k, size=b))
        cases.append((y, k, float(random.uniform(0.05, 0.4))))

    def with_ratio(ratio: Callable[[int, float], float]) -> Function:
        """Logits of a teacher that finds the right class so many times as likely as another."""
        return lambda y, k, e: np.log(ratio(k, e)) * F.one_hot(y, k)

    def smoothed(y: Tensor, k: int, e: float) -> Tensor:
        return (1 - e) * F.one_hot(y, k) + e / k

    right = with_ratio(lambda k, e: (k * (1 - e) + e) / e)
    compare(
        student,
        right,
        cases,
        {
            "These are the smoothed labels, which are probabilities: the teacher's logits are "
            "asked for. What turns a softmax back?": smoothed,
            "The softmax is right, but the smallest logit of a row should be 0. What may be added "
            "to all logits of an image?": lambda y, k, e: smoothed(y, k, e).log(),
            "The share ε goes to all K classes, the right one too: its probability is not quite "
            "1 - ε.": with_ratio(lambda k, e: k * (1 - e) / e),
            "The share ε goes to all K classes, not to the K - 1 wrong ones alone.": (
                with_ratio(lambda k, e: (k - 1) * (1 - e) / e)
            ),
            "This is the logarithm to base 2: a softmax has base e.": (
                lambda y, k, e: right(y, k, e) / np.log(2)
            ),
            "This is the ratio of the two probabilities: logits differ by its logarithm.": (
                lambda y, k, e: (k * (1 - e) + e) / e * F.one_hot(y, k)
            ),
            "The right class gets the smallest logit here: the sign is wrong.": (
                lambda y, k, e: np.log((k * (1 - e) + e) / e) * (1 - F.one_hot(y, k))
            ),
            "This teacher does not know the label: it is the one that the chapter mixes with "
            "labels. Here it is to smooth alone.": lambda y, k, e: torch.zeros(len(y), k),
            "This is the label as logits: its softmax does not depend on ε.": (
                lambda y, k, e: F.one_hot(y, k)
            ),
            "A row for each image, a column for each class: this is the other way round.": (
                lambda y, k, e: right(y, k, e).T
            ),
        },
        hint="Two different logits are enough: one for the right class, 0 for the others. Their "
        "difference is the logarithm of a ratio of probabilities.",
    )
    passed("smoothing_teacher: the label, and nothing else, in logits")


def peer_gradients(student: Function) -> None:
    """Exercise 2: the gradients of deep mutual learning, without autograd."""
    random = np.random.default_rng()
    cases = []
    for n, b, k in ((2, 3, 10), (4, 5, 3), (3, 2, 6)):
        z = torch.tensor(2 * random.normal(size=(n, b, k)))
        cases.append((z, torch.tensor(random.integers(k, size=b))))

    def from_labels(z: Tensor, y: Tensor) -> Tensor:
        return (z.softmax(dim=2) - F.one_hot(y, z.shape[2])) / z.shape[1]

    def from_peers(z: Tensor) -> Tensor:
        p, n = z.softmax(dim=2), len(z)
        return (n * p - p.sum(dim=0)) / (n - 1) / z.shape[1]

    def as_teacher(z: Tensor) -> Tensor:
        """What is added if nothing is detached."""
        log_p = z.log_softmax(dim=2)
        ratio = log_p[:, None] - log_p  # ln p_i / p_j
        p = log_p.exp()[:, None]
        kl = (p * ratio).sum(dim=3, keepdim=True)
        return (p * (ratio - kl)).sum(dim=1) / (len(z) - 1) / z.shape[1]

    def right(z: Tensor, y: Tensor) -> Tensor:
        return from_labels(z, y) + from_peers(z)

    def other_axis(dim: int) -> Function:
        def function(z: Tensor, y: Tensor) -> Tensor:
            p, n = z.softmax(dim=dim), len(z)
            pull = (n * p - p.sum(dim=0)) / (n - 1)
            return (p - F.one_hot(y, z.shape[2]) + pull) / z.shape[1]

        return function

    compare(
        without_autograd(student),
        right,
        cases,
        {
            "The batch mean is missing: each image has a share 1/B in it.": (
                lambda z, y: z.shape[1] * right(z, y)
            ),
            "The sign is wrong: prediction minus target, and not target minus prediction.": (
                lambda z, y: -right(z, y)
            ),
            "A student is among its own peers here: the mean is over the N - 1 others.": (
                lambda z, y: from_labels(z, y) + from_peers(z) * (len(z) - 1) / len(z)
            ),
            "A student's own probability is not taken out of the sum over all: the mean is over "
            "the N - 1 others.": lambda z, y: (
                right(z, y) - z.softmax(dim=2) / (len(z) - 1) / z.shape[1]
            ),
            "This is the sum over the peers: the loss takes their mean.": (
                lambda z, y: from_labels(z, y) + from_peers(z) * (len(z) - 1)
            ),
            "The labels' part is missing.": lambda z, y: from_peers(z),
            "The peers' part is missing.": from_labels,
            "The peers are not detached here: each is pulled towards those that it teaches.": (
                lambda z, y: right(z, y) + as_teacher(z)
            ),
            "The direction of the divergence is reversed: the peer comes first, and its "
            "probabilities are the weights.": lambda z, y: from_labels(z, y) + as_teacher(z),
            "The pull is the wrong way round: a student moves towards its peers.": (
                lambda z, y: from_labels(z, y) - from_peers(z)
            ),
            "This divides by the number of students as well: each has a loss of its own.": (
                lambda z, y: right(z, y) / len(z)
            ),
            "The softmax runs over the batch: it belongs over the classes, the last axis.": (
                other_axis(1)
            ),
            "The softmax runs over the students: it belongs over the classes, the last axis.": (
                other_axis(0)
            ),
        },
        hint="Prediction minus target, twice: with the one-hot label, and with the mean of the "
        "other students' probabilities. Then the mean over the batch.",
    )
    passed("peer_gradients: a label, softened by the others")


def self_distil(student: Function) -> None:
    """Exercise 3: kernel ridge regression, distilled into itself with labels mixed in."""
    random = np.random.default_rng()
    cases = []
    for n, lam, alpha, rounds in ((8, 0.1, 0.7, 3), (12, 0.5, 1.0, 4), (6, 0.2, 0.4, 1)):
        points = np.sort(random.uniform(0, 1, n))
        kernel = np.exp(-abs(points[:, None] - points) / 0.3)
        cases.append((kernel, random.normal(size=n), lam, alpha, rounds))
    kernel, y, *_ = cases[0]
    cases.append((kernel, y, 1.5, 0.2, 6))

    def fits(
        kernel: Array,
        y: Array,
        lam: float,
        alpha: float,
        rounds: int,
        *,
        ridge: Array | None = None,
        start: float = 1.0,
    ) -> tuple[Array, Array]:
        """The last fit, and the targets of the next."""
        identity = np.eye(len(y)) if ridge is None else ridge
        matrix = kernel @ np.linalg.inv(kernel + lam * identity)
        targets, fit = start * y, y
        for _ in range(rounds):
            fit = matrix @ targets
            targets = (1 - alpha) * y + alpha * fit
        return fit, targets

    def right(kernel: Array, y: Array, lam: float, alpha: float, rounds: int) -> Array:
        return fits(kernel, y, lam, alpha, rounds)[0]

    def coefficients(kernel: Array, y: Array, lam: float, alpha: float, rounds: int) -> Array:
        targets = fits(kernel, y, lam, alpha, rounds - 1)[1]
        return np.asarray(np.linalg.solve(kernel + lam * np.eye(len(y)), targets), np.float64)

    def unmixed_start(kernel: Array, y: Array, lam: float, alpha: float, rounds: int) -> Array:
        return fits(kernel, y, lam, alpha, rounds, start=1 - alpha)[0]

    compare(
        student,
        right,
        cases,
        {
            "α weighs the labels here. In this book it weighs the teacher.": (
                lambda k, y, lam, alpha, r: right(k, y, lam, 1 - alpha, r)
            ),
            "The labels are forgotten after the first round: later rounds fit a mixture.": (
                lambda k, y, lam, alpha, r: right(k, y, lam, 1.0, r)
            ),
            "Every round fits the labels alone: where does the last fit come in?": (
                lambda k, y, lam, alpha, r: right(k, y, lam, 0.0, r)
            ),
            "This is one round too many: round 1 is the fit to the labels.": (
                lambda k, y, lam, alpha, r: right(k, y, lam, alpha, r + 1)
            ),
            "This is one round too few: round 1 is the fit to the labels.": (
                lambda k, y, lam, alpha, r: right(k, y, lam, alpha, r - 1)
            ),
            "These are the targets of the next round: return the last fit.": (
                lambda *inputs: fits(*inputs)[1]
            ),
            "Round 1 fits the labels as they are: there is no fit yet to mix in.": unmixed_start,
            "These are the coefficients: the predictions are the kernel matrix times them.": (
                coefficients
            ),
            "λ is added to every entry of the kernel matrix: it belongs on the diagonal.": (
                lambda k, y, lam, alpha, r: fits(
                    k, y, lam, alpha, r, ridge=np.ones((len(y), len(y)))
                )[0]
            ),
            "λ is multiplied by the number of points here: the chapter takes it as it is.": (
                lambda k, y, lam, alpha, r: right(k, y, lam * len(y), alpha, r)
            ),
        },
        hint="A loop over the rounds with two lines: fit the targets, then mix the next targets.",
    )
    passed("self_distil: a stronger regulariser, and what stops it")


def grouped_kl(student: Function) -> None:
    """Exercise 4: the KL divergence between groups of classes and within them."""
    random = np.random.default_rng()
    cases = [(np.array([0.5, 0.25, 0.25]), np.array([0.2, 0.6, 0.2]), np.array([0, 1, 1]))]
    for groups in ([0, 0, 1, 1, 2, 2], [3, 0, 0, 0, 7, 7, 0, 3], [1, 0, 0, 0, 0]):
        shuffled = random.permutation(groups)
        p, q = random.dirichlet(np.ones(len(groups)), size=2) * 0.9 + 0.1 / len(groups)
        cases.append((p, q, shuffled))

    def each(p: Array, q: Array, groups: Array) -> Array:
        """For each group: its totals under p and q, and the divergence inside it."""
        rows = []
        for g in np.unique(groups):
            a, b = p[groups == g], q[groups == g]
            a_hat, b_hat = a / a.sum(), b / b.sum()
            rows.append((a.sum(), b.sum(), (a_hat * np.log(a_hat / b_hat)).sum()))
        return np.array(rows).T

    def parts(p: Array, q: Array, groups: Array) -> Array:
        total_p, total_q, inside = each(p, q, groups)
        return np.array([(total_p * np.log(total_p / total_q)).sum(), (total_p * inside).sum()])

    def with_weights(weights: Callable[[Array, Array], Array]) -> Function:
        def function(p: Array, q: Array, groups: Array) -> tuple[float, float]:
            total_p, total_q, inside = each(p, q, groups)
            return parts(p, q, groups)[0], (weights(total_p, total_q) * inside).sum()

        return function

    def not_renormalised(p: Array, q: Array, groups: Array) -> tuple[float, float]:
        return parts(p, q, groups)[0], (p * np.log(p / q)).sum()

    def of_means(p: Array, q: Array, groups: Array) -> tuple[float, float]:
        """Between the groups' means in the place of their totals."""
        count = np.array([(groups == g).sum() for g in np.unique(groups)])
        total_p, total_q, _ = each(p, q, groups)
        mean_p, mean_q = total_p / count, total_q / count
        return (mean_p * np.log(mean_p / mean_q)).sum(), parts(p, q, groups)[1]

    compare(
        student,
        parts,
        cases,
        {
            "The two are the wrong way round: first between, then within.": (
                lambda *inputs: parts(*inputs)[::-1]
            ),
            "The divergences within the groups are added up without their weights: how often is "
            "the second question asked?": with_weights(lambda p, q: np.ones_like(p)),
            "The weights of the groups are their totals under q: in KL(p || q) it is p that "
            "weighs.": with_weights(lambda p, q: q),
            "The divergences within are averaged over the groups: weigh them with the groups' "
            "totals.": with_weights(lambda p, q: np.full_like(p, 1 / len(p))),
            "Inside a group the probabilities do not add up to 1 yet: divide by the group's "
            "total.": not_renormalised,
            "The direction is reversed: this is KL(q || p).": lambda p, q, g: parts(q, p, g),
            "These are bits: the book counts in nats.": lambda *i: parts(*i) / np.log(2),
            "This is the sum of the two: return both parts.": lambda *i: parts(*i).sum(),
            "Between the groups it is their totals that are compared, not their means.": of_means,
        },
        hint="For each group: its total under p and under q, and, after division by these, the "
        "divergence inside it.",
        not_finite="The groups need not have consecutive numbers: is there one without classes?",
    )
    passed("grouped_kl: one question, and then the next")
