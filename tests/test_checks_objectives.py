"""Each checker passes the solution, and tells a beginner which mistake it was."""

import numpy as np
import pytest
from checking import *  # noqa: F403
from lab_answers import answers
from scipy import stats
from scipy.special import digamma, rel_entr, softmax, xlogy

from distill_lib.checks import objectives as check

CHAPTER = "12-three-objectives"
EXERCISES = ("translate", "lowest_penalty", "kl_ambiguity", "dirichlet_uncertainties")
ALIKE = 1  # message, at most, for two mistakes


# ---- typical mistakes: what a student wrote, and what the message says


def _alpha(lam, tau):
    return 1 / (1 + tau**2 / lam)


def _loss(p, y, lam, q):
    """The soft penalty of an answer, image by image."""
    rows = range(len(y))
    return np.array(
        [-np.log(q[i][y[i]]) + lam * sum(rel_entr(p[i], q[i])) for i in rows], dtype=float
    )


def _reversed(p, y, lam, q):
    return -np.log(q[np.arange(len(y)), y]) + lam * rel_entr(q, p).sum(axis=1)


def _plain_log(p, y, lam):
    q = _vote(p.copy(), y, lam)
    return -np.log(q[np.arange(len(y)), y]) + lam * (p * np.log(p / q)).sum(axis=1)


def _vote(p, y, lam, *, label=1.0, teacher=None, norm=True):
    votes = (lam if teacher is None else teacher) * p
    votes[np.arange(len(y)), y] += label
    return votes / votes.sum(axis=1, keepdims=True) if norm else votes


def _entropy(p):
    return stats.entropy(p, axis=-1)


def _kl(p, q):
    return np.sum(p * (np.log(p) - np.log(q)), axis=-1)


def _middle(q):
    product = np.prod(q, axis=0) ** (1 / len(q))
    return product / product.sum(axis=-1, keepdims=True)


def _both(p, q, middle):
    return _kl(p, middle).mean(), _kl(middle, q).mean()


def _inner(a, one=1):
    a0 = a.sum(axis=1)
    return sum(
        -a[:, k] / a0 * (digamma(a[:, k] + one) - digamma(a0 + one)) for k in range(a.shape[1])
    )


def _total(a):
    return _entropy(a / a.sum(axis=1, keepdims=True))


def _triple(total, inner):
    return total, inner, total - inner


