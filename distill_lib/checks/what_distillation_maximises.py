"""Checkers for the exercises of the chapter on what distillation maximises."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, rel_entr, softmax

from distill_lib.checks import Function, compare, passed
from distill_lib.information import entropy, kl_divergence

Array = NDArray[np.float64]


def information_bound(student: Function) -> None:
    """Exercise 1: H(T) minus the cross-entropy with the soft targets, from logits."""
    random = np.random.default_rng()
    cases = [
        (3 * random.normal(size=(n, k)), 2 * random.normal(size=(n, k)), tau)
        for n, k, tau in ((4, 3, 1.0), (7, 5, 2.5), (6, 4, 0.7))
    ]
    large = (random.normal(size=(3, 4)), np.array([[2000.0, 0, -500, 9]] * 3), 1.5)

    def bound(
        v: Array, z: Array, tau: float, *, student_tau: float | None = None, factor: float = 1.0
    ) -> Any:
        p, log_q = softmax(v / tau, axis=1), log_softmax(z / (student_tau or tau), axis=1)
        return entropy(p.mean(axis=0)) + factor * (p * log_q).sum(axis=1).mean()

    def loss(v: Array, z: Array, tau: float) -> Any:
        return -(softmax(v / tau, axis=1) * log_softmax(z / tau, axis=1)).sum(axis=1).mean()

    def noise(v: Array, tau: float) -> Any:
        return np.mean(entropy(softmax(v / tau, axis=1)))

    def top_label(v: Array, z: Array, tau: float, *, entropy_too: bool) -> Any:
        one_hot = np.eye(v.shape[1])[v.argmax(axis=1)]
        p = (one_hot if entropy_too else softmax(v / tau, axis=1)).mean(axis=0)
        return entropy(p) + (one_hot * log_softmax(z / tau, axis=1)).sum(axis=1).mean()

    def naive(v: Array, z: Array, tau: float) -> Any:
        p, q = softmax(v / tau, axis=1), softmax(z / tau, axis=1)
        return entropy(p.mean(axis=0)) + (p * np.log(q)).sum(axis=1).mean()

    top = (
        "This takes the teacher's top answer for its label. T is drawn from the whole soft target: "
        "weigh every class with its probability."
    )
    compare(
        student,
        bound,
        cases,
        {
            "This is minus the mean KL: H(T) is not the mean of the entropies. Which distribution "
            "does T have before the image is seen?": lambda v, z, tau: (
                noise(v, tau) - loss(v, z, tau)
            ),
            "This is the mean KL, the gap of the bound, and not the bound.": (
                lambda v, z, tau: loss(v, z, tau) - noise(v, tau)
            ),
            top: lambda v, z, tau: top_label(v, z, tau, entropy_too=False),
            top + " (The same goes for H(T).)": (
                lambda v, z, tau: top_label(v, z, tau, entropy_too=True)
            ),
            "The loss is added to H(T): mind its sign. A worse student should have a smaller "
            "bound.": lambda v, z, tau: bound(v, z, tau, factor=-1),
            "The sign is turned round: a better student should have a larger bound.": (
                lambda v, z, tau: -bound(v, z, tau)
            ),
            "This is the loss alone: what is it to be compared with?": loss,
            "The divergence is taken away from H(T) in the place of the cross-entropy: the noise "
            "of the draw is missing.": lambda v, z, tau: bound(v, z, tau) + noise(v, tau),
            "This is in bits: the question is about nats.": (
                lambda v, z, tau: bound(v, z, tau) / math.log(2)
            ),
            "Both networks are at temperature 1: use `tau`.": lambda v, z, tau: bound(v, z, 1.0),
            "The student is at temperature 1 here: its logits are divided by `tau`, too.": (
                lambda v, z, tau: bound(v, z, tau, student_tau=1.0)
            ),
            "The loss is multiplied by τ². That factor belongs to training; the bound is made of "
            "the plain cross-entropy.": lambda v, z, tau: bound(v, z, tau, factor=tau**2),
            "The loss is summed over the images: take the mean.": (
                lambda v, z, tau: bound(v, z, tau, factor=len(v))
            ),
            "The mean is over classes too: sum over the classes, then take the mean over the "
            "images.": lambda v, z, tau: bound(v, z, tau, factor=1 / v.shape[1]),
            "Teacher and student have changed places: the teacher comes first.": (
                lambda v, z, tau: bound(z, v, tau)
            ),
        },
        hint="What is p(t), the teacher's label before the image is seen, and what does the "
        "student pay for it on average once it is?",
    )
    underflows = (
        "Right, but for a student with a very large logit the bound is minus infinity: the "
        "softmax became 0 before its logarithm was taken. See the second hint."
    )
    hint = "It was right for small logits, and is not for a very large one. See the second hint."
    compare(student, bound, [large], {underflows: naive}, hint=hint, not_finite=underflows)
    passed("information_bound: what the loss was worth")


def information_lost(student: Function) -> None:
    """Exercise 2: I(X;T|Z) for a grouping of the images."""
    random = np.random.default_rng()
    rows = np.array([[0.9, 0.1], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
    with_zeros = (np.full(4, 0.25), rows, np.array([0, 0, 1, 1]))
    cases = []
    for n_x, n_t, n_z in ((6, 3, 3), (9, 4, 2), (5, 2, 2)):
        groups = random.permutation(np.arange(n_x) % n_z)
        groups[0] = n_z + 3  # numbers of groups need not be consecutive
        cases.append((random.dirichlet(np.ones(n_x)), random.dirichlet(np.ones(n_t), n_x), groups))

    def even(p_x: Array) -> Array:
        return np.full(len(p_x), 1 / len(p_x))

    def kept(p_x: Array, p_t: Array, groups: Array) -> float:
        return float(p_x @ kl_divergence(p_t, np.tile(p_x @ p_t, (len(p_x), 1)))) - _lost(
            p_x, p_t, groups
        )

    def by_group(p_x: Array, p_t: Array, groups: Array) -> Any:
        """The mean over groups, each counted once."""
        values = [
            _lost(p_x[groups == z] / p_x[groups == z].sum(), p_t[groups == z], groups[groups == z])
            for z in np.unique(groups)
        ]
        return np.mean(values)

    def turned(p_x: Array, p_t: Array, groups: Array) -> Any:
        return p_x @ kl_divergence(_centres(p_x, p_t, groups), p_t)

    compare(
        student,
        _lost,
        cases,
        {
            "This is I(Z;T), what the grouping keeps. What does it lose?": kept,
            "This is I(X;T), all there is to know: the groups don't appear in it.": (
                lambda p_x, p_t, groups: _lost(p_x, p_t, np.zeros(len(p_x)))
            ),
            "This is H(T|Z), what is uncertain once the group is known. A part of it is noise that "
            "the image would not remove either.": (
                lambda p_x, p_t, groups: p_x @ entropy(_centres(p_x, p_t, groups))
            ),
            "This is in bits: the question is about nats.": (
                lambda p_x, p_t, groups: _lost(p_x, p_t, groups) / math.log(2)
            ),
            "The divergence runs the wrong way: from the image's soft target to the mean of its "
            "group, KL(image ‖ mean).": turned,
            "All images count the same here, but they have probabilities: use `p_x`, in both "
            "means.": lambda p_x, p_t, groups: _lost(even(p_x), p_t, groups),
            "The mean of a group is taken without `p_x`: its images need not be equally likely.": (
                lambda p_x, p_t, groups: p_x @ kl_divergence(p_t, _centres(even(p_x), p_t, groups))
            ),
            "The divergences are averaged without `p_x`: likely images count for more.": (
                lambda p_x, p_t, groups: np.mean(kl_divergence(p_t, _centres(p_x, p_t, groups)))
            ),
            "The divergences are summed, and not averaged: weigh each with the probability of its "
            "image.": lambda p_x, p_t, groups: np.sum(
                kl_divergence(p_t, _centres(p_x, p_t, groups))
            ),
            "Each group counts the same here: weigh it with its probability.": by_group,
        },
        hint="How far is each image's soft target from the mean of its group, on average?",
        not_finite="The groups need not have consecutive numbers: is there one without images?",
    )
    zeros = "Right, but where the teacher rules a label out: what does p ln p count as at p = 0?"
    compare(student, _lost, [with_zeros], {}, hint=zeros, not_finite=zeros)
    passed("information_lost: the price of treating images alike")


def best_merger(student: Function) -> None:
    """Exercise 3: the two images whose merger loses the least."""
    random = np.random.default_rng()
    cases = [
        # near a corner a short way is dear: 0 and 1 look nearer than 2 and 3
        (
            np.full(4, 0.25),
            np.array([[1.0, 0, 0], [0.9, 0.1, 0], [0.2, 0.4, 0.4], [0.25, 0.5, 0.25]]),
        ),
        # 0 allows what 1 rules out: an infinite KL, and yet they are the cheapest to merge
        (
            np.full(4, 0.25),
            np.array([[0.97, 0.03, 0], [1, 0, 0], [0.2, 0.4, 0.4], [0.35, 0.4, 0.25]]),
        ),
        # unlikely images are cheap to merge
        (
            np.array([0.45, 0.45, 0.05, 0.05]),
            np.array([[0.5, 0.5], [0.6, 0.4], [0.8, 0.2], [1, 0]]),
        ),
    ]
    for _ in range(30):  # so many that two kinds of mistake don't agree on all of them
        cases.append((random.dirichlet(np.full(6, 0.7)), random.dirichlet(np.ones(3), 6)))

    def pick(score: Callable[[Array, Array, int, int], float]) -> Function:
        return lambda p_x, p_t: min(
            combinations(range(len(p_x)), 2), key=lambda pair: score(p_x, p_t, *pair)
        )

    def loss(p_x: Array, p_t: Array, i: int, j: int) -> float:
        weights, rows = p_x[[i, j]], p_t[[i, j]]
        return float(weights @ rel_entr(rows, weights @ rows / weights.sum()).sum(axis=1))

    def share(p_x: Array, p_t: Array, i: int, j: int) -> float:
        return loss(p_x, p_t, i, j) / (p_x[i] + p_x[j])

    def even(p_x: Array, p_t: Array, i: int, j: int) -> float:
        return loss(np.ones(len(p_x)), p_t, i, j)

    compare(
        student,
        pick(loss),
        cases,
        {
            "The pair is right: return the smaller number first.": (
                lambda p_x, p_t: pick(loss)(p_x, p_t)[::-1]
            ),
            "These two lose the most.": pick(lambda *world: -loss(*world)),
            "These two are nearest by Euclidean distance. Near a corner of the triangle a short "
            "way costs much information.": pick(
                lambda p_x, p_t, i, j: float(np.linalg.norm(p_t[i] - p_t[j]))
            ),
            "All images count the same here: merging two that hardly occur is cheap. Use `p_x`.": (
                pick(even)
            ),
            "The loss is taken within the pair: weigh it with the probability that the pair occurs "
            "at all.": pick(share),
            "These are the two least likely images, whatever the teacher says of them.": pick(
                lambda p_x, p_t, i, j: float(p_x[i] + p_x[j])
            ),
            "This is what the merger costs: return which two images it joins.": (
                lambda p_x, p_t: loss(p_x, p_t, *pick(loss)(p_x, p_t))
            ),
            "A single KL from one image to the other is not the loss: both move to their mean.": (
                pick(lambda p_x, p_t, i, j: float(kl_divergence(p_t[i], p_t[j])))
            ),
        },
        hint="Try all pairs: how much more uncertain is T about the merged pair than, on average, "
        "about the two?",
    )
    passed("best_merger: what to forget first")


def cold_limit(student: Function) -> None:
    """Exercise 4: the limit of τ KL as τ goes to 0."""
    random = np.random.default_rng()

    def apart(logits: Array) -> Array:
        """Logits whose largest leads by 0.1, so that a small τ comes close to the limit."""
        logits[np.arange(len(logits)), logits.argmax(axis=1)] += 0.1
        return logits

    cases = [
        (np.array([[1.0, 3.0, 0.0]]), np.array([[2.0, 1.0, 0.0]])),
        (apart(2 * random.normal(size=(6, 4))), apart(2 * random.normal(size=(6, 4)))),
        (apart(2 * random.normal(size=(5, 10)) + 3), apart(random.normal(size=(5, 10)))),
    ]

    def rows(z: Array, v: Array) -> Any:
        return z.max(axis=1) - z[np.arange(len(v)), v.argmax(axis=1)]

    compare(
        student,
        lambda z, v: rows(z, v).mean(),
        cases,
        {
            "Teacher and student have changed places.": lambda z, v: rows(v, z).mean(),
            "One number for each image came back: take the mean.": rows,
            "The sum over the images came back: take the mean.": lambda z, v: rows(z, v).sum(),
            "That is the limit of τ² KL. With one factor τ less the limit is not 0.": (
                lambda z, v: 0.0
            ),
            "This is the limit of τ² KL for a hot teacher: here τ goes to 0.": (
                lambda z, v: np.var(z - v, axis=1).mean() / 2
            ),
            "This compares the largest logit of the student with the largest of the teacher. A "
            "constant added to all of the student's logits must not change the answer.": (
                lambda z, v: (z.max(axis=1) - v.max(axis=1)).mean()
            ),
            "This is the difference of the two networks' logits at the teacher's top answer. A "
            "constant added to all of the student's logits must not change the answer.": (
                lambda z, v: (v - z)[np.arange(len(v)), v.argmax(axis=1)].mean()
            ),
            "The sign is turned round: a divergence is never negative.": (
                lambda z, v: -rows(z, v).mean()
            ),
            "This counts how often the top answers differ. By how much does the student's "
            "favourite lead?": lambda z, v: (z.argmax(axis=1) != v.argmax(axis=1)).mean(),
            "This is the cross-entropy with the teacher's top answer at temperature 1. As τ goes "
            "to 0 the student's softmax becomes one-hot as well.": (
                lambda z, v: -np.mean(log_softmax(z, axis=1)[np.arange(len(v)), v.argmax(axis=1)])
            ),
        },
        hint="What is left of τ KL when the teacher's softmax is one-hot and τ A(u/τ) is the "
        "largest of the u? Try a small τ in numbers.",
    )
    passed("cold_limit: a cold teacher only names its favourite")


def _centres(p_x: Array, p_t_given_x: Array, groups: Array) -> Array:
    """For each image the mean soft target of its group."""
    same = (groups[:, None] == groups) * p_x
    centres: Array = same @ p_t_given_x / same.sum(axis=1, keepdims=True)
    return centres


def _lost(p_x: Array, p_t_given_x: Array, groups: Array) -> float:
    """I(X;T|Z): the mean KL of an image's soft target from the mean of its group."""
    return float(p_x @ kl_divergence(p_t_given_x, _centres(p_x, p_t_given_x, groups)))
