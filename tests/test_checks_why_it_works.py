"""Each checker passes the solution, and tells a beginner which mistake it was."""

import math

import numpy as np
from checking import *  # noqa: F403
from lab_answers import answers

from distill_lib.checks import why_it_works as check

CHAPTER = "16-why-it-works"
EXERCISES = ("student_weights", "disagreement_in", "label_price", "break_even", "share_within")
ALIKE = 2  # messages, at most, for two mistakes


# ---- typical mistakes: what a student wrote, and what the message says


def _shadow(x, w):
    return np.linalg.lstsq(x, x @ w, rcond=None)[0]


def _mean(p, losses):
    return np.einsum("ik,ik->i", p, losses)


def _price(p, losses):
    return np.mean([q @ (a - q @ a) ** 2 for q, a in zip(p, losses, strict=True)])


def _even(p, q, losses, *, labels=None, teacher=None, power=2):
    labels = _mean(p, losses).var() + _price(p, losses) if labels is None else labels
    teacher = _mean(q, losses).var() if teacher is None else teacher
    bias = np.mean((q - p) * losses) * p.shape[1]
    return (labels - teacher) / np.abs(bias) ** power


def _share(v, y, *, centre=True, even=False, ddof=0, between=False, of=None):
    if centre:
        v = v - np.mean(v, axis=1)[:, None]
    total, within = np.sum(np.var(v, axis=0, ddof=ddof)), 0.0
    for k in set(y.tolist()):
        its = v[y == k]
        weight = 1 / len(set(y.tolist())) if even else len(its) / len(y)
        if len(its) > ddof:
            within += weight * np.sum(np.var(its, axis=0, ddof=ddof))
    if between:
        within = total - within
    return within / total if of is None else of(within, total)


def _every_class(v, y):
    """With the mean of a class that has no image."""
    v = v - v.mean(axis=1, keepdims=True)
    means = np.array([v[y == k].sum(axis=0) / (y == k).sum() for k in range(v.shape[1])])
    within = sum((y == k).sum() * (means[k] - v.mean(axis=0)) ** 2 for k in range(v.shape[1]))
    return 1 - within.sum() / ((v - v.mean(axis=0)) ** 2).sum()


def _both(a, b):
    return np.mean((a > 0) != (b > 0))


