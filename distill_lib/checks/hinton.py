"""Checkers for the exercises of the chapter that reproduces Hinton et al. (2015)."""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib.checks import Function, attempt, compare, passed


def bias_to_reach(student: Function) -> None:
    """Exercise 1: the bias at which a class is answered often enough."""
    random = np.random.default_rng()
    cases = []
    for n, classes, k, share, ahead in (
        (16, 4, 2, 0.25, -3.0),  # the wanted number of images is whole: 4
        (30, 10, 3, 0.11, -2.0),  # 3.3 images
        (25, 5, 0, 0.63, 7.0),  # 15.75, of a class that is answered too often already
        (int(random.integers(40, 60)), 7, int(random.integers(7)), 0.5, 1.0),
    ):
        logits = _logits(random, 2.0, n, classes)
        logits[:, k] += ahead
        logits[0, k] -= 20  # always an image that is answered otherwise
        cases.append((logits, k, share))
    logits, k, _ = cases[-1]
    wanted = float(random.integers(20, 30) + random.choice([0.3, 0.7]))
    cases[-1] = (logits, k, wanted / len(logits))

    def lacking(logits: Tensor, k: int) -> Tensor:
        """By how much the class falls short of the best other one, from the smallest on."""
        others = logits.clone()
        others[:, k] = -torch.inf
        return (others.amax(dim=1) - logits[:, k]).sort().values

    def at(values: Tensor, place: int) -> Tensor:
        return values[min(max(place, 0), len(values) - 1)]

    def place(share: float, n: int) -> int:
        return math.ceil(share * n) - 1

    def right(logits: Tensor, k: int, share: float) -> Tensor:
        return at(lacking(logits, k), place(share, len(logits)))

    def by_place(rule: Function) -> Function:
        """The lacking bias at another place, counted from 0, of those that are sorted."""
        return lambda logits, k, share: at(lacking(logits, k), rule(share * len(logits)))

    def by_margin(margin: Function, *, descending: bool = False) -> Function:
        """Another margin at the right place."""

        def function(logits: Tensor, k: int, share: float) -> Tensor:
            values = margin(logits, k).sort(descending=descending).values
            return at(values, place(share, len(logits)))

        return function

    def probabilities(logits: Tensor, k: int) -> Tensor:
        p = logits.softmax(dim=1)
        return lacking(p, k)

    def mean_of_others(logits: Tensor, k: int) -> Tensor:
        others = torch.cat([logits[:, :k], logits[:, k + 1 :]], dim=1)
        return others.mean(dim=1) - logits[:, k]

    def of_the_rest(logits: Tensor, k: int, share: float) -> Tensor:
        values = lacking(logits, k)
        values = values[values > 0]
        return at(values, place(share, len(values)))

    def beyond_those(logits: Tensor, k: int, share: float) -> Tensor:
        values = lacking(logits, k)
        return at(values[values > 0], place(share, len(values)))

    compare(
        student,
        right,
        cases,
        {
            "The largest logit is looked for among all classes, k included, so the bias is never "
            "negative. A class that is answered too often already needs a negative one.": (
                by_margin(lambda logits, k: logits.amax(dim=1) - logits[:, k])
            ),
            "The sign is the wrong one: positive is what class k lacks.": (
                lambda *inputs: -right(*inputs)
            ),
            "The margin has the wrong sign: class k lacks the largest other logit *less* its "
            "own.": by_margin(lambda logits, k: -lacking(logits, k)),
            "The images that lack most come first here. Those that lack least are the first that "
            "a growing bias wins.": by_margin(lacking, descending=True),
            "This wins one image too many: the n-th of the sorted margins has index n - 1.": (
                by_place(math.ceil)
            ),
            "This wins one image too few: with it the share is not reached yet.": (
                by_place(lambda wanted: math.ceil(wanted) - 2)
            ),
            "Right when share · N is no whole number, and one image too many when it is: count "
            "first how many images are wanted, then take one off for the index.": by_place(int),
            "The wanted number of images is rounded down. *At least* that share is asked for.": (
                by_place(lambda wanted: math.floor(wanted) - 1)
            ),
            "The wanted number of images is rounded to the nearest. *At least* that share is asked "
            "for, so it is rounded up.": by_place(lambda wanted: round(wanted) - 1),
            "An interpolated quantile lies between two images, where the share may be missed. The "
            "answer is the margin of one of the images.": (
                lambda logits, k, share: torch.quantile(lacking(logits, k), share)
            ),
            "This is what an image lacks on average. Half the images need more, and the share does "
            "not come in.": lambda logits, k, share: lacking(logits, k).mean(),
            "This bias makes k the answer to every image: the share does not come in.": (
                lambda logits, k, share: lacking(logits, k)[-1]
            ),
            "The images that are answered with k already are left out, and the share is one of the "
            "rest. They count: the share is one of all images.": of_the_rest,
            "The images that are answered with k already are left out. They count towards the "
            "share, too.": beyond_those,
            "This is a margin of probabilities. A bias is added to logits.": (
                lambda logits, k, share: at(probabilities(logits, k), place(share, len(logits)))
            ),
            "Class k is compared with the mean of the others. It has to reach the largest of "
            "them.": by_margin(mean_of_others),
        },
        hint="How much does class k lack on each image? Sort that. Which place in the row is the "
        "last image that has to be won?",
    )
    _check_unchanged(
        student,
        cases[0],
        "The bias is right, but the logits that came in were overwritten: whoever uses them next "
        "finds other numbers. Change a copy.",
    )
    passed("bias_to_reach: as often as it should be")


