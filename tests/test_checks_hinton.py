"""Each checker passes the solution, and tells a beginner which mistake it was."""

import math

import numpy as np
import torch
from checking import *  # noqa: F403
from lab_answers import answers
from torch.nn import functional as F

from distill_lib.checks import hinton as check

CHAPTER = "18-hinton-2015"
EXERCISES = ("bias_to_reach", "shorten", "told_about", "errors_after")
ALIKE = 2  # messages, at most, for two mistakes


# ---- typical mistakes: what a student wrote, and what the message says


def _margins(z, k):
    rest = torch.cat([z[:, :k], z[:, k + 1 :]], dim=1)
    return rest.max(dim=1).values - z[:, k]


def _bias(z, k, share, place=lambda wanted: math.ceil(wanted) - 1, margins=_margins):
    return sorted(margins(z, k).tolist())[place(share * len(z))]


def _overwrites(z, k, share):
    own = z[:, k].clone()
    z[:, k] = -torch.inf
    return (z.amax(dim=1) - own).sort().values[math.ceil(share * len(z)) - 1]


def _of_the_rest(z, k, share):
    values = sorted(m for m in _margins(z, k).tolist() if m > 0)
    return values[max(math.ceil(share * len(values)) - 1, 0)] if values else 0.0


def _beyond_those(z, k, share):
    values = sorted(m for m in _margins(z, k).tolist() if m > 0)
    return values[min(math.ceil(share * len(z)), len(values)) - 1]


def _mean_margin(z, k):
    return (z.sum(dim=1) - z[:, k]) / (z.shape[1] - 1) - z[:, k]


def _scaled(factor, length=lambda w: w.norm(dim=1, keepdim=True)):
    return lambda w, longest: w * factor(length(w), longest)


def _down(length, longest):
    return torch.minimum(torch.ones(()), longest / length)


def _long_ones(factor, power=1):
    """A loop over the rows that does something to the long ones."""

    def student(weights, longest):
        found = weights.clone()
        for row in found:
            length = row.norm()
            if length**power > longest:
                row *= factor(length, longest)
        return found

    return student


def _in_place(weights, longest):
    return weights.renorm_(p=2, dim=0, maxnorm=longest)


def _by_label(values):
    """The mean of column k of something, for each label."""

    def student(z, y, k, tau):
        found = values(z, tau)[:, k]
        return [found[y == c].mean() for c in range(z.shape[1])]

    return student


_told = _by_label(lambda z, tau: F.softmax(z / tau, dim=1))


def _sums(z, y, k, tau):
    p = F.softmax(z / tau, dim=1)[:, k]
    return torch.zeros(z.shape[1]).to(p).index_add(0, y, p)


def _late(z, y, k, tau):
    means = torch.stack([z[y == c].mean(0) for c in range(z.shape[1])])
    return F.softmax(means / tau, dim=1)[:, k]


def _shared_out(z, y, k, tau):
    told = torch.stack(_told(z, y, k, tau))
    return told / told.sum()


def _moved(z, k, bias):
    moved = z.clone()
    moved[:, k] += bias
    return moved


def _errors(z, y, k, bias, second=lambda found, y, k: (found != y) & (y == k)):
    found = _moved(z, k, bias).argmax(dim=1)
    return (found != y).sum(), second(found, y, k).sum()


def _image_k(z, y, k, bias):
    z[k] += bias
    return _errors(z, y, k, 0.0)


def _adds_in_place(z, y, k, bias):
    z[:, k] += bias
    return _errors(z, y, k, 0.0)


def _shares(z, y, k, bias, of_k=True):
    every, on_k = _errors(z, y, k, bias)
    return every / len(y), on_k / ((y == k).sum() if of_k else len(y))


