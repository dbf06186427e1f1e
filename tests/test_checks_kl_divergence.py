"""Each checker passes the solution, and tells a beginner which mistake it was."""

import ast

import numpy as np
import pytest
import torch
from checking import *  # noqa: F403
from lab_answers import answers, cells
from scipy.special import rel_entr, xlogy
from torch.nn import functional as F

from distill_lib.checks import kl_divergence as check
from distill_lib.information import (
    cross_entropy,
    entropy,
    gaussian_kl_divergence,
    js_divergence,
    kl_divergence,
)

CHAPTER = "02-kl-divergence"
EXERCISES = ("one_way", "batch_kl", "best_gaussian", "disagreement", "decoupled")
FEWEST = 8  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def _hard(p):
    return np.eye(len(p))[np.argmax(p)]


def _soft(p):
    return (p + 1 / len(p)) / 2


def _elsewhere(p):
    """Half on one class that p allows, half on one that it rules out."""
    return (_hard(p) + np.eye(len(p))[np.argmin(p)]) / 2


def _batch(reduction="batchmean", *, swap=False, student=F.log_softmax, dim=1, target=F.softmax):
    def batch_kl(z, v):
        if swap:
            z, v = v, z
        return F.kl_div(student(z, dim=dim), target(v, dim=dim), reduction=reduction)

    return batch_kl


def _naive_kl(z, v):
    p, q = v.softmax(dim=1), z.softmax(dim=1)
    return (p * (p / q).log()).sum(dim=1).mean()


def _each(z, v):
    return F.kl_div(z.log_softmax(1), v.softmax(1), reduction="none").sum(dim=1)


def _width(w, m, s):
    return np.sqrt(w @ (s**2 + m**2) - (w @ m) ** 2)


def _js(ps, middle, w):
    return w @ rel_entr(ps, middle).sum(axis=1)


def _even(w):
    return np.ones(len(w)) / len(w)


def _parts(p, q, target):
    rows = np.arange(len(p))
    p_t, q_t = p[rows, target], q[rows, target]
    tckd = rel_entr(p_t, q_t) + rel_entr(1 - p_t, 1 - q_t)
    return p_t, tckd, (rel_entr(p, q).sum(axis=1) - tckd) / (1 - p_t)


def _decoupled(p, q, target):
    _, tckd, nckd = _parts(p, q, target)
    return tckd, nckd


def _weighted(p, q, target):
    p_t, tckd, nckd = _parts(p, q, target)
    return tckd, (1 - p_t) * nckd


def _half_of_the_first(p, q, target):
    rows = np.arange(len(p))
    return rel_entr(p[rows, target], q[rows, target]), _decoupled(p, q, target)[1]


def _other_terms(p, q, target, normalise=False):
    p, q = p.copy(), q.copy()
    for r in (p, q):
        r[np.arange(len(r)), target] = 0
        if normalise:
            r /= r.sum(axis=1, keepdims=True)
    return p, q


def _not_normalised(p, q, target):
    return _parts(p, q, target)[1], rel_entr(*_other_terms(p, q, target)).sum(axis=1)


def _all_nan(p, q, target):
    p_o, q_o = _other_terms(p, q, target, normalise=True)
    return _parts(p, q, target)[1], (p_o * np.log(p_o / q_o)).sum(axis=1)


def _nan_where_impossible(p, q, target):
    keep = np.ones(p.shape, dtype=bool)
    keep[np.arange(len(p)), target] = False
    p_o, q_o = (r[keep].reshape(len(r), -1) for r in (p, q))
    p_o, q_o = (r / r.sum(axis=1, keepdims=True) for r in (p_o, q_o))
    return _parts(p, q, target)[1], (p_o * np.log(p_o / q_o)).sum(axis=1)


