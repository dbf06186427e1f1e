"""Each checker passes the solution, and tells a beginner which mistake it was."""

import numpy as np
from checking import *  # noqa: F403
from lab_answers import answers
from scipy.special import log_softmax, softmax

from distill_lib.checks import what_distillation_maximises as check
from distill_lib.information import entropy, kl_divergence

CHAPTER = "05-what-distillation-maximises"
EXERCISES = ("information_bound", "information_lost", "best_merger", "cold_limit")
ALIKE = 2  # messages, at most, for two mistakes


# ---- typical mistakes: what a student wrote, and what the message says


def _bound(v, z, tau, *, h=None, loss=None, hot=None):
    p = softmax(v / tau, axis=1)
    log_q = log_softmax(z / (hot or tau), axis=1)
    h = entropy(p.mean(axis=0)) if h is None else h(p)
    return h - (-(p * log_q).sum(axis=1).mean() if loss is None else loss(p, log_q))


def _with_top(v, z, tau, *, both):
    top = v.argmax(axis=1)
    p = softmax(v / tau, axis=1)
    h = entropy(np.bincount(top, minlength=v.shape[1]) / len(top) if both else p.mean(axis=0))
    return h + log_softmax(z / tau, axis=1)[np.arange(len(top)), top].mean()


def _softmax_then_log(v, z, tau, epsilon=0.0):
    p, q = softmax(v / tau, axis=1), softmax(z / tau, axis=1)
    return entropy(p.mean(axis=0)) + (p * np.log(q + epsilon)).sum(axis=1).mean()


def _lost(p_x, p_t, groups, *, inside=None, outside=None, turned=False, summed=False):
    total = 0.0
    inside, outside = (p_x if weights is None else weights for weights in (inside, outside))
    for z in np.unique(groups):
        its = np.flatnonzero(groups == z)
        centre = np.average(p_t[its], axis=0, weights=inside[its])
        for x in its:
            pair = (centre, p_t[x]) if turned else (p_t[x], centre)
            total += kl_divergence(*pair) * (1 if summed else outside[x])
    return total


def _even(p_x):
    return np.full(len(p_x), 1 / len(p_x))


def _h_given_z(p_x, p_t, groups):
    total = 0.0
    for z in np.unique(groups):
        its = groups == z
        total += p_x[its].sum() * entropy(p_x[its] @ p_t[its] / p_x[its].sum())
    return total


def _plain_log(p_x, p_t, groups):
    centres = np.array([np.average(p_t[groups == z], 0, p_x[groups == z]) for z in groups])
    return p_x @ (p_t * np.log(p_t / centres)).sum(axis=1)


def _every_number(p_x, p_t, groups):
    """With the mean of groups that nobody belongs to."""
    sizes = np.bincount(groups, p_x)
    return np.sum(_lost(p_x, p_t, groups) * sizes / sizes)


def _groups_alike(p_x, p_t, groups):
    values = []
    for z in np.unique(groups):
        its = groups == z
        weights = p_x[its] / p_x[its].sum()
        values.append(entropy(weights @ p_t[its]) - weights @ entropy(p_t[its]))
    return np.mean(values)


