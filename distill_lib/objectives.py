"""Losses of logits: each a pure function first, then a small module that carries its weight.

To add one: write the function and mark it `in_full_precision`, write the module beside it (its
``forward`` takes a `Step`), and add a line to the table of losses in `chapters/notation.md`.
Nothing else has to know about it.

Everything here takes **logits**, never probabilities. Divergences are in nats; a loss is averaged
over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_lib.analysis import refuse_probabilities
from distill_lib.data import Batch

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """What a loss may look at in one training step of a `distill_lib.distiller.Distiller`.

    Attributes
    ----------
    batch : Batch
        Images, labels, sample index.
    student_logits, teacher_logits : Tensor, shape (B, K)
        The teacher's carry no gradient.
    student_features, teacher_features : mapping of str to Tensor, shape (B, …)
        Outputs of the layers that the losses name, by their names.
    """

    batch: Batch
    student_logits: Tensor
    teacher_logits: Tensor
    student_features: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)


def full_precision(logits: Tensor) -> Tensor:
    """`logits` in at least float32: under autocast a network returns bfloat16."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def in_full_precision(loss: Callable[P, T]) -> Callable[P, T]:
    """Mark a function of tensors: it computes in at least float32, under autocast too.

    A bfloat16 has two to three digits. They are enough for a network but not for a comparison: the
    difference of a student and a teacher who nearly agree is in the digits that were rounded away.
    So floating-point arguments are promoted, and autocast, which rounds inside every matrix
    product, is off. What a loss *learns* (a regressor, say) runs before, under autocast.
    """

    def promote(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return full_precision(value) if is_float else value

    @wraps(loss)
    def compare(*args: P.args, **kwargs: P.kwargs) -> T:
        values = (*args, *kwargs.values())
        device = next((v.device.type for v in values if isinstance(v, Tensor)), "cpu")
        on = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if on else nullcontext():
            return loss(*map(promote, args), **{k: promote(v) for k, v in kwargs.items()})

    return compare


def compute_part(name: str, loss: nn.Module, step: Step) -> Tensor:
    """What one of a learner's named losses says of a step: a scalar.

    Raises
    ------
    ValueError
        What the loss refuses, or something other than a scalar; the message begins with its name
        and its class.
    """
    try:
        part: Tensor = loss(step)
        if not isinstance(part, Tensor):
            raise ValueError(f"expected a tensor, got {type(part).__name__}: is a return missing?")
        if part.ndim:
            raise ValueError(
                f"expected a scalar, got shape {tuple(part.shape)}: is a .mean() missing?"
            )
    except ValueError as error:
        raise ValueError(f"losses[{name!r}], {type(loss).__name__}: {error}") from error
    return part


class Loss(nn.Module):
    """A loss that learners add up: ``forward`` takes a `Step` and returns a scalar, weighted.

    What a subclass keeps in attributes (a weight, a temperature) is printed, and a checkpoint knows
    it: it is refused by a run with another. A loss of features names the layers that it reads.

    Parameters
    ----------
    weight : float
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def extra_repr(self) -> str:
        settings = {k: v for k, v in vars(self).items() if k[0] != "_" and k != "training"}
        sides = ("student_layers", "teacher_layers")
        layers = [" to ".join(settings.pop(side)) for side in sides if side in settings]
        shown = [" → ".join(layers)] if layers else []
        return ", ".join([*shown, *(f"{name}={value}" for name, value in settings.items())])


@in_full_precision
def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, tau: float) -> Tensor:
    r"""Temperature-scaled KL divergence from the teacher's distribution to the student's.

    .. math:: \tau^2 \, \frac1B \sum_b
        \mathrm{KL}\bigl(\mathrm{softmax}(v_b/\tau) \,\|\, \mathrm{softmax}(z_b/\tau)\bigr)

    The factor τ² keeps the gradient's size when τ changes: it undoes the two factors 1/τ that
    the student's and the teacher's scaled logits bring.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor, shape (B, K)
    tau : float
        Temperature, above 0.

    Returns
    -------
    Tensor, scalar
        Nats a sample, times τ². Summed over the K classes, averaged over the B samples. In float32
        the digits of a divergence so small run out: from τ = 300 on the value needs float64 (at
        1000 it is a few per cent off); the gradient does not.

    Raises
    ------
    ValueError
        A `tau` that is not above 0, or infinite; logits of two shapes.
    TypeError
        Logits that are whole numbers.

    References
    ----------
    Hinton, Vinyals & Dean (2015), https://arxiv.org/abs/1503.02531
    """
    check_tau(tau)
    _check_pair(student_logits, teacher_logits)
    log_p = F.log_softmax(teacher_logits / tau, dim=-1)
    log_q = F.log_softmax(student_logits / tau, dim=-1)
    return tau**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class HardLabels(Loss):
    """`weight` times the cross-entropy with the true labels."""

    def forward(self, step: Step) -> Tensor:
        return self.weight * F.cross_entropy(full_precision(step.student_logits), step.batch.y)


class SoftTargets(Loss):
    """`weight` times `soft_target_loss` at temperature `tau`.

    Hinton's α is split in two: ``HardLabels(1 - alpha)`` beside ``SoftTargets(tau, alpha)``.
    """

    def __init__(self, tau: float, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_tau(tau)
        self.tau = tau

    def forward(self, step: Step) -> Tensor:
        return self.weight * soft_target_loss(step.student_logits, step.teacher_logits, self.tau)


@in_full_precision
def logit_matching_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    r"""Half the mean squared distance of logits, :math:`\frac{1}{2K} \lVert z - v \rVert^2`.

    What `soft_target_loss` tends to as the temperature grows, if the student's logits have the
    teacher's mean. Where they have not, this loss sees it and a softmax does not.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor, shape (B, K)

    Returns
    -------
    Tensor, scalar
        A mean over the K classes and the B samples, halved.

    Raises
    ------
    ValueError
        Logits of two shapes; a TypeError for whole numbers.

    References
    ----------
    Ba & Caruana (2014), https://arxiv.org/abs/1312.6184; Kim et al. (2021),
    https://arxiv.org/abs/2105.08919
    """
    _check_pair(student_logits, teacher_logits)
    return F.mse_loss(student_logits, teacher_logits) / 2


@in_full_precision
def decoupled_losses(
    student_logits: Tensor, teacher_logits: Tensor, y: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    r"""The KL divergence of soft targets, cut in two at the target class.

    .. math:: \mathrm{KL}(p \,\|\, q) = \mathrm{TCKD} + (1 - p_t)\, \mathrm{NCKD}

    TCKD compares how sure the two are of the target class t, NCKD how they share out the rest.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor, shape (B, K)
    y : Tensor of int, shape (B,)
        The target classes.
    tau : float
        Temperature, above 0.

    Returns
    -------
    tckd, nckd : Tensor, shape (B,)
        Nats for each sample, times τ².

    Raises
    ------
    ValueError
        A `tau` that is not above 0, or infinite; logits of two shapes.

    References
    ----------
    Zhao et al. (2022), https://arxiv.org/abs/2203.08679
    """
    check_tau(tau)
    _check_pair(student_logits, teacher_logits)
    is_target = F.one_hot(y, student_logits.shape[1]).bool()

    def halves(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of (target, other), and of the others among themselves."""
        others = (logits / tau).masked_fill(is_target, -torch.inf)
        target = (logits / tau).gather(1, y[:, None])
        binary = torch.cat([target, others.logsumexp(dim=1, keepdim=True)], dim=1)
        return binary.log_softmax(dim=1), others.log_softmax(dim=1).masked_fill(is_target, 0)

    (log_b_q, log_q), (log_b_p, log_p) = halves(student_logits), halves(teacher_logits)
    tckd = (log_b_p.exp() * (log_b_p - log_b_q)).sum(dim=1)
    # at the target both logarithms are 0, so their difference adds nothing
    nckd = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    return tau**2 * tckd, tau**2 * nckd


class LogitMatching(Loss):
    """`weight` times `logit_matching_loss`."""

    def forward(self, step: Step) -> Tensor:
        return self.weight * logit_matching_loss(step.student_logits, step.teacher_logits)


class DecoupledTargets(Loss):
    """DKD: `weight` times (`target` times TCKD plus `others` times NCKD), at temperature `tau`.

    Soft targets weigh NCKD with 1 − p_t, little where the teacher is sure; here the weight is a
    constant.
    """

    def __init__(
        self, tau: float, *, target: float = 1.0, others: float = 8.0, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        check_tau(tau)
        self.tau, self.target, self.others = tau, target, others

    def forward(self, step: Step) -> Tensor:
        tckd, nckd = decoupled_losses(
            step.student_logits, step.teacher_logits, step.batch.y, self.tau
        )
        return self.weight * (self.target * tckd + self.others * nckd).mean()


def check_logits(name: str, logits: Tensor, y: Tensor) -> None:
    """Raise ValueError if `logits` are probabilities, or do not fit the labels `y`.

    A row that is nowhere negative and sums to one came through a softmax. Reading the values
    synchronises with the device: learners call this on their first batch only.
    """
    if logits.ndim != 2 or len(logits) != len(y):
        raise ValueError(
            f"{name}: expected logits of shape ({len(y)}, K), got shape {tuple(logits.shape)}: "
            f"is a layer missing at the end of the network, or a flatten?"
        )
    if int(y.max()) >= logits.shape[1]:
        raise ValueError(
            f"{name}: expected a logit for each class, got {logits.shape[1]} logits and a label "
            f"{int(y.max())}: give the last layer as many outputs as there are classes"
        )
    refuse_probabilities(name, logits)


def check_tau(tau: float) -> None:
    """Raise ValueError unless `tau` is above 0, and finite."""
    if not 0 < tau < math.inf:
        cure = ": for the limit take logit_matching_loss" if tau == math.inf else ""
        raise ValueError(f"tau: expected a temperature above 0, got {tau}{cure}")


def _check_pair(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits and teacher_logits: expected one shape (B, K), got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}: both networks need "
            f"one output for each of the same classes"
        )
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        if not torch.is_floating_point(logits):
            raise TypeError(f"{name}: expected floating-point logits, got {logits.dtype}")
