"""Each checker passes the solution, and tells a beginner which mistake it was."""

import math

import numpy as np
import pytest
import torch
from checking import *  # noqa: F403
from lab_answers import answers
from torch.nn import functional as F

from distill_lib.checks import mistakes as check

CHAPTER = "11-common-mistakes"
EXERCISES = (
    "loss_factor",
    "mended_loss",
    "careful_logits",
    "table_of_logits",
    "check_soft_loss",
)
FEWEST = 4  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def _factor(by_sum=None, by_mean=None, by_batch=None):
    """The right factors, but for those that are passed, as functions of the shape."""
    by_sum = by_sum or (lambda shape: math.prod(shape[:-1]))
    by_mean = by_mean or (lambda shape: 1 / shape[-1])
    by_batch = by_batch or (lambda shape: math.prod(shape[1:-1]))
    ways = {"sum": by_sum, "mean": by_mean, "batchmean": by_batch}
    return lambda shape, reduction: ways[reduction](shape)


def _same(x):
    return x


def _loss(
    *, axis=1, cool_teacher=False, reduction="batchmean", power=2, swap=False, alpha=None,
    hard=F.cross_entropy, cut=_same,
):  # fmt: skip
    """A student's loss, right but for what is passed."""

    def student(z, v, y, tau, a):
        first, second = (v, z) if swap else (z, v)
        log_q = F.log_softmax(first / tau, dim=axis)
        log_p = F.log_softmax(second if cool_teacher else second / tau, dim=1)
        soft = F.kl_div(cut(log_q), log_p, reduction=reduction, log_target=True)
        a = a if alpha is None else alpha(a)
        return (1 - a) * hard(z, y) + a * tau**power * soft

    return student


def _soft(soft):
    """A student's loss with another soft part."""
    return lambda z, v, y, tau, a: (1 - a) * F.cross_entropy(z, y) + a * tau**2 * soft(z, v, tau)


_log_target_forgotten = _soft(
    lambda z, v, tau: F.kl_div((z / tau).log_softmax(1), (v / tau).log_softmax(1))
)
_of_probabilities = _soft(
    lambda z, v, tau: F.kl_div((z / tau).softmax(1), (v / tau).softmax(1), reduction="batchmean")
)
_over_the_batch = _soft(
    lambda z, v, tau: F.kl_div(
        (z / tau).log_softmax(0), (v / tau).softmax(0), reduction="batchmean"
    )
)


def _hot_labels(z, v, y, tau, a):
    return _loss()(z, v, y, tau, a) + (1 - a) * (
        F.cross_entropy(z / tau, y) - F.cross_entropy(z, y)
    )


def _logits(network, x, *, before=None, after=None, gradient=False):
    if before is not None:
        network.train(before)
    with torch.set_grad_enabled(gradient):
        logits = network(x)
    if after is not None:
        network.train(after)
    return logits


def _careful(network, x, frozen=False, switched_off=False):
    were_training = [module for module in network.modules() if module.training]
    if switched_off:
        torch.set_grad_enabled(False)
    if frozen:
        network.requires_grad_(False)
    logits = _logits(network, x, before=False)
    for module in were_training:
        module.training = True
    if switched_off:
        torch.set_grad_enabled(False)
    return logits


def _remembers_the_children(network, x):
    modes = {child: child.training for child in network.children()}
    logits = _remembers_the_top(network, x)
    for child, mode in modes.items():
        child.train(mode)
    return logits


def _remembers_the_top(network, x):
    was_training = network.training
    return _logits(network, x, before=False, after=was_training)


def _judge(expected, *, taus=(1.0, 3.0), shape=(5, 7), strict=False, large=True):
    """A student's test that compares with `expected`, on such logits."""

    def check_soft_loss(loss):
        z, v = torch.randn(2, *shape, dtype=torch.float64)
        for tau in taus:
            value = loss(z, v, tau)
            right = expected(z, v, tau)
            assert value == right if strict else torch.isclose(value, right)
        assert not large or loss(1e5 * z, 1e5 * v, 1.0).isfinite()

    return check_soft_loss


