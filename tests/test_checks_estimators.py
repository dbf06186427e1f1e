"""Each checker passes the solution, and tells a beginner which mistake it was."""

import numpy as np
import pytest
import torch
from checking import *  # noqa: F403
from lab_answers import answers, cells
from scipy.special import digamma, log_softmax, logsumexp
from scipy.special import softmax as soft

from distill_lib import bounds, estimators
from distill_lib.checks import estimators as check
from distill_lib.estimators import plug_in_mutual_information as plug_in
from distill_lib.information import mutual_information

CHAPTER = "04-estimating-mutual-information"
EXERCISES = ("corrected", "infonce", "dv", "permutation_p_value", "ksg_counts")
FEWEST = 8  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def _corrected(term):
    def corrected(x, y):
        pairs = len(set(zip(x.tolist(), y.tolist(), strict=True)))
        return plug_in(x, y) + term(len(set(x.tolist())), len(set(y.tolist())), pairs, len(x))

    return corrected


def _by_range(x, y):
    pairs = len(set(zip(x.tolist(), y.tolist(), strict=True)))
    return plug_in(x, y) + (x.max() + 1 + y.max() + 1 - pairs - 1) / (2 * len(x))


def _miller(a, b, ab, n):
    return (a + b - ab - 1) / (2 * n)


def _mean_log(s, axis=1):
    return np.diag(log_softmax(s, axis=axis)).mean()


def _naive_infonce(s):
    softmax = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    return np.log(len(s)) + np.log(np.diag(softmax)).mean()


def _off(s):
    return s[~np.eye(len(s), dtype=bool)]


def _dv(s):
    return np.diag(s).mean() - logsumexp(_off(s)) + np.log(len(_off(s)))


def _test(*, shuffle=None, p=None, times=None, both=False):
    """A student's permutation test, right but for what is passed."""

    def permutation_p_value(x, y, estimate, rng, n_permutations=199):
        real = estimate(x, y)
        values = []
        for _ in range(n_permutations if times is None else times):
            mixed = rng.permutation(y) if shuffle is None else shuffle(y, rng)
            values.append(estimate(mixed if both else x, mixed))
        if p is None:
            return (1 + sum(v >= real for v in values)) / (1 + n_permutations)
        return p(np.array(values), real, n_permutations)

    return permutation_p_value


def _in_place(x, y, estimate, rng, n_permutations=199):
    real = estimate(x, y)
    count = 0
    for _ in range(n_permutations):
        rng.shuffle(y)
        count += estimate(x, y) >= real
    return (1 + count) / (1 + n_permutations)


def _same_each_time(y, rng):
    return np.random.default_rng(0).permutation(y)


def _tears(y, rng):
    return rng.permuted(y) if np.ndim(y) == 1 else rng.permutation(y.ravel()).reshape(y.shape)


def _no_real(x, y, estimate, rng, n_permutations=199):
    values = [estimate(x, rng.permutation(y)) for _ in range(n_permutations)]
    return (1 + sum(v >= 0.9 for v in values)) / (1 + n_permutations)


def _counts(*, place=0, edge=False, itself=1, apart=np.maximum, after=lambda counts: counts):
    def ksg_counts(x, y, k):
        apart_x, apart_y = abs(x[:, None] - x), abs(y[:, None] - y)
        epsilon = np.sort(apart(apart_x, apart_y), axis=1)[:, [k + place]]
        near = np.less_equal if edge else np.less
        return after(np.stack([near(a, epsilon).sum(axis=1) - itself for a in (apart_x, apart_y)]))

    return ksg_counts


def _standardised(x, y, k):
    return _counts()((x - x.mean()) / x.std(), (y - y.mean()) / y.std(), k)


