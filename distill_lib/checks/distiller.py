"""Checkers for the exercises of the chapter on the distiller."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib.checks import (
    Function,
    attempt,
    compare,
    compare_gradient,
    passed,
    without_autograd,
)
from distill_lib.objectives import soft_target_loss


def fool(student: Function) -> None:
    """Exercise 1: logits far from the teacher's that the loss can't tell from them."""
    random = np.random.default_rng()
    for shape in ((4, 10), (7, 3)):
        v = _logits(random, 3.0, *shape)
        z = attempt(student, v.clone())
        if z is None:
            raise AssertionError("fool returns nothing: is there a `return`?")
        if not isinstance(z, Tensor):
            raise AssertionError(
                f"fool returns a {type(z).__name__}: expected a tensor of student logits."
            )
        if z.shape != v.shape:
            raise AssertionError(
                f"fool returns shape {tuple(z.shape)} for teacher logits of shape {tuple(v.shape)}:"
                " the student has the same classes and images."
            )
        if not torch.isfinite(z).all():
            raise AssertionError("fool returns logits that are not finite.")
        distance = float((z - v).square().mean())
        loss = float(soft_target_loss(z.double(), v, 1.0))
        if distance < 1e-12:
            raise AssertionError("These are the teacher's own logits: the distance should be 25.")
        if loss > 1e-6:
            _say_what_changed(z.double(), v, loss)
        if not math.isclose(distance, 25, rel_tol=1e-4):
            raise AssertionError(
                f"The loss is fooled, but the mean squared distance is {distance:.4g} and should "
                "be 25. Mind the square."
            )
    passed("fool: the loss can't see what the softmax can't see")


def _say_what_changed(z: Tensor, v: Tensor, loss: float) -> None:
    ratio, steps = z / v, z - v
    if torch.allclose(ratio, ratio[0, 0].expand_as(ratio)):
        raise AssertionError(
            "A factor on all logits changes the softmax: it is a temperature. What doesn't?"
        )
    if torch.allclose(steps, steps[:1].expand_as(steps)):
        raise AssertionError(
            "Each class is shifted by a number of its own. Which shift leaves the ratios of the "
            "probabilities alone?"
        )
    raise AssertionError(
        f"The soft-target loss at τ = 1 is {loss:.4g} nats and should be 0: the two softmaxes "
        "still differ."
    )


def mixture_gradient(student: Function) -> None:
    """Exercise 2: the gradient of both losses together, without autograd."""
    random = np.random.default_rng()
    cases = []
    for b, k, tau, alpha in ((4, 10, 4.0, 0.9), (3, 5, 1.0, 0.5), (6, 10, 2.0, 0.0), (2, 4, 20, 1)):
        labels = torch.tensor(random.integers(k, size=b))
        z, v = _logits(random, 2.0, b, k), _logits(random, 3.0, b, k)
        cases.append((z, v, labels, float(tau), float(alpha)))

    def parts(z: Tensor, v: Tensor, y: Tensor, tau: float) -> tuple[Tensor, Tensor]:
        from_labels = z.softmax(dim=1) - F.one_hot(y, z.shape[1])
        from_teacher = (z / tau).softmax(dim=1) - (v / tau).softmax(dim=1)
        return from_labels / len(z), from_teacher / len(z)

    def gradient(power: float, swap: bool = False) -> Function:
        """The gradient with this power of tau, instead of 1."""

        def function(z: Tensor, v: Tensor, y: Tensor, tau: float, alpha: float) -> Tensor:
            labels, teacher = parts(z, v, y, tau)
            weight = 1 - alpha if swap else alpha
            return (1 - weight) * labels + weight * tau**power * teacher

        return function

    right = gradient(1)

    def hot_labels(z: Tensor, v: Tensor, y: Tensor, tau: float, alpha: float) -> Tensor:
        _, teacher = parts(z, v, y, tau)
        labels = ((z / tau).softmax(dim=1) - F.one_hot(y, z.shape[1])) / len(z)
        return (1 - alpha) * labels + alpha * tau * teacher

    def cold_teacher(z: Tensor, v: Tensor, y: Tensor, tau: float, alpha: float) -> Tensor:
        labels, teacher = parts(z, v, y, 1.0)
        return (1 - alpha) * labels + alpha * tau * teacher

    def only(which: int) -> Function:
        def function(z: Tensor, v: Tensor, y: Tensor, tau: float, alpha: float) -> Tensor:
            labels, teacher = parts(z, v, y, tau)
            return (1 - alpha) * labels if which == 0 else alpha * tau * teacher

        return function

    compare(
        without_autograd(student),
        right,
        cases,
        {
            "The batch mean is missing: each image has a share 1/B in it.": (
                lambda z, *rest: len(z) * right(z, *rest)
            ),
            "The sign is wrong: prediction minus target, and not target minus prediction.": (
                lambda *inputs: -right(*inputs)
            ),
            "A factor τ² is left before the teacher's part. The chain rule has used up one of "
            "them.": gradient(2),
            "The factor τ² of the loss is missing: only the chain rule's 1/τ is there.": (
                gradient(-1)
            ),
            "No τ is left before the teacher's part. What is τ² times the chain rule's 1/τ?": (
                gradient(0)
            ),
            "α weighs the labels here. In this book it weighs the teacher.": (
                gradient(1, swap=True)
            ),
            "The labels' part has a temperature here. The student answers them at τ = 1.": (
                hot_labels
            ),
            "Both softmaxes of the teacher's part need the temperature.": cold_teacher,
            "The teacher's part has the wrong sign: prediction minus target there, too.": (
                lambda *inputs: only(0)(*inputs) - only(1)(*inputs)
            ),
            "The teacher's part is missing.": only(0),
            "The labels' part is missing.": only(1),
            "This divides by the number of classes as well: the loss is a sum over classes.": (
                lambda z, *rest: right(z, *rest) / z.shape[1]
            ),
        },
        hint="Prediction minus target, twice: with the one-hot label, and with the teacher's "
        "softmax. Which factor stands before each?",
    )
    passed("mixture_gradient: prediction minus target, twice")


def logit_matching(student: Function) -> None:
    """Exercise 3: the mean-free squared distance of logits, over 2K."""
    random = np.random.default_rng()
    cases = []
    for b, k in ((4, 10), (7, 3), (1, 5)):
        z, v = _logits(random, 2.0, b, k), _logits(random, 3.0, b, k)
        cases.append((z + 2, v - 1 + _logits(random, 2.0, b, 1)))

    def squares(z: Tensor, v: Tensor, dim: int = 1) -> Tensor:
        delta = z - v
        return (delta - delta.mean(dim=dim, keepdim=True)).square()

    def right(z: Tensor, v: Tensor) -> Tensor:
        return squares(z, v).mean() / 2

    compare(
        student,
        right,
        cases,
        {
            "This is plain logit matching: a constant that is added to all logits of an image must "
            "not count. Take each image's mean off.": lambda z, v: (z - v).square().mean() / 2,
            "This is plain logit matching, without the half: take each image's mean off, and see "
            "the factor.": F.mse_loss,
            "The half is missing: it is 1/2K, not 1/K.": lambda z, v: 2 * right(z, v),
            "K times too large: the sum over the classes is divided by 2K.": (
                lambda z, v: z.shape[1] * right(z, v)
            ),
            "2K times too large: the sum over the classes is divided by 2K.": (
                lambda z, v: 2 * z.shape[1] * right(z, v)
            ),
            "This is the sum over the batch: take its mean.": lambda z, v: len(z) * right(z, v),
            "One number an image came back: take their mean.": (
                lambda z, v: squares(z, v).mean(dim=1) / 2
            ),
            "One mean was taken off for the whole batch: each image has one of its own.": (
                lambda z, v: (z - v - (z - v).mean()).square().mean() / 2
            ),
            "The mean of each *class* was taken off, over the batch. It is each image's mean over "
            "the classes.": lambda z, v: squares(z, v, 0).mean() / 2,
            "The distance is not squared.": (
                lambda z, v: ((z - v) - (z - v).mean(dim=1, keepdim=True)).abs().mean() / 2
            ),
            "These are probabilities that are compared: logits are asked for, as they are.": (
                lambda z, v: (z.softmax(dim=1) - v.softmax(dim=1)).square().mean() / 2
            ),
        },
        hint="The difference of the logits, less its mean over the classes; squared; and then one "
        "mean over everything is nearly all.",
    )
    compare_gradient(student, right, cases[0])
    passed("logit_matching: the loss of an infinitely hot teacher")


def mixed_target(student: Function) -> None:
    """Exercise 4: one target in the place of two."""
    random = np.random.default_rng()
    cases = []
    for b, k, alpha in ((4, 10, 0.3), (6, 4, 0.9), (3, 10, 0.0), (2, 5, 1.0)):
        labels = torch.tensor(random.integers(k, size=b))
        cases.append((labels, _logits(random, 3.0, b, k), alpha))

    def right(y: Tensor, v: Tensor, alpha: float) -> Tensor:
        return (1 - alpha) * F.one_hot(y, v.shape[1]) + alpha * v.softmax(dim=1)

    def geometric(y: Tensor, v: Tensor, alpha: float) -> Tensor:
        return ((1 - alpha) * F.one_hot(y, v.shape[1]) + alpha * v).softmax(dim=1)

    compare(
        student,
        right,
        cases,
        {
            "α weighs the label here. In this book it weighs the teacher.": (
                lambda y, v, alpha: right(y, v, 1 - alpha)
            ),
            "The teacher's logits are mixed in, not its probabilities: the rows do not add up to "
            "1.": lambda y, v, alpha: (1 - alpha) * F.one_hot(y, v.shape[1]) + alpha * v,
            "The softmax comes too late: it is the probabilities that are mixed, not what goes "
            "into the softmax.": geometric,
            "The two are added up without their weights.": (
                lambda y, v, alpha: F.one_hot(y, v.shape[1]) + v.softmax(dim=1)
            ),
            "Half and half, whatever `alpha` says.": lambda y, v, alpha: right(y, v, 0.5),
            "The label is missing.": lambda y, v, alpha: alpha * v.softmax(dim=1),
            "This is the teacher's answer alone.": lambda y, v, alpha: v.softmax(dim=1),
            "The teacher's top answer is mixed in, not all that it says.": (
                lambda y, v, alpha: (
                    (1 - alpha) * F.one_hot(y, v.shape[1])
                    + alpha * F.one_hot(v.argmax(dim=1), v.shape[1])
                )
            ),
            "The softmax runs over the batch: it belongs over the classes, the last axis.": (
                lambda y, v, alpha: (
                    (1 - alpha) * F.one_hot(y, v.shape[1]) + alpha * v.softmax(dim=0)
                )
            ),
        },
        hint="Write both losses with the same ln q_i and collect what stands before it.",
    )
    passed("mixed_target: labels and teacher, as one")


def reverse_soft_target_loss(student: Function) -> None:
    """Exercise 5: the other direction of the divergence."""
    random = np.random.default_rng()
    cases = [
        (_logits(random, 2.0, 5, 10), _logits(random, 3.0, 5, 10), tau) for tau in (1.0, 4.0, 0.5)
    ]
    large = (torch.tensor([[0.0, 3000, 0]]).double(), torch.tensor([[0.0, 0, -3000]]).double(), 2.0)

    def plain(z: Tensor, v: Tensor, tau: float, dim: int = 1) -> Tensor:
        log_p, log_q = (v / tau).log_softmax(dim), (z / tau).log_softmax(dim)
        return (log_q.exp() * (log_q - log_p)).sum(dim)

    def right(z: Tensor, v: Tensor, tau: float) -> Tensor:
        return tau**2 * plain(z, v, tau).mean()

    def naive(z: Tensor, v: Tensor, tau: float) -> Tensor:
        p, q = (v / tau).softmax(1), (z / tau).softmax(1)
        return tau**2 * (q * (q.log() - p.log())).sum(1).mean()

    def unlogged(z: Tensor, v: Tensor, tau: float) -> Tensor:
        return tau**2 * F.kl_div((v / tau).softmax(1), (z / tau).softmax(1), reduction="batchmean")

    compare(
        student,
        right,
        cases,
        {
            "This is the forward direction, KL(teacher ‖ student): the chapter's own loss.": (
                lambda z, v, tau: right(v, z, tau)
            ),
            "The factor τ² is missing.": lambda z, v, tau: plain(z, v, tau).mean(),
            "A factor τ stands before it: it should be τ².": (
                lambda z, v, tau: tau * plain(z, v, tau).mean()
            ),
            "The temperature is missing in the softmaxes.": (
                lambda z, v, tau: tau**2 * plain(z, v, 1.0).mean()
            ),
            "This is the number of classes times too small: reduction='mean' averages over the "
            "classes too.": lambda z, v, tau: right(z, v, tau) / z.shape[1],
            "This is the sum over the batch: take its mean.": (
                lambda z, v, tau: len(z) * right(z, v, tau)
            ),
            "One number an image came back: take their mean.": (
                lambda z, v, tau: tau**2 * plain(z, v, tau)
            ),
            "Probabilities went in where log-probabilities belong.": unlogged,
            "The sign is wrong: no divergence is negative.": (lambda z, v, tau: -right(z, v, tau)),
            "The softmax runs over the batch: it belongs over the classes, the last axis.": (
                lambda z, v, tau: tau**2 * plain(z, v, tau, 0).sum() / len(z)
            ),
            "The student's entropy is missing: this is the cross-entropy alone.": (
                lambda z, v, tau: (
                    -(tau**2) * ((z / tau).softmax(1) * (v / tau).log_softmax(1)).sum(1).mean()
                )
            ),
        },
        hint="Which of the two distributions weighs the terms now, and which comes first in "
        "kl_div?",
        not_finite="With log-probabilities as its target, `kl_div` needs `log_target=True`.",
    )
    compare_gradient(student, right, cases[0])
    underflows = (
        "Right for small logits, but not at 3000: a softmax underflows to 0 there, and its "
        "logarithm is infinite. What takes logarithm and softmax in one step?"
    )
    compare(student, right, [large], {underflows: naive}, hint=underflows, not_finite=underflows)
    passed("reverse_soft_target_loss: the direction that chooses")


def _logits(random: np.random.Generator, scale: float, *shape: int) -> Tensor:
    return torch.tensor(scale * random.normal(size=shape))
