"""Each checker passes the solution, and tells a beginner which mistake it was."""

import numpy as np
import pytest
from checking import *  # noqa: F403
from lab_answers import answers, cells
from sklearn.metrics import mutual_info_score

from distill_lib import information
from distill_lib.checks import mutual_information as check
from distill_lib.information import (
    conditional_entropy,
    conditional_mutual_information,
    entropy,
    mutual_information,
)

CHAPTER = "03-mutual-information"
EXERCISES = (
    "information_in_bits",
    "never_right",
    "shared_beyond_label",
    "information_along",
    "least_error",
)
FEWEST = 6  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def naive_bits(counts):
    p = counts / counts.sum()
    return np.sum(p * np.log2(p / np.outer(p.sum(axis=1), p.sum(axis=0))))


def naive_counts(counts):
    return np.sum(counts * np.log2(counts / np.outer(counts.sum(axis=1), counts.sum(axis=0))))


def skipping_counts(counts):
    total = 0.0
    for (i, j), n in np.ndenumerate(counts):
        if n:
            total += n * np.log2(n / (counts[i].sum() * counts[:, j].sum()))
    return total


def by_rows_alone(counts):
    rows = counts[counts.sum(axis=1) > 0]
    p = rows / rows.sum(axis=1, keepdims=True) / len(rows)
    return mutual_information(p, base=2)


def from_uniform(counts):
    return np.log2(counts.size) - entropy(counts / counts.sum(), axis=None, base=2)


def _share(counts):
    return counts / counts.sum()


def permuted(order):
    """A student's table in which every answer is renamed by the function `order` of K."""
    return lambda p_t: np.diag(p_t)[:, order(len(p_t))]


def swap_pairs(k):
    order = np.arange(k)
    order[: k - k % 2] = order[: k - k % 2].reshape(-1, 2)[:, ::-1].ravel()
    return order


def spread_over_the_wrong(p_t):
    k = len(p_t)
    return p_t[:, None] * (1 - np.eye(k)) / (k - 1)


def _table(t, s, y):
    p = np.zeros((t.max() + 1, s.max() + 1, y.max() + 1))
    np.add.at(p, (t, s, y), 1 / len(y))
    return p


def _by_label(t, s, y, weigh):
    values = [mutual_info_score(t[y == k], s[y == k]) for k in np.unique(y)]
    return weigh(values)


def naive_beyond(t, s, y):
    p = _table(t, s, y)
    q = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True) / p.sum(axis=(0, 1))
    return np.sum(p * np.log(p / q))


def indexing(y, layers):
    """As `information_along`, with the names of the states as places in a table."""
    results = []
    for layer in layers:
        counts = np.zeros((y.max() + 1, layer.max() + 1))
        np.add.at(counts, (y, layer), 1)
        results.append(mutual_information(counts / counts.sum()))
    return np.array(results)


def histogram(bins):
    def information_along(y, layers):
        tables = [np.histogram2d(y, layer, bins=(10, bins(layer)))[0] for layer in layers]
        return [mutual_information(_share(counts)) for counts in tables]

    return information_along


def each(measure):
    def information_along(y, layers):
        return [measure(_joint(y, layer)) for layer in layers]

    return information_along


def _joint(y, layer):
    rows, columns = (np.unique(v, return_inverse=True)[1] for v in (y, layer))
    p = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(p, (rows, columns), 1 / len(y))
    return p


def bisection(*, others=lambda k: k - 1, unit=1.0, steps=60, flipped=False, top=None):
    """A student's bisection for Fano's error, right but for what is passed."""

    def least_error(unknown, n_classes):
        low, high = 0.0, 1 - 1 / n_classes
        if top is not None:
            low, high = top, 1 - 1 / n_classes
        for _ in range(steps):
            e = (low + high) / 2
            below = entropy([e, 1 - e]) / unit + e * np.log(others(n_classes)) < unknown
            if below != flipped:
                low = e
            else:
                high = e
        return (low + high) / 2

    return least_error


fano = bisection()


def in_bits(unknown, n_classes):
    return fano(unknown * np.log(2), n_classes)