def _by_a_small_tau(z, v, tau=1e-3):
    log_p, log_q = log_softmax(v / tau, axis=1), log_softmax(z / tau, axis=1)
    return tau * (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()


def _pairs(cost, *, best=min, give=lambda pair, price: pair):
    def best_merger(p_x, p_t):
        n = len(p_x)
        prices = {(i, j): cost(p_x, p_t, i, j) for i in range(n) for j in range(i + 1, n)}
        pair = best(prices, key=prices.get)
        return give(pair, prices[pair])

    return best_merger


def _price(p_x, p_t, i, j):
    weights = p_x[[i, j]]
    merged = weights @ p_t[[i, j]] / weights.sum()
    return weights.sum() * entropy(merged) - weights @ entropy(p_t[[i, j]])


def _favourite(z, v):
    return z.max(axis=1) - z[np.arange(len(v)), v.argmax(axis=1)]


MISTAKES = {
    "information_bound": [
        (lambda v, z, t: _bound(v, z, t, h=lambda p: entropy(p).mean()), "minus the mean KL"),
        (lambda v, z, t: -_bound(v, z, t, h=lambda p: entropy(p).mean()), "the gap of the bound"),
        (lambda v, z, t: _with_top(v, z, t, both=False), r"top answer for its label.*class"),
        (lambda v, z, t: _with_top(v, z, t, both=True), "same goes for H"),
        (lambda v, z, t: _bound(v, z, t, loss=lambda p, q: (p * q).sum(1).mean()), "added to H"),
        (lambda v, z, t: -_bound(v, z, t), "sign is turned round"),
        (lambda v, z, t: -_bound(v, z, t, h=lambda p: 0), "loss alone"),
        (lambda v, z, t: _bound(v, z, t) + entropy(softmax(v / t, axis=1)).mean(), "divergence is"),
        (lambda v, z, t: _bound(v, z, t) / np.log(2), "in bits"),
        (lambda v, z, t: _bound(v, z, 1.0), "Both networks are at temperature 1"),
        (lambda v, z, t: _bound(v, z, t, hot=1.0), "student is at temperature 1"),
        (
            lambda v, z, t: _bound(v, z, t, loss=lambda p, q: -(t**2) * (p * q).sum(1).mean()),
            "multiplied by τ²",
        ),
        (lambda v, z, t: _bound(v, z, t, loss=lambda p, q: -(p * q).sum()), "summed over the im"),
        (lambda v, z, t: _bound(v, z, t, loss=lambda p, q: -(p * q).mean()), "over classes too"),
        (lambda v, z, t: _bound(z, v, t), "changed places"),
        (_softmax_then_log, "minus infinity"),
        (lambda v, z, t: _softmax_then_log(v, z, 1.0), "Both networks are at temperature 1"),
        (lambda v, z, t: _softmax_then_log(v, z, t, 1e-12), "is not right yet"),
        (lambda v, z, t: None, "returns nothing: is there a `return`"),
        (lambda v, z, t: 0.3152, "is not right yet.* It returns 0.3152"),
        (lambda v, z, t: np.full(len(v), 0.3), "shape .* is expected"),
    ],
    "information_lost": [
        (lambda p, t, g: _lost(p, t, 0 * g) - _lost(p, t, g), "what the grouping keeps"),
        (lambda p, t, g: _lost(p, t, 0 * g), "all there is to know"),
        (_h_given_z, "what is uncertain once the group is known"),
        (lambda p, t, g: _lost(p, t, g) / np.log(2), "in bits"),
        (lambda p, t, g: _lost(p, t, g, turned=True), "runs the wrong way"),
        (lambda p, t, g: _lost(p, t, g, inside=_even(p), outside=_even(p)), "All images count"),
        (lambda p, t, g: _lost(p, t, g, inside=_even(p)), "mean of a group is taken without"),
        (lambda p, t, g: _lost(p, t, g, outside=_even(p)), "averaged without `p_x`"),
        (lambda p, t, g: _lost(p, t, g, summed=True), "summed, and not averaged"),
        (_groups_alike, "Each group counts the same"),
        (_plain_log, "what does p ln p count as"),
        (lambda p, t, g: _plain_log(p, t, g) / np.log(2), "in bits"),
        (_every_number, "is there one without images"),
        (lambda p, t, g: 0.1033, "is not right yet.* It returns 0.1033"),
        (lambda p, t, g: None, "returns nothing: is there a `return`"),
        (lambda p, t, g: [_lost(p, t, g)], "shape .* is expected"),
    ],
    "best_merger": [
        (_pairs(_price, give=lambda pair, price: pair[::-1]), "smaller number first"),
        (_pairs(_price, best=max), "lose the most"),
        (_pairs(lambda p, t, i, j: np.linalg.norm(t[i] - t[j])), "Euclidean distance"),
        (_pairs(lambda p, t, i, j: _price(np.ones(len(p)), t, i, j)), "All images count the same"),
        (_pairs(lambda p, t, i, j: _price(p, t, i, j) / (p[i] + p[j])), "within the pair"),
        (_pairs(lambda p, t, i, j: p[i] + p[j]), "least likely images"),
        (_pairs(_price, give=lambda pair, price: price), "what the merger costs"),
        (_pairs(lambda p, t, i, j: kl_divergence(t[i], t[j])), "single KL"),
        (lambda p, t: (0, 1), "is not right yet"),
        (lambda p, t: None, "returns nothing: is there a `return`"),
        (lambda p, t: (0, 1, 2), "shape .* is expected"),
    ],
    "cold_limit": [
        (lambda z, v: _favourite(v, z).mean(), "changed places"),
        (_favourite, "One number for each image"),
        (lambda z, v: _favourite(z, v).sum(), "The sum over the images"),
        (lambda z, v: 0.0, "limit of τ² KL. With one factor"),
        (lambda z, v: (z - v).var(axis=1).mean() / 2, "hot teacher"),
        (lambda z, v: (z.max(axis=1) - v.max(axis=1)).mean(), "largest of the teacher"),
        (
            lambda z, v: (v - z)[np.arange(len(v)), v.argmax(axis=1)].mean(),
            "logits at the teacher's top answer",
        ),
        (lambda z, v: -_favourite(z, v).mean(), "sign is turned round"),
        (lambda z, v: (z.argmax(axis=1) != v.argmax(axis=1)).mean(), "how often the top answers"),
        (
            lambda z, v: -log_softmax(z, axis=1)[np.arange(len(v)), v.argmax(axis=1)].mean(),
            "at temperature 1",
        ),
        (lambda z, v: 2.0, "is not right yet.* It returns 2.0"),
        (lambda z, v: None, "returns nothing: is there a `return`"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    def by_entropies(p_x, p_t, groups):
        return _h_given_z(p_x, p_t, groups) - p_x @ entropy(p_t)

    check.information_lost(by_entropies)
    check.best_merger(_pairs(_price, give=lambda pair, price: list(pair)))
    check.best_merger(_pairs(lambda p, t, i, j: _lost(p[[i, j]], t[[i, j]], np.zeros(2))))
    check.cold_limit(
        lambda z, v: np.mean([max(a) - a[int(np.argmax(b))] for a, b in zip(z, v, strict=True)])
    )
    check.cold_limit(_by_a_small_tau)
    check.information_bound(_bound)


def test_inputs_are_drawn_afresh(name):
    """So that answers learnt by heart fail."""
    solution, seen = answers(CHAPTER, cut=False)[name], []

    def student(*inputs):
        seen.append([np.array(value) for value in inputs])
        return solution(*inputs)

    getattr(check, name)(student)
    getattr(check, name)(student)
    half = len(seen) // 2
    assert any(
        not np.array_equal(a, b)
        for first, second in zip(seen[:half], seen[half:], strict=True)
        for a, b in zip(first, second, strict=True)
    )


def test_a_student_cannot_spoil_the_inputs(name):
    solution = answers(CHAPTER, cut=False)[name]

    def student(*inputs):
        right = solution(*inputs)
        for value in inputs:
            if isinstance(value, np.ndarray):
                value[...] = 0
        return right

    getattr(check, name)(student)
