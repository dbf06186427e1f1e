"""Each checker passes the solution, and tells a beginner which mistake it was."""

import re

import matplotlib as mpl
import numpy as np
import pytest
from checking import *  # noqa: F403
from lab_answers import answers, cells
from make_labs import FIGURES
from scipy.special import softmax
from set_address import ROOT

from distill_lib import checks, plots
from distill_lib.checks import entropy as check
from distill_lib.information import entropy

CHAPTER = "01-entropy"
EXERCISES = (
    "perplexity",
    "shannon_code_lengths",
    "draw_smoothing",
    "temperature_for_entropy",
    "conditional_entropy_of_samples",
)
FEWEST = 4  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def loop(p):
    return [float(np.exp(entropy(row))) for row in np.reshape(p, (-1, np.shape(p)[-1]))]


def _draw(y, *, x=None, level=np.log, style="--", labels=("ε", "entropy (nats)"), points=101):
    """A student's drawing with the curve y(epsilon, n_classes), right but for what is passed."""

    def draw_smoothing(ax, n_classes):
        epsilon = np.linspace(0, 1, points) if x is None else x
        ax.plot(epsilon, y(epsilon, n_classes))
        if level is not None:
            ax.axhline(level(n_classes), ls=style)
        ax.set(xlabel=labels[0], ylabel=labels[1])

    return draw_smoothing


def _smoothed(epsilon, n_classes):
    one_hot = np.eye(n_classes)[0]
    return (1 - epsilon[:, None]) * one_hot + epsilon[:, None] / n_classes


def _right(epsilon, n_classes):
    return entropy(_smoothed(epsilon, n_classes))


def _others_only(epsilon, n_classes):
    share = epsilon[:, None] / (n_classes - 1)
    return entropy(np.hstack([1 - epsilon[:, None], np.repeat(share, n_classes - 1, axis=1)]))


def _naive_curve(epsilon, n_classes):
    p = _smoothed(epsilon, n_classes)
    return -(p * np.log(p)).sum(axis=1)


def _bisection(*, wide=(1e-8, 1e8), steps=100, hotter=False, divide=True, unit=1.0):
    def temperature_for_entropy(logits, target):
        low, high = wide
        for _ in range(steps):
            middle = np.sqrt(low * high)
            p = softmax(logits / middle if divide else logits * middle)
            below = entropy(p) / unit < target
            if below == (divide and not hotter):
                low = middle
            else:
                high = middle
        return middle

    return temperature_for_entropy


def _table(known, unknown):
    pair = 2 * np.asarray(known, dtype=int) + np.asarray(unknown, dtype=int)
    return np.bincount(pair, minlength=4).reshape(2, 2) / len(pair)


def _by_rows(weighted, safe):
    def conditional_entropy_of_samples(known, unknown):
        p = _table(known, unknown)
        weights = p.sum(axis=1)
        values = []
        for row, weight in zip(p, weights, strict=True):
            if safe and weight == 0:
                continue
            given = row / weight
            terms = given[given > 0] if safe else given
            value = -(terms * np.log2(terms)).sum()
            values.append(weight * value if weighted else value)
        return np.sum(values) if weighted else np.mean(values)

    return conditional_entropy_of_samples


def _joint(known, unknown):
    return entropy(_table(known, unknown), axis=None, base=2)


def _marginal(values):
    share = np.mean(values)
    return entropy([share, 1 - share], base=2)