MISTAKES = {
    "information_in_bits": [
        (lambda c: mutual_information(_share(c)), "in nats"),
        (naive_bits, "NaN came back"),
        (skipping_counts, "Counts are taken for probabilities here: "),
        (naive_counts, "Counts are taken for probabilities here, and"),
        (lambda c: entropy(c, axis=None), "stopped with ValueError: p sums to"),
        (
            lambda c: conditional_entropy(_share(c), given=0, base=2),
            "left when the label is known",
        ),
        (
            lambda c: conditional_entropy(_share(c), given=1, base=2),
            "left when the answer is known",
        ),
        (lambda c: entropy(_share(c), axis=None, base=2), "the joint entropy"),
        (lambda c: entropy(_share(c).sum(axis=1), base=2), "the label alone"),
        (lambda c: -mutual_information(_share(c), base=2), "sign is wrong"),
        (by_rows_alone, "divided by its own sum"),
        (from_uniform, "cells are all equal"),
        (lambda c: None, "returns nothing: is there a `return`"),
        (lambda c: np.zeros(2), "shape .* is expected"),
        (lambda c: 0.375, "is not right yet.* It returns 0.375"),
    ],
    "never_right": [
        (lambda p: None, "returns nothing: is there a `return`"),
        (lambda p: "a table", "returns a str: expected a table"),
        (lambda p: np.roll(p, 1), r"has the shape \(4,\)"),
        (np.diag, "always gives the teacher's answer"),
        (lambda p: np.outer(p, p), "sometimes gives the teacher's"),
        (permuted(lambda k: np.arange(k)[::-1]), "With 3 answers, .* sometimes"),
        (permuted(swap_pairs), "With 3 answers, .* sometimes"),
        (lambda p: np.roll(np.eye(len(p)), 1, axis=1), "Each row sums to one"),
        (lambda p: 2 * np.roll(np.diag(p), 1, axis=1), "sums to 2: "),
        (lambda p: np.roll(np.eye(len(p)), 1, axis=1) / len(p), "no longer gives its answers"),
        (lambda p: np.roll(np.diag(p), 1, axis=0), "The columns have the teacher's"),
        (spread_over_the_wrong, r"never right, but I\(T;S\) is"),
        (lambda p: -np.diag(p), "negative or NaN"),
    ],
    "shared_beyond_label": [
        (lambda t, s, y: mutual_info_score(t, s), "with the labels left out"),
        (lambda t, s, y: _by_label(t, s, y, np.mean), "All labels count the same here: weigh"),
        (lambda t, s, y: _by_label(t, s, y, np.sum), "labels are added up"),
        (lambda t, s, y: _by_label(t, s, y, np.sum) / (y.max() + 1), "even those that never"),
        (
            lambda t, s, y: conditional_mutual_information(_table(t, s, y), base=2),
            "in bits: the question",
        ),
        (
            lambda t, s, y: conditional_entropy(_table(t, s, y), given=(1, 2)),
            "what the teacher alone knows",
        ),
        (
            lambda t, s, y: conditional_entropy(_table(t, s, y).sum(axis=1), given=1),
            r"This is H\(T\|Y\)",
        ),
        (
            lambda t, s, y: mutual_info_score(t, s + 1000 * y),
            r"This is I\(T;S,Y\)",
        ),
        (
            lambda t, s, y: mutual_info_score(t, y + 1000 * s) - mutual_info_score(t, s),
            r"This is I\(T;Y\|S\)",
        ),
        (
            lambda t, s, y: (
                mutual_info_score(t, s) - conditional_mutual_information(_table(t, s, y))
            ),
            "the centre of the three circles",
        ),
        (naive_beyond, "NaN came back"),
        (lambda t, s, y: 0.4, "is not right yet.* It returns 0.4"),
    ],
    "information_along": [
        (histogram(lambda layer: 10), "still share ten bins"),
        (histogram(lambda layer: len(np.unique(layer))), "bins of equal width"),
        (indexing, r"stopped with (MemoryError|ValueError|IndexError)"),
        (each(lambda p: mutual_information(p, base=2)), "in bits"),
        (each(lambda p: conditional_entropy(p, given=1)), "remains unknown of the label"),
        (each(lambda p: entropy(p.sum(axis=0))), "the entropy of the layer: most"),
        (each(lambda p: conditional_entropy(p, given=0)), "that the label leaves open"),
        (lambda y, layers: each(mutual_information)(y, layers)[0], "One number came back"),
        (lambda y, layers: each(mutual_information)(y, layers)[::-1], "is not right yet"),
        (lambda y, layers: np.zeros(len(layers)), "is not right yet"),
        (lambda y, layers: None, "returns nothing: is there a `return`"),
    ],
    "least_error": [
        (lambda h, k: None, "returns nothing: is there a `return`"),
        (lambda h, k: np.zeros(2), "expected one number"),
        (lambda h, k: float("nan"), "expected one number"),
        (lambda h, k: 1 - fano(h, k), "the share of right answers"),
        (bisection(others=lambda k: k), "all K classes are left"),
        (lambda h, k: h / np.log(k - 1), r"the term H\(E\) is missing"),
        (lambda h, k: (h - np.log(2)) / np.log(k - 1), "a weaker bound, and below"),
        (lambda h, k: (h - np.log(2)) / np.log(k), "a weaker bound. Keep both"),
        (lambda h, k: fano(np.log(k) - h, k), "takes `unknown` for the mutual information"),
        (in_bits, "`unknown` is in nats"),
        (bisection(unit=np.log(2)), r"H\(E\) is in bits here"),
        (lambda h, k: 0.25, "always returns 0.25"),
        (lambda h, k: -h, "it is a probability"),
        (bisection(steps=12), "Close, but not to six digits"),
        (bisection(flipped=True), "Which half of the interval"),
    ],
}


