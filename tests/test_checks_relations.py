"""Each checker passes the solution, and tells a beginner which mistake it was."""

import numpy as np
import torch
from checking import *  # noqa: F403
from torch.nn import functional as F

from distill_lib.checks import relations as check
from distill_lib.relations import similarity_preserving_loss

CHAPTER = "14-structural-distillers"
EXERCISES = ("cosine_loss", "linear_cka", "neighbour_loss", "map_from_distances")
FEWEST = 6  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def _cosines(a, dim=1):
    a = F.normalize(a, dim=dim)
    return a @ a.T


def _squares(s, t, dim=1):
    return (_cosines(s, dim) - _cosines(t, dim)).square()


def _lengths_detached(s, t):
    rows = s / s.norm(dim=1, keepdim=True).detach()
    return _others((rows @ rows.T - _cosines(t)).square()).mean()


def _others(square):
    return square[~torch.eye(len(square), dtype=torch.bool)]


def _free(a, dim=0):
    return a - a.mean(dim=dim, keepdim=True)


def _cka(a, b, centre=_free, power=2):
    a, b = centre(a), centre(b)
    return (a.T @ b).norm() ** power / ((a.T @ a).norm() * (b.T @ b).norm())


def _scores(a, tau, *, cosine=True, itself=False):
    a = F.normalize(a, dim=1) if cosine else a
    scores = a @ a.T / tau
    return scores if itself else _others(scores).view(len(a), -1)


def _neighbours(s, t, tau, reduction="batchmean", **how):
    log_q, log_p = (_scores(a, tau, **how).log_softmax(1) for a in (s, t))
    return F.kl_div(log_q, log_p, reduction=reduction, log_target=True)


def _masked(s, t, tau):
    """With -inf on the diagonal, and the sum by hand: 0 times infinity."""
    log_q, log_p = (
        (_cosines(a) / tau).fill_diagonal_(-torch.inf).log_softmax(dim=1) for a in (s, t)
    )
    return (log_p.exp() * (log_p - log_q)).sum() / len(s)


def _hard(s, t, tau):
    return F.cross_entropy(_scores(s, tau), _scores(t, tau).argmax(dim=1))


def _kernel(s, t, tau):
    q, p = ((1 + _others(_cosines(a)).view(len(a), -1)) / tau for a in (s, t))
    q, p = q / q.sum(1, keepdim=True), p / p.sum(1, keepdim=True)
    return (p * (p / q).log()).sum() / len(s)


def _map(
    distances, k, *, power=2, factor=-0.5, centre=True, root=0.5, order=-1, clip=True, table=None
):
    n = len(distances)
    table = distances**power if table is None else table
    centring = np.eye(n) - (1 / n if centre else 0)
    values, vectors = np.linalg.eigh(factor * centring @ table @ centring)
    keep = np.argsort(values)[::order][:k]
    values = values.clip(min=0) if clip else values
    return vectors[:, keep] * values[keep] ** root


