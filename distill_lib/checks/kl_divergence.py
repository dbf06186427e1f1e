"""Checkers for the exercises of the chapter on cross-entropy and KL divergence."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import rel_entr
from torch import Tensor
from torch.nn import functional as F

from distill_lib.checks import Function, attempt, compare, compare_gradient, passed
from distill_lib.information import entropy, kl_divergence

Array = NDArray[np.float64]


def one_way(student: Function) -> None:
    """Exercise 1: infinitely far one way, and not the other."""
    random = np.random.default_rng()
    two_of_twelve = np.append(np.zeros(10), [0.6, 0.4])
    afresh = [random.permutation(two_of_twelve) for _ in range(6)]
    for p in (np.array([0.7, 0.3, 0.0]), np.array([0.0, 0.25, 0.25, 0.5]), *afresh):
        answer = attempt(student, p.copy())
        if answer is None:
            raise AssertionError("one_way returns nothing: is there a `return`?")
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise AssertionError("one_way should return two distributions: `return a, b`.")
        a, b = (_distribution(r, name, p) for r, name in zip(answer, "ab", strict=True))
        a_ways, b_ways = _infinite(p, a), _infinite(p, b)
        if (a_ways, b_ways) == ((False, True), (True, False)):
            raise AssertionError("a and b are the wrong way round.")
        for name, ways, wanted in (("a", a_ways, (True, False)), ("b", b_ways, (False, True))):
            if ways != wanted:
                raise AssertionError(f"For p = {p}, {_WAYS[ways].format(name=name)}")
    passed("one_way: one zero is enough, in the right place")


_WAYS = {  # by whether KL(p‖r) and KL(r‖p) are infinite
    (False, False): "{name} is infinitely far from p neither way: both allow the same classes. "
    "(A tiny probability is not a zero.)",
    (True, True): "{name} is infinitely far from p both ways: it rules out a class that p allows, "
    "and allows one that p rules out. Do only one of the two.",
    (True, False): "{name} rules out a class that p allows. It is the other direction that should "
    "be infinite.",
    (False, True): "{name} allows a class that p rules out. It is the other direction that should "
    "be infinite.",
}


def _distribution(r: Any, name: str, p: Array) -> Array:
    try:
        r = np.asarray(r, dtype=np.float64)
    except (TypeError, ValueError):
        raise AssertionError(f"{name} is a {type(r).__name__}: expected an array.") from None
    if r.shape != p.shape:
        raise AssertionError(
            f"{name} has shape {r.shape}, but p has shape {p.shape}: use the same classes."
        )
    if not np.isfinite(r).all() or r.min() < 0:
        raise AssertionError(f"{name} is {r}, but a probability is never negative, and a number.")
    if abs(r.sum() - 1) > 1e-6:
        raise AssertionError(f"The probabilities of {name} add up to {r.sum():.4g}, not to 1.")
    return r


def _infinite(p: Array, r: Array) -> tuple[bool, bool]:
    return bool(np.isinf(kl_divergence(p, r))), bool(np.isinf(kl_divergence(r, p)))


def batch_kl(student: Function) -> None:
    """Exercise 2: the forward divergence of a batch, from logits."""
    random = np.random.default_rng()
    cases = [
        (_logits(random, 2.0, 8, 10), _logits(random, 2.0, 8, 10)),
        (_logits(random, 1.0, 3, 50), _logits(random, 3.0, 3, 50)),
        (torch.tensor([[0.0, 1000.0, 0.0]]).double(), torch.tensor([[0.0, 0.0, -1000.0]]).double()),
    ]

    def each(z: Tensor, v: Tensor, dim: int = 1) -> Tensor:
        log_p, log_q = v.log_softmax(dim), z.log_softmax(dim)
        return (log_p.exp() * (log_p - log_q)).sum(dim)

    def right(z: Tensor, v: Tensor) -> Tensor:
        return each(z, v).mean()

    def naive(z: Tensor, v: Tensor) -> Tensor:
        p, q = v.softmax(1), z.softmax(1)
        return (p * (p.log() - q.log())).sum(1).mean()

    def negative(z: Tensor, v: Tensor) -> Tensor:
        return F.kl_div(z.softmax(1), v.softmax(1), reduction="batchmean")

    compare(
        student,
        right,
        cases,
        {
            "This is the number of classes times too small: reduction='mean' averages over the "
            "classes too.": lambda z, v: right(z, v) / z.shape[1],
            "This is the sum over the batch: take its mean.": lambda z, v: each(z, v).sum(),
            "One number an image came back: take their mean.": each,
            "This is the other direction, KL(student ‖ teacher). Mind the order of the "
            "arguments.": lambda z, v: right(v, z),
            "Logits went in where log-probabilities belong: the student's logits need a "
            "log_softmax.": lambda z, v: F.kl_div(z, v.softmax(1), reduction="batchmean"),
            "Probabilities went in where log-probabilities belong: the result can even be "
            "negative.": negative,
            "Probabilities went in where log-probabilities belong, and 'mean' averages over the "
            "classes too.": lambda z, v: negative(z, v) / z.shape[1],
            "This is NaN throughout: with log-probabilities for the target, kl_div needs to be "
            "told so.": lambda z, v: right(z, v) * math.nan,
            "The softmax runs over the batch: it belongs over the classes, the last axis.": (
                lambda z, v: each(z, v, 0).sum() / len(z)
            ),
            "The softmax runs over the batch, and so does the sum: both belong over the classes, "
            "the last axis.": lambda z, v: each(z, v, 0).mean(),
            "This is the cross-entropy: the teacher's own entropy is still in it.": (
                lambda z, v: F.cross_entropy(z, v.softmax(1))
            ),
            "This is in bits: the exercise asks for nats.": lambda z, v: right(z, v) / math.log(2),
            "The sign is wrong: no divergence is negative.": lambda z, v: -right(z, v),
            "Right for small logits, but not at 1000: a softmax underflows to 0 there, and its "
            "logarithm is infinite. What takes logarithm and softmax in one step?": naive,
        },
        hint="Which sum runs over the classes, which mean over the batch, and which of the two "
        "distributions weighs the terms?",
    )
    compare_gradient(student, right, cases[0])
    passed("batch_kl: summed over classes, averaged over images, and safe at 1000")


def _logits(random: np.random.Generator, scale: float, *shape: int) -> Tensor:
    return torch.tensor(scale * random.normal(size=shape))


def best_gaussian(student: Function) -> None:
    """Exercise 3: the moments of a mixture."""
    random = np.random.default_rng()
    cases = [(np.array([0.5, 0.5]), np.array([-3.0, 3.0]), np.array([0.7, 0.7]))]
    for n in (3, 5):
        weights = random.permutation(np.arange(1.0, n + 1)) / (n * (n + 1) / 2)
        means = 3 * np.arange(n) + random.random(n) + 2
        cases.append((weights, means, 0.5 + 2 * random.random(n)))

    def moments(w: Array, m: Array, s: Array) -> tuple[Any, Any]:
        mean = w @ m
        return mean, math.sqrt(w @ (s**2 + (m - mean) ** 2))

    def even(w: Array, m: Array, s: Array) -> tuple[Any, Any]:
        return moments(np.full(len(w), 1 / len(w)), m, s)

    compare(
        student,
        moments,
        cases,
        {
            "The second number is the variance: return the width, its root.": (
                lambda w, m, s: (w @ m, moments(w, m, s)[1] ** 2)
            ),
            "This is the mean of the widths. It forgets that the parts lie apart.": (
                lambda w, m, s: (w @ m, w @ s)
            ),
            "This is the root of the mean variance. It forgets that the parts lie apart.": (
                lambda w, m, s: (w @ m, math.sqrt(w @ s**2))
            ),
            "This counts only how far the parts lie apart, and not how wide each is.": (
                lambda w, m, s: (w @ m, math.sqrt(w @ (m - w @ m) ** 2))
            ),
            "This width is about 0 and not about the mean: E[x²] is not yet the variance.": (
                lambda w, m, s: (w @ m, math.sqrt(w @ (s**2 + m**2)))
            ),
            "All parts count the same here: use the weights.": even,
            "This is one of the parts, as the reverse direction would choose. The forward "
            "direction covers them all.": lambda w, m, s: (m[w.argmax()], s[w.argmax()]),
            "Widths don't add up, variances do: square them first.": (
                lambda w, m, s: (w @ m, math.sqrt(w @ s + w @ (m - w @ m) ** 2))
            ),
            "The width comes first here: return the mean and then the width.": (
                lambda w, m, s: moments(w, m, s)[::-1]
            ),
        },
        hint="Which mean and which variance does the mixture have?",
    )
    passed("best_gaussian: the one with the mixture's mean and variance")


def disagreement(student: Function) -> None:
    """Exercise 4: the weighted Jensen-Shannon divergence."""
    random = np.random.default_rng()
    with_zeros = random.dirichlet(np.ones(4), size=3)
    with_zeros[[0, 1, 2], [0, 1, 2]] = 0
    with_zeros /= with_zeros.sum(axis=1, keepdims=True)
    cases = [
        (np.eye(2), np.array([0.5, 0.5])),
        (random.dirichlet(np.ones(5), size=4), np.array([0.4, 0.3, 0.2, 0.1])),
        (with_zeros, np.array([0.6, 0.3, 0.1])),
    ]

    def right(ps: Array, w: Array) -> Any:
        return w @ np.asarray(kl_divergence(ps, np.broadcast_to(w @ ps, ps.shape)))

    def even_middle(ps: Array, w: Array) -> Any:
        return w @ np.asarray(kl_divergence(ps, np.broadcast_to(ps.mean(axis=0), ps.shape)))

    def even_outside(ps: Array, w: Array) -> Any:
        return np.mean(kl_divergence(ps, np.broadcast_to(w @ ps, ps.shape)))

    def even(ps: Array, w: Array) -> Any:
        return right(ps, np.full(len(w), 1 / len(w)))

    def reverse(ps: Array, w: Array) -> Any:
        return w @ rel_entr(w @ ps, ps).sum(axis=1)

    def pairwise(ps: Array, w: Array) -> Any:
        return w @ rel_entr(ps[:, None], ps[None]).sum(axis=2) @ w

    def naive(ps: Array, w: Array) -> Any:
        return w @ (ps * np.log(ps / (w @ ps))).sum(axis=1)

    compare(
        student,
        right,
        cases,
        {
            "All teachers count the same here: use the weights.": even,
            "The mean in the middle takes no weights here: the teachers count differently in it, "
            "too.": even_middle,
            "The weights are in the middle only: the mean of the divergences needs them, "
            "too.": even_outside,
            "This is the entropy of the mean, all of the doubt. Take away the part that the "
            "teachers have without disagreeing.": lambda ps, w: entropy(w @ ps),
            "This is the mean entropy, each teacher's own doubt. How much more has their "
            "mean?": lambda ps, w: w @ np.asarray(entropy(ps)),
            "This is the divergence of the mean from each teacher: it is infinite where one of "
            "them has a zero. Turn it round.": reverse,
            "This compares the teachers in pairs. Compare each with their mean.": pairwise,
            "A probability of 0 made NaN: remember what 0 log 0 counts as.": naive,
            "This is in bits: the exercise asks for nats.": (
                lambda ps, w: right(ps, w) / math.log(2)
            ),
            "The sign is wrong: the entropy of the mean is the larger one.": (
                lambda ps, w: -right(ps, w)
            ),
            "This is its root, which is a distance. The divergence itself is asked for.": (
                lambda ps, w: math.sqrt(right(ps, w))
            ),
            "The weights are in it twice: a weighted mean divides by nothing more.": (
                lambda ps, w: right(ps, w) / len(w)
            ),
        },
        hint="How far, on average, is each teacher from the weighted mean of all?",
    )
    passed("disagreement: the entropy of the mean, less the mean entropy")


def decoupled(student: Function) -> None:
    """Exercise 5: the parts of the target and of the other classes."""
    random = np.random.default_rng()
    p, q = random.dirichlet(np.ones(6), size=(2, 5))
    target = np.array([5, 0, 2, 2, 4])
    impossible = np.array([[0.6, 0.0, 0.1, 0.3], [0.2, 0.5, 0.0, 0.3]])
    allowed = np.array([[0.5, 0.2, 0.2, 0.1], [0.4, 0.3, 0.1, 0.2]])
    cases = [(p, q, target), (impossible, allowed, np.array([0, 3]))]

    def at(r: Array, target: NDArray[np.int64]) -> Array:
        return r[np.arange(len(r)), target]

    def others(r: Array, target: NDArray[np.int64], normalise: bool = True) -> Array:
        r = r.copy()
        r[np.arange(len(r)), target] = 0
        return r / r.sum(axis=1, keepdims=True) if normalise else r

    def tckd(p: Array, q: Array, target: NDArray[np.int64]) -> Any:
        p_t, q_t = at(p, target), at(q, target)
        return rel_entr(p_t, q_t) + rel_entr(1 - p_t, 1 - q_t)

    def nckd(p: Array, q: Array, target: NDArray[np.int64]) -> Any:
        return rel_entr(others(p, target), others(q, target)).sum(axis=1)

    def right(p: Array, q: Array, target: NDArray[np.int64]) -> Any:
        return tckd(p, q, target), nckd(p, q, target)

    def halves(p: Array, q: Array, target: NDArray[np.int64]) -> Any:
        return rel_entr(at(p, target), at(q, target)), nckd(p, q, target)

    def as_it_was(p: Array, q: Array, target: NDArray[np.int64]) -> Any:
        loose = rel_entr(others(p, target, False), others(q, target, False)).sum(axis=1)
        return tckd(p, q, target), loose

    def naive(p: Array, q: Array, target: NDArray[np.int64]) -> Any:
        p_o, q_o = others(p, target), others(q, target)
        terms = p_o * np.log(p_o / q_o)
        terms[np.arange(len(p)), target] = 0
        return tckd(p, q, target), terms.sum(axis=1)

    def naive_throughout(p: Array, q: Array, target: NDArray[np.int64]) -> Any:
        return tckd(p, q, target), np.full(len(p), math.nan)

    zero = (
        "A probability of 0 made NaN in the second part: remember what 0 log 0 counts as, for the "
        "target's empty place as well as for a class that the teacher rules out."
    )
    compare(
        student,
        right,
        cases,
        {
            "The second part already has the weight 1 − p_t in it: return it without.": (
                lambda p, q, t: (tckd(p, q, t), (1 - at(p, t)) * nckd(p, q, t))
            ),
            "The other classes don't add up to 1: divide by their sum before you compare "
            "them.": as_it_was,
            "The first part is only half of a divergence: the target against *all others "
            "together* is a distribution over two outcomes.": halves,
            "The direction is the wrong one: the teacher comes first.": (
                lambda p, q, t: right(q, p, t)
            ),
            "The two parts are in the wrong order: TCKD first.": (
                lambda p, q, t: right(p, q, t)[::-1]
            ),
            "The second part is the whole divergence: leave the target out of it.": (
                lambda p, q, t: (tckd(p, q, t), rel_entr(p, q).sum(axis=1))
            ),
            "The target is taken to be the teacher's first choice. It is given: use "
            "`target`.": lambda p, q, t: right(p, q, p.argmax(axis=1)),
            "The same class is left out in every row. Each row has its own target.": (
                lambda p, q, t: right(p, q, np.full(len(t), t[0]))
            ),
            "This is in bits: the exercise asks for nats.": (
                lambda p, q, t: np.divide(right(p, q, t), math.log(2))
            ),
            "These are means over the batch: return one number a row.": (
                lambda p, q, t: np.mean(right(p, q, t), axis=1)
            ),
            zero: naive,
            zero + " (All rows are NaN.)": naive_throughout,
        },
        hint="Which two distributions are compared in each part, and does each add up to 1?",
    )
    passed("decoupled: the target, and what is left when it is gone")
