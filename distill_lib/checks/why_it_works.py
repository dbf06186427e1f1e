"""Checkers for the exercises of the chapter on why distillation works."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_lib.checks import Function, compare, passed

Array = NDArray[np.float64]


def student_weights(student: Function) -> None:
    """Exercise 1: where gradient descent on soft targets ends, from any start."""
    random = np.random.default_rng()

    def case(n: int, d: int) -> tuple[Array, Array, Array]:
        return random.normal(size=(n, d)), random.normal(size=d), random.normal(size=d)

    x, w_teacher, _ = case(3, 6)
    few, more = int(random.integers(2, 5)), int(random.integers(9, 14))
    cases = [(x, w_teacher, np.zeros(6)), case(few, 7), case(5, 6), case(more, 5), case(1, 4)]

    def shadow(x: Array, w: Array) -> Array:
        return np.linalg.pinv(x) @ (x @ w)

    def other(x: Array, w: Array) -> Array:
        return w - shadow(x, w)

    compare(
        student,
        lambda x, w, start: shadow(x, w) + other(x, start),
        cases,
        {
            "This is the end for a start at zero. Which part of `w_start` can descent never "
            "touch?": lambda x, w, start: shadow(x, w),
            "This adds the whole of `w_start`. Its part in the span of the inputs is overwritten: "
            "the student's logits would be wrong.": lambda x, w, start: shadow(x, w) + start,
            "This is the teacher itself. With fewer inputs than weights there are directions about "
            "which nobody told the student.": lambda x, w, start: w,
            "The student has not learned anything: this is `w_start`.": (lambda x, w, start: start),
            "Teacher and start have changed places: in the span of the inputs the student has the "
            "teacher's weights.": lambda x, w, start: shadow(x, start) + other(x, w),
            "The start is projected onto the span of the inputs. It is the part at right angles to "
            "them that stays.": lambda x, w, start: shadow(x, w) + shadow(x, start),
            "This is half of it, the part of `w_start` that stays. What becomes of the rest?": (
                lambda x, w, start: other(x, start)
            ),
            "The sign of the part from `w_start` is turned round.": (
                lambda x, w, start: shadow(x, w) - other(x, start)
            ),
        },
        hint="At the end the student must give every row of `x` the teacher's logit, and differ "
        "from `w_start` only by a combination of rows.",
    )
    passed("student_weights: the teacher's shadow, and what was there before")


def disagreement_in(student: Function) -> None:
    """Exercise 2: the share of inputs on which two linear networks differ."""
    random = np.random.default_rng()
    cases = []
    for n, d in ((40, 2), (60, 5), (31, 3)):
        w_a = random.normal(size=d)
        w_b = w_a + random.normal(size=d)
        cases.append((random.normal(size=(n, d)) * random.uniform(0.2, 4, size=d), w_a, w_b))
    # Nearly one border: hardly ever, and nearly always. (For parallel weights the arc cosine makes
    # an angle of 1e-8 of a rounding error, and the mistake of taking the angle is not recognised.)
    w, nudge = random.normal(size=(2, 3))
    cases.append((random.normal(size=(50, 3)), w, 7 * w + 0.05 * nudge))
    cases.append((random.normal(size=(50, 3)), w, -w + 0.05 * nudge))

    def differ(x: Array, w_a: Array, w_b: Array) -> Any:
        return (x @ w_a > 0) != (x @ w_b > 0)

    def angle(w_a: Array, w_b: Array) -> float:
        cosine = w_a @ w_b / (np.linalg.norm(w_a) * np.linalg.norm(w_b))
        return float(np.arccos(np.clip(cosine, -1, 1)))

    compare(
        student,
        lambda x, w_a, w_b: differ(x, w_a, w_b).mean(),
        cases,
        {
            "This is how often they agree.": lambda x, w_a, w_b: 1 - differ(x, w_a, w_b).mean(),
            "This is a number of rows: which share of them is it?": (
                lambda x, w_a, w_b: differ(x, w_a, w_b).sum()
            ),
            "One answer for each row came back: take the mean.": differ,
            "This is the angle over π. It holds for clouds that look alike from all sides; count "
            "on the rows of `x` instead.": lambda x, w_a, w_b: angle(w_a, w_b) / np.pi,
            "The logits are compared, and not the answers: a network that is twice as sure still "
            "gives the same answer.": lambda x, w_a, w_b: np.mean(x @ w_a != x @ w_b),
            "This is the mean distance of the logits. The answers only tell whether they are above "
            "zero.": lambda x, w_a, w_b: np.mean(np.abs(x @ w_a - x @ w_b)),
            "This is how often one says yes and the other no, in one order. The other order counts "
            "too.": lambda x, w_a, w_b: np.mean((x @ w_a > 0) & ~(x @ w_b > 0)),
            "This is how often one says no and the other yes, in one order. The other order counts "
            "too.": lambda x, w_a, w_b: np.mean(~(x @ w_a > 0) & (x @ w_b > 0)),
        },
        hint="For each row: is the logit above zero, for the one network and for the other?",
    )
    passed("disagreement_in: it is the data that decide")


def label_price(student: Function) -> None:
    """Exercise 3: the variance that drawing labels adds."""
    random = np.random.default_rng()
    cases = [(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[1.0, 3.0], [7.0, 0.5]]))]
    cases += [_case(random, n, k)[::2] for n, k in ((6, 2), (7, 4), (5, 10))]

    def whole(p: Array, losses: Array) -> Any:
        return (p * losses**2).sum(axis=1).mean() - _mean_loss(p, losses).mean() ** 2

    compare(
        student,
        lambda p, losses: _noise(p, losses).mean(),
        cases,
        {
            "This is the whole variance of a labelled sample's loss. A part of it comes from the "
            "images, and probabilities would have that part too.": whole,
            "This is the variance over the images, which labels and probabilities have in common. "
            "What do labels add?": lambda p, losses: _mean_loss(p, losses).var(),
            "This is a standard deviation for each image, and their mean: it is variances that add "
            "up.": lambda p, losses: np.sqrt(_noise(p, losses)).mean(),
            "This is the root of it: a variance is asked for.": (
                lambda p, losses: np.sqrt(_noise(p, losses).mean())
            ),
            "All labels count the same here: the losses of an image have the probabilities `p`.": (
                lambda p, losses: losses.var(axis=1).mean()
            ),
            "The square of the mean is missing: this is the mean of the squared losses.": (
                lambda p, losses: (p * losses**2).sum(axis=1).mean()
            ),
            "One number for each image came back: take the mean.": _noise,
            "The sum over the images came back: take the mean.": (
                lambda p, losses: _noise(p, losses).sum()
            ),
            "The mean is over classes too: sum over the classes, then take the mean over the "
            "images.": lambda p, losses: _noise(p, losses).mean() / p.shape[1],
            "This is the variance of the products p times loss. The probabilities are weights, and "
            "no part of what varies.": lambda p, losses: (p * losses).var(axis=1).mean(),
            "p (1 - p) times the squared loss, added up, is the variance for labels that are drawn "
            "class by class, each by itself. Exactly one of them is drawn.": (
                lambda p, losses: (p * (1 - p) * losses**2).sum(axis=1).mean()
            ),
        },
        hint="For one image: the mean of the squared losses, less the square of the mean loss, "
        "both with the probabilities of that image.",
    )
    passed("label_price: what a draw costs")


def break_even(student: Function) -> None:
    """Exercise 4: the number of samples at which labels and an imperfect teacher are equal."""
    random = np.random.default_rng()
    cases: list[tuple[Array, Array, Array]] = []
    while len(cases) < 4:
        case = _case(random, int(random.integers(6, 12)), int(random.integers(2, 6)))
        p, p_teacher, losses = case
        bias = _mean_loss(p_teacher, losses).mean() - _mean_loss(p, losses).mean()
        taught = _mean_loss(p_teacher, losses).var()
        if abs(bias) > 0.05 and _noise(p, losses).mean() > 2 * taught + 0.05:
            cases.append(case)

    def answer(
        p: Array,
        p_teacher: Array,
        losses: Array,
        *,
        of_images: bool = True,
        of_noise: bool = True,
        bayes: bool = False,
        sloppy: bool = False,
        power: float = 2.0,
        ddof: int = 0,
    ) -> Any:
        true, taught = _mean_loss(p, losses), _mean_loss(p_teacher, losses)
        of_labels = of_images * true.var(ddof=ddof) + of_noise * _noise(p, losses).mean()
        of_teacher = (true if bayes else taught).var(ddof=ddof)
        if sloppy:
            of_teacher += _noise(p_teacher, losses).mean()
        return (of_labels - of_teacher) / abs(taught.mean() - true.mean()) ** power

    def by_image(p: Array, p_teacher: Array, losses: Array) -> Any:
        bias = _mean_loss(p_teacher, losses) - _mean_loss(p, losses)
        gap = answer(p, p_teacher, losses, power=0)
        return gap / np.mean(bias**2)

    compare(
        student,
        answer,
        cases,
        {
            "This has the labels' noise alone, the last exercise. Their estimate also varies with "
            "the images that are drawn.": lambda *arrays: answer(*arrays, of_images=False),
            "The noise of the labels is missing: this compares the variances over images.": (
                lambda *arrays: answer(*arrays, of_noise=False)
            ),
            "This takes the true probabilities for the teacher's variance: only the bias has its "
            "probabilities.": lambda *arrays: answer(*arrays, bayes=True),
            "The teacher's labels are drawn here, with a noise of their own. Its probabilities are "
            "used as they are.": lambda *arrays: answer(*arrays, sloppy=True),
            "The variance is compared with the bias: it is the bias squared that counts.": (
                lambda *arrays: answer(*arrays, power=1)
            ),
            "This is the root of it: are you comparing a standard deviation with the bias?": (
                lambda *arrays: np.sqrt(answer(*arrays))
            ),
            "This is upside down: the larger the bias, the sooner the labels win.": (
                lambda *arrays: 1 / answer(*arrays)
            ),
            "The sign is turned round: the labels have the larger variance.": (
                lambda *arrays: -answer(*arrays)
            ),
            "The bias is squared image by image, and then averaged. Errors of opposite sign cancel "
            "in the estimate of the risk: average first.": by_image,
            "The variances over the images divide by n - 1 here. The n images stand for all: "
            "divide by n.": lambda *arrays: answer(*arrays, ddof=1),
            "This is rounded up: return the number at which both are equal, whole or not.": (
                lambda *arrays: np.ceil(answer(*arrays))
            ),
            "The variance of the teacher's estimate is left out.": lambda *arrays: (
                answer(*arrays)
                + _mean_loss(*arrays[1:]).var() * answer(*arrays) / answer(*arrays, power=0)
            ),
        },
        hint="Variance from labels over n equals variance with the teacher over n, plus bias "
        "squared. Solve for n.",
    )
    passed("break_even: from here on ask the labels")


def share_within(student: Function) -> None:
    """Exercise 5: the share of the variance of the logits that lies within the classes."""
    random = np.random.default_rng()
    cases = []
    for n, k, missing in ((12, 3, []), (30, 4, []), (25, 10, [1])):
        found = np.delete(np.arange(k), missing)  # the classes that have images, some of them more
        more = random.choice(found[: (len(found) + 1) // 2], size=n - len(found))
        y = random.permutation(np.r_[found, more])
        shift = 5 * random.normal(size=(n, 1))  # a constant in all logits of an image
        cases.append((random.normal(size=(n, k)) * 1.5 + 3 * np.eye(k)[y] + shift, y))

    def parts(
        v: Array, y: Array, *, centre: bool = True, even: bool = False, ddof: int = 0
    ) -> tuple[Any, Any]:
        v = v - v.mean(axis=1, keepdims=True) if centre else v
        classes = np.unique(y)
        counts = np.array([np.sum(y == k) for k in classes])
        each = np.array([v[y == k].var(axis=0).sum() for k in classes])
        if ddof:
            each = each * counts / np.maximum(counts - ddof, 1)
        weights = np.full(len(classes), 1 / len(classes)) if even else counts / len(y)
        return weights @ each, v.var(axis=0, ddof=ddof).sum()

    def share(v: Array, y: Array, **options: Any) -> Any:
        within, whole = parts(v, y, **options)
        return within / whole

    compare(
        student,
        share,
        cases,
        {
            "The constant in all logits of an image counts here. Take away each image's mean logit "
            "first.": lambda v, y: share(v, y, centre=False),
            "All classes count the same here: weigh each with its number of images.": (
                lambda v, y: share(v, y, even=True)
            ),
            "This is the share *between* the classes.": lambda v, y: 1 - share(v, y),
            "This is within over between: the question is about the share in the whole.": (
                lambda v, y: share(v, y) / (1 - share(v, y))
            ),
            "This is the variance within. Which share of the whole is it?": (
                lambda v, y: parts(v, y)[0]
            ),
            "This is the whole variance.": lambda v, y: parts(v, y)[1],
            "This is a share of standard deviations: take variances.": (
                lambda v, y: np.sqrt(share(v, y))
            ),
            "The variances are divided by one less than the number of images: the parts no longer "
            "add up to the whole.": lambda v, y: share(v, y, ddof=1),
        },
        hint="Squared distances to the mean of the class, summed over all images and logits, over "
        "squared distances to the mean of all.",
        not_finite="A class without images has no mean.",
    )
    passed("share_within: how tight the classes are")


def _case(random: np.random.Generator, n: int, k: int) -> tuple[Array, Array, Array]:
    """True probabilities, a teacher's, and losses, each of shape (n, k)."""
    p, p_teacher = random.dirichlet(np.ones(k), size=(2, n))
    return p, p_teacher, random.gamma(1.5, size=(n, k))


def _mean_loss(p: Array, losses: Array) -> Any:
    """Of each image."""
    return (p * losses).sum(axis=1)


def _noise(p: Array, losses: Array) -> Any:
    """The variance of the loss given the image."""
    return (p * losses**2).sum(axis=1) - _mean_loss(p, losses) ** 2