MISTAKES = {
    "cosine_loss": [
        (lambda s, t: None, "returns nothing: is there a `return`"),
        (lambda s, t: _squares(s, t).mean(), "mean is over all B² entries"),
        (lambda s, t: _squares(s, t).sum(), "sum over the pairs"),
        (lambda s, t: _squares(s, t).triu(1).sum() / len(s) / (len(s) - 1), "once in the sum"),
        (lambda s, t: 2 * _others(_squares(s, t)).mean(), "counts each pair twice"),
        (lambda s, t: len(s) * _others(_squares(s, t)).mean(), "mean for each sample"),
        (lambda s, t: _others((_cosines(s) - _cosines(t)).abs()).mean(), "not squared"),
        (lambda s, t: _others((s @ s.T - t @ t.T).square()).mean(), "inner products: divide"),
        (lambda s, t: _others(_squares(s, t, dim=0)).mean(), "whole columns were brought"),
        (lambda s, t: _others(_squares(_free(s), _free(t))).mean(), "centred first"),
        (similarity_preserving_loss, "the similarity-preserving loss"),
        (lambda s, t: _others(_squares(s, t)).mean().item(), "no gradient reaches"),
        (_lengths_detached, "its gradient is not"),
        (lambda s, t: _squares(s, t), "shape .* is expected"),
        (lambda s, t: 0.25, "is not right yet.* It returns 0.25"),
    ],
    "linear_cka": [
        (lambda a, b: _cka(a, b, lambda x: x), "are not centred"),
        (lambda a, b: _cka(a, b, lambda x: _free(x, 1)), "mean of each .sample. was taken off"),
        (lambda a, b: _cka(a, b, lambda x: x - x.mean()), "One mean was taken off"),
        (lambda a, b: _cka(a, b, power=1), "numerator is not squared"),
        (
            lambda a, b: (
                (_free(a).T @ _free(b)).square().sum()
                / _free(a).square().sum()
                / _free(b).square().sum()
            ),
            "belong to AᵀA and BᵀB, not to A and B.$",
        ),
        (
            lambda a, b: (_free(a).T @ _free(b)).norm() / _free(a).norm() / _free(b).norm(),
            "and the numerator is squared",
        ),
        (lambda a, b: 1 - _cka(a, b), "one minus the alignment"),
        (lambda a, b: _cka(a, b).sqrt(), "square root of the alignment"),
        (
            lambda a, b: (
                _cka(a, b) / (_free(a).T @ _free(a)).norm() / (_free(b).T @ _free(b)).norm()
            ),
            "denominator is squared as well",
        ),
        (lambda a, b: 1.0, "is not right yet.* It returns 1.0"),
        (lambda a, b: a @ b, "stopped with RuntimeError"),
    ],
    "neighbour_loss": [
        (lambda s, t, tau: _neighbours(s, t, tau, itself=True), "among its own neighbours"),
        (lambda s, t, tau: _neighbours(t, s, tau), "wrong way round"),
        (lambda s, t, tau: _neighbours(s, t, 1 / tau), "multiplied by τ"),
        (lambda s, t, tau: _neighbours(s, t, 1), "temperature is not used"),
        (lambda s, t, tau: _neighbours(s, t, tau, cosine=False), "asks for cosines"),
        (lambda s, t, tau: _neighbours(s, t, tau, "sum"), "sum over the batch"),
        (lambda s, t, tau: _neighbours(s, t, tau, "mean"), "number of neighbours as well"),
        (lambda s, t, tau: _neighbours(s, t, tau) / len(s), "number of samples twice"),
        (lambda s, t, tau: tau**2 * _neighbours(s, t, tau), "factor τ² is on it"),
        (
            lambda s, t, tau: F.cross_entropy(_scores(s, tau), _scores(t, tau).softmax(1)),
            "This is the cross-entropy",
        ),
        (_kernel, "the chapter's kernel"),
        (_masked, r"returns nan. .*0 · \(-inf\)"),
        (
            lambda s, t, tau: F.kl_div(*(_scores(a, tau).log_softmax(1) for a in (s, t))),
            "returns nan. .*log_target",
        ),
        (lambda s, t, tau: _neighbours(s, t, tau).detach(), "no gradient reaches"),
        (_hard, "is not right yet"),
        (lambda s, t, tau: 0.1, "is not right yet.* It returns 0.1"),
    ],
    "map_from_distances": [
        (lambda d, k: None, "returns nothing: is there a `return`"),
        (lambda d, k: _map(d, k).T, r"shape \(2, 3\) for 3 points in 2"),
        (lambda d, k: _map(d, len(d)), "for 3 points in 2 dimensions"),
        (lambda d, k: _map(d, k) * (1 + 0j), "complex numbers"),
        (lambda d, k: _map(d, k, order=1, clip=False) / 0, "not finite"),
        (lambda d, k: _map(d, k, power=1), "not squared"),
        (lambda d, k: _map(d, k, clip=False), "has no root. Rounding"),
        (lambda d, k: _map(d, k, table=d @ d, clip=False), "how the distances are squared"),
        (lambda d, k: _map(d, k, table=d @ d), "squared by itself"),
        (lambda d, k: _map(d, k, factor=-1), "too large by a factor √2"),
        (lambda d, k: _map(d, k, factor=0.5), "sign is wrong"),
        (lambda d, k: _map(d, k, centre=False), "not centred"),
        (lambda d, k: _map(d, k, root=0), "eigenvectors still have length 1"),
        (lambda d, k: _map(d, k, root=1), "an eigenvalue is a squared length"),
        (lambda d, k: _map(d, k, order=1), "the smallest eigenvalues"),
        (lambda d, k: np.zeros((len(d), k)), "fall on one another"),
        (lambda d, k: d[:, :k], "off by"),
        (
            lambda d, k: _map(d, k) if len(d) == 3 else np.eye(len(d))[:, :k],
            "larger sets of points do not",
        ),
    ],
}


def test_a_right_answer_by_another_way_passes():
    def pairs(s, t):
        n = len(s)
        each = [
            (F.cosine_similarity(s[i], s[j], dim=0) - F.cosine_similarity(t[i], t[j], dim=0)) ** 2
            for i in range(n)
            for j in range(i)
        ]
        return sum(each) / len(each)

    def kernels(a, b):
        k, m = _free(a) @ _free(a).T, _free(b) @ _free(b).T
        return ((k * m).sum() / (k.norm() * m.norm())).item()

    def cross_entropies(s, t, tau):
        p = _scores(t, tau).softmax(1)
        return F.cross_entropy(_scores(s, tau), p) - F.cross_entropy(_scores(t, tau), p)

    def turned(distances, k):
        return 7 - _map(distances, k)[:, ::-1]

    check.cosine_loss(pairs)
    check.linear_cka(kernels)
    check.neighbour_loss(cross_entropies)
    check.map_from_distances(turned)


def test_inputs_are_drawn_afresh():
    """So that answers learnt by heart fail."""
    seen = []

    def student(a, b):
        seen.append(a.clone())
        return _cka(a, b)

    check.linear_cka(student)
    check.linear_cka(student)
    half = len(seen) // 2
    assert not any(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_a_student_cannot_spoil_the_inputs():
    def student(a, b):
        right = _cka(a, b)
        a.zero_()
        return right

    def spoilt(distances, k):
        points = _map(distances, k)
        distances[:] = 0
        return points

    check.linear_cka(student)
    check.map_from_distances(spoilt)