def test_the_larger_solution_of_fano_is_not_the_least():
    def other_root(unknown, n_classes):
        low, high = 1 - 1 / n_classes, 1.0  # here the curve falls, from ln K to ln(K - 1)
        for _ in range(60):
            e = (low + high) / 2
            if entropy([e, 1 - e]) + e * np.log(n_classes - 1) > unknown:
                low = e
            else:
                high = e
        return low if high < 1 else fano(unknown, n_classes)

    with pytest.raises(AssertionError, match="there is a smaller solution"):
        check.least_error(other_root)


def test_a_right_answer_by_another_way_passes():
    def from_scikit_learn(counts):
        return mutual_info_score(None, None, contingency=counts) / np.log(2)

    def label_by_label(t, s, y):
        return sum(np.mean(y == k) * mutual_info_score(t[y == k], s[y == k]) for k in set(y))

    check.information_in_bits(from_scikit_learn)
    check.never_right(permuted(lambda k: (np.arange(k) + k // 2) % k))
    check.never_right(lambda p_t: np.roll(np.diag(p_t), -1, axis=1).tolist())
    check.shared_beyond_label(label_by_label)
    check.information_along(lambda y, layers: [mutual_info_score(y, v) for v in layers])
    check.least_error(lambda h, k: np.float64(bisection(steps=40)(h, k)))


def test_inputs_are_drawn_afresh(name):
    """So that answers learnt by heart fail."""
    solution = answers(CHAPTER, cut=False)[name]
    seen = []

    def student(*inputs):
        seen.append(repr(inputs))
        return solution(*inputs)

    with np.printoptions(threshold=10**6):
        getattr(check, name)(student)
        getattr(check, name)(student)
    half = len(seen) // 2
    assert seen[:half] != seen[half:]


def test_checkers_are_stable(name):
    """Random inputs never fail a right answer, nor pass a wrong one."""
    solution = answers(CHAPTER, cut=False)[name]
    for _ in range(20):
        getattr(check, name)(solution)
        for student, message in MISTAKES[name][:6]:
            with np.errstate(all="ignore"), pytest.raises(AssertionError, match=message):
                getattr(check, name)(student)


def test_chapter_and_library_define_the_same():
    defined = {"np": np, "p_xy": np.array(COVER_THOMAS) / 32}
    for name in ("define-mutual-information", "define-conditional"):
        exec("from scipy.special import rel_entr\n" + cells(CHAPTER)[name].source, defined)
    random = np.random.default_rng(0)
    for _ in range(20):
        p = random.dirichlet(np.full(24, 0.5)).reshape(2, 3, 4)
        p[:, :, 1] = 0  # a value of the third variable that never occurs
        p[0, 1] = 0
        p /= p.sum()
        for base in (None, 2):
            assert defined["mutual_information"](p.sum(axis=2), base=base) == pytest.approx(
                information.mutual_information(p.sum(axis=2), base=base), abs=1e-13
            )
            assert defined["conditional_mutual_information"](p, base=base) == pytest.approx(
                information.conditional_mutual_information(p, base=base), abs=1e-13
            )


COVER_THOMAS = [[4, 2, 2, 8], [2, 4, 2, 0], [1, 1, 2, 0], [1, 1, 2, 0]]