MISTAKES = {
    "one_way": [
        (lambda p: (_soft(p), _hard(p)), "the wrong way round"),
        (lambda p: (_hard(p), _hard(p)), r"b rules out a class .* other direction"),
        (lambda p: (_soft(p), _soft(p)), r"a allows a class .* other direction"),
        (lambda p: (p, _soft(p)), "a is infinitely far from p neither way"),
        (lambda p: (_hard(p), p), "b is infinitely far from p neither way"),
        (lambda p: (0.999 * _hard(p) + 0.001 * p, _soft(p)), "A tiny probability is not a zero"),
        (lambda p: (_elsewhere(p), _soft(p)), "a is infinitely far from p both ways"),
        (lambda p: (2 * _hard(p), _soft(p)), "probabilities of a add up to 2"),
        (lambda p: (_hard(p), p + 0.1), "probabilities of b add up to"),
        (lambda p: (_hard(p), 2 * p - _soft(p)), "never negative"),
        (lambda p: (np.log(_hard(p)), _soft(p)), "never negative"),
        (lambda p: (np.array([1.0, 0.0]), _soft(p)), "a has shape .*same classes"),
        (lambda p: ({}, _soft(p)), "a is a dict: expected an array"),
        (lambda p: _hard(p), "return two distributions"),
        (lambda p: print(p), "returns nothing"),
        (lambda p: (np.array([1.0, 0, 0]), np.array([0.5, 0.25, 0.25])), "a has shape"),
    ],
    "batch_kl": [
        (_batch("mean"), "reduction='mean' averages over the classes too"),
        (_batch("sum"), "the sum over the batch"),
        (_each, "One number an image"),
        (_batch(swap=True), "the other direction"),
        (_batch(student=lambda z, dim: z), "need a log_softmax"),
        (_batch(student=F.softmax), "can even be negative"),
        (_batch("mean", student=F.softmax), "where log-probabilities belong, and 'mean'"),
        (_batch(target=F.log_softmax), "NaN throughout"),
        (_batch(dim=0), "softmax runs over the batch: it"),
        (lambda z, v: _each(z.T, v.T).mean(), "and so does the sum"),
        (lambda z, v: F.cross_entropy(z, v.softmax(1)), "the cross-entropy"),
        (lambda z, v: _each(z, v).mean() / np.log(2), "in bits"),
        (lambda z, v: -_each(z, v).mean(), "sign is wrong"),
        (_naive_kl, "Right for small logits, but not at 1000"),
        (_batch(student=lambda z, dim: z.softmax(dim).log()), "Right for small logits"),
        (lambda z, v: _each(z, v).mean().item(), "no gradient reaches"),
        (lambda z, v: (_each(z, v) + _each(z, v).detach()).mean() / 2, "its gradient is not"),
        (lambda z, v: _each(z.detach(), v.detach()).mean(), "no gradient reaches"),
        (lambda z, v: torch.tensor(0.5), "is not right yet.* It returns 0.5"),
        (lambda z, v: F.mse_loss(z, v), "is not right yet"),
        (lambda z, v: None, "returns nothing"),
    ],
    "best_gaussian": [
        (lambda w, m, s: (w @ m, _width(w, m, s) ** 2), "the variance: return the width"),
        (lambda w, m, s: (w @ m, w @ s), "the mean of the widths"),
        (lambda w, m, s: (w @ m, np.sqrt(w @ s**2)), "root of the mean variance"),
        (lambda w, m, s: (w @ m, np.sqrt(w @ (m - w @ m) ** 2)), "only how far the parts"),
        (lambda w, m, s: (w @ m, np.sqrt(w @ (s**2 + m**2))), "about 0 and not about the mean"),
        (lambda w, m, s: (m.mean(), np.sqrt((s**2).mean() + m.var())), "use the weights"),
        (lambda w, m, s: (m[np.argmax(w)], s[np.argmax(w)]), "as the reverse direction"),
        (lambda w, m, s: (w @ m, np.sqrt(w @ s + w @ (m - w @ m) ** 2)), "square them first"),
        (lambda w, m, s: (_width(w, m, s), w @ m), "width comes first"),
        (lambda w, m, s: (0.0, 3.0806), "is not right yet"),
        (lambda w, m, s: w @ m, "shape .* is expected"),
        (lambda w, m, s: (w @ m, np.sqrt(-(w @ s))), "returns .*nan"),
    ],
    "disagreement": [
        (lambda ps, w: _js(ps, ps.mean(axis=0), _even(w)), "use the weights"),
        (lambda ps, w: _js(ps, ps.mean(axis=0), w), "takes no weights here"),
        (lambda ps, w: _js(ps, w @ ps, _even(w)), "in the middle only"),
        (lambda ps, w: entropy(w @ ps), "the entropy of the mean, all of the doubt"),
        (lambda ps, w: w @ entropy(ps), "the mean entropy, each teacher's own doubt"),
        (lambda ps, w: w @ rel_entr(w @ ps, ps).sum(axis=1), "Turn it round"),
        (lambda ps, w: w @ rel_entr(ps[:, None], ps).sum(axis=2) @ w, "in pairs"),
        (lambda ps, w: w @ (ps * np.log(ps / (w @ ps))).sum(axis=1), "0 log 0"),
        (lambda ps, w: _js(ps, w @ ps, w) / np.log(2), "in bits"),
        (lambda ps, w: w @ entropy(ps) - entropy(w @ ps), "sign is wrong"),
        (lambda ps, w: np.sqrt(_js(ps, w @ ps, w)), "This is its root"),
        (lambda ps, w: np.mean(w * rel_entr(ps, w @ ps).sum(axis=1)), "in it twice"),
        (lambda ps, w: np.log(2), "is not right yet.* It returns 0.69"),
        (lambda ps, w: rel_entr(ps, w @ ps).sum(axis=1), "shape .* is expected"),
    ],
    "decoupled": [
        (_weighted, "already has the weight"),
        (_not_normalised, "don't add up to 1"),
        (_half_of_the_first, "only half of a divergence"),
        (lambda p, q, t: _decoupled(q, p, t), "the teacher comes first"),
        (lambda p, q, t: _decoupled(p, q, t)[::-1], "TCKD first"),
        (lambda p, q, t: (_parts(p, q, t)[1], kl_divergence(p, q)), "the whole divergence"),
        (lambda p, q, t: _decoupled(p, q, p.argmax(axis=1)), "first choice"),
        (lambda p, q, t: _decoupled(p, q, t[0]), "same class is left out in every row"),
        (lambda p, q, t: np.array(_decoupled(p, q, t)) / np.log(2), "in bits"),
        (lambda p, q, t: [part.mean() for part in _decoupled(p, q, t)], "means over the batch"),
        (_nan_where_impossible, "rules out.$"),
        (_all_nan, "All rows are NaN"),
        (lambda p, q, t: kl_divergence(p, q), "shape .* is expected"),
        (lambda p, q, t: (np.full(len(p), 0.1), np.full(len(p), 0.2)), "is not right yet"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    def by_torch(z, v):
        log_p, log_q = v.log_softmax(-1), z.log_softmax(-1)
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

    def by_difference(z, v):
        log_p = v.log_softmax(-1)
        return F.cross_entropy(z, log_p.exp()) + (log_p.exp() * log_p).sum(-1).mean()

    check.one_way(lambda p: [_hard(p).tolist(), np.full(len(p), 1 / len(p))])
    check.batch_kl(by_torch)
    check.batch_kl(by_difference)
    check.best_gaussian(lambda w, m, s: [w @ m, _width(w, m, s)])
    check.disagreement(lambda ps, w: _js(ps, w @ ps, w))
    check.decoupled(_decoupled)


def test_answers_learnt_by_heart_fail(name):
    """Since some of the inputs are drawn afresh."""
    solution = answers(CHAPTER, cut=False)[name]
    learnt = []

    def writes_down(*inputs):
        learnt.append(solution(*inputs))
        return learnt[-1]

    getattr(check, name)(writes_down)
    recited = iter(learnt)
    with pytest.raises(AssertionError):
        getattr(check, name)(lambda *inputs: next(recited))


def test_a_student_cannot_spoil_the_inputs():
    def spoils(ps, w):
        right = _js(ps, w @ ps, w)
        ps[...] = 0
        return right

    check.disagreement(spoils)


# ---- the chapter and the library


def _defined(*ids):
    """The functions that these cells of the chapter define."""
    source = "\n".join(cells(CHAPTER)[name].source for name in ids)
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    defined = {"np": np, "xlogy": xlogy}
    exec(compile(ast.Module(functions, type_ignores=[]), CHAPTER, "exec"), defined)
    return defined


@pytest.mark.parametrize("arguments", [{}, {"base": 2}, {"axis": 0, "base": 10}])
def test_chapter_and_library_define_the_same_divergences(arguments):
    defined = _defined("define-divergences", "define-js")
    p, q = np.random.default_rng(0).dirichlet(np.ones(5), size=(2, 4))
    p[0], q[1] = [0, 0, 1, 0, 0], [0.5, 0.5, 0, 0, 0]
    if "axis" in arguments:
        p, q = p.T, q.T
    for ours in (cross_entropy, kl_divergence, js_divergence):
        theirs = defined[ours.__name__]
        expected = ours(p, q, **arguments)
        np.testing.assert_allclose(theirs(p, q, **arguments), expected, rtol=1e-12, atol=1e-15)
    assert np.isinf(expected).sum() == 0 and np.isinf(kl_divergence(p, q, **arguments)).sum() == 1


def test_chapter_and_library_define_the_same_gaussian_divergence():
    defined = _defined("define-gaussian-kl")
    for arguments in ((0.0, 1.0, 1.0, 2.25), (-3.0, 0.49, 2.0, 9.0), (1.0, 4.0, 1.0, 4.0)):
        assert defined["gaussian_kl_divergence"](*arguments) == pytest.approx(
            gaussian_kl_divergence(*arguments), abs=1e-14
        )