MISTAKES = {
    "translate": [
        (lambda lam, tau, lr: (lr / (1 - _alpha(lam, tau)), _alpha(lam, tau)), "wrong way round"),
        (lambda lam, tau, lr: (lam / (1 + lam), lr * (1 + lam)), "leaves out that your divergence"),
        (lambda lam, tau, lr: (lam / (lam + tau), lr * (lam + tau) / tau), "counts τ for τ²"),
        (
            lambda lam, tau, lr: (1 - 1 / (1 + lam * tau**2), lr * (1 + lam * tau**2)),
            "on the wrong side",
        ),
        (
            lambda lam, tau, lr: (1 - _alpha(lam, tau), lr / (1 - _alpha(lam, tau))),
            "the labels' share",
        ),
        (lambda lam, tau, lr: (_alpha(lam, tau), lr), "With the old learning rate"),
        (
            lambda lam, tau, lr: (_alpha(lam, tau), lr * (1 - _alpha(lam, tau))),
            "goes the wrong way",
        ),
        (
            lambda lam, tau, lr: (_alpha(lam, tau), lr / _alpha(lam, tau)),
            "factor of the divergence alone",
        ),
        (lambda lam, tau, lr: (1 / 17, 0.10625), "is not right yet.* It returns"),
        (lambda lam, tau, lr: _alpha(lam, tau), "returns an array of shape"),
        (lambda lam, tau, lr: None, "returns nothing"),
    ],
    "lowest_penalty": [
        (lambda p, y, lam: (1 + lam) * _entropy(_vote(p, y, lam)), r"the \*cross-entropy\*"),
        (lambda p, y, lam: _entropy(_vote(p, y, lam)), "1 \\+ λ votes"),
        (
            lambda p, y, lam: (1 + lam) * _entropy(_vote(p, y, lam)) + lam * _entropy(p),
            "entropy is added here",
        ),
        (
            lambda p, y, lam: (1 + lam) * _entropy(_vote(p, y, lam)) - _entropy(p),
            "counts as often",
        ),
        (lambda p, y, lam: -np.log(p[np.arange(len(y)), y]), "repeats the teacher"),
        (
            lambda p, y, lam: _loss(p, y, lam, _vote(p, y, lam, label=lam, teacher=1.0)),
            "λ belongs to the teacher",
        ),
        (
            lambda p, y, lam: _loss(p, y, lam, _vote(p, y, lam, teacher=1.0)),
            "equal votes here",
        ),
        (
            lambda p, y, lam: _loss(p, y, lam, _vote(p, y, lam, norm=False)),
            "not counted to the end",
        ),
        (
            lambda p, y, lam: -np.log(_vote(p, y, lam)[np.arange(len(y)), y]),
            "label's part alone",
        ),
        (
            lambda p, y, lam: lam * rel_entr(p, _vote(p, y, lam)).sum(axis=1),
            "divergence's part alone",
        ),
        (lambda p, y, lam: _loss(p, y, lam, _vote(p, y, lam)).mean(), "mean over the images"),
        (lambda p, y, lam: _loss(p, y, 1.0, _vote(p, y, lam)), "price is missing before"),
        (lambda p, y, lam: _reversed(p, y, lam, _vote(p, y, lam)), "the wrong way round: the te"),
        (_plain_log, "a teacher who is certain"),
        (lambda p, y, lam: _plain_log(p, y, lam).mean(), "mean over the images"),
        (lambda p, y, lam: 0 * y, "is not right yet"),
        (lambda p, y, lam: p, "returns an array of shape"),
    ],
    "kl_ambiguity": [
        (lambda p, q: _both(p, q, _middle(q))[::-1], "first what the mean misses"),
        (lambda p, q: _both(p, q, q.mean(axis=0)), "mean of the probabilities here"),
        (
            lambda p, q: (_kl(p, q.mean(0)).mean(), _kl(q, q.mean(0)).mean()),
            "the second term is JS",
        ),
        (lambda p, q: _both(p, q, np.prod(q, axis=0) ** (1 / len(q))), "Where does Z go"),
        (
            lambda p, q: (_kl(p, _middle(q)).mean(), _kl(q, _middle(q)).mean()),
            "second term is the wrong way round",
        ),
        (
            lambda p, q: (_kl(_middle(q), p).mean(), _kl(_middle(q), q).mean()),
            "first term is the wrong way round",
        ),
        (
            lambda p, q: (_kl(_middle(q), p).mean(), _kl(q, _middle(q)).mean()),
            "Both divergences",
        ),
        (
            lambda p, q: (_kl(p, _middle(q)).sum(), _kl(_middle(q), q).mean(0).sum()),
            "sums over the images",
        ),
        (
            lambda p, q: (_kl(p, _middle(q)).mean(), _kl(_middle(q), q).sum(0).mean()),
            "a sum over the students",
        ),
        (
            lambda p, q: (
                (p * np.log(p / _middle(q))).mean(),
                (_middle(q) * np.log(_middle(q) / q)).mean(),
            ),
            "means over the classes",
        ),
        (lambda p, q: (_kl(p, _middle(q)).mean(), _kl(p, q).mean()), "the whole"),
        (lambda p, q: np.array(_both(p, q, _middle(q))) / np.log(2), "These are bits"),
        (lambda p, q: (0.3, 0.1), "is not right yet.* It returns"),
        (lambda p, q: _kl(p, _middle(q)), "returns an array of shape"),
    ],
    "dirichlet_uncertainties": [
        (lambda a: np.stack(_triple(_total(a), _inner(a)), axis=1), "stand in columns"),
        (lambda a: (_total(a), _total(a) - _inner(a), _inner(a)), "exchanged"),
        (lambda a: _triple(_total(a), _inner(a, 0)), "mean of ln π"),
        (lambda a: _triple(_total(a), -_inner(a)), "has a minus sign"),
        (lambda a: (_total(a), _inner(a), _inner(a) - _total(a)), "JS is the wrong way round"),
        (lambda a: _triple(_total(a), _total(a)), "entropy of the mean again"),
        (
            lambda a: _triple(_total(a), np.array([stats.dirichlet.entropy(row) for row in a])),
            "Dirichlet density itself",
        ),
        (lambda a: _triple(-xlogy(a, a).sum(axis=1), _inner(a)), "no probabilities yet"),
        (lambda a: _triple(_entropy(softmax(a, axis=1)), _inner(a)), "not the softmax"),
        (
            lambda a: tuple(u / np.log(2) for u in _triple(_total(a), _inner(a))),
            "These are bits",
        ),
        (
            lambda a: tuple(u.mean() for u in _triple(_total(a), _inner(a))),
            "means over the images",
        ),
        (lambda a: (1.0986, 0.8333, 0.2653), "returns an array of shape"),
        (lambda a: np.ones((3, len(a))), "is not right yet"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    check.translate(lambda lam, tau, lr: [_alpha(lam, tau), lr * (1 + lam / tau**2)])

    def by_the_identity(p, y, lam):
        return (1 + lam) * _entropy(_vote(p.copy(), y, lam)) - lam * _entropy(p)

    check.lowest_penalty(by_the_identity)

    def by_the_constant(p, q):
        """The second term is -ln Z, and the first what is left."""
        second = -np.log(np.exp(np.log(q).mean(axis=0)).sum(axis=-1)).mean()
        return _kl(p, q).mean() - second, second

    check.kl_ambiguity(by_the_constant)
    check.dirichlet_uncertainties(lambda a: np.stack(_triple(_total(a), _inner(a))))


def test_the_smallest_penalty_is_the_smallest():
    """Against random answers: none is lower."""
    solution, random = answers(CHAPTER, cut=False)["lowest_penalty"], np.random.default_rng(0)
    p, y = softmax(random.normal(size=(1, 4)), axis=1), np.array([2])
    for lam in (0.2, 1.0, 9.0):
        lowest = solution(p, y, lam)[0]
        others = [_loss(p, y, lam, random.dirichlet(np.ones(4), size=1))[0] for _ in range(200)]
        assert lowest < min(others)
        assert lowest == pytest.approx(_loss(p, y, lam, _vote(p.copy(), y, lam))[0])


def test_a_student_cannot_spoil_the_inputs():
    solutions = answers(CHAPTER, cut=False)

    def penalty(p, y, lam):
        found = solutions["lowest_penalty"](p, y, lam)
        p[...] = 0
        return found

    def uncertainties(a):
        found = solutions["dirichlet_uncertainties"](a)
        a[...] = 1
        return found

    check.lowest_penalty(penalty)
    check.dirichlet_uncertainties(uncertainties)


def test_inputs_are_drawn_afresh():
    """So that answers learnt by heart fail."""
    seen = []

    def student(a):
        seen.append(a.tolist())
        return _triple(_total(a), _inner(a))

    check.dirichlet_uncertainties(student)
    check.dirichlet_uncertainties(student)
    half = len(seen) // 2
    assert seen[:half] != seen[half:]