MISTAKES = {
    "student_weights": [
        (lambda x, w, s: _shadow(x, w), "a start at zero"),
        (lambda x, w, s: _shadow(x, w) + s, "adds the whole of"),
        (lambda x, w, s: w, "the teacher itself"),
        (lambda x, w, s: s, "has not learned anything"),
        (lambda x, w, s: _shadow(x, s) + w - _shadow(x, w), "have changed places"),
        (lambda x, w, s: _shadow(x, w + s), "The start is projected"),
        (lambda x, w, s: s - _shadow(x, s), "half of it"),
        (lambda x, w, s: _shadow(x, w) - s + _shadow(x, s), "turned round"),
        (lambda x, w, s: np.linalg.inv(x.T @ x) @ x.T @ (x @ w), "stopped with|is not right yet"),
        (lambda x, w, s: x @ w, "shape .* is expected"),
        (lambda x, w, s: None, "returns nothing: is there a `return`"),
        (lambda x, w, s: np.ones(len(w)), "is not right yet"),
    ],
    "disagreement_in": [
        (lambda x, a, b: 1 - _both(x @ a, x @ b), "how often they agree"),
        (lambda x, a, b: np.sum((x @ a > 0) != (x @ b > 0)), "a number of rows"),
        (lambda x, a, b: (x @ a > 0) ^ (x @ b > 0), "One answer for each row"),
        (
            lambda x, a, b: np.arccos(np.clip(a @ b / np.sqrt(a @ a * (b @ b)), -1, 1)) / np.pi,
            "the angle over",
        ),
        (lambda x, a, b: np.mean(x @ a != x @ b), "The logits are compared"),
        (lambda x, a, b: np.abs(x @ (a - b)).mean(), "mean distance of the logits"),
        (lambda x, a, b: np.mean((x @ a > 0) & (x @ b <= 0)), "one says yes"),
        (lambda x, a, b: np.mean((x @ a <= 0) & (x @ b > 0)), "one says no"),
        (lambda x, a, b: 0.25, "is not right yet.* It returns 0.25"),
        (lambda x, a, b: None, "returns nothing: is there a `return`"),
    ],
    "label_price": [
        (lambda p, a: _price(p, a) + _mean(p, a).var(), "the whole variance"),
        (lambda p, a: _mean(p, a).var(), "the variance over the images"),
        (
            lambda p, a: np.mean([_price(q[None], b[None]) ** 0.5 for q, b in zip(p, a)]),  # noqa: B905
            "standard deviation for each",
        ),
        (lambda p, a: np.sqrt(_price(p, a)), "the root of it"),
        (lambda p, a: a.var(axis=1).mean(), "All labels count the same"),
        (lambda p, a: _mean(p, a**2).mean(), "square of the mean is missing"),
        (lambda p, a: _mean(p, a**2) - _mean(p, a) ** 2, "One number for each image"),
        (lambda p, a: _price(p, a) * len(p), "The sum over the images"),
        (lambda p, a: _price(p, a) / p.shape[1], "over classes too"),
        (lambda p, a: np.var(p * a, axis=1).mean(), "variance of the products"),
        (lambda p, a: np.sum(p * (1 - p) * a**2) / len(p), "class by class"),
        (lambda p, a: 0.5, "is not right yet.* It returns 0.5"),
        (lambda p, a: None, "returns nothing: is there a `return`"),
    ],
    "break_even": [
        (lambda p, q, a: _even(p, q, a, labels=_price(p, a)), "labels' noise alone"),
        (lambda p, q, a: _even(p, q, a, labels=_mean(p, a).var()), "noise of the labels is mis"),
        (lambda p, q, a: _even(p, q, a, teacher=_mean(p, a).var()), "takes the true prob"),
        (
            lambda p, q, a: _even(p, q, a, teacher=_mean(q, a).var() + _price(q, a)),
            "The teacher's labels are drawn",
        ),
        (lambda p, q, a: _even(p, q, a, power=1), "compared with the bias"),
        (lambda p, q, a: np.sqrt(_even(p, q, a)), "the root of it"),
        (lambda p, q, a: 1 / _even(p, q, a), "upside down"),
        (lambda p, q, a: -_even(p, q, a), "sign is turned round"),
        (
            lambda p, q, a: _even(p, q, a, power=0) / np.mean((_mean(q, a) - _mean(p, a)) ** 2),
            "squared image by image",
        ),
        (lambda p, q, a: _even(p, q, a, teacher=0), "is left out"),
        (
            lambda p, q, a: _even(
                p,
                q,
                a,
                labels=_mean(p, a).var(ddof=1) + _price(p, a),
                teacher=_mean(q, a).var(ddof=1),
            ),
            "divide by n - 1 here",
        ),
        (lambda p, q, a: math.ceil(_even(p, q, a)), "rounded up"),
        (lambda p, q, a: 110.0, "is not right yet.* It returns 110.0"),
        (lambda p, q, a: None, "returns nothing: is there a `return`"),
    ],
    "share_within": [
        (lambda v, y: _share(v, y, centre=False), "constant in all logits"),
        (lambda v, y: _share(v, y, even=True), "All classes count the same"),
        (lambda v, y: _share(v, y, between=True), "between"),
        (lambda v, y: _share(v, y, of=lambda w, t: w / (t - w)), "within over between"),
        (lambda v, y: _share(v, y, of=lambda w, t: w), "the variance within"),
        (lambda v, y: _share(v, y, of=lambda w, t: t), "the whole variance"),
        (lambda v, y: np.sqrt(_share(v, y)), "standard deviations"),
        (lambda v, y: _share(v, y, ddof=1), "one less than"),
        (_every_class, "returns nan. A class without images"),
        (lambda v, y: 0.3, "is not right yet.* It returns 0.3"),
        (lambda v, y: None, "returns nothing: is there a `return`"),
        (lambda v, y: v.var(axis=0), "shape .* is expected"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    check.student_weights(lambda x, w, s: s + np.linalg.lstsq(x, x @ (w - s), rcond=None)[0])
    check.label_price(_price)
    check.break_even(_even)
    check.share_within(_share)
    check.disagreement_in(
        lambda x, a, b: sum((i @ a > 0) != (i @ b > 0) for i in x) / len(x),
    )


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
