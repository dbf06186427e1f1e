"""Each checker passes the solution, and tells a beginner which mistake it was."""

import numpy as np
import pytest
import torch
from checking import *  # noqa: F403
from lab_answers import answers
from torch.nn import functional as F

from distill_lib.checks import peers as check

CHAPTER = "15-students-teaching-students"
EXERCISES = ("smoothing_teacher", "peer_gradients", "self_distil", "grouped_kl")
ALIKE = 1  # message, at most, for two mistakes


# ---- typical mistakes: what a student wrote, and what the message says


def _smooth(y, k, e):
    return F.one_hot(y, k) * (1 - e) + e / k


def _shifted(p):
    z = p.log()
    return z - z.min(dim=1, keepdim=True).values


def _over_others(y, k, e):
    """A smoothed label that gives ε to the wrong classes alone."""
    hot = F.one_hot(y, k)
    return (1 - e) * hot + e / (k - 1) * (1 - hot)


@torch.enable_grad()  # which the check switches off, for students
def _gradients(z, y, *, detach=True, reverse=False, labels=1.0, mean=True):
    """By autograd, student by student."""
    found = []
    for i in range(len(z)):
        logits = z.clone().requires_grad_()
        log_p = logits.log_softmax(-1)
        losses = []
        for mine in range(len(z)) if not detach else [i]:
            pulls = []
            for j in range(len(z)):
                if j == mine:
                    continue
                peer = log_p[j].detach() if detach else log_p[j]
                a, b = (log_p[mine], peer) if reverse else (peer, log_p[mine])
                pulls.append((a.exp() * (a - b)).sum(-1).mean())
            together = sum(pulls) / len(pulls) if mean else sum(pulls)
            losses.append(labels * F.nll_loss(log_p[mine], y) + together)
        found.append(torch.autograd.grad(sum(losses), logits)[0][i])
    return torch.stack(found)


def _autograd(z, y):
    z = z.clone().requires_grad_()
    log_p = z.log_softmax(-1)
    loss = sum(F.nll_loss(own, y) for own in log_p)
    return torch.autograd.grad(loss, z)[0]


def _own_left_in(z, y):
    p = z.softmax(-1)
    others = p.sum(0) / (len(z) - 1)
    return (2 * p - F.one_hot(y, z.shape[-1]) - others) / z.shape[1]


def _pull_of_all(z, y):
    p = z.softmax(-1)
    return (p - F.one_hot(y, z.shape[-1]) + p - p.mean(0)) / z.shape[1]


def _softmax_over(dim):
    def student(z, y):
        p = z.softmax(dim)
        others = (p.sum(0) - p) / (len(z) - 1)
        return (2 * p - F.one_hot(y, z.shape[-1]) - others) / z.shape[1]

    return student


def _distil(kernel, y, lam, alpha, rounds, *, ridge=None, extra=0, give="fit", first=1.0):
    identity = np.eye(len(y)) if ridge is None else ridge(len(y))
    targets, fit, c = first * y, y, y
    for _ in range(rounds + extra):
        c = np.linalg.solve(kernel + lam * identity, targets)
        fit = kernel @ c
        targets = (1 - alpha) * y + alpha * fit
    return {"fit": fit, "targets": targets, "coefficients": c}[give]


def _grouped(p, q, groups, *, weight="p", hat=True, total=np.sum, numbers=None):
    between = within = 0.0
    for g in numbers or set(groups.tolist()):
        a, b = p[groups == g], q[groups == g]
        between += total(a) * np.log(total(a) / total(b))
        share = {"p": a.sum(), "q": b.sum(), "one": 1, "mean": 1 / len(set(groups.tolist()))}
        if hat:
            a, b = a / a.sum(), b / b.sum()
            within += share[weight] * np.sum(a * np.log(a / b))
        else:
            within += np.sum(a * np.log(a / b))
    return between, within