MISTAKES = {
    "perplexity": [
        (lambda p: entropy(p), "the entropy itself"),
        (lambda p: entropy(p, base=2), "the entropy in bits"),
        (lambda p: 2 ** np.asarray(entropy(p)), "nats must be undone with base e"),
        (lambda p: np.exp(entropy(p, base=2)), "bits must be undone with base 2"),
        (lambda p: np.exp(-np.asarray(entropy(p))), "sign of the exponent"),
        (lambda p: np.exp(-(p * np.log(np.where(p > 0, p, 1))).sum()), "sum over the last axis"),
        (lambda p: np.mean(np.exp(entropy(p))), "a mean over distributions"),
        (lambda p: np.exp(-(p * np.log(p)).sum(axis=-1)), "NaN: .* 0 log 0"),
        (lambda p: (p > 0).sum(axis=-1), "that can happen at all"),
        (lambda p: np.full(p.shape[:-1], p.shape[-1]), "the number of classes, whatever"),
        (loop, "shape .* is expected"),
        (lambda p: print(np.exp(entropy(p))), "returns nothing: is there a `return`"),
        (lambda p: {"perplexity": 4}, "returns a dict: expected numbers"),
        (lambda p: 4.0, "is not right yet.* It returns 4.0"),
        (lambda p: np.full(p.shape[:-1], 4.0), "is not right yet.* It returns 4.0"),
        (lambda p: np.full(p.shape[:-1], np.inf), "returns inf"),
    ],
    "shannon_code_lengths": [
        (lambda p: -np.log2(p), "not whole numbers"),
        (lambda p: np.floor(-np.log2(p)).astype(int), "Rounded down"),
        (lambda p: np.round(-np.log2(p)).astype(int), "Rounded to the nearest"),
        (lambda p: np.ceil(-np.log(p)).astype(int), "in nats"),
        (lambda p: np.ceil(np.log2(p)).astype(int), "negative"),
        (lambda p: np.ceil(-np.log(p) / np.log(2)).astype(int), "a rounding error"),
        (lambda p: np.floor(-np.log2(p)).astype(int) + 1, "Adding one is not rounding up"),
        (lambda p: np.full(len(p), int(np.ceil(np.log2(len(p))))), "all the same"),
        (lambda p: np.ceil(-np.log2(p)), "of type float64: return integers"),
        (lambda p: [1, 2, 3, 3], "shape .* is expected"),
    ],
    "draw_smoothing": [
        (lambda ax, n_classes: None, "no curve on the axes"),
        (lambda ax, n_classes: mpl.pyplot.plot([0, 1, 2]), "no curve on the axes"),
        (_draw(lambda e, k: _right(e, k) / np.log(2)), "in bits"),
        (_draw(_others_only), "among the other classes only"),
        (_draw(lambda e, k: np.log(k) - _right(e, k)), "how far the curve is from the top"),
        (_draw(lambda e, k: -np.log(1 - e + e / k)), "the surprise at the label"),
        (_draw(lambda e, k: -_right(e, k)), "negative"),
        (_draw(lambda e, k: _right(e, 10)), "use `n_classes`"),
        (_draw(_naive_curve), "NaN"),
        (_draw(lambda e, k: np.log(k) * e), "not the entropy of the smoothed label"),
        (_draw(_right, points=11), "has 11 points"),
        (_draw(_right, x=np.linspace(0.1, 1, 99)), "from 0.1 to 1: ε goes along x"),
        (_draw(_right, x=np.linspace(0, 0.5, 99)), "from 0 to 0.5: ε goes along x"),
        (_draw(_right, level=None), "no horizontal line"),
        (_draw(_right, level=lambda k: 1.0), "not where the entropy ends up"),
        (_draw(_right, level=lambda k: np.log(10)), "not where the entropy ends up"),
        (_draw(_right, style="-"), "should be dashed"),
        (_draw(_right, labels=("", "entropy (nats)")), "x axis has no label"),
        (_draw(_right, labels=("ε", "")), "y axis has no label"),
        (_draw(_right, labels=("ε", "entropy")), "does not name the unit"),
    ],
    "temperature_for_entropy": [
        (lambda logits, target: None, "returns nothing: is there a `return`"),
        (lambda logits, target: np.ones(3), "one number above zero"),
        (lambda logits, target: -1.0, "one number above zero"),
        (lambda logits, target: float("nan"), "one number above zero"),
        (lambda logits, target: 2.0, "always returns 2, whatever"),
        (_bisection(divide=False), "multiplied by your number"),
        (_bisection(unit=np.log(2)), "right in bits"),
        (lambda z, h: _bisection()(z, np.log(len(z)) - h), "less the target, and not the target"),
        (_bisection(wide=(0.1, 10)), "does your search start wide enough"),
        (_bisection(steps=14), "halve the interval more often"),
        (_bisection(hotter=True), "Which half of the interval"),
        (lambda logits, target: 1e4 * np.ptp(logits), "too hot"),
        (lambda logits, target: 1e-4 * np.ptp(logits), "too cold"),
        (lambda logits, target: np.ptp(logits) / 4, "off: .* Which half"),
    ],
    "conditional_entropy_of_samples": [
        (lambda a, b: _joint(a, b) - _marginal(b), "the other way round"),
        (_joint, "the joint entropy"),
        (lambda a, b: _marginal(b), "the second pixel alone"),
        (lambda a, b: (_joint(a, b) - _marginal(a)) * np.log(2), "in nats"),
        (_by_rows(weighted=False, safe=True), "count the same"),
        (lambda a, b: _marginal(a) + _marginal(b) - _joint(a, b), "what the two share"),
        (_by_rows(weighted=True, safe=False), "NaN came back"),
        (lambda a, b: _marginal(a), "is not right yet"),
        (lambda a, b: 0.5, "is not right yet.* It returns 0.5"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    check.conditional_entropy_of_samples(_by_rows(weighted=True, safe=True))
    check.perplexity(lambda p: np.prod(np.where(p > 0, p, 1) ** -p, axis=-1))
    check.shannon_code_lengths(lambda p: [int(n) for n in np.ceil(np.log2(1 / p))])
    check.draw_smoothing(_draw(_right, points=50, style=":"))


def test_inputs_are_drawn_afresh():
    """So that answers learnt by heart fail."""
    seen = []

    def student(p):
        seen.append(p.copy())
        return np.exp(entropy(p))

    check.perplexity(student)
    check.perplexity(student)
    half = len(seen) // 2
    assert any(not np.array_equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_a_student_cannot_spoil_the_inputs():
    def student(p):
        right = np.exp(entropy(p))
        p[...] = 0
        return right

    check.perplexity(student)


def test_checkers_are_stable():
    """Random inputs never fail a right answer, nor pass a wrong one."""
    solutions = answers(CHAPTER, cut=False)
    for _ in range(30):
        for name in EXERCISES:
            if name != "draw_smoothing":
                getattr(check, name)(solutions[name])
                for student, message in MISTAKES[name][:6]:
                    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=message):
                        getattr(check, name)(student)


def test_the_figure_to_reach_can_be_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda data, **options: shown.append(data))
    for picture in (ROOT / FIGURES).glob("*.png"):
        lab, exercise = re.fullmatch(r"(.+)-(exercise-\d+)", picture.stem).groups()
        checks.show_target(lab, exercise)
    assert shown
    for data in shown:
        assert data["image/png"] and len(data["text/plain"].split()) > 5


def test_chapter_and_library_define_the_same_entropy():
    defined = {"np": np}
    exec("from scipy.special import xlogy\n" + cells(CHAPTER)["define-entropy"].source, defined)
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 4))
    p[0, 0] = [0, 0, 1, 0, 0]
    for arguments in ({}, {"base": 2}, {"axis": -1, "base": 10}):
        np.testing.assert_allclose(
            defined["entropy"](p, **arguments), entropy(p, **arguments), rtol=1e-14
        )
    joint = p / p.sum()
    assert defined["entropy"](joint, axis=None) == pytest.approx(entropy(joint, axis=None))