def _expected(z, v, tau):
    p, q = (v / tau).softmax(dim=1), (z / tau).softmax(dim=1)
    return tau**2 * (p * (p / q).log()).sum(dim=1).mean()


def _only_a_copy(loss):
    v = torch.randn(5, 7, dtype=torch.float64)
    assert abs(loss(v, v, 2.0)) < 1e-9


def _only_finite(loss):
    z, v = torch.randn(2, 5, 7, dtype=torch.float64)
    assert loss(1e5 * z, 1e5 * v, 1.0).isfinite()


MISTAKES = {
    "loss_factor": [
        (_factor(by_batch=lambda shape: 1), "Right for images"),
        (_factor(lambda shape: shape[0], by_batch=lambda shape: 1), "more predictions than"),
        (lambda shape, how: 1 / _factor()(shape, how), "upside down"),
        (_factor(by_mean=lambda shape: 1 / math.prod(shape)), "what is left of the quotient"),
        (_factor(by_mean=lambda shape: 1), "averages over the classes as well"),
        (lambda shape, how: 1, "the same for every reduction"),
        (lambda shape, how: 128, "is not right yet.* It returns 128"),
        (lambda shape, how: print(1), "returns nothing: is there a `return`"),
    ],
    "mended_loss": [
        (_loss(axis=0), "left in the soft loss: 1. .*along which axis"),
        (_loss(cool_teacher=True), "left in the soft loss: 1. .*at the same temperature"),
        (_loss(reduction="mean"), "left in the soft loss: 1. .*over what does `mean`"),
        (_loss(power=0), "left in the soft loss: 1. .*a factor is missing"),
        (_loss(reduction="mean", power=0), "left in the soft loss: 2. .*`mean`.*a factor"),
        (
            _loss(axis=0, cool_teacher=True, reduction="mean", power=0),
            "left in the soft loss: 4",
        ),
        (_loss(alpha=lambda a: 1 - a), "α weighs the labels"),
        (_loss(alpha=lambda a: 1.0), "where are the labels"),
        (_loss(swap=True), "direction is wrong"),
        (_loss(power=1), "it should be τ²"),
        (_loss(power=3), "is not right yet"),
        (lambda z, v, y, tau, a: _loss()(z.detach(), v, y, tau, a), "no gradient reaches"),
        (_loss(hard=lambda z, y: F.cross_entropy(z, y).item()), "its gradient is not"),
        (_loss(cut=torch.Tensor.detach), "its gradient is not"),
        (lambda *case: _loss()(*case).item(), "no gradient reaches"),
        (_loss(reduction="sum"), "sum over the images"),
        (_hot_labels, "labels' part has a temperature"),
        (_of_probabilities, "Probabilities went in"),
        (_over_the_batch, "Both softmaxes run over the images"),
        (_loss(reduction="mean", alpha=lambda a: 1 - a), "Two mistakes: α"),
        (_log_target_forgotten, "returns nan. .*log_target"),
        (lambda z, v, y, tau, a: None, "returns nothing"),
        (lambda z, v, y, tau, a: 1.25, "is not right yet.* It returns 1.25"),
    ],
    "careful_logits": [
        (lambda network, x: _logits(network, x, before=False), "left in eval mode"),
        (lambda network, x: _logits(network, x), "a running mean has moved"),
        (_remembers_the_top, "has been woken up"),
        (_remembers_the_children, "has been woken up"),
        (lambda network, x: _careful(network, x, frozen=True), "`requires_grad` of a weight"),
        (lambda network, x: _careful(network, x, switched_off=True), "still switched off"),
        (
            lambda network, x: _logits(network, x, before=False, after=True),
            "has been woken up|left in training mode",
        ),
        (
            lambda network, x: _logits(network, x, before=False, gradient=True),
            "carry a gradient",
        ),
        (lambda network, x: None, "returns NoneType"),
        (lambda network, x: torch.zeros(16, 3), "not the logits of evaluation mode"),
        (
            lambda network, x: _logits(network, x, before=False).softmax(dim=1),
            "not the logits of evaluation mode",
        ),
    ],
    "table_of_logits": [
        (lambda blocks, indices: np.concatenate(blocks), "the places are not used"),
        (
            lambda blocks, indices: np.concatenate(blocks)[np.concatenate(indices)],
            "the wrong way round",
        ),
        (
            lambda blocks, indices: np.concatenate(
                [b[np.argsort(i)] for b, i in zip(blocks, indices, strict=True)]
            ),
            "in order by itself",
        ),
        (lambda blocks, indices: np.sort(np.concatenate(blocks), axis=0), "sorted by their values"),
        (lambda blocks, indices: blocks[0], "shape .* is expected"),
        (lambda blocks, indices: np.zeros((5, 2)), "is not right yet"),
    ],
    "check_soft_loss": [
        (lambda loss: None, "accepts every loss"),
        (lambda loss: _expected(*torch.randn(2, 5, 7), 2.0), "accepts every loss"),
        (_judge(lambda *inputs: torch.tensor(1.0).double()), "rejects every loss"),
        (_judge(_expected, strict=True), "rejects (every|a right) loss.* rounding"),
        (_judge(_expected, taus=(1.0,)), "lets through a loss that has no τ²"),
        (_judge(_expected, large=False), "Caught 7 of 8.* is NaN"),
        (_judge(_expected, shape=(1, 7)), "lets through a loss that adds up the images"),
        (_only_a_copy, "lets through a loss that averages"),
        (_only_finite, "Caught 1 of 8"),
        (_judge(lambda z, v, tau: _expected(z, v, tau) / 7), "rejects a right loss"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    def by_arrays(blocks, indices):
        return np.concatenate(blocks)[np.argsort(np.concatenate(indices))]

    def one_by_one(blocks, indices):
        rows = {
            int(place): row
            for block, index in zip(blocks, indices, strict=True)
            for row, place in zip(block, index, strict=True)
        }
        return [rows[i] for i in range(len(rows))]

    def by_name(network, x):
        modes = {name: module.training for name, module in network.named_modules()}
        logits = _logits(network, x, before=False)
        for name, module in network.named_modules():
            module.training = modes[name]
        return logits

    def by_single_images(z, v, y, tau, alpha):
        total = 0.0
        for z_b, v_b, y_b in zip(z, v, y, strict=True):
            p, q = (v_b / tau).softmax(dim=0), (z_b / tau).softmax(dim=0)
            hard = -z_b.log_softmax(dim=0)[y_b]
            total = total + (1 - alpha) * hard + alpha * tau**2 * (p * (p / q).log()).sum()
        return total / len(z)

    check.loss_factor(_factor())
    check.table_of_logits(by_arrays)
    check.table_of_logits(one_by_one)
    check.careful_logits(by_name)
    check.careful_logits(_careful)
    check.mended_loss(by_single_images)


def test_inputs_are_drawn_afresh():
    """So that answers learnt by heart fail."""
    solutions = answers(CHAPTER, cut=False)
    for name in ("loss_factor", "mended_loss", "table_of_logits"):
        seen = []

        def student(*inputs, seen=seen, solution=solutions[name]):
            seen.append(str(inputs))
            return solution(*inputs)

        getattr(check, name)(student)
        getattr(check, name)(student)
        half = len(seen) // 2
        assert seen[:half] != seen[half:], name


def test_an_answer_learnt_by_heart_fails():
    """Right on what the checker asked once, and wrong on what it asks the next time."""
    solutions = answers(CHAPTER, cut=False)
    for name in ("loss_factor", "mended_loss", "table_of_logits"):
        known = {}

        def learn(*inputs, known=known, solution=solutions[name]):
            return known.setdefault(str(inputs), solution(*inputs))

        getattr(check, name)(learn)
        with pytest.raises(AssertionError):
            getattr(check, name)(lambda *inputs, known=known: known.get(str(inputs), 0.0))


def test_checkers_are_stable():
    """Random inputs never fail a right answer, nor pass a wrong one."""
    solutions = answers(CHAPTER, cut=False)
    for _ in range(20):
        for name in EXERCISES:
            getattr(check, name)(solutions[name])
            for student, message in MISTAKES[name][:6]:
                with pytest.raises(AssertionError, match=message):
                    getattr(check, name)(student)
