"""Each checker passes the solution, and tells a beginner which mistake it was."""

import math

import torch
from checking import *  # noqa: F403
from torch.nn import functional as F

from distill_lib.checks import distiller as check
from distill_lib.objectives import soft_target_loss

CHAPTER = "08-distiller"
EXERCISES = (
    "fool",
    "mixture_gradient",
    "logit_matching",
    "mixed_target",
    "reverse_soft_target_loss",
)
FEWEST = 6  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def _one_hot(y, z):
    return F.one_hot(y, z.shape[1])


def _gradient(
    *, power=1, sign=1, mean=len, soft=lambda z, v, tau: ((z / tau), (v / tau)), of_labels=1.0
):
    """A student's gradient, right but for what is passed."""

    def mixture_gradient(z, v, y, tau, alpha):
        a, b = soft(z, v, tau)
        from_labels = z.softmax(1) - _one_hot(y, z)
        from_teacher = tau**power * (a.softmax(1) - b.softmax(1))
        return sign * (of_labels * (1 - alpha) * from_labels + alpha * from_teacher) / mean(z)

    return mixture_gradient


def _autograd(z, v, y, tau, alpha):
    z = z.clone().requires_grad_()
    loss = (1 - alpha) * F.cross_entropy(z, y) + alpha * soft_target_loss(z, v, tau)
    return torch.autograd.grad(loss, z)[0]


def _minus_teacher(z, v, y, tau, alpha):
    return _gradient(soft=lambda z, v, tau: (v / tau, z / tau))(z, v, y, tau, alpha)


def _hot_labels(z, v, y, tau, alpha):
    from_labels = (z / tau).softmax(1) - _one_hot(y, z)
    return (
        (1 - alpha) * from_labels + alpha * tau * ((z / tau).softmax(1) - (v / tau).softmax(1))
    ) / len(z)


def _free(z, v, dim=1):
    return (z - v) - (z - v).mean(dim=dim, keepdim=True)


def _reverse(z, v, tau, *, reduction="batchmean", power=2, dim=1):
    log_p, log_q = (v / tau).log_softmax(dim), (z / tau).log_softmax(dim)
    return tau**power * F.kl_div(log_p, log_q, reduction=reduction, log_target=True)


def _weights_detached(z, v, tau):
    log_p, log_q = (v / tau).log_softmax(1), (z / tau).log_softmax(1)
    return tau**2 * (log_q.exp().detach() * (log_q - log_p)).sum(1).mean()


def _naive_reverse(z, v, tau):
    p, q = (v / tau).softmax(1), (z / tau).softmax(1)
    return tau**2 * (q * (q / p).log()).sum(1).mean()


def _right_logit_matching(z, v):
    return _free(z, v).square().mean() / 2


def _mixed(y, v, alpha):
    return (1 - alpha) * _one_hot(y, v) + alpha * v.softmax(1)