MISTAKES = {
    "smoothing_teacher": [
        (_smooth, "which are probabilities"),
        (lambda y, k, e: _smooth(y, k, e).log(), "smallest logit of a row should be 0"),
        (lambda y, k, e: np.log((1 - e) / (e / k)) * F.one_hot(y, k), "the right one too"),
        (lambda y, k, e: _shifted(_over_others(y, k, e)), "not to the K - 1 wrong ones"),
        (
            lambda y, k, e: _shifted(_smooth(y, k, e)).exp() * F.one_hot(y, k),
            "differ by its logarithm",
        ),
        (
            lambda y, k, e: _shifted(_smooth(y, k, e)).max() - _shifted(_smooth(y, k, e)),
            "gets the smallest logit",
        ),
        (lambda y, k, e: torch.zeros(len(y), k), "does not know the label"),
        (lambda y, k, e: F.one_hot(y, k), "does not depend on ε"),
        (lambda y, k, e: _shifted(_smooth(y, k, e)).T, "the other way round"),
        (lambda y, k, e: _shifted(_smooth(y, k, e)) / np.log(2), "to base 2"),
        (lambda y, k, e: 4.51 * F.one_hot(y, k), "is not right yet"),
        (lambda y, k, e: None, "returns nothing"),
    ],
    "peer_gradients": [
        (lambda z, y: z.shape[1] * _gradients(z, y), "batch mean is missing"),
        (lambda z, y: -_gradients(z, y), "The sign is wrong"),
        (_pull_of_all, "among its own peers"),
        (_own_left_in, "own probability is not taken out"),
        (_autograd, "Autograd is switched off"),
        (lambda z, y: _gradients(z, y, mean=False), "sum over the peers"),
        (lambda z, y: _gradients(z, y, labels=0.0), "labels' part is missing"),
        (
            lambda z, y: (z.softmax(2) - F.one_hot(y, z.shape[2])) / z.shape[1],
            "peers' part is missing",
        ),
        (lambda z, y: _gradients(z, y, detach=False), "not detached"),
        (lambda z, y: _gradients(z, y, reverse=True), "direction of the divergence"),
        (
            lambda z, y: (
                2 * (z.softmax(2) - F.one_hot(y, z.shape[2])) / z.shape[1] - _gradients(z, y)
            ),
            "pull is the wrong way round",
        ),
        (lambda z, y: _gradients(z, y) / len(z), "number of students as well"),
        (_softmax_over(1), "over the batch"),
        (_softmax_over(0), "over the students"),
        (lambda z, y: torch.zeros_like(z), "is not right yet"),
        (lambda z, y: _gradients(z, y)[0], "returns an array of shape"),
    ],
    "self_distil": [
        (lambda k, y, lam, a, r: _distil(k, y, lam, 1 - a, r), "weighs the labels"),
        (lambda k, y, lam, a, r: _distil(k, y, lam, 1, r), "forgotten after the first round"),
        (lambda k, y, lam, a, r: _distil(k, y, lam, 0, r), "fits the labels alone"),
        (lambda *i: _distil(*i, extra=1), "one round too many"),
        (lambda *i: _distil(*i, extra=-1), "one round too few"),
        (lambda *i: _distil(*i, give="targets"), "targets of the next round"),
        (
            lambda k, y, lam, a, r: _distil(k, y, lam, a, r, first=1 - a),
            "no fit yet to mix in",
        ),
        (lambda *i: _distil(*i, give="coefficients"), "These are the coefficients"),
        (lambda *i: _distil(*i, ridge=lambda n: np.ones((n, n))), "belongs on the diagonal"),
        (lambda *i: _distil(*i, ridge=lambda n: n * np.eye(n)), "multiplied by the number"),
        (lambda k, y, lam, a, r: np.zeros(len(y)), "is not right yet"),
        (lambda k, y, lam, a, r: y, "is not right yet"),
    ],
    "grouped_kl": [
        (lambda *i: _grouped(*i)[::-1], "wrong way round: first between"),
        (lambda *i: _grouped(*i, weight="one"), "without their weights"),
        (lambda *i: _grouped(*i, weight="q"), "totals under q"),
        (lambda *i: _grouped(*i, weight="mean"), "averaged over the groups"),
        (lambda *i: _grouped(*i, hat=False), "do not add up to 1 yet"),
        (lambda p, q, g: _grouped(q, p, g), "direction is reversed"),
        (lambda *i: np.array(_grouped(*i)) / np.log(2), "These are bits"),
        (lambda *i: sum(_grouped(*i)), "return both parts"),
        (lambda *i: _grouped(*i, total=np.mean), "not their means"),
        (lambda p, q, g: _grouped(p, q, g, numbers=range(g.max() + 1)), "one without classes"),
        (lambda *i: (0.1, 0.2), "is not right yet"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    check.smoothing_teacher(lambda y, k, e: _shifted(_smooth(y, k, e)).numpy())
    check.peer_gradients(_gradients)
    check.self_distil(_distil)
    check.grouped_kl(_grouped)

    def by_the_spectrum(kernel, y, lam, alpha, rounds):
        d, v = np.linalg.eigh(kernel)
        s = d / (d + lam)
        limit = (1 - alpha) * s / (1 - alpha * s)
        return v @ ((limit + (alpha * s) ** (rounds - 1) * (s - limit)) * (v.T @ y))

    check.self_distil(by_the_spectrum)


def test_a_student_cannot_spoil_the_inputs():
    solutions = answers(CHAPTER, cut=False)

    def gradients(z, y):
        found = solutions["peer_gradients"](z, y)
        z[...] = 0
        return found

    def distil(kernel, y, *rest):
        found = solutions["self_distil"](kernel, y, *rest)
        y[...] = 0
        return found

    check.peer_gradients(gradients)
    check.self_distil(distil)


def test_inputs_are_drawn_afresh():
    """So that answers learnt by heart fail."""
    seen = []

    def student(p, q, groups):
        seen.append((p.tolist(), groups.tolist()))
        return _grouped(p, q, groups)

    check.grouped_kl(student)
    check.grouped_kl(student)
    half = len(seen) // 2
    assert seen[:half] != seen[half:]


def test_checkers_are_stable():
    """Random inputs never fail a right answer, nor pass a wrong one."""
    solutions = answers(CHAPTER, cut=False)
    for repeat in range(20):
        for name in EXERCISES:
            getattr(check, name)(solutions[name])
            for student, message in MISTAKES[name][repeat % 4 :: 4]:  # each five times
                with np.errstate(all="ignore"), pytest.raises(AssertionError, match=message):
                    getattr(check, name)(student)