MISTAKES = {
    "bias_to_reach": [
        (
            lambda z, k, s: _bias(z, k, s, margins=lambda z, k: z.amax(1) - z[:, k]),
            "among all classes, k included",
        ),
        (lambda z, k, s: -_bias(z, k, s), "positive is what class k lacks"),
        (
            lambda z, k, s: _bias(z, k, s, margins=lambda z, k: -_margins(z, k)),
            "The margin has the wrong sign",
        ),
        (
            lambda z, k, s: (
                _margins(z, k).sort(descending=True).values[math.ceil(s * len(z)) - 1].item()
            ),
            "lack most come first",
        ),
        (lambda z, k, s: _bias(z, k, s, math.ceil), "one image too many: the n-th"),
        (lambda z, k, s: _bias(z, k, s, lambda n: math.ceil(n) - 2), "one image too few"),
        (lambda z, k, s: _bias(z, k, s, int), "no whole number, and one image too many"),
        (lambda z, k, s: _bias(z, k, s, lambda n: int(n) - 1), "is rounded down"),
        (lambda z, k, s: _bias(z, k, s, lambda n: round(n) - 1), "rounded to the nearest"),
        (lambda z, k, s: np.quantile(_margins(z, k), s), "An interpolated quantile"),
        (lambda z, k, s: _margins(z, k).mean(), "lacks on average"),
        (lambda z, k, s: _margins(z, k).max(), "the answer to every image"),
        (_of_the_rest, "the share is one of all images"),
        (_beyond_those, "They count towards the share"),
        (lambda z, k, s: _bias(z.softmax(1), k, s), "a margin of probabilities"),
        (lambda z, k, s: _bias(z, k, s, margins=_mean_margin), "the mean of the others"),
        (_overwrites, "logits that came in were overwritten"),
        (lambda z, k, s: 3.5, "is not right yet.* It returns 3.5"),
        (lambda z, k, s: _margins(z, k), "returns an array of shape"),
    ],
    "shorten": [
        (_scaled(_down, lambda w: w.norm(dim=0)), "The columns are shortened"),
        (lambda w, longest: longest * F.normalize(w, dim=1), "the short ones were lengthened"),
        (lambda w, longest: w.clip(-longest, longest), "Every number is cut"),
        (_scaled(_down, torch.norm), "the whole matrix"),
        (_scaled(_down, lambda w: (w**2).sum(1, keepdim=True)), "The length lacks its root"),
        (_long_ones(lambda length, longest: longest / length, power=2), "missing in the compar"),
        (_scaled(_down, lambda w: w.abs().sum(1, keepdim=True)), "the sum of the sizes"),
        (_scaled(_down, lambda w: w.abs().amax(1, keepdim=True)), "largest number in the row"),
        (_scaled(_down, lambda w: w.norm(dim=1).max()), "One factor for all rows"),
        (
            _scaled(lambda length, longest: torch.maximum(torch.ones(()), longest / length)),
            "The wrong rows were scaled",
        ),
        (_long_ones(lambda length, longest: length / longest), "upside down"),
        (_long_ones(lambda length, longest: 1 / longest), "divided by the limit"),
        (_long_ones(lambda length, longest: 1 / length), "have length 1 now"),
        (_long_ones(lambda length, longest: 0), "The long rows are gone"),
        (_scaled(lambda length, longest: length.clamp(max=longest) / length), "a unit without any"),
        (_in_place, "was changed, too"),
        (lambda w, longest: w, "is not right yet.* It returns"),
        (lambda w, longest: w.norm(dim=1), "returns an array of shape"),
    ],
    "told_about": [
        (_by_label(lambda z, tau: z.softmax(1)), "The temperature is missing"),
        (_by_label(lambda z, tau: (z * tau).softmax(1)), "multiplied by τ"),
        (_by_label(lambda z, tau: z.softmax(1) / tau), "belongs inside the softmax"),
        (_by_label(lambda z, tau: (z / tau).softmax(0)), "runs over the images"),
        (lambda z, y, k, tau: (z / tau).softmax(1).mean(0)[k], "one mean over all images"),
        (
            lambda z, y, k, tau: [float((z / tau).softmax(1)[:, k].mean())] * z.shape[1],
            "The same mean stands in every place",
        ),
        (_shared_out, "The result adds up to 1"),
        (_by_label(lambda z, tau: z), "means of logits: the softmax"),
        (_by_label(lambda z, tau: z / tau), "means of logits over τ"),
        (_by_label(lambda z, tau: (z / tau).log_softmax(1)), "means of log-probabilities"),
        (_late, "The softmax comes too late"),
        (_sums, "These are sums"),
        (lambda z, y, k, tau: _sums(z, y, k, tau) / len(y), "Divided by the number of all"),
        (lambda z, y, k, tau: (z / tau).softmax(1)[y == k].mean(0), "on the images of class k."),
        (
            _by_label(lambda z, tau: (z == z.amax(1, keepdim=True)).double()),
            "answered with k. What the teacher tells",
        ),
        (lambda z, y, k, tau: _told(z, z.argmax(1), k, tau), "sorted by the teacher's answers"),
        (lambda z, y, k, tau: torch.full((z.shape[1],), 0.1), "is not right yet.* It returns"),
    ],
    "errors_after": [
        (lambda z, y, k, b: _errors(z, y, k, 0), "without the bias"),
        (lambda z, y, k, b: _errors(z + b, y, k, 0), "without the bias"),
        (lambda z, y, k, b: _errors(z, y, k, -b), "The bias is taken off"),
        (_image_k, "without the bias"),
        (
            lambda z, y, k, b: _errors(z, y, k, b, lambda found, y, k: (found != y) & (found == k)),
            "wrongly answered .with. k",
        ),
        (
            lambda z, y, k, b: _errors(z, y, k, b, lambda found, y, k: (found != y) & (y != k)),
            "the errors on the other classes",
        ),
        (lambda z, y, k, b: _errors(z, y, k, b)[::-1], "first all errors, then"),
        (
            lambda z, y, k, b: (
                len(y) - _errors(z, y, k, b)[0],
                _errors(z, y, k, b, lambda found, y, k: (found == y) & (y == k))[1],
            ),
            "The right answers are counted",
        ),
        (_shares, "These are shares: return"),
        (lambda z, y, k, b: _shares(z, y, k, b, of_k=False), "shares of all images"),
        (_adds_in_place, "adds it a second time"),
        (lambda z, y, k, b: (12, 3), "is not right yet.* It returns"),
        (lambda z, y, k, b: _errors(z, y, k, b)[0], "returns an array of shape"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    def tried(z, k, share):
        """Add every bias that could be the answer, and count who is answered with k."""

        def reached(bias):
            moved = _moved(z, k, bias + 1e-9)
            return (moved.argmax(1) == k).double().mean() >= share - 1e-12

        return min(b for b in _margins(z, k).tolist() if reached(b))

    def by_hand(weights, longest):
        found = weights.numpy().copy()
        for row in found:
            length = np.sqrt((row**2).sum())
            if length > longest:
                row *= longest / length
        return found

    def by_product(z, y, k, tau):
        shares = F.one_hot(y, z.shape[1]).to(z)
        return shares.T @ F.softmax(z / tau, dim=1)[:, k] / shares.sum(0)

    check.bias_to_reach(tried)
    check.bias_to_reach(
        lambda z, k, s: torch.kthvalue(_margins(z, k), math.ceil(s * len(z) - 1e-9)).values
    )
    check.shorten(by_hand)
    check.shorten(lambda w, longest: w.renorm(p=2, dim=0, maxnorm=longest))
    check.told_about(by_product)
    check.errors_after(lambda z, y, k, b: np.array([int(e) for e in _errors(z, y, k, b)]))


def test_the_bias_does_what_it_is_for():
    """Just above it the share is reached; just below it is missed."""
    random = np.random.default_rng(0)
    bias_to_reach = answers(CHAPTER, cut=False)["bias_to_reach"]
    for _ in range(200):
        n, classes = int(random.integers(3, 40)), int(random.integers(2, 8))
        z = torch.tensor(random.normal(size=(n, classes)))
        k, share = int(random.integers(classes)), float(random.uniform(0.01, 1))
        bias = float(bias_to_reach(z, k, share))
        above, below = (
            float((_moved(z, k, bias + step).argmax(1) == k).double().mean())
            for step in (1e-9, -1e-9)
        )
        assert below < share <= above