def shorten(student: Function) -> None:
    """Exercise 2: no row longer than a limit."""
    random = np.random.default_rng()
    cases = []
    for units, inputs, limit in ((3, 5, 2.0), (6, 4, 0.6), (int(random.integers(5, 9)), 11, 1.7)):
        longest = limit * float(random.uniform(0.9, 1.1))
        lengths = torch.tensor(random.permutation([0.9, *np.linspace(0.4, 2.1, units - 1)]))
        directions = F.normalize(_logits(random, 1.0, units, inputs))
        cases.append((longest * lengths[:, None] * directions, longest))
    weights, longest = cases[0]
    with_zeros = (torch.cat([weights, weights.new_zeros(2, weights.shape[1])]), longest)

    def scaled(rule: Function, norm: Function) -> Function:
        """Weights times a factor, which follows from a length and the limit."""
        return lambda weights, longest: weights * rule(norm(weights), longest)

    def rows(weights: Tensor, p: float = 2) -> Tensor:
        return torch.linalg.vector_norm(weights, ord=p, dim=1, keepdim=True)

    def columns(weights: Tensor) -> Tensor:
        return torch.linalg.vector_norm(weights, dim=0, keepdim=True)

    def down(norm: Tensor, longest: float) -> Tensor:
        return (longest / norm).clamp(max=1)

    def squared(weights: Tensor) -> Tensor:
        return rows(weights).square()

    def where(too_long: Function, factor: Function) -> Function:
        def rule(norm: Tensor, longest: float) -> Tensor:
            factors = factor(norm, longest) * torch.ones_like(norm)
            return torch.where(too_long(norm, longest), factors, 1.0)

        return scaled(rule, rows)

    right = scaled(down, rows)
    compare(
        student,
        right,
        cases,
        {
            "The columns are shortened. What comes into a unit is a row.": scaled(down, columns),
            "All rows have the same length now: the short ones were lengthened. They stay as they "
            "are.": scaled(lambda norm, longest: longest / norm, rows),
            "Every number is cut at ± the limit. It is the row's length that has a limit, and "
            "its direction stays.": lambda weights, longest: weights.clamp(-longest, longest),
            "The length is that of the whole matrix: each row has a length of its own.": (
                scaled(down, torch.linalg.norm)
            ),
            "The length lacks its root: this is the sum of the squares.": scaled(down, squared),
            "The sum of the squares is compared with the limit itself: a root is missing in the "
            "comparison.": where(
                lambda norm, longest: norm.square() > longest, lambda norm, longest: longest / norm
            ),
            "The length is the sum of the sizes. Meant is the Euclidean length: the root of the "
            "sum of the squares.": scaled(down, lambda weights: rows(weights, 1)),
            "The length is the largest number in the row. Meant is the Euclidean length: the root "
            "of the sum of the squares.": scaled(down, lambda weights: rows(weights, math.inf)),
            "One factor for all rows: the short ones were shortened, too.": (
                scaled(down, lambda weights: rows(weights).amax())
            ),
            "The wrong rows were scaled: short ones lengthened, long ones left alone.": (
                scaled(lambda norm, longest: (longest / norm).clamp(min=1), rows)
            ),
            "The factor is upside down: a row that is twice too long is to be halved.": (
                where(lambda norm, longest: norm > longest, lambda norm, longest: norm / longest)
            ),
            "The long rows are divided by the limit. What is to be 1 afterwards is their length "
            "over the limit.": (
                where(lambda norm, longest: norm > longest, lambda norm, longest: 1 / longest)
            ),
            "The long rows have length 1 now, whatever the limit.": (
                where(lambda norm, longest: norm > longest, lambda norm, longest: 1 / norm)
            ),
            "The long rows are gone: shorten them, and keep their direction.": (
                where(lambda norm, longest: norm > longest, lambda norm, longest: 0.0)
            ),
        },
        hint="A factor for each row: 1 for a short one. Which number makes a long one as long as "
        "the limit?",
    )
    compare(
        student,
        lambda weights, longest: right(weights, longest).nan_to_num(),
        [with_zeros],
        {
            "Right, but for a unit without any weight: its length is 0, and 0/0 is no number. Only "
            "a row that is too long needs its length to divide by.": (
                scaled(lambda norm, longest: norm.clamp(max=longest) / norm, rows)
            ),
        },
        hint="Two rows of this matrix are all zeros: they are short, and stay as they are.",
    )
    _check_unchanged(
        student,
        cases[0],
        "The rows are right, but the matrix that came in was changed, too: return a new one.",
    )
    passed("shorten: shorter, in the same direction")