MISTAKES = {
    "corrected": [
        (plug_in, "its correction is missing"),
        (_corrected(lambda *c: -_miller(*c)), "goes the wrong way"),
        (_corrected(lambda a, b, ab, n: -(a - 1) * (b - 1) / (2 * n)), "every combination"),
        (_corrected(lambda *c: 2 * _miller(*c)), "twice as large"),
        (_corrected(lambda a, b, ab, n: (a + b - ab) / (2 * n)), "one less than its number"),
        (_corrected(lambda a, b, ab, n: (a + b + ab - 3) / (2 * n)), "all three|All three"),
        (_corrected(lambda a, b, ab, n: (a + b - 2) / (2 * n)), "joint entropy is left"),
        (_by_range, "never came up"),
        (lambda x, y: max(0.0, _corrected(_miller)(x, y)), "cut it off at zero"),
        (lambda x, y: _corrected(_miller)(x, y) / np.log(2), "in bits"),
        (lambda x, y: None, "returns nothing"),
        (lambda x, y: 0.1, "is not right yet"),
    ],
    "infonce": [
        (_naive_infonce, "overflows"),
        (lambda s: np.log(len(s)) + _mean_log(s, axis=0), "wrong axis"),
        (_mean_log, "Something is missing"),
        (lambda s: -_mean_log(s), "the loss that one minimises"),
        (lambda s: np.log(len(s)) - _mean_log(s), "sign of the cross-entropy"),
        (
            lambda s: np.log(len(s)) + np.log(np.diag(soft(s, axis=1)).mean()),
            "inside the logarithm",
        ),
        (
            lambda s: np.log(len(s)) + np.trace(log_softmax(s, axis=1)),
            "take their mean",
        ),
        (lambda s: np.log(len(s)) + log_softmax(s, axis=1).mean(), "over all pairs"),
        (lambda s: (np.log(len(s)) + _mean_log(s)) / np.log(2), "in bits"),
        (
            lambda s: (
                np.log(len(s))
                + np.mean(
                    np.diag(s) - logsumexp(np.where(np.eye(len(s), dtype=bool), -np.inf, s), axis=1)
                )
            ),
            "missing among the candidates",
        ),
        (lambda s: np.log(len(s)), "is not right yet"),
        (lambda s: log_softmax(s, axis=1), "shape"),
    ],
    "dv": [
        (lambda s: np.diag(s).mean() - np.log(np.exp(_off(s)).mean()), "overflows"),
        (lambda s: np.diag(s).mean() - logsumexp(s) + 2 * np.log(len(s)), "runs over all pairs"),
        (lambda s: np.diag(s).mean() - logsumexp(_off(s)), "added up and not averaged"),
        (
            lambda s: np.diag(s).mean() - logsumexp(_off(s)) + 2 * np.log(len(s)),
            "number of all pairs",
        ),
        (lambda s: np.diag(s).mean() - _off(s).mean(), "compares mean scores"),
        (
            lambda s: np.mean(
                [
                    s[i, i] - logsumexp(np.delete(s[i], i)) + np.log(len(s) - 1)
                    for i in range(len(s))
                ]
            ),
            "One logarithm for each row",
        ),
        (lambda s: 2 * np.diag(s).mean() - _dv(s), "sign of the second term"),
        (lambda s: _dv(s) - np.diag(s).mean(), "second term alone"),
        (lambda s: _dv(s) - np.diag(s).mean() + np.trace(s), "take its mean"),
        (lambda s: _dv(s) / np.log(2), "in bits"),
        (lambda s: 1.0, "is not right yet"),
    ],
    "permutation_p_value": [
        (_test(p=lambda v, r, n: (v >= r).mean()), "mind the ones"),
        (_test(p=lambda v, r, n: (1 + (v >= r).sum()) / n), "but not below it"),
        (_test(p=lambda v, r, n: 1 + (v >= r).sum()), "This is a count"),
        (_test(p=lambda v, r, n: (1 + (v <= r).sum()) / (1 + n)), "fall short of it"),
        (_test(p=lambda v, r, n: (1 + (v > r).sum()) / (1 + n)), "equals the real estimate"),
        (_test(p=lambda v, r, n: 0.01), "does a shuffle that equals|not .* about one half"),
        (_test(p=lambda v, r, n: 0.05), "Put that into the formula"),
        (_test(shuffle=lambda y, rng: y), "Nothing is shuffled"),
        (_test(both=True), "in the same way"),
        (_test(shuffle=lambda y, rng: rng.choice(y, len(y))), "without replacement"),
        (_test(shuffle=_same_each_time), "same shuffle again and again"),
        (_test(shuffle=_tears), "a sample is a row"),
        (_test(times=20), "called 21 times"),
        (_test(times=199), "that makes 100 estimates; yours were 200"),
        (_in_place, "leave what you are given"),
        (_no_real, "estimate of the real samples is missing"),
        (_test(p=lambda v, r, n: None), "returns nothing"),
        (_test(p=lambda v, r, n: v), "expected one number"),
    ],
    "ksg_counts": [
        (_counts(edge=True), "k-th neighbour itself is counted"),
        (_counts(itself=0), "Each sample counts itself: "),
        (_counts(edge=True, itself=0), "and its k-th neighbour too"),
        (_counts(place=-1), "your k-th is the one before.$"),
        (_counts(place=-1, itself=0), "and each sample counts itself"),
        (_counts(place=1), "one too far"),
        (_counts(apart=np.hypot), "that of a circle"),
        (_counts(apart=np.add), "are added"),
        (_counts(apart=np.minimum), "smaller of the two"),
        (_counts(after=lambda counts: counts[::-1]), "changed places"),
        (_counts(after=np.transpose), r"shape is \(n, 2\)"),
        (_standardised, "have been standardised"),
        (lambda x, y, k: np.zeros((2, len(x))), "is not right yet"),
        (lambda x, y, k: np.zeros(len(x)), r"shape .* is expected"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    check.corrected(_corrected(_miller))
    check.infonce(lambda s: np.log(len(s)) + _mean_log(s))
    check.dv(_dv)
    check.ksg_counts(_counts())
    check.permutation_p_value(_test())

    def shuffles_x_instead(x, y, estimate, rng, n_permutations=199):
        values = [estimate(x[rng.permutation(len(x))], y) for _ in range(n_permutations)]
        values.append(estimate(x, y))
        return np.mean(np.array(values) >= values[-1])

    check.permutation_p_value(shuffles_x_instead)


def test_checkers_are_stable():
    """Random inputs never fail a right answer, nor pass a wrong one."""
    solutions = answers(CHAPTER, cut=False)
    for _ in range(20):
        for name in EXERCISES:
            getattr(check, name)(solutions[name])
            for student, message in MISTAKES[name][:6]:
                with np.errstate(all="ignore"), pytest.raises(AssertionError, match=message):
                    getattr(check, name)(student)


# ---- the chapter's own short versions


def _defined(*names):
    found = {
        "np": np,
        "torch": torch,
        "math": __import__("math"),
        "digamma": digamma,
        "mutual_information": mutual_information,
    }
    for name in names:
        source = cells(CHAPTER)[name].source
        exec(source[: source.find("\n\n\nrng")] if "\n\n\nrng" in source else source, found)
    return found


def test_chapter_and_library_define_the_same_plug_in():
    ours = _defined("define-plug-in")["plug_in_mutual_information"]
    rng = np.random.default_rng(0)
    for n, faces in ((10, 3), (200, 6), (1000, 10)):
        x, y = rng.integers(faces, size=(2, n))
        assert ours(x, y) == pytest.approx(plug_in(x, y), abs=1e-12)


def test_chapter_and_library_define_the_same_ksg():
    ours = _defined("define-ksg")["ksg_mutual_information"]
    x, noise = np.random.default_rng(0).normal(size=(2, 400))
    for k in (1, 3, 7):
        assert ours(3 * x, x + noise, k=k) == pytest.approx(
            estimators.ksg_mutual_information(3 * x, x + noise, k=k), abs=1e-10
        )


@pytest.mark.parametrize("name", ["infonce_bound", "dv_bound", "nwj_bound"])
def test_chapter_and_library_define_the_same_bounds(name):
    ours = _defined("define-bounds")[name]
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        scores = 3 * torch.randn(9, 9, generator=generator, dtype=torch.float64)
        assert float(ours(scores)) == pytest.approx(float(getattr(bounds, name)(scores)))


def test_chapter_and_library_define_the_same_barber_agakov():
    source = cells(CHAPTER)["define-barber-agakov"].source.split("\n\n\n")[0]
    found = {}
    exec(source, found)
    log_q = torch.log(torch.tensor([0.5, 0.2, 0.9], dtype=torch.float64))
    assert float(found["barber_agakov_bound"](log_q, 1.0)) == pytest.approx(
        float(bounds.barber_agakov_bound(log_q, 1.0))
    )