MISTAKES = {
    "fool": [
        (lambda v: None, "returns nothing: is there a `return`"),
        (lambda v: 5, "returns a int: expected a tensor"),
        (lambda v: v[:, :2], "the same classes and images"),
        (lambda v: v * math.inf, "not finite"),
        (lambda v: v.clone(), "the teacher's own logits"),
        (lambda v: 2 * v, "it is a temperature"),
        (lambda v: v + 5 * (-1.0) ** torch.arange(v.shape[1]), "a number of its own"),
        (lambda v: v + 25, "Mind the square"),
        (lambda v: v.flip(1), "two softmaxes still differ"),
    ],
    "mixture_gradient": [
        (_gradient(mean=lambda z: 1), "batch mean is missing"),
        (_gradient(sign=-1), "prediction minus target"),
        (_gradient(power=2), "factor τ² is left"),
        (_gradient(power=-1), "factor τ² of the loss is missing"),
        (_gradient(power=0), "No τ is left"),
        (lambda z, v, y, tau, a: _gradient()(z, v, y, tau, 1 - a), "α weighs the labels"),
        (_hot_labels, "labels' part has a temperature"),
        (_gradient(soft=lambda z, v, tau: (z, v)), "Both softmaxes"),
        (_gradient(soft=lambda z, v, tau: (z, z)), "teacher's part is missing"),
        (_minus_teacher, "teacher's part has the wrong sign"),
        (_autograd, "Autograd is switched off"),
        (_gradient(of_labels=0), "labels' part is missing"),
        (_gradient(mean=lambda z: z.numel()), "number of classes as well"),
        (_gradient(soft=lambda z, v, tau: (z, v / tau)), "is not right yet"),
        (lambda z, v, y, tau, a: _gradient()(z, v, y, tau, a).sum(), "shape .* is expected"),
    ],
    "logit_matching": [
        (lambda z, v: (z - v).square().mean() / 2, "Take each image's mean off"),
        (F.mse_loss, "without the half"),
        (lambda z, v: _free(z, v).square().mean(), "The half is missing"),
        (lambda z, v: _free(z, v).square().sum(1).mean() / 2, "K times too large"),
        (lambda z, v: _free(z, v).square().sum(1).mean(), "2K times too large"),
        (lambda z, v: _free(z, v).square().mean(1).sum() / 2, "sum over the batch"),
        (lambda z, v: _free(z, v).square().mean(1) / 2, "One number an image"),
        (lambda z, v: (z - v - (z - v).mean()).square().mean() / 2, "for the whole batch"),
        (lambda z, v: _free(z, v, 0).square().mean() / 2, "mean of each .class. was taken off"),
        (lambda z, v: _free(z, v).abs().mean() / 2, "not squared"),
        (lambda z, v: F.mse_loss(z.softmax(1), v.softmax(1)) / 2, "probabilities that are"),
        (lambda z, v: _right_logit_matching(z, v).item(), "no gradient reaches"),
        (lambda z, v: _right_logit_matching(z.detach(), v), "no gradient reaches"),
        (lambda z, v: _right_logit_matching(z.detach(), v.requires_grad_()), "no gradient reach"),
        (
            lambda z, v: (_free(z, v) * _free(z, v).detach()).mean() / 2,
            "its gradient is not: which part",
        ),
        (lambda z, v: 1.0, "is not right yet.* It returns 1.0"),
    ],
    "mixed_target": [
        (lambda y, v, a: _mixed(y, v, 1 - a), "α weighs the label here"),
        (lambda y, v, a: (1 - a) * _one_hot(y, v) + a * v, "logits are mixed in"),
        (lambda y, v, a: ((1 - a) * _one_hot(y, v) + a * v).softmax(1), "softmax comes too late"),
        (lambda y, v, a: _one_hot(y, v) + v.softmax(1), "without their weights"),
        (lambda y, v, a: _mixed(y, v, 0.5), "Half and half"),
        (lambda y, v, a: a * v.softmax(1), "label is missing"),
        (lambda y, v, a: v.softmax(1), "teacher's answer alone"),
        (
            lambda y, v, a: (1 - a) * _one_hot(y, v) + a * _one_hot(v.argmax(1), v),
            "top answer is mixed in",
        ),
        (lambda y, v, a: (1 - a) * _one_hot(y, v) + a * v.softmax(0), "runs over the batch"),
        (lambda y, v, a: torch.full_like(v, 1 / v.shape[1]), "is not right yet"),
    ],
    "reverse_soft_target_loss": [
        (soft_target_loss, "the forward direction"),
        (lambda z, v, tau: _reverse(z, v, tau, power=0), "factor τ² is missing"),
        (lambda z, v, tau: _reverse(z, v, tau, power=1), "it should be τ²"),
        (lambda z, v, tau: tau**2 * _reverse(z, v, 1.0), "missing in the softmaxes"),
        (lambda z, v, tau: _reverse(z, v, tau, reduction="mean"), "classes times too small"),
        (lambda z, v, tau: _reverse(z, v, tau, reduction="sum"), "sum over the batch"),
        (lambda z, v, tau: _reverse(z, v, tau, reduction="none").sum(1), "One number an image"),
        (
            lambda z, v, tau: (
                tau**2 * F.kl_div((v / tau).softmax(1), (z / tau).softmax(1), reduction="batchmean")
            ),
            "where log-probabilities belong",
        ),
        (lambda z, v, tau: -_reverse(z, v, tau), "no divergence is negative"),
        (lambda z, v, tau: _reverse(z, v, tau, dim=0), "runs over the batch"),
        (
            lambda z, v, tau: (
                -(tau**2) * ((z / tau).softmax(1) * (v / tau).log_softmax(1)).sum(1).mean()
            ),
            "cross-entropy alone",
        ),
        (_naive_reverse, "underflows to 0"),
        (lambda z, v, tau: _naive_reverse(z, v, tau) / tau, "it should be τ²"),
        (
            lambda z, v, tau: tau**2 * F.kl_div((v / tau).log_softmax(1), (z / tau).log_softmax(1)),
            "returns nan. .*log_target",
        ),
        (_weights_detached, "its gradient is not"),
        (lambda z, v, tau: _reverse(z, v, tau).detach(), "no gradient reaches"),
        (lambda z, v, tau: 1.0, "is not right yet.* It returns 1.0"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    def in_single_precision(z, v, y, tau, a):
        return _gradient()(z.float(), v.float(), y, tau, a)

    check.fool(lambda v: v - 5)
    check.fool(lambda v: v + 5 * (-1.0) ** torch.arange(len(v))[:, None])
    check.mixture_gradient(in_single_precision)
    check.logit_matching(lambda z, v: (z - v).var(dim=1, unbiased=False).mean() / 2)
    check.mixed_target(lambda y, v, a: torch.lerp(_one_hot(y, v).to(v.dtype), v.softmax(1), a))

    def sums(z, v, tau):
        log_p, log_q = (v / tau).log_softmax(1), (z / tau).log_softmax(1)
        return tau**2 * (log_q.exp() * (log_q - log_p)).sum() / len(z)

    check.reverse_soft_target_loss(sums)


def test_inputs_are_drawn_afresh():
    """So that answers learnt by heart fail."""
    seen = []

    def student(y, v, alpha):
        seen.append(v.clone())
        return _mixed(y, v, alpha)

    check.mixed_target(student)
    check.mixed_target(student)
    half = len(seen) // 2
    assert not any(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_a_student_cannot_spoil_the_inputs():
    def student(y, v, alpha):
        right = _mixed(y, v, alpha)
        v.zero_()
        return right

    check.mixed_target(student)