def told_about(student: Function) -> None:
    """Exercise 3: what a teacher says of a class on the images of each label."""
    random = np.random.default_rng()
    cases = []
    for n, classes, tau in (
        (12, 3, 2.0),
        (40, 5, 4.0),
        (int(random.integers(60, 90)), 10, float(random.uniform(6, 20))),
    ):
        y = torch.tensor(random.permutation(np.arange(n) ** 2 // n % classes))
        y[:classes] = torch.arange(classes)  # so that every label occurs, and not equally often
        logits = _logits(random, 3.0, n, classes) + 4 * F.one_hot(y, classes)
        cases.append((logits, y, int(random.integers(classes)), tau))

    def mean_by(values: Tensor, y: Tensor, classes: int) -> Tensor:
        return torch.stack([values[y == c].mean(dim=0) for c in range(classes)])

    def right(logits: Tensor, y: Tensor, k: int, tau: float) -> Tensor:
        return mean_by((logits / tau).softmax(dim=1)[:, k], y, logits.shape[1])

    def of(values: Function) -> Function:
        """The mean of something else, for the images of each label."""
        return lambda logits, y, k, tau: mean_by(values(logits, tau)[:, k], y, logits.shape[1])

    def sums(logits: Tensor, y: Tensor, k: int, tau: float) -> Tensor:
        return right(logits, y, k, tau) * torch.bincount(y, minlength=logits.shape[1])

    def mean(logits: Tensor, y: Tensor, k: int, tau: float) -> Tensor:
        return (logits / tau).softmax(dim=1)[:, k].mean()

    def late(logits: Tensor, y: Tensor, k: int, tau: float) -> Tensor:
        return (mean_by(logits, y, logits.shape[1]) / tau).softmax(dim=1)[:, k]

    def about_images(logits: Tensor, y: Tensor, k: int, tau: float) -> Tensor:
        return mean_by((logits / tau).softmax(dim=1), y, logits.shape[1])[k]

    def answers(logits: Tensor, tau: float) -> Tensor:
        return F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits)

    compare(
        student,
        right,
        cases,
        {
            "The temperature is missing: this is what the teacher says at τ = 1.": (
                of(lambda logits, tau: logits.softmax(dim=1))
            ),
            "The logits are multiplied by τ, which makes the answers harder: divide.": (
                of(lambda logits, tau: (logits * tau).softmax(dim=1))
            ),
            "The probabilities are divided by τ: it belongs inside the softmax.": (
                of(lambda logits, tau: logits.softmax(dim=1) / tau)
            ),
            "The softmax runs over the images: it belongs over the classes, axis 1.": (
                of(lambda logits, tau: (logits / tau).softmax(dim=0))
            ),
            "This is one mean over all images. Each label has a mean of its own.": mean,
            "The same mean stands in every place: take the mean of the images of each label.": (
                lambda logits, *rest: mean(logits, *rest).expand(logits.shape[1])
            ),
            "The result adds up to 1. It is no distribution over the labels: each number is a mean "
            "by itself.": lambda *inputs: right(*inputs) / right(*inputs).sum(),
            "These are means of logits: the softmax is missing.": of(lambda logits, tau: logits),
            "These are means of logits over τ: the softmax is missing.": (
                of(lambda logits, tau: logits / tau)
            ),
            "These are means of log-probabilities.": (
                of(lambda logits, tau: (logits / tau).log_softmax(dim=1))
            ),
            "The softmax comes too late: it is taken of mean logits. Take the mean of the "
            "probabilities.": late,
            "These are sums: divide by the number of images of each label.": sums,
            "Divided by the number of all images: each sum has as many terms as there are images "
            "of that label.": lambda logits, y, k, tau: sums(logits, y, k, tau) / len(y),
            "This is what the teacher says of every class on the images of class k. Asked for is "
            "what it says of class k on the images of every label.": about_images,
            "This counts the images that are answered with k. What the teacher tells lies in its "
            "probabilities.": of(answers),
            "The images are sorted by the teacher's answers. They are to be sorted by their "
            "labels.": lambda logits, y, k, tau: right(logits, logits.argmax(dim=1), k, tau),
        },
        hint="First one number an image, the probability of class k at temperature τ; then the "
        "mean over the images of label 0, of label 1, …",
    )
    passed("told_about: what is said of a class, and when")


def errors_after(student: Function) -> None:
    """Exercise 4: the errors of a student whose bias for one class was shifted."""
    random = np.random.default_rng()
    cases = []
    for n, classes, bias in ((90, 4, 2.0), (120, 10, 3.5), (150, 6, -1.5), (100, 5, 1.0)):
        n += int(random.integers(30))
        k, y = int(random.integers(classes)), torch.tensor(random.integers(classes, size=n))
        logits = _logits(random, 2.0, n, classes) + 3 * F.one_hot(y, classes)
        logits[:, k] -= bias
        cases.append((logits, y, k, bias))

    def answers(logits: Tensor, k: int, bias: float) -> Tensor:
        return (logits + bias * F.one_hot(torch.tensor(k), logits.shape[1])).argmax(dim=1)

    def counts(wrong: Tensor, chosen: Tensor) -> tuple[int, int]:
        return int(wrong.sum()), int((wrong & chosen).sum())

    def right(logits: Tensor, y: Tensor, k: int, bias: float) -> tuple[int, int]:
        return counts(answers(logits, k, bias) != y, y == k)

    def chosen_by(mask: Function) -> Function:
        """The second count is one of other images."""

        def function(logits: Tensor, y: Tensor, k: int, bias: float) -> tuple[int, int]:
            found = answers(logits, k, bias)
            return counts(found != y, mask(found, y, k))

        return function

    def correct(logits: Tensor, y: Tensor, k: int, bias: float) -> tuple[int, int]:
        return counts(answers(logits, k, bias) == y, y == k)

    def over(totals: Function) -> Function:
        return lambda logits, y, k, bias: np.divide(right(logits, y, k, bias), totals(y, k))

    compare(
        student,
        right,
        cases,
        {
            "These are the errors without the bias. (Added to all classes of an image alike, it "
            "changes nothing. Class k is a column.)": (
                lambda logits, y, k, bias: right(logits, y, k, 0.0)
            ),
            "The bias is taken off: it is to be added to the logit of class k.": (
                lambda logits, y, k, bias: right(logits, y, k, -bias)
            ),
            "The images that are wrongly answered *with* k are counted. Asked for are errors on "
            "the images *of* class k.": chosen_by(lambda found, y, k: found == k),
            "The second number counts the errors on the other classes.": (
                chosen_by(lambda found, y, k: y != k)
            ),
            "The two are the wrong way round: first all errors, then those on class k.": (
                lambda *inputs: right(*inputs)[::-1]
            ),
            "The right answers are counted.": correct,
            "These are shares: return how many.": over(
                lambda y, k: (len(y), max(int((y == k).sum()), 1))
            ),
            "These are shares of all images: return how many.": over(lambda y, k: (len(y), len(y))),
        },
        hint="Add the bias to column k, take the answers, compare with the labels; then count "
        "twice.",
    )
    _check_unchanged(
        student,
        cases[0],
        "The counts are right, but the logits that came in have the bias now: the next one who "
        "uses them adds it a second time. Change a copy.",
    )
    passed("errors_after: what a bias repairs, and what it costs")


def _check_unchanged(student: Function, case: tuple[Any, ...], message: str) -> None:
    """Whether the first argument is afterwards what it was."""
    inputs = copy.deepcopy(case)
    attempt(student, *inputs)
    if not torch.equal(inputs[0], case[0]):
        raise AssertionError(message)


def _logits(random: np.random.Generator, scale: float, *shape: int) -> Tensor:
    return torch.tensor(scale * random.normal(size=shape))
