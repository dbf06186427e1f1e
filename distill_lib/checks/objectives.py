"""Checkers for the exercises of the chapter on three objectives."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, rel_entr, softmax, xlogy

from distill_lib.checks import Function, compare, passed

Array = NDArray[np.float64]


def translate(student: Function) -> None:
    """Exercise 1: the share and the learning rate that do what a price does."""
    random = np.random.default_rng()
    cases = [(1.0, 4.0, 0.1), (144.0, 4.0, 0.01), (0.5, 1.0, 0.3)]
    cases += [
        (float(lam), float(tau), float(lr))
        for lam, tau, lr in zip(
            random.uniform(0.2, 50, 5),
            random.uniform(1.5, 9, 5),
            random.uniform(0.01, 0.5, 5),
            strict=True,
        )
    ]

    def share(lam: float, tau: float) -> float:
        return lam / (lam + tau**2)

    def right(lam: float, tau: float, lr: float) -> tuple[float, float]:
        return share(lam, tau), lr / (1 - share(lam, tau))

    def with_share(alpha: Function) -> Function:
        return lambda lam, tau, lr: (alpha(lam, tau), lr / (1 - alpha(lam, tau)))

    compare(
        student,
        right,
        cases,
        {
            "The two are the wrong way round: first the share, then the learning rate.": (
                lambda lam, tau, lr: right(lam, tau, lr)[::-1]
            ),
            "The share leaves out that your divergence is multiplied by τ², and hers is not.": (
                with_share(lambda lam, tau: lam / (1 + lam))
            ),
            "The share counts τ for τ²: which power stands before your divergence?": (
                with_share(lambda lam, tau: lam / (lam + tau))
            ),
            "The factor τ² has come in on the wrong side: it makes your divergence larger, so you "
            "need less of a share for the same price.": (
                with_share(lambda lam, tau: lam * tau**2 / (1 + lam * tau**2))
            ),
            "This is the labels' share, 1 - α.": (
                lambda lam, tau, lr: (1 - share(lam, tau), right(lam, tau, lr)[1])
            ),
            "The share is right. With the old learning rate your steps are shorter than hers: your "
            "labels have a factor in front of them, and hers have none.": (
                lambda lam, tau, lr: (share(lam, tau), lr)
            ),
            "The share is right, but the learning rate goes the wrong way: 1 - α makes your "
            "gradient smaller already.": (
                lambda lam, tau, lr: (share(lam, tau), lr * (1 - share(lam, tau)))
            ),
            "The share is right. The learning rate should make the two *labels'* terms equal, and "
            "this one is made with the factor of the divergence alone.": (
                lambda lam, tau, lr: (share(lam, tau), lr / share(lam, tau))
            ),
        },
        hint="Set the factors of the two cross-entropies equal, learning rates included, and "
        "likewise those of the two divergences.",
    )
    passed("translate: one objective, two names")


def lowest_penalty(student: Function) -> None:
    """Exercise 2: the smallest value of the soft penalty at temperature 1."""
    random = np.random.default_rng()
    certain = (np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]), np.array([1, 0]), 2.0)
    cases = []
    for b, k, lam in ((4, 10, 0.5), (3, 5, 1.0), (6, 4, float(random.uniform(2, 8)))):
        p = softmax(random.normal(scale=1.5, size=(b, k)), axis=1)
        cases.append((p, random.integers(k, size=b), lam))

    def entropy(p: Array) -> Array:
        return -xlogy(p, p).sum(axis=1)

    def one_hot(p: Array, y: Array) -> Array:
        return np.eye(p.shape[1])[y]

    def at(answer: Function, kl: Function = rel_entr, *, priced: bool = True) -> Function:
        """The loss at an answer that is computed from label, teacher and price."""

        def value(p: Array, y: Array, lam: float) -> Any:
            label = one_hot(p, y)
            q = answer(label, p, lam)
            return -xlogy(label, q).sum(axis=1) + (lam if priced else 1) * kl(p, q).sum(axis=1)

        return value

    def vote(label: Array, p: Array, lam: float) -> Array:
        return (label + lam * p) / (1 + lam)

    def of_vote(formula: Function) -> Function:
        return lambda p, y, lam: formula(entropy(vote(one_hot(p, y), p, lam)), entropy(p), lam)

    compare(
        student,
        at(vote),
        cases,
        {
            "This is the lowest value of the loss with the *cross-entropy* to the teacher: its "
            "divergence is less by the teacher's entropy, λ times.": (
                of_vote(lambda best, own, lam: (1 + lam) * best)
            ),
            "This is the entropy of the best answer. The loss has 1 + λ votes, and a divergence "
            "in place of a cross-entropy.": of_vote(lambda best, own, lam: best),
            "The teacher's entropy is added here: KL is the cross-entropy *less* the entropy.": (
                of_vote(lambda best, own, lam: (1 + lam) * best + lam * own)
            ),
            "The teacher's entropy counts as often as its divergence does: λ times.": (
                of_vote(lambda best, own, lam: (1 + lam) * best - own)
            ),
            "This is the loss of a student that repeats the teacher. It pays nothing for the "
            "divergence, but it could do better on the sum.": at(lambda label, p, lam: p),
            "The price counts the label's votes here: λ belongs to the teacher.": (
                at(lambda label, p, lam: (lam * label + p) / (1 + lam))
            ),
            "Label and teacher have equal votes here, whatever the price.": (
                at(lambda label, p, lam: (label + p) / 2)
            ),
            "The votes are not counted to the end: this answer does not add up to 1.": (
                at(lambda label, p, lam: label + lam * p)
            ),
            "The price is missing before the divergence: λ is in the votes, and in the loss.": (
                at(vote, priced=False)
            ),
            "The divergence is the wrong way round: the teacher comes first, KL(p ‖ q).": (
                at(vote, lambda p, q: rel_entr(q, p))
            ),
            "This is the label's part alone, at the best answer; the price for the divergence is "
            "missing.": (
                lambda p, y, lam: -np.log(vote(one_hot(p, y), p, lam)[np.arange(len(y)), y])
            ),
            "This is the divergence's part alone, at the best answer; the label's is missing.": (
                lambda p, y, lam: lam * rel_entr(p, vote(one_hot(p, y), p, lam)).sum(axis=1)
            ),
            "This is the mean over the images: return one value for each.": (
                lambda p, y, lam: at(vote)(p, y, lam).mean()
            ),
        },
        hint="Which answer is the best? Put it into both terms of the loss.",
    )
    zeros = (
        "Right, but for a teacher who is certain: what does p ln p count as where p is 0? See the "
        "second hint."
    )
    naive = at(vote, lambda p, q: p * np.log(p / q))
    compare(student, at(vote), [certain], {zeros: naive}, hint=zeros, not_finite=zeros)
    passed("lowest_penalty: how low a loss can get")


def kl_ambiguity(student: Function) -> None:
    """Exercise 3: what the geometric mean misses, and what the students differ by."""
    random = np.random.default_rng()
    cases = []
    for n, b, k, spread in ((2, 1, 3, 1.0), (4, 5, 10, 1.5), (7, 3, 4, 0.7)):
        p = softmax(random.normal(scale=1.5, size=(b, k)), axis=-1)
        shared = random.normal(scale=1.5, size=(b, k))
        q = softmax(shared + spread * random.normal(size=(n, b, k)), axis=-1)
        cases.append((p, q))

    def kl(p: Array, q: Array) -> Array:
        return rel_entr(p, q).sum(axis=-1)

    def geometric(q: Array) -> Array:
        return softmax(np.log(q).mean(axis=0), axis=-1)

    def terms(middle: Function, *, turn_miss: bool = False, turn_rest: bool = False) -> Function:
        def both(p: Array, q: Array) -> tuple[float, float]:
            m = middle(q)
            miss = kl(m, p) if turn_miss else kl(p, m)
            rest = kl(q, m) if turn_rest else kl(m, q)
            return float(miss.mean()), float(rest.mean())

        return both

    right = terms(geometric)

    def unnormalised(p: Array, q: Array) -> tuple[float, float]:
        m = np.exp(np.log(q).mean(axis=0))
        return float(kl(p, m).mean()), float(kl(m, q).mean())

    def scaled(miss: Function, rest: Function) -> Function:
        def both(p: Array, q: Array) -> tuple[float, float]:
            a, b = right(p, q)
            return a * miss(q), b * rest(q)

        return both

    compare(
        student,
        right,
        cases,
        {
            "The two are the wrong way round: first what the mean misses.": (
                lambda p, q: right(p, q)[::-1]
            ),
            "The middle is the mean of the probabilities here. With it the two don't add up to the "
            "students' mean divergence; do they with the geometric mean?": (
                terms(lambda q: q.mean(axis=0))
            ),
            "The middle is the mean of the probabilities, and the second term is JS. They belong "
            "to the teachers' decomposition; this one is about students.": (
                terms(lambda q: q.mean(axis=0), turn_rest=True)
            ),
            "The geometric mean does not add up to 1 here. Where does Z go?": unnormalised,
            "The second term is the wrong way round: the divergence of the students from the "
            "middle, KL(middle ‖ student).": terms(geometric, turn_rest=True),
            "The first term is the wrong way round: the target comes first.": (
                terms(geometric, turn_miss=True)
            ),
            "Both divergences are the wrong way round.": (
                terms(geometric, turn_miss=True, turn_rest=True)
            ),
            "These are sums over the images: the mean is asked for.": (
                scaled(lambda q: q.shape[1], lambda q: q.shape[1])
            ),
            "The second term is a sum over the students: it should be their mean.": (
                scaled(lambda q: 1, lambda q: len(q))
            ),
            "These are means over the classes, too: a divergence is a sum over them.": (
                scaled(lambda q: 1 / q.shape[2], lambda q: 1 / q.shape[2])
            ),
            "These are bits: nats are asked for.": (lambda p, q: np.array(right(p, q)) / np.log(2)),
            "The second is the left side of the identity, the whole: the mean of KL(p ‖ q_n).": (
                lambda p, q: (right(p, q)[0], float(kl(p, q).mean()))
            ),
        },
        hint="Do your two terms add up to the mean of KL(p ‖ q_n)? If not, which of them is off?",
    )
    passed("kl_ambiguity: to differ is worth exactly this much")


def dirichlet_uncertainties(student: Function) -> None:
    """Exercise 4: the two entropies of a distribution of opinions."""
    random = np.random.default_rng()
    cases = [
        (np.array([[1.0, 1.0, 1.0], [0.5, 2.0, 7.0]]),),
        (random.uniform(0.2, 6, size=(4, 10)),),
        (random.uniform(2, 40, size=(2, 4)),),
    ]

    def entropy(p: Array) -> Array:
        return -xlogy(p, p).sum(axis=1)

    def mean(a: Array) -> Array:
        return a / a.sum(axis=1, keepdims=True)

    def inner(a: Array, plus: float = 1.0) -> Array:
        total = a.sum(axis=1, keepdims=True)
        return -(mean(a) * (digamma(a + plus) - digamma(total + plus))).sum(axis=1)

    def triple(of_mean: Function, of_one: Function) -> Function:
        return lambda a: (of_mean(a), of_one(a), of_mean(a) - of_one(a))

    def total(a: Array) -> Array:
        return entropy(mean(a))

    right = triple(total, inner)

    def differential(a: Array) -> Array:
        total = a.sum(axis=1)
        log_beta = gammaln(a).sum(axis=1) - gammaln(total)
        inside = ((a - 1) * digamma(a)).sum(axis=1)
        return log_beta + (total - a.shape[1]) * digamma(total) - inside

    compare(
        student,
        right,
        cases,
        {
            "The three stand in columns: return three arrays, each with one number for each row.": (
                lambda a: np.transpose(right(a))
            ),
            "The last two are exchanged: the mean entropy comes second, JS third.": (
                lambda a: (total(a), total(a) - inner(a), inner(a))
            ),
            "The digamma functions are taken at a_k and a_0: that is the mean of ln π. It is the "
            "mean of π ln π that is wanted, which adds 1 to both.": (
                triple(total, lambda a: inner(a, 0.0))
            ),
            "The mean entropy is negative here: entropy has a minus sign.": (
                lambda a: (total(a), -inner(a), total(a) + inner(a))
            ),
            "JS is the wrong way round: the entropy of the mean is the larger of the two.": (
                lambda a: (total(a), inner(a), inner(a) - total(a))
            ),
            "The second is the entropy of the mean again. The mean of the entropies is another "
            "number: use the digamma function.": triple(total, total),
            "The second is the entropy of the Dirichlet density itself, which can be negative. "
            "Wanted is the mean entropy of an opinion drawn from it.": triple(total, differential),
            "The parameters are no probabilities yet: they don't add up to 1.": (
                triple(entropy, inner)
            ),
            "The mean opinion is not the softmax of the parameters: divide them by their sum.": (
                triple(lambda a: entropy(softmax(a, axis=1)), inner)
            ),
            "These are bits: nats are asked for.": lambda a: np.array(right(a)) / np.log(2),
            "These are means over the images: return one triple for each.": (
                lambda a: np.array(right(a)).mean(axis=1)
            ),
        },
        hint="Three numbers for each row: the entropy of a / a_0, the mean entropy by the formula, "
        "and their difference.",
    )
    passed("dirichlet_uncertainties: doubt and disagreement, kept apart")
